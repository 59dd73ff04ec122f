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
            "it should be",
        ),
        ("def add_one_loss(train, validation):\n    len(train)", "is there a return"),
    ],
    "ch01-exercise-2": [
        (SHUFFLED, "cut the text before you cut windows"),
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
            "in windows of both parts",
        ),
    ],
    "ch01-exercise-3": [
        (SMOOTH.format(axis=ROWS, kinds=KINDS, result="mixed"), "is 0 / 0"),
        (SMOOTH.format(axis=ROWS, kinds=KINDS, result="mixed.nan_to_num()"), "all zeros"),
        (
            SMOOTH.format(axis=ROWS, kinds="torch.full((4, 1), 4)", result=FALLBACK),
            "not V and not the sum",
        ),
        (
            SMOOTH.format(axis="dim=0", kinds="(counts > 0).sum(dim=0)", result=f"{FALLBACK}"),
            "along each row",
        ),
        (
            SMOOTH.format(axis=ROWS, kinds=KINDS, result=f"({FALLBACK})[0]"),
            "the result has shape",
        ),
    ],
}
