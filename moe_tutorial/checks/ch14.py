"""Checks of the exercises of chapter 14."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare


def _experts(tokens: int, num_experts: int, top_k: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tokens, num_experts, generator=generator).topk(top_k).indices


def _counts(owner: Tensor, size: int) -> Tensor:
    return owner.flatten().bincount(minlength=size)


@check
def check_splits(answer: Callable) -> str:
    """Exercise 14.1: splits(experts, num_experts, num_ranks), rows for each rank."""
    for tokens, num_experts, num_ranks, top_k in ((9, 12, 4, 2), (7, 6, 2, 3), (2, 12, 4, 1)):
        experts = _experts(tokens, num_experts, top_k)
        if tokens == 2:
            experts = experts.clamp(max=5)  # the last ranks get nothing
        result = call(answer, experts.clone(), num_experts, num_ranks)
        if isinstance(result, Tensor) and result.is_floating_point():
            raise NotYet("these are not whole numbers; divide with //")
        size = num_experts // num_ranks
        expected = _counts(experts // size, num_ranks)
        result = torch.as_tensor(result)
        if result.shape == expected[: len(result)].shape and len(result) < num_ranks:
            raise NotYet("ranks at the end that get nothing are missing; minlength=num_ranks")
        mistakes = {
            "only first choices are counted; each token sends top_k rows": _counts(
                experts[:, 0] // size, num_ranks
            ),
            "this deals the experts out like cards; rank r owns neighbors, so divide": _counts(
                experts % num_ranks, num_ranks
            ),
            "% gives the place of an expert on its rank; // gives the rank": _counts(
                experts % size, num_ranks
            )[:num_ranks],
            "these are rows per expert; add up the experts of each rank": _counts(
                experts, num_experts
            ),
            "divided by the number of ranks; divide by the experts per rank": _counts(
                experts // num_ranks, num_ranks
            )[:num_ranks],
        }
        compare(result.double(), expected.double(), {k: v.double() for k, v in mistakes.items()})
    return "4 ranks, 2 ranks, and ranks that get nothing"


@check
def check_rows_once(answer: Callable) -> str:
    """Exercise 14.2: rows_once(experts, num_experts, num_ranks, home), rows that leave."""
    for num_experts, num_ranks, top_k, home in ((8, 4, 3, 1), (16, 2, 4, 0), (8, 8, 2, 5)):
        experts = _experts(20, num_experts, top_k)
        owner = experts // (num_experts // num_ranks)
        needed = torch.zeros(20, num_ranks, dtype=torch.bool).scatter(1, owner, True)
        everywhere = needed.sum()
        needed[:, home] = False
        result = torch.as_tensor(call(answer, experts.clone(), num_experts, num_ranks, home))
        mistakes = {
            "each choice is counted; a token goes to each rank at most once": (owner != home).sum(),
            "rows that stay at home are counted too": everywhere,
            "the way home is counted too; count only the rows that go out": 2 * needed.sum(),
            "this counts tokens that leave; one token may leave to several ranks": (
                needed.any(dim=1).sum()
            ),
            "this counts ranks; every token needs its own row": needed.any(dim=0).sum(),
            "experts are compared with the rank; compare their owners": (experts != home).sum(),
        }
        if close(result, needed.sum()):
            continue
        for mistake, wrong in mistakes.items():
            if close(result, wrong):
                raise NotYet(mistake)
        if result.shape:
            raise NotYet(f"return one number, not the shape {tuple(result.shape)}")
        raise NotYet(f"{result.item():g} instead of {needed.sum().item()} rows")
    return "4 ranks, 2 ranks, and 8 ranks with one expert each"


@check
def check_repaired_average(answer: Callable) -> str:
    """Exercise 14.3: repaired_average(replicated, owned), find the bug."""
    generator = torch.Generator().manual_seed(0)
    for num_ranks in (3, 5):
        replicated = list(torch.randn(num_ranks, 4, generator=generator))
        owned = list(torch.randn(num_ranks, 2, 3, generator=generator))
        given = [g.clone() for g in replicated], [g.clone() for g in owned]
        result = call(answer, *given)
        if not isinstance(result, tuple) or len(result) != 2 or len(result[1]) != num_ranks:
            raise NotYet("return the router's gradient and a list with the experts' of each rank")
        router, experts = result[0], torch.stack(list(result[1]))
        mean = torch.stack(replicated).mean(dim=0)
        if close(router, mean * num_ranks):
            raise NotYet("the router's was right: the mean over the ranks, not the sum")
        compare(router, mean, {})
        expected = torch.stack(owned) / num_ranks
        if close(experts, expected * num_ranks):
            raise StillBuggy(f"the experts learn {num_ranks} times too fast on {num_ranks} ranks")
        pooled = torch.stack(owned).mean(dim=0).expand_as(expected)
        mistakes = {
            "different experts are averaged; each rank keeps the gradient of its own": pooled,
            "different experts are added up; each rank keeps the gradient of its own": (
                pooled * num_ranks
            ),
            "divided twice": expected / num_ranks,
            "multiplied; the mean over R ranks divides": expected * num_ranks**2,
        }
        compare(experts, expected, mistakes)
    return "with 3 and with 5 ranks, router and experts learn at the same rate"
