"""Checks of the exercises of chapter 04."""

import math

import torch

from moe_tutorial.checks.base import (
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    refuse,
    times_run,
)
from moe_tutorial.rope import apply_rope, rope_table, to_half_split, to_interleaved


@check
def check_offset_score(answer: object) -> str:
    """Exercise 4.1: offset_score(q, k, offset, angle), the score of one rotated pair."""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    for offset, angle in ((0, 0.3), (1, 0.3), (5, 0.3), (4, -0.7)):
        score = torch.as_tensor(call(answer, q, k, offset, angle))
        refuse(score.shape, f"the score is one number, but it has shape {tuple(score.shape)}")
        turn = offset * angle  # the 2 x 2 rotation of this q gives 5 cos - 5 sin with this k
        right, backward, once = (5 * math.cos(a) - 5 * math.sin(a) for a in (turn, -turn, angle))
        mistakes = {
            "the wrong direction: turn the query by offset * angle, or the key by its negative": (
                backward
            ),
            "it does not change with the offset: turn only one of the two": q @ k,
            "it turns by one angle whatever the offset: the angle is per position": once,
        }
        otherwise = f"offset {offset}, angle {angle}: {score:.4f} instead of {right:.4f}"
        compare(score, right, mistakes, otherwise=otherwise)
    runs = times_run("rotate_pair", answer, q, k, 1, 0.3)
    refuse(runs != 1, f"the score is right, but rotate_pair ran {runs} times instead of once")
    return "one rotation by offset * angle gives the score of any two positions so far apart"


@check
def check_rotate_interleaved(answer: object) -> str:
    """Exercise 4.2: rotate_interleaved(x, cos, sin) for pairs (2i, 2i + 1)."""
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = table = rope_table(5, 8)
    result = torch.as_tensor(call(answer, x, *table))
    right = to_interleaved(apply_rope(to_half_split(x), *table))
    turned, woven = apply_rope(to_interleaved(x), *table), map(to_interleaved, table)
    mistakes = {
        "it rotates the pairs (i, i + Dh/2) of x; convert x first": apply_rope(x, *table),
        "the result is still in the half-split layout; convert it back": to_half_split(right),
        "the two conversions are in the wrong order": to_half_split(turned),
        "the tables were interleaved; leave them and convert x": apply_rope(x, *woven),
        "x is not converted before it is rotated; to_half_split comes first": (
            to_interleaved(apply_rope(x, *table))
        ),
        "it rotates backward; take the sines as they are": (
            to_interleaved(apply_rope(to_half_split(x), cos, -sin))
        ),
        "nothing is rotated": x,
    }
    compare(result, right, mistakes)
    return "neighbors are rotated, and the result is interleaved like x"


@check
def check_repaired_table(answer: object) -> str:
    """Exercise 4.3: repaired_table(max_seq_len, head_dim), find the bug."""
    cos, sin = call(answer, 6, 8)
    right_cos, right_sin = rope_table(6, 8)
    if not close(cos, right_cos):
        if close(cos, to_interleaved(right_cos)) and close(sin, to_interleaved(right_sin)):
            raise NotYet("both tables are interleaved now, but apply_rope pairs i with i + Dh/2")
        if close(cos, right_sin):
            raise NotYet("the order of the results is cosines, sines")
        raise NotYet("the table of cosines was right before")
    if close(sin, to_interleaved(right_sin)):
        length = apply_rope(torch.ones(1, 1, 6, 8), cos, sin)[0, 0, 5].norm()
        raise StillBuggy(f"position 5 changes a length from {8**0.5:.2f} to {length:.2f}")
    no_minus = right_sin[:, 4:].repeat(1, 2)
    mistakes = {
        "the rotation goes backward: the minus belongs to the first half": -right_sin,
        "lengths still change: the first half of the sines needs a minus": no_minus,
        "lengths still change: only the first half of the sines needs a minus": -no_minus,
    }
    compare(sin, right_sin, mistakes)
    return "both tables are half-split, and every length is kept"
