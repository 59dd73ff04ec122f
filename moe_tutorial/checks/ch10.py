"""Checks of the exercises of chapter 10."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare
from moe_tutorial.rope import to_half_split, to_interleaved


@check
def check_grouped_attention(answer: Callable) -> str:
    """Exercise 10.1: grouped_attention(q, k, v), several query heads per head of keys."""
    generator = torch.Generator().manual_seed(0)

    def attend(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = True) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    for num_heads, groups in ((6, 2), (4, 4), (3, 1)):
        q = torch.randn(2, num_heads, 5, 4, generator=generator)
        k, v = torch.randn(2, 2, groups, 5, 4, generator=generator)
        result = torch.as_tensor(call(answer, q.clone(), k.clone(), v.clone()))
        times = num_heads // groups
        keys, values = (x.repeat_interleave(times, dim=1) for x in (k, v))
        other_keys, other_values = (x.repeat(1, times, 1, 1) for x in (k, v))
        mistakes = {
            "the heads go round: repeat each head in turn (repeat_interleave)": (
                attend(q, other_keys, other_values)
            ),
            "k and v are repeated in different orders": attend(q, keys, other_values),
            "v and k are repeated in different orders": attend(q, other_keys, values),
            "the future is visible: is_causal=True": attend(q, keys, values, is_causal=False),
            "the order of the heads is wrong, and the future is visible": attend(
                q, other_keys, other_values, is_causal=False
            ),
            "only one head of k and v is used": attend(q, *(x[:, :1].expand_as(q) for x in (k, v))),
            "k and v are averaged; repeat them": attend(
                q, *(x.mean(1, keepdim=True).expand_as(q) for x in (k, v))
            ),
        }
        compare(result, attend(q, keys, values), mistakes)
    return "6 query heads on 2 of k and v, 4 on 4, and 3 on 1"


@check
def check_repaired_rows(answer: Callable) -> str:
    """Exercise 10.2: repaired_rows(w, num_heads), find the bug."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(12, 12, generator=generator)
    for num_heads in (3, 2, 1):
        result = torch.as_tensor(call(answer, w.clone(), num_heads))
        heads = w.unflatten(0, (num_heads, -1)).mT  # (H, D, Dh)
        expected = to_interleaved(heads).mT.flatten(0, 1)
        whole = to_interleaved(w.mT).mT
        if num_heads > 1 and close(result, whole):
            raise StillBuggy(f"with {num_heads} heads, the rows of one head are spread over all")
        mistakes = {
            "this is the way back, to_half_split": to_half_split(heads).mT.flatten(0, 1),
            "nothing is permuted": w,
            "columns are permuted; the numbers of q come from rows": to_interleaved(
                w.unflatten(1, (num_heads, -1))
            ).flatten(1),
            "columns are permuted; turn each head with .mT first": to_interleaved(
                w.unflatten(0, (num_heads, -1))
            ).flatten(0, 1),
            "the result is transposed": expected.mT,
            "the heads are still apart: flatten(0, 1) at the end": to_interleaved(heads).mT,
        }
        compare(result, expected, mistakes)
    return "each head in its own order, with 3 heads, 2 and 1"


@check
def check_chunked_mask(answer: Callable) -> str:
    """Exercise 10.3: chunked_mask(num_positions, chunk), causal within chunks."""
    for size, chunk in ((7, 3), (6, 2), (4, 9)):
        mask = torch.as_tensor(call(answer, size, chunk))
        if mask.dtype != torch.bool:
            raise NotYet(f"a mask holds True and False, but this one is {mask.dtype}")
        t, s = torch.arange(size)[:, None], torch.arange(size)
        same = t // chunk == s // chunk
        expected = same & (s <= t)
        mistakes = {
            "it is the causal mask: position `chunk` must not see the chunk before": s <= t,
            "it is a sliding window: the chunks have fixed ends": (s <= t) & (s > t - chunk),
            "position t sees the future of its chunk": same,
            "position t does not see itself": same & (s < t),
            "there are `chunk` chunks; but each has `chunk` positions": (
                (t * chunk // size == s * chunk // size) & (s <= t)
            ),
            "the same place in every chunk is compared, with %; take //": (
                (t % chunk == s % chunk) & (s <= t)
            ),
            "True and False are swapped: True means that it is seen": ~expected,
            "rows and columns are swapped: a row is a query": expected.T,
        }
        compare(mask.int(), expected.int(), {name: m.int() for name, m in mistakes.items()})
    return "causal in chunks of 3, of 2, and in one that is longer than the text"
