"""Checks of the exercises of chapter 06."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moe_tutorial.attention import CausalSelfAttention, KVCache
from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare
from moe_tutorial.rope import rope_table


@check
def check_window_mask(answer: Callable) -> str:
    """Exercise 6.1: window_mask(num_positions, width), a causal mask with a short memory."""
    for size, width in ((6, 3), (5, 1), (4, 9)):
        mask = torch.as_tensor(call(answer, size, width))
        if mask.dtype != torch.bool:
            raise NotYet(f"a mask holds True and False, but this one is {mask.dtype}")
        t, s = torch.arange(size)[:, None], torch.arange(size)
        expected = (s <= t) & (s > t - width)
        mistakes = {
            "it is the causal mask: nothing is too long ago": s <= t,
            "nothing is visible: triu(i) with i > 0 begins right of the diagonal": torch.zeros_like(
                expected
            ),
            "position t sees the future": (s > t - width) & (s >= 0),
            "the window reaches into the future as well": (t - s).abs() < width,
            "one position too many: width counts position t itself": (s <= t) & (s >= t - width),
            "one position too few: width counts position t itself": (s <= t) & (s > t - width + 1),
            "position t does not see itself": (s < t) & (s >= t - width),
            "position t does not see itself, and one position is missing": (s < t)
            & (s > t - width),
            "True and False are swapped: True means that it is seen": ~expected,
            "rows and columns are swapped: a row is a query": expected.T,
        }
        compare(mask.int(), expected.int(), {name: m.int() for name, m in mistakes.items()})
    return "position t sees the last `width` positions, itself included"


@check
def check_repaired_scores(answer: Callable) -> str:
    """Exercise 6.2: repaired_scores(q, k, num_heads), find the bug."""
    generator = torch.Generator().manual_seed(0)
    for num_heads in (4, 2):
        q, k = torch.randn(2, 2, 32, 64, generator=generator)
        result = torch.as_tensor(call(answer, q, k, num_heads))
        split = [x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k)]
        plain = split[0] @ split[1].transpose(-2, -1)  # (B, H, T, T)
        head_dim = 64 // num_heads
        if close(result, plain * 64**-0.5, 1e-5):
            raise StillBuggy(
                f"in {num_heads} heads, standard normal q and k give scores of variance "
                f"{result.var():.2f} instead of 1"
            )
        mistakes = {
            "the scores are not scaled at all": plain,
            "it multiplies by the root of Dh; divide by it": plain * head_dim**0.5,
            "it divides by Dh; divide by its root": plain / head_dim,
            "it divides by the root of the number of heads": plain * num_heads**-0.5,
            "it divides by the root of T; take the last axis": plain * 32**-0.5,
        }
        compare(result, plain * head_dim**-0.5, mistakes)
    return "the scores have variance 1 in 4 heads and in 2"


@check
def check_run_in_pieces(answer: Callable) -> str:
    """Exercise 6.3: run_in_pieces(attention, x, cos, sin, lengths) with one cache."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        attention, x = CausalSelfAttention(dim=12, num_heads=3), torch.randn(2, 7, 12)
        cos, sin = rope_table(7, 4)
        expected = attention(x, cos, sin)
        rows: list[int] = []
        attention.qkv.register_forward_hook(lambda module, args, y: rows.append(y.shape[1]))
        for lengths in ([3, 1, 3], [1] * 7, [7]):
            rows.clear()
            result = call(answer, attention, x, cos, sin, lengths)
            computed = list(rows)
            if not isinstance(result, Tensor):
                raise NotYet("join the outputs of the pieces to one tensor, with torch.cat")
            if lengths[-1] < 7 and close(result, expected[:, -lengths[-1] :], 1e-5):
                raise NotYet("this is the output of the last piece only; join all of them")
            mistakes = {
                "every piece is rotated as if it began at position 0": _in_pieces(
                    attention, x, cos, sin, lengths, one_cache=True
                ),
                "the pieces do not see the earlier ones: use one cache for all of them": _in_pieces(
                    attention, x, cos, sin, lengths, one_cache=False
                ),
            }
            compare(result, expected, mistakes)
            if sum(computed) != 7:
                raise NotYet(
                    f"the output is right, but it took {sum(computed)} rows for 7 positions"
                )
            if computed != lengths:
                raise NotYet(f"the output is right, but the pieces are {computed}, not {lengths}")
    return "7 positions in 3 pieces, in 7 and in 1, and every row was computed once"


def _in_pieces(
    attention: CausalSelfAttention,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    lengths: Sequence[int],
    *,
    one_cache: bool,
) -> Tensor:
    """What run_in_pieces gives if every piece is rotated as if it began at position 0.

    With a new cache for every piece the true positions give the same: only offsets count.
    """
    sizes = {"num_heads": attention.num_heads, "head_dim": attention.head_dim}
    cache = KVCache(batch_size=len(x), max_seq_len=x.shape[1], **sizes)
    outputs = []
    for piece in x.split(lengths, dim=1):
        here = slice(piece.shape[1])
        outputs.append(attention(piece, cos[here], sin[here], cache if one_cache else None))
    return torch.cat(outputs, dim=1)
