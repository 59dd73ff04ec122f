"""Plausible wrong answers to the exercises of chapter 09, and a part of what each check says."""

COUNT = """
def count_top_p(probs, top_p):
    sums = {sums}
    return {result}
"""
SUMS = "probs.sort(descending=True).values.cumsum(-1)"
REPAIRED = """
def repaired_probs(logits, temperature, top_p):
    probs, order = {first}.softmax(-1).sort(descending=True)
    kept = {kept}
    probs = torch.where(kept, {then}, 0)
    return torch.empty_like(probs).index_copy_(0, order, {last})
"""
KEPT = "probs.cumsum(-1) - probs < top_p"
MIN_P = """
def min_p_probs(logits, temperature, min_p):
    probs = {probs}
    probs = torch.where({kept}, probs, 0)
    return {last}
"""
SCALED, BOUND = "(logits / temperature).softmax(-1)", "probs >= min_p * probs.max()"

WRONG = {
    "ch09-exercise-1": [
        (COUNT.format(sums=SUMS, result="int((sums <= top_p).sum())"), "crosses p is dropped"),
        (COUNT.format(sums=SUMS, result="int((sums < top_p).sum())"), "reaches p is dropped"),
        (COUNT.format(sums=SUMS, result="int((sums <= top_p).sum()) + 1"), "one too many"),
        (
            COUNT.format(sums="probs.cumsum(-1)", result="int((sums - probs < top_p).sum())"),
            "sort first",
        ),
        (
            COUNT.format(
                sums="probs.sort().values.cumsum(-1)", result="int((sums < top_p).sum()) + 1"
            ),
            "sort downwards",
        ),
        (COUNT.format(sums=SUMS, result="int((probs >= top_p).sum())"), "above p are counted"),
        (COUNT.format(sums=SUMS, result="len(probs)"), "top-p 0.7 keeps 2, not 4"),
        (COUNT.format(sums=SUMS, result="None"), "is there a return"),
    ],
    "ch09-exercise-2": [
        (
            REPAIRED.format(first="(logits / temperature)", kept=KEPT,
                            then="(logits[order] / temperature).softmax(-1)", last="probs"),
            "does not add up to 1",
        ),
        (
            REPAIRED.format(first="(logits / temperature)", kept=KEPT,
                            then="logits[order].softmax(-1)", last="probs / probs.sum()"),
            "the probabilities do not",
        ),
        (
            REPAIRED.format(first="logits", kept=KEPT, then="probs", last="probs / probs.sum()"),
            "the temperature has no effect",
        ),
        (
            REPAIRED.format(first="(logits / temperature / temperature)", kept=KEPT,
                            then="probs", last="probs / probs.sum()"),
            "used twice",
        ),
        (
            REPAIRED.format(first="(logits / temperature)", kept="probs > 0",
                            then="probs", last="probs / probs.sum()"),
            "top-p has no effect",
        ),
        (
            REPAIRED.format(first="(logits * temperature)", kept=KEPT,
                            then="probs", last="probs / probs.sum()"),
            "the temperature multiplies",
        ),
        (
            REPAIRED.replace("softmax(-1).sort", "softmax(-1).div(temperature).sort").format(
                first="logits", kept=KEPT, then="probs", last="probs / probs.sum()"
            ),
            "probabilities are divided",
        ),
        (
            REPAIRED.format(first="(logits / temperature)", kept="probs.cumsum(-1) <= top_p",
                            then="probs", last="probs / probs.sum()"),
            "nothing is kept at temperature 0.5",
        ),
        (
            REPAIRED.format(
                first="(logits / temperature)",
                kept="(probs.cumsum(-1) <= top_p) | (probs == probs.max())",
                then="probs", last="probs / probs.sum()",
            ),
            "the character that crosses top_p is dropped",
        ),
        (
            "def repaired_probs(logits, temperature, top_p):\n"
            "    probs, order = (logits / temperature).softmax(-1).sort(descending=True)\n"
            "    probs = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0)\n"
            "    return probs / probs.sum()",
            "the result is still sorted",
        ),
        (
            "def repaired_probs(logits, temperature, top_p):\n"
            "    probs, order = (logits / temperature).softmax(-1).sort(descending=True)\n"
            "    probs = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0)\n"
            "    return (probs / probs.sum())[order]",
            "the sorting is not undone",
        ),
        (
            "def repaired_probs(logits, temperature, top_p):\n"
            "    logits /= temperature\n"
            "    return lib.next_token_probs(logits, 1.0, top_p=top_p)",
            "it changes the logits that it was given",
        ),
    ],
    "ch09-exercise-3": [
        (
            MIN_P.format(
                probs=SCALED, kept="probs > min_p * probs.max()", last="probs / probs.sum()"
            ),
            "'at least' includes",
        ),
        (
            MIN_P.format(probs=SCALED, kept="probs >= min_p", last="probs / probs.sum()"),
            "the bound is min_p itself",
        ),
        (MIN_P.format(probs=SCALED, kept=BOUND, last="probs"), "does not add up to 1"),
        (
            MIN_P.format(probs="logits.softmax(-1)", kept=BOUND, last="probs / probs.sum()"),
            "the temperature has no effect",
        ),
        (
            MIN_P.format(
                probs="(logits * temperature).softmax(-1)", kept=BOUND, last="probs / probs.sum()"
            ),
            "multiplies the logits",
        ),
        (
            MIN_P.format(
                probs=SCALED,
                kept="logits.softmax(-1) >= min_p * logits.softmax(-1).max()",
                last="probs / probs.sum()",
            ),
            "before the temperature",
        ),
        (
            MIN_P.format(
                probs=SCALED, kept="probs < min_p * probs.max()", last="probs / probs.sum()"
            ),
            "the wrong ones are kept",
        ),
        (MIN_P.format(probs=SCALED, kept="probs > 0", last="probs / probs.sum()"), "nothing is dr"),
        (
            MIN_P.format(
                probs=SCALED, kept="logits >= min_p * logits.max()", last="probs / probs.sum()"
            ),
            "logits are compared",
        ),
        (
            MIN_P.format(
                probs=SCALED, kept="probs >= min_p * probs[0]", last="probs / probs.sum()"
            ),
            "the first is taken for the best one",
        ),
        (
            MIN_P.format(probs="logits.div_(temperature).softmax(-1)", kept=BOUND,
                         last="probs / probs.sum()"),
            "it changes the logits that it was given, in place",
        ),
        (
            MIN_P.format(probs=SCALED, kept="probs >= 1", last="probs / probs.sum()"),
            "nothing is kept with min_p = 0.4",
        ),
    ],
}  # fmt: skip
