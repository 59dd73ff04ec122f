"""Plausible wrong answers of chapter 03, and what the check says about each."""

COUNT = """
def count_pairs(num_ids, seq_len, step):
    return {count}
"""

DRAW = """
def draw(ids, batch_size, seq_len, generator):
    starts = torch.randint({high}, (batch_size,){generator})
    x = torch.stack([ids[s : s + seq_len] for s in starts])
    y = torch.stack([ids[{target}] for s in starts])
    return x, y
"""
HIGH = "len(ids) - seq_len"
SEEDED = ", generator=generator"
SHIFTED = "s + 1 : s + seq_len + 1"

STRIDED = """
def strided_evaluation(ids, seq_len, step):
    x, y = lib.sliding_windows(ids, seq_len)
    x, y = {rows}
    {mask}
    return x, y
"""
ROWS = "x[::step], y[::step].clone()"

WRONG = {
    "ch03-exercise-1": [
        (COUNT.format(count="num_ids - seq_len"), "would be right for step=1"),
        (
            COUNT.format(count="(num_ids - seq_len) // step"),
            "num_ids=11, seq_len=4, step=3: the starts are [0, 3, 6], so 3, not 2",
        ),
        (COUNT.format(count="(num_ids - seq_len) // step + 1"), "last target does not exist"),
        (
            COUNT.format(count="len(range(0, num_ids - seq_len - 1, step))"),
            "you leave out the last window; start 5 fits",
        ),
        (COUNT.format(count="(num_ids - seq_len) / step"), "is not a whole number"),
        (COUNT.format(count="num_ids // seq_len"), "6 pairs fit, yours: 2"),
    ],
    "ch03-exercise-2": [
        (
            DRAW.format(high=f"{HIGH} + 1", generator=SEEDED, target=SHIFTED),
            "it raised RuntimeError: stack expects each tensor to be equal size",
        ),
        (
            DRAW.format(high=f"{HIGH} - 2", generator=SEEDED, target=SHIFTED),
            "the starts [4, 5] never come",
        ),
        (
            DRAW.format(high=HIGH, generator="", target=SHIFTED),
            "the same seed gives other windows",
        ),
        (
            DRAW.format(high=HIGH, generator=SEEDED, target="s : s + seq_len"),
            "y must be x shifted by one",
        ),
        (
            DRAW.format(high=f"{HIGH} + 1", generator=SEEDED, target=SHIFTED).replace(
                "    x =", f"    starts = starts.clamp(max={HIGH} - 1)\n    x ="
            ),
            "make all equally likely, without clamp or %",
        ),
        (
            DRAW.format(high=f"1, {HIGH}", generator=SEEDED, target=SHIFTED),
            "the starts [0] never come",
        ),
        (
            DRAW.format(
                high=HIGH, generator=", generator=torch.Generator().manual_seed(0)", target=SHIFTED
            ),
            "every seed gives the same windows",
        ),
        (
            DRAW.replace("seq_len]", "4]").format(
                high="6", generator=SEEDED, target="s + 1 : s + 5"
            ),
            "windows of 5 have the shape (8000, 4)",
        ),
        (
            DRAW.format(high="6", generator=SEEDED, target=SHIFTED),
            "start 6 0 times; make all",
        ),
        (
            DRAW.format(high=HIGH, generator=SEEDED, target="s + 1 : s + seq_len"),
            "x and y must be (600, 4); yours: (600, 4) and (600, 3)",
        ),
        (
            "def draw(ids, batch_size, seq_len, generator):\n"
            "    n = len(ids) - seq_len\n"
            "    x = ids[torch.randint(n, (batch_size, seq_len), generator=generator)]\n"
            "    return x, x + 1",
            "the rows of x must be windows",
        ),
    ],
    "ch03-exercise-3": [
        (
            STRIDED.format(rows="x[::step], y[::step]", mask="y[1:, : seq_len - step] = -100"),
            "has written -100 into ids",
        ),
        (STRIDED.format(rows=ROWS, mask=""), "every target is still there"),
        (
            STRIDED.format(rows=ROWS, mask="y[:, : seq_len - step] = -100"),
            "the first window has no window before it",
        ),
        (
            STRIDED.format(rows=ROWS, mask="y[1:, seq_len - step :] = -100"),
            "you masked the new targets",
        ),
        (
            STRIDED.format(rows=ROWS, mask="y[1:, :step] = -100"),
            "right for step=4, wrong for step=2",
        ),
        (STRIDED.format(rows=ROWS, mask="y[1:, : step - 1] = -100"), "still count twice"),
        (STRIDED.format(rows=ROWS, mask="y[1:, : step + 1] = -100"), "are no target in any"),
        (
            STRIDED.format(rows="x, y.clone()", mask="y[1:, : seq_len - step] = -100"),
            "three windows of 8 fit",
        ),
        (
            STRIDED.replace("sliding_windows(ids,", "sliding_windows(ids.clone(),").format(
                rows="x[::step], y[::step]", mask="y[1:, : seq_len - step] = -100"
            ),
            "x and y share memory: your -100 went into x",
        ),
        (
            STRIDED.format(rows="x[::4], y[::4].clone()", mask="y[1:, : seq_len - step] = -100"),
            "with step=2 the windows must start at 0, 2, 4",
        ),
        (
            STRIDED.format(rows="x[:3], y[:3].clone()", mask="y[1:, : seq_len - step] = -100"),
            "the windows must start at 0, 4, 8; yours: [0, 1, 2]",
        ),
    ],
}
