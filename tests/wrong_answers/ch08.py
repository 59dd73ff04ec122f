"""Plausible wrong answers to the exercises of chapter 08, and a part of what each check says."""

COSINE = """
import math

def cosine_rate(step, done, config):
    warm_up = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return {result}
"""
WARM = "min(1.0, (step + 1) / (config.warmup_steps + 1))"
HALF = "(1 + math.cos(math.pi * done)) / 2"
ACCUMULATE = """
def accumulate(model, x, y, most):
    total = 0.0
    for part_x, part_y in zip(x.split(most), y.split(most), strict=True):
        {before}
        loss = next_character_loss(model(part_x).logits, part_y) * {factor}
        loss.backward()
        total += loss.item()
    return total
"""
EVALUATE = """
@torch.no_grad()
def repaired_evaluate(model, ids, seq_len):
    was_training = model.training
    {first}
    total, parts = 0.0, 0
    for x, y in evaluation_batches(ids, 64, seq_len):
        total += next_character_loss(model(x).logits, y, reduction="{reduction}").item()
        parts += 1
    {last}
    return total / {divisor}
"""


def evaluating(
    first="model.eval()",
    reduction="sum",
    last="model.train(was_training)",
    divisor="(len(ids) - 1)",
):
    return EVALUATE.format(first=first, reduction=reduction, last=last, divisor=divisor)


WRONG = {
    "ch08-exercise-1": [
        (COSINE.format(result=f"config.learning_rate * {HALF}"), "the warm-up is missing"),
        (COSINE.format(result=f"warm_up * {HALF}"), "config.learning_rate is missing"),
        (COSINE.format(result="config.learning_rate * warm_up * (1 - done)"), "this is the line"),
        (
            COSINE.format(result="config.learning_rate * warm_up * math.cos(math.pi * done)"),
            "it falls below 0",
        ),
        (
            COSINE.format(result="config.learning_rate * warm_up * (1 + math.cos(math.pi * done))"),
            "begins at twice",
        ),
        (
            COSINE.format(
                result="config.learning_rate * warm_up * (1 + math.cos(2 * math.pi * done)) / 2"
            ),
            "it comes up again",
        ),
        (
            COSINE.format(result="config.learning_rate * warm_up * (1 + math.cos(done)) / 2"),
            "it does not reach 0",
        ),
        (
            COSINE.format(result=f"config.learning_rate * warm_up * (1 - {HALF})"),
            "it rises",
        ),
        (
            COSINE.format(result="config.learning_rate * warm_up * math.cos(math.pi / 2 * done)"),
            "after a quarter of a turn",
        ),
        (
            COSINE.replace(WARM, "min(1.0, step / config.warmup_steps)").format(
                result=f"config.learning_rate * warm_up * {HALF}"
            ),
            "the first step does not learn",
        ),
        (
            COSINE.replace(WARM, "min(1.0, (step + 1) / config.warmup_steps)").format(
                result=f"config.learning_rate * warm_up * {HALF}"
            ),
            "the warm-up ends too soon",
        ),
        (
            COSINE.format(result=f"config.learning_rate * (warm_up if warm_up < 1 else {HALF})"),
            "multiply both at every step",
        ),
        (COSINE.format(result=f"0.25 * warm_up * {HALF}"), "take both from config"),
        (
            COSINE.replace(WARM, "min(1.0, (step + 1) / 5)").format(
                result=f"config.learning_rate * warm_up * {HALF}"
            ),
            "with another learning_rate and warmup_steps it is wrong",
        ),
    ],
    "ch08-exercise-2": [
        (
            "def accumulate(model, x, y, most):\n"
            "    parts = list(zip(x.split(most), y.split(most), strict=True))\n"
            "    loss = sum(next_character_loss(model(a).logits, b) * len(a) for a, b in parts)\n"
            "    (loss / len(x)).backward()\n"
            "    return loss.item() / len(x)",
            "in memory until the one backward",
        ),
        (ACCUMULATE.format(before="pass", factor="1"), "the means of the parts are added"),
        (
            ACCUMULATE.format(before="pass", factor="most / len(x)"),
            "`most` is not the size of the last part",
        ),
        (
            ACCUMULATE.replace("split(most)", "chunk(most)").format(
                before="pass", factor="len(part_x) / len(x)"
            ),
            "chunk(2) makes 2 parts; split(2) makes parts of 2",
        ),
        (
            ACCUMULATE.replace("loss.item()", "loss").format(
                before="pass", factor="len(part_x) / len(x)"
            ),
            "the loss is a tensor; return a number",
        ),
        (
            ACCUMULATE.replace("split(most)", "split(1)").format(before="pass", factor="1"),
            "the means of the parts are added",
        ),
        (
            ACCUMULATE.replace("part_y)", "part_y, reduction='sum')").format(
                before="pass", factor="1"
            ),
            "these are sums over all targets",
        ),
        (
            ACCUMULATE.replace("part_y)", "part_y, reduction='sum')").format(
                before="pass", factor="1 / len(x)"
            ),
            "a window has several targets",
        ),
        (
            ACCUMULATE.replace("split(most)", "split(3)").format(
                before="pass", factor="len(part_x) / len(x)"
            ),
            "3 windows went through the model at once; at most 2 may",
        ),
        (
            ACCUMULATE.replace(
                "x.split(most), y.split(most)", "x[:-1].split(most), y[:-1].split(most)"
            ).format(before="pass", factor="len(part_x) / len(x)"),
            "6 windows went through the model; the batch has 7",
        ),
        (
            ACCUMULATE.format(before="pass", factor="1 / len(x.split(most))"),
            "the last part is smaller",
        ),
        (
            ACCUMULATE.format(before="model.zero_grad()", factor="len(part_x) / len(x)"),
            "only the last part's gradient is left",
        ),
        (ACCUMULATE.format(before="pass", factor="len(part_x)"), "not divided by the windows"),
        (
            "def accumulate(model, x, y, most):\n"
            "    loss = next_character_loss(model(x).logits, y)\n"
            "    loss.backward()\n"
            "    return loss.item()",
            "at most 3 may",
        ),
        (
            "def accumulate(model, x, y, most):\n"
            "    for part_x, part_y in zip(x.split(most), y.split(most)):\n"
            "        loss = next_character_loss(model(part_x).logits, part_y)\n"
            "        (loss * len(part_x) / len(x)).backward()\n"
            "    return loss.item()",
            "the gradient is right, but",
        ),
        (
            "@torch.no_grad()\ndef accumulate(model, x, y, most):\n"
            "    return next_character_loss(model(x[:most]).logits, y[:most]).item()",
            "there is no gradient",
        ),
    ],
    "ch08-exercise-3": [
        (evaluating(last="model.train()"), "came back in training mode"),
        (evaluating(first="pass"), "dropout was on"),
        (evaluating(reduction="mean", divisor="parts"), "the last window is shorter"),
        (evaluating(divisor="len(ids)"), "divide by the number of targets"),
        (evaluating(divisor="1"), "the sum of all losses"),
        (evaluating(last="model.training = was_training"), "is the flag of the model alone"),
        (evaluating(last="model.train(not was_training)"), "came back in evaluation mode"),
        (evaluating(first="model.eval(); ids = ids[:81]"), "the loss is"),
    ],
}
