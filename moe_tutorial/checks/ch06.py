"""Checks of the exercises of chapter 06."""

import torch
from torch import Tensor

from moe_tutorial.attention import CausalSelfAttention, KVCache
from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare, compare_masks
from moe_tutorial.rope import rope_table


@check
def check_window_mask(answer: object) -> str:
    """Exercise 6.1: window_mask(num_positions, width), a causal mask with a short memory."""
    for size, width in ((6, 3), (5, 1), (4, 9)):
        mask = torch.as_tensor(call(answer, size, width))
        t, s = torch.arange(size)[:, None], torch.arange(size)
        past, near = s <= t, s > t - width
        right, nothing = past & near, torch.zeros(size, size, dtype=torch.bool)
        mistakes = {
            "it is the causal mask: nothing is too long ago": past,
            "nothing is visible: triu(i) with i > 0 begins right of the diagonal": nothing,
            "everything but the window is visible: triu keeps what is near, not tril": past & ~near,
            "only the far past is visible: triu keeps what is near, not tril": (s <= t - width + 1),
            "position t sees the future": near,
            "the window reaches into the future as well": (t - s).abs() < width,
            "one position too many: width counts position t itself": past & (s >= t - width),
            "one position too few: width counts position t itself": past & (s > t - width + 1),
            "position t does not see itself": (s < t) & (s >= t - width),
            "position t does not see itself, and one position is missing": (s < t) & near,
            "True and False are swapped: True means that it is seen": ~right,
            "rows and columns are swapped: a row is a query": right.T,
        }
        compare_masks(mask, right, mistakes)
    return "position t sees the last `width` positions, itself included"


@check
def check_repaired_scores(answer: object) -> str:
    """Exercise 6.2: repaired_scores(q, k, num_heads), find the bug."""
    generator = torch.Generator().manual_seed(0)
    for num_heads in (4, 2):
        q, k = torch.randn(2, 2, 32, 64, generator=generator)
        result = torch.as_tensor(call(answer, q, k, num_heads))
        split = [x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k)]
        plain = split[0] @ split[1].transpose(-2, -1)  # (B, H, T, T)
        head_dim = 64 // num_heads
        if close(result, plain * 64**-0.5, 1e-5):
            variance = f"scores of variance {result.var():.2f} instead of 1"
            raise StillBuggy(f"in {num_heads} heads, standard normal q and k give {variance}")
        mistakes = {
            "the heads are split across positions by view; take in_heads": (
                _split_by_view(q, num_heads) @ _split_by_view(k, num_heads).mT * head_dim**-0.5
            ),
            "right for 4 heads, wrong for 2: is a 4 written in the function?": plain * 16**-0.5,
            "the scores are not scaled at all": plain,
            "it multiplies by the root of Dh; divide by it": plain * head_dim**0.5,
            "it divides by Dh; divide by its root": plain / head_dim,
            "it divides by the root of the number of heads": plain * num_heads**-0.5,
            "it divides by the root of T; take the last axis": plain * 32**-0.5,
        }
        compare(result, plain * head_dim**-0.5, mistakes)
    return "the scores have variance 1 in 4 heads and in 2"


def _split_by_view(x: Tensor, num_heads: int) -> Tensor:
    return x.view(x.shape[0], num_heads, x.shape[1], -1)


@check
def check_run_in_pieces(answer: object) -> str:
    """Exercise 6.3: run_in_pieces(attention, x, cos, sin, lengths) with one cache."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        attention, x = CausalSelfAttention(dim=12, num_heads=3), torch.randn(2, 7, 12)
        table = torch.stack(rope_table(7, 4))
        right = attention(x, *table)
        rows: list[int] = []
        attention.qkv.register_forward_hook(lambda module, args, y: rows.append(y.shape[1]))
        for lengths in ([3, 1, 3], [1] * 7, [7]):
            rows.clear()
            result = call(answer, attention, x, *table, lengths)
            ran = list(rows)
            if not isinstance(result, Tensor):
                raise NotYet("join the outputs of the pieces to one tensor, with torch.cat")
            if lengths[-1] < 7 and close(result, right[:, -lengths[-1] :], 1e-5):
                raise NotYet("this is the output of the last piece only; join all of them")
            compare(result, right, _piecewise_mistakes(attention, x, table, lengths))
            if sum(ran) != 7:
                raise NotYet(f"the output is right, but it took {sum(ran)} rows for 7 positions")
            if ran != lengths:
                raise NotYet(f"the output is right, but the pieces are {ran}, not {lengths}")
    return "7 positions in 3 pieces, in 7 and in 1, and every row was computed once"


def _piecewise_mistakes(
    attention: CausalSelfAttention, x: Tensor, table: Tensor, lengths: list[int]
) -> dict[str, Tensor]:
    def joined(pieces: list[Tensor], cached: bool) -> Tensor:
        cache = KVCache(batch_size=2, num_heads=3, max_seq_len=7, head_dim=4) if cached else None
        return torch.cat([attention(p, *table[:, : p.shape[1]], cache) for p in pieces], dim=1)

    pieces = list(x.split(lengths, dim=1))
    return {
        "every piece is taken from the beginning of x; move the start on": (
            joined([x[:, :length] for length in lengths], True)
        ),
        "every piece is rotated as if it began at position 0": joined(pieces, True),
        # Without a cache the true positions give the same: only offsets count.
        "the pieces do not see the earlier ones: use one cache for all of them": (
            joined(pieces, False)
        ),
    }
