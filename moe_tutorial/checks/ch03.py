"""Checks of the exercises of chapter 03."""

from collections.abc import Callable

import torch
from torch import equal

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, refuse


@check
def check_count_pairs(answer: object) -> str:
    """Exercise 3.1: count_pairs(num_ids, seq_len, step), windows that start every step ids."""
    for num_ids, seq_len, step in ((10, 4, 1), (10, 4, 2), (10, 4, 3), (11, 4, 3), (602, 64, 64)):
        case = f"num_ids={num_ids}, seq_len={seq_len}, step={step}"
        count = call(answer, num_ids, seq_len, step)
        refuse(not isinstance(count, int), f"{case}: {count!r} is not a whole number of type int")
        end = num_ids - seq_len
        starts = range(0, end, step)
        if count == len(starts):
            continue
        mistakes = {
            f"{count} would be right for step=1": end,
            "you count a window whose last target does not exist": len(range(0, end + 1, step)),
            f"the starts are {list(starts)}, so {len(starts)}, not {count}": end // step,
            f"you leave out the last window; start {starts[-1]} fits": len(range(0, end - 1, step)),
        }
        for mistake, wrong in mistakes.items():
            refuse(count == wrong, f"{case}: {mistake}")
        raise NotYet(f"{case}: {len(starts)} pairs fit, yours: {count!r}")
    return "five cases, also where the step leaves a remainder"


@check
def check_draw(answer: object) -> str:
    """Exercise 3.2: draw(ids, batch_size, seq_len, generator), whose bug leaves out a window."""
    ids, seq_len = torch.arange(10), 4
    x, y = call(answer, ids, 600, seq_len, torch.Generator().manual_seed(0))
    if x.shape != (600, seq_len) or y.shape != x.shape:
        raise NotYet(f"x and y must be (600, 4); yours: {tuple(x.shape)} and {tuple(y.shape)}")
    starts = x[:, 0].unique().tolist()
    if not equal(x, x[:, :1] + torch.arange(seq_len)):
        raise NotYet("the rows of x must be windows: ids in a row, from one start")
    refuse(not equal(y, x + 1), "y must be x shifted by one: y[0] starts at the id after x[0]")
    missing = sorted(set(range(6)) - set(starts))
    if missing == [5]:
        raise StillBuggy("600 draws, and start 5 never comes: the last id is never a target")
    refuse(missing, f"the starts {missing} never come in 600 draws")
    again = call(answer, ids, 600, seq_len, torch.Generator().manual_seed(0))[0]
    if not equal(again, x):
        raise NotYet("the same seed gives other windows; pass the generator to torch.randint")
    other = call(answer, ids, 600, seq_len, torch.Generator().manual_seed(1))[0]
    refuse(equal(other, x), "every seed gives the same windows; draw with the generator given")
    _compare_counts(answer)
    return "every start from 0 to 5 comes, none outside, and a seed repeats its draw"


def _compare_counts(answer: Callable) -> None:
    """Refuse starts that are not equally likely: 8000 draws of 8 starts, 7 deviations."""
    x, _ = call(answer, torch.arange(13), 8000, 5, torch.Generator().manual_seed(2))
    if x.shape != (8000, 5):
        raise NotYet(f"right for windows of 4; windows of 5 have the shape {tuple(x.shape)}")
    counts = x[:, 0].bincount(minlength=8)
    if (counts - 1000).abs().max() > 200:
        most, least = counts.argmax(), counts.argmin()
        often = f"start {most} came {counts[most]} times and start {least} {counts[least]} times"
        raise NotYet(f"in 8000 draws {often}; make all equally likely, without clamp or %")


@check
def check_strided_evaluation(answer: object) -> str:
    """Exercise 3.3: strided_evaluation(ids, seq_len, step) -> x, y, repeated targets -100."""
    ids, given = torch.arange(17), torch.arange(17)
    x, y = call(answer, given, 8, 4)
    if not equal(given, ids):
        raise NotYet("your function has written -100 into ids: y is a view on them; clone it first")
    if x.shape != (3, 8) or y.shape != x.shape:
        raise NotYet(f"three windows of 8 fit; yours: {tuple(x.shape)} and {tuple(y.shape)}")
    refuse((x == -100).any(), "x and y share memory: your -100 went into x as well; clone y")
    if not equal(x, ids.unfold(0, 8, 4)[:3]):
        raise NotYet(f"the windows must start at 0, 4, 8; yours: {x[:, 0].tolist()}")
    refuse(equal(y, x + 1), "every target is still there; the ones asked before must become -100")
    masked = y == -100
    refuse(masked[0].any(), "the first window has no window before it: it keeps all its targets")
    refuse(masked[1:, -4:].all(), "you masked the new targets and kept the old ones")
    kept = y[~masked]
    refuse(len(kept) != len(kept.unique()), "some targets still count twice")
    if not equal(kept, ids[1:]):
        lost = sorted(set(ids[1:].tolist()) - set(kept.tolist()))
        raise NotYet(f"the ids at positions {lost} are no target in any window")
    x, y = call(answer, torch.arange(21), 8, 2)  # another overlap
    if x[:, 0].tolist() != list(range(0, 13, 2)):
        raise NotYet("right for step=4, but with step=2 the windows must start at 0, 2, 4, ...")
    if not equal(y[y != -100], torch.arange(1, 21)):
        raise NotYet("right for step=4, wrong for step=2: seq_len - step targets are repeated")
    return "every target once; after the first window each has more than seq_len - step inputs"
