"""Checks of the exercises of chapter 04."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare
from moe_tutorial.rope import apply_rope, rope_table, to_half_split, to_interleaved


@check
def check_offset_score(answer: Callable) -> str:
    """Exercise 4.1: offset_score(q, k, offset, angle), the score of one rotated pair."""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])

    def expected(turn: float) -> float:
        return 5 * math.cos(turn) - 5 * math.sin(turn)  # the 2 x 2 rotation, for this q and k

    for offset, angle in ((0, 0.3), (1, 0.3), (5, 0.3), (4, -0.7)):
        score = torch.as_tensor(call(answer, q, k, offset, angle))
        if score.shape:
            raise NotYet(f"the score is one number, but it has shape {tuple(score.shape)}")
        if close(score, expected(offset * angle), 1e-5):
            continue
        if close(score, expected(-offset * angle), 1e-5):
            raise NotYet(
                "the wrong direction: turn the query by offset * angle, or the key by its negative"
            )
        if close(score, q @ k, 1e-5):
            raise NotYet("it does not change with the offset: turn only one of the two")
        if close(score, expected(angle), 1e-5):
            raise NotYet("it turns by one angle whatever the offset: the angle is per position")
        wanted = expected(offset * angle)
        raise NotYet(f"offset {offset}, angle {angle}: {score:.4f} instead of {wanted:.4f}")
    return "one rotation by offset * angle gives the score of any two positions so far apart"


@check
def check_rotate_interleaved(answer: Callable) -> str:
    """Exercise 4.2: rotate_interleaved(x, cos, sin) for pairs (2i, 2i + 1)."""
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    table = rope_table(5, 8)
    result = torch.as_tensor(call(answer, x, *table))
    expected = to_interleaved(apply_rope(to_half_split(x), *table))
    if result.shape != x.shape:
        raise NotYet(f"the shape is {tuple(result.shape)} instead of {tuple(x.shape)}")
    mistakes = {
        "it rotates the pairs (i, i + Dh/2) of x; convert x first": apply_rope(x, *table),
        "the result is still in the half-split layout; convert it back": to_half_split(expected),
        "the two conversions are in the wrong order": to_half_split(
            apply_rope(to_interleaved(x), *table)
        ),
        "the tables were permuted; leave them and permute x": apply_rope(
            x, *(to_interleaved(part) for part in table)
        ),
        "nothing is rotated": x,
    }
    compare(result, expected, mistakes)
    return "neighbors are rotated, and the result is interleaved like x"


@check
def check_repaired_table(answer: Callable) -> str:
    """Exercise 4.3: repaired_table(max_seq_len, head_dim), find the bug."""
    cos, sin = call(answer, 6, 8)
    expected_cos, expected_sin = rope_table(6, 8)
    x = torch.ones(1, 1, 6, 8)
    if not close(cos, expected_cos):
        if close(cos, to_interleaved(expected_cos)) and close(sin, to_interleaved(expected_sin)):
            raise NotYet("both tables are interleaved now, but apply_rope pairs i with i + Dh/2")
        raise NotYet("the table of cosines was right before")
    if close(sin, to_interleaved(expected_sin)):
        length = apply_rope(x, cos, sin)[0, 0, 5].norm()
        raise StillBuggy(f"position 5 changes a length from {8**0.5:.2f} to {length:.2f}")
    mistakes = {
        "the rotation goes backward: the minus belongs to the first half": -expected_sin,
        "lengths still change: the first half of the sines needs a minus": torch.cat(
            (expected_sin[:, 4:], expected_sin[:, 4:]), dim=-1
        ),
    }
    compare(sin, expected_sin, mistakes)
    return "both tables are half-split, and every length is kept"
