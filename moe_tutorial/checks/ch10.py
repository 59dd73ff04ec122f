"""Checks of the exercises of chapter 10."""

from functools import partial

import torch
import torch.nn.functional as F

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare, compare_masks
from moe_tutorial.rope import to_half_split, to_interleaved


@check
def check_grouped_attention(answer: object) -> str:
    """Exercise 10.1: grouped_attention(q, k, v), several query heads per head of keys."""
    generator = torch.Generator().manual_seed(0)
    attend = F.scaled_dot_product_attention
    causal = partial(attend, is_causal=True)
    for num_heads, groups in ((6, 2), (4, 4), (3, 1)):
        q = torch.randn(2, num_heads, 5, 4, generator=generator)
        k, v = torch.randn(2, 2, groups, 5, 4, generator=generator)
        result = torch.as_tensor(call(answer, q.clone(), k.clone(), v.clone()))
        times = num_heads // groups
        keys, values = (x.repeat_interleave(times, dim=1) for x in (k, v))
        turned = [x.repeat(1, times, 1, 1) for x in (k, v)]
        first = [x[:, :1].expand_as(q) for x in (k, v)]
        averaged = [x.mean(1, keepdim=True).expand_as(q) for x in (k, v)]
        mistakes = {
            "the heads go round: repeat each head in turn (repeat_interleave)": causal(q, *turned),
            "k and v are repeated in different orders": causal(q, keys, turned[1]),
            "v and k are repeated in different orders": causal(q, turned[0], values),
            "the future is visible: is_causal=True": attend(q, keys, values),
            "the order of the heads is wrong, and the future is visible": attend(q, *turned),
            "only one head of k and v is used": causal(q, *first),
            "k and v are averaged; repeat them": causal(q, *averaged),
            "keys and values are swapped": causal(q, values, keys),
            "the scores are not divided by the root of Dh; leave scale as it is": (
                causal(q, keys, values, scale=1.0)
            ),
        }
        compare(result, causal(q, keys, values), mistakes)
    return "6 query heads on 2 of k and v, 4 on 4, and 3 on 1"


@check
def check_repaired_rows(answer: object) -> str:
    """Exercise 10.2: repaired_rows(w, num_heads), find the bug."""
    w = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    heads_last = to_interleaved(w[:8, :8].unflatten(0, (-1, 4)).mT).mT.flatten(0, 1)
    if close(call(answer, w[:8, :8].clone(), 4), heads_last):  # 3 heads would raise torch's error
        raise NotYet("the heads come first: unflatten(0, (num_heads, -1))")
    for num_heads in (3, 2, 1):
        result = torch.as_tensor(call(answer, w.clone(), num_heads))
        heads = w.unflatten(0, (num_heads, -1))  # (H, Dh, D)
        apart = to_interleaved(heads.mT).mT
        right = apart.flatten(0, 1)
        if num_heads > 1 and close(result, to_interleaved(w.mT).mT):
            raise StillBuggy(f"with {num_heads} heads, the rows of one head are spread over all")
        columns = to_interleaved(w.unflatten(1, (num_heads, -1))).flatten(1)
        unturned = to_interleaved(heads).flatten(0, 1)
        mistakes = {
            "this is the way back, to_half_split": to_half_split(heads.mT).mT.flatten(0, 1),
            "nothing is interleaved": w,
            "columns are interleaved; the numbers of q come from rows": columns,
            "columns are interleaved; transpose each head with .mT first": unturned,
            "the result is transposed": right.mT,
            "the heads are still apart: flatten(0, 1) at the end": apart,
        }
        compare(result, right, mistakes)
    return "each head in its own order, with 3 heads, 2 and 1"


@check
def check_chunked_mask(answer: object) -> str:
    """Exercise 10.3: chunked_mask(num_positions, chunk), causal within chunks."""
    for size, chunk in ((7, 3), (6, 2), (4, 9)):
        mask = torch.as_tensor(call(answer, size, chunk))
        t, s = torch.arange(size)[:, None], torch.arange(size)
        past, same = s <= t, t // chunk == s // chunk
        right = past & same
        few_chunks = past & (t * chunk // size == s * chunk // size)
        same_place = past & (t % chunk == s % chunk)
        mistakes = {
            "it is the causal mask: position `chunk` must not see the chunk before": past,
            "it is a sliding window: the chunks have fixed ends": past & (s > t - chunk),
            "position t sees the future of its chunk": same,
            "position t does not see itself": same & (s < t),
            "there are `chunk` chunks; but each has `chunk` positions": few_chunks,
            "the same place in every chunk is compared, with %; take //": same_place,
            "True and False are swapped: True means that it is seen": ~right,
            "rows and columns are swapped: a row is a query": right.T,
        }
        compare_masks(mask, right, mistakes)
    return "causal in chunks of 3, of 2, and in one that is longer than the text"
