"""Checks of the exercises of chapter 03."""

from __future__ import annotations

import torch

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check


@check
def check_count_pairs(answer: object) -> str:
    """Exercise 3.1: count_pairs(num_ids, seq_len, step), windows that start every step ids."""
    for num_ids, seq_len, step in ((10, 4, 1), (10, 4, 2), (10, 4, 3), (11, 4, 3), (602, 64, 64)):
        case = f"num_ids={num_ids}, seq_len={seq_len}, step={step}"
        count = call(answer, num_ids, seq_len, step)
        starts = range(0, num_ids - seq_len, step)
        if isinstance(count, int) and count == len(starts):
            continue
        if not isinstance(count, int):
            raise NotYet(f"{case}: {count!r} is not a whole number of type int")
        if step > 1 and count == num_ids - seq_len:
            raise NotYet(f"{case}: {count} would be right for step=1")
        if count == len(range(0, num_ids - seq_len + 1, step)):
            raise NotYet(f"{case}: you count a window whose last target does not exist")
        if count == (num_ids - seq_len) // step:
            raise NotYet(f"{case}: the starts are {list(starts)}, so {len(starts)}, not {count}")
        if count == len(range(0, num_ids - seq_len - 1, step)):
            raise NotYet(f"{case}: you leave out the last window; start {starts[-1]} fits")
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
    if not torch.equal(x, x[:, :1] + torch.arange(seq_len)):
        raise NotYet("the rows of x must be windows: ids in a row, from one start")
    if not torch.equal(y, x + 1):
        raise NotYet("y must be x shifted by one: y[0] starts at the id after x[0]")
    missing = sorted(set(range(len(ids) - seq_len)) - set(starts))
    if missing == [5]:
        raise StillBuggy("600 draws, and start 5 never comes: the last id is never a target")
    if missing:
        raise NotYet(f"the starts {missing} never come in 600 draws")
    again = call(answer, ids, 600, seq_len, torch.Generator().manual_seed(0))[0]
    if not torch.equal(again, x):
        raise NotYet("the same seed gives other windows; pass the generator to torch.randint")
    return "every start from 0 to 5 comes, none outside, and a seed repeats its draw"


@check
def check_strided_evaluation(answer: object) -> str:
    """Exercise 3.3: strided_evaluation(ids, seq_len, step) -> x, y, repeated targets -100."""
    ids, seq_len, step = torch.arange(17), 8, 4
    given = ids.clone()
    x, y = call(answer, given, seq_len, step)
    if not torch.equal(given, ids):
        raise NotYet("your function has written -100 into ids: y is a view on them; clone it first")
    if x.shape != (3, 8) or y.shape != x.shape:
        raise NotYet(f"three windows of 8 fit; yours: {tuple(x.shape)} and {tuple(y.shape)}")
    if not torch.equal(x, ids.unfold(0, 8, 4)[:3]):
        raise NotYet(f"the windows must start at 0, 4, 8; yours: {x[:, 0].tolist()}")
    if torch.equal(y, x + 1):
        raise NotYet("every target is still there; the ones asked before must become -100")
    if (y[0] == -100).any():
        raise NotYet("the first window has no window before it: it keeps all its targets")
    if (y[1:, -step:] == -100).all():
        raise NotYet("you masked the new targets and kept the old ones")
    kept = y[y != -100]
    if len(kept) != len(kept.unique()):
        raise NotYet("some targets still count twice")
    if not torch.equal(kept, ids[1:]):
        lost = sorted(set(ids[1:].tolist()) - set(kept.tolist()))
        raise NotYet(f"the ids at positions {lost} are no target in any window")
    ids, seq_len, step = torch.arange(21), 8, 2  # another overlap
    _, y = call(answer, ids.clone(), seq_len, step)
    if not torch.equal(y[y != -100], ids[1:]):
        raise NotYet("right for step=4, wrong for step=2: seq_len - step targets are repeated")
    return "every target once; after the first window each has more than seq_len - step inputs"
