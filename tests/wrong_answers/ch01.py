"""Plausible wrong answers of chapter 01, and what the check says about each."""

ADD_ONE = """
import math
def add_one_loss(train, validation):
    total = {total}
    return {outer}
"""
MEAN = "-sum(math.log((train.count(c) + 1) / total) for c in validation) / len(validation)"
ALL = "len(train) + len(set(train + validation))"

SPLIT = """
def split_windows(text, block_size, validation_share):
    cut = round(len(text) * (1 - validation_share))
    def windows(part):
        return [part[i : i + block_size] for i in {starts}]
    return {parts}
"""
EVERY = "range(len(part) - block_size + 1)"

SHUFFLED = """
import random
def split_windows(text, block_size, validation_share):
    windows = [text[i : i + block_size] for i in range(len(text) - block_size + 1)]
    random.Random(0).shuffle(windows)
    cut = round(len(windows) * (1 - validation_share))
    return windows[:cut], windows[cut:]
"""

SMOOTH = """
def smooth_pairs(counts, lower):
    total = counts.sum({axis})
    kinds = {kinds}
    mixed = (counts + kinds * lower) / (total + kinds)
    return {result}
"""
ROWS = "dim=1, keepdim=True"
KINDS = "(counts > 0).sum(dim=1, keepdim=True)"
FALLBACK = "torch.where(kinds > 0, mixed, lower)"

WRONG = {
    "ch01-exercise-1": [
        (ADD_ONE.format(total="len(train)", outer=MEAN), "add up to more than 1"),
        (
            ADD_ONE.format(total="len(train) + len(set(train))", outer=MEAN),
            "V leaves out the characters",
        ),
        (ADD_ONE.format(total=ALL, outer=MEAN.partition(" / len(v")[0]), "not the mean"),
        (ADD_ONE.format(total=ALL, outer=MEAN.replace("math.log(", "math.log2(")), "in bits"),
        (ADD_ONE.format(total=ALL, outer=MEAN[1:]), "the sign is wrong"),
        (ADD_ONE.format(total=ALL, outer="math.inf"), "the loss is infinite"),
        (ADD_ONE.format(total=f"2 * ({ALL})", outer=MEAN), "it should be"),
        (
            "def add_one_loss(train, validation):\n"
            "    total = len(train) + len(set(train + validation))\n"
            "    return mean_loss([(train.count(c) + 1) / total for c in set(validation)])",
            "counts twice",
        ),
        ("def add_one_loss(train, validation):\n    len(train)", "is there a return"),
    ],
    "ch01-exercise-2": [
        (SHUFFLED, "split the text once, then each part by itself"),
        (
            SPLIT.format(
                starts="range(0, len(part) - block_size + 1, block_size)",
                parts="windows(text[:cut]), windows(text[cut:])",
            ),
            "windows begin at every character",
        ),
        (
            SPLIT.format(
                starts="range(len(part) - block_size)",
                parts="windows(text[:cut]), windows(text[cut:])",
            ),
            "the last window of each part is missing",
        ),
        (
            SPLIT.format(starts=EVERY, parts="windows(text[cut:]), windows(text[:cut])"),
            "the validation part is the last quarter",
        ),
        (
            SPLIT.format(starts=EVERY, parts="windows(text[:cut]), windows(text[cut - 3:])"),
            "3 characters of the text are in windows of both parts",
        ),
        (
            SPLIT.format(
                starts=EVERY,
                parts="[x for x in windows(text[:cut]) if not set(x) & set(text[cut:])], "
                "windows(text[cut:])",
            ),
            "0 and 7 windows instead of 27 and 7; equal characters may be in both parts",
        ),
        (
            SPLIT.format(
                starts=EVERY,
                parts="windows(text[:cut]), "
                "[x for x in windows(text[cut:]) if x not in set(windows(text[:cut]))]",
            ),
            "27 and 0 windows instead of 27 and 7",
        ),
        (
            SPLIT.format(
                starts=EVERY,
                parts="list(dict.fromkeys(windows(text[:cut]))), windows(text[cut:])",
            ),
            "5 and 7 windows instead of 27 and 7",
        ),
        (
            SPLIT.replace("1 - validation_share", "1 - 0.25").format(
                starts=EVERY, parts="windows(text[:cut]), windows(text[cut:])"
            ),
            "wrong for 3 and 0.5",
        ),
    ],
    "ch01-exercise-3": [
        (SMOOTH.format(axis=ROWS, kinds=KINDS, result="mixed"), "is 0 / 0"),
        (SMOOTH.format(axis=ROWS, kinds=KINDS, result="mixed.nan_to_num()"), "all zeros"),
        (
            SMOOTH.format(axis=ROWS, kinds="torch.full((4, 1), 4)", result=FALLBACK),
            "kinds is the number of counts above 0 in a row, not V",
        ),
        (SMOOTH.format(axis=ROWS, kinds="total", result=FALLBACK), "not their sum"),
        (
            SMOOTH.format(axis=ROWS, kinds=KINDS, result="torch.where(kinds > 0, mixed, 1 / 4)"),
            "the row without counts is 1 / V",
        ),
        (
            SMOOTH.format(
                axis=ROWS, kinds=KINDS, result="torch.where(counts > 0, counts / total, lower)"
            ),
            "lower is used only where a count is 0",
        ),
        (
            SMOOTH.format(
                axis=ROWS, kinds=KINDS, result="torch.where(total > 0, counts / total, lower)"
            ),
            "this is counts / total, without lower",
        ),
        (
            SMOOTH.format(
                axis=ROWS, kinds="(counts.sum(1, keepdim=True) > 0).int()", result=FALLBACK
            ),
            "kinds is missing, above and below",
        ),
        (
            SMOOTH.replace("kinds * lower", "lower").format(
                axis=ROWS, kinds=KINDS, result=FALLBACK
            ),
            "lower must be multiplied by kinds",
        ),
        (
            SMOOTH.replace("(total + kinds)", "total").format(
                axis=ROWS, kinds=KINDS, result=FALLBACK
            ),
            "below the line, kinds is missing",
        ),
        (
            SMOOTH.format(axis="dim=1", kinds="(counts > 0).sum(dim=1)", result=FALLBACK),
            "keepdim=True",
        ),
        (
            SMOOTH.format(
                axis=ROWS, kinds="counts.max(dim=1, keepdim=True).values", result=FALLBACK
            ),
            "row 1, column 0 should be 0.0800, yours is 0.2000",
        ),
        (
            SMOOTH.replace("(total + kinds)", "4").format(axis=ROWS, kinds=KINDS, result=FALLBACK),
            "are the sums taken along each row?",
        ),
        (
            SMOOTH.format(axis="dim=0", kinds="(counts > 0).sum(dim=0)", result=f"{FALLBACK}"),
            "down the columns; take them along each row",
        ),
        (
            SMOOTH.format(axis=ROWS, kinds=KINDS, result=f"({FALLBACK})[0]"),
            "the result has shape",
        ),
    ],
}
