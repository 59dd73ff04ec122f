"""Checks of the exercises of chapter 14."""

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare, refuse


def _experts(tokens: int, num_experts: int, top_k: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tokens, num_experts, generator=generator).topk(top_k).indices


@check
def check_splits(answer: object) -> str:
    """Exercise 14.1: splits(experts, num_experts, num_ranks), rows for each rank."""
    cases = ((9, 12, 4, 2, 11), (7, 6, 2, 3, 5), (2, 12, 4, 1, 5))  # third: idle ranks at the end
    for tokens, num_experts, num_ranks, top_k, last in cases:
        experts = _experts(tokens, num_experts, top_k).clamp(max=last)
        result = call(answer, experts.clone(), num_experts, num_ranks)
        if isinstance(result, Tensor) and result.is_floating_point():
            raise NotYet("these are not whole numbers; divide with //")
        result, size = torch.as_tensor(result).double(), num_experts // num_ranks
        if len(result) < num_ranks and result.dim() == 1:
            raise NotYet("ranks at the end that get nothing are missing; minlength=num_ranks")

        def rows(owner: Tensor, ranks: int = num_ranks) -> Tensor:
            return owner.flatten().bincount(minlength=ranks)[:ranks].double()

        by_expert, by_rank = rows(experts, num_experts), rows(experts // num_ranks)
        owners = experts // size
        once = torch.zeros(tokens, num_ranks).scatter(1, owners, 1.0).sum(dim=0)
        first, dealt = rows(owners[:, 0]), rows(experts % num_ranks)
        mistakes = {
            "only first choices are counted; each token sends top_k rows": first,
            "a token counts once per rank; here each of its choices is a row": once,
            "this deals the experts out like cards; rank r owns neighbors, so divide": dealt,
            "% gives the place of an expert on its rank; // gives the rank": rows(experts % size),
            "these are rows per expert; add up the experts of each rank": by_expert,
            "divided by the number of ranks; divide by the experts per rank": by_rank,
        }
        compare(result, rows(owners), mistakes)
    return "4 ranks, 2 ranks, and ranks that get nothing"


@check
def check_rows_once(answer: object) -> str:
    """Exercise 14.2: rows_once(experts, num_experts, num_ranks, home), rows that leave."""
    for num_experts, num_ranks, top_k, home in ((8, 4, 3, 1), (16, 2, 4, 0), (8, 8, 2, 5)):
        experts = _experts(20, num_experts, top_k)
        owner = experts // (num_experts // num_ranks)
        needed = torch.zeros(20, num_ranks, dtype=torch.bool).scatter(1, owner, True)
        everywhere, without_first = needed.sum(), needed[:, 1:].sum()
        needed[:, home] = False
        right, tokens = needed.sum(), needed.any(dim=1).sum()
        result = torch.as_tensor(call(answer, experts.clone(), num_experts, num_ranks, home))
        mistakes = {
            "each choice is counted; a token goes to each rank at most once": (owner != home).sum(),
            "rows that stay at home are counted too": everywhere,
            "rows to rank 0 are left out; leave out those to `home`": without_first,
            "the way home is counted too; count only the rows that go out": 2 * right,
            "this counts tokens that leave; one token may leave to several ranks": tokens,
            "this counts ranks; every token needs its own row": needed.any(dim=0).sum(),
            "experts are compared with the rank; compare their owners": (experts != home).sum(),
        }
        refuse(result.shape, f"return one number, not the shape {tuple(result.shape)}")
        compare(result, right, mistakes, 1e-6, f"{result.item():g} instead of {right} rows")
    return "4 ranks, 2 ranks, and 8 ranks with one expert each"


@check
def check_repaired_average(answer: object) -> str:
    """Exercise 14.3: repaired_average(replicated, owned), find the bug."""
    generator = torch.Generator().manual_seed(0)
    for num_ranks in (3, 5):
        replicated = torch.randn(num_ranks, 4, generator=generator)
        owned = torch.randn(num_ranks, 2, 3, generator=generator)
        result = call(answer, list(replicated.clone()), list(owned.clone()))
        if not isinstance(result, tuple) or len(result) != 2 or len(result[1]) != num_ranks:
            raise NotYet("return the router's gradient and a list with the experts' of each rank")
        router, experts = result[0], torch.stack(list(result[1]))
        mean, right = replicated.mean(dim=0), owned / num_ranks
        if close(router, mean * num_ranks):
            raise NotYet("the router's was right: the mean over the ranks, not the sum")
        compare(router, mean, {})
        if close(experts, right * num_ranks):
            raise StillBuggy(
                f"the experts' gradients are {num_ranks} times too large on {num_ranks} ranks"
            )
        pooled, added = (right.sum(dim=0).expand_as(right) * n for n in (1, num_ranks))
        mistakes = {
            "different experts are averaged; each rank keeps the gradient of its own": pooled,
            "different experts are added up; each rank keeps the gradient of its own": added,
            "divided twice": right / num_ranks,
            "divided by 2; divide by the number of ranks": owned / 2,
            "multiplied; the mean over R ranks divides": right * num_ranks**2,
        }
        compare(experts, right, mistakes)
    return "with 3 and with 5 ranks, router and experts have the gradients of one mean"
