"""Checks of the exercises of chapter 11."""

import torch
from torch import Tensor

from moe_tutorial.balance import router_health, sign_update
from moe_tutorial.checks.base import (
    Mistakes,
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    refuse,
)
from moe_tutorial.moe import Routing, expert_load


@check
def check_proportional_update(answer: object) -> str:
    """Exercise 11.1: proportional_update(bias, load, rate) -> the new bias."""
    for num_experts, rate in ((4, 0.1), (7, 0.02)):
        load = torch.rand(num_experts, generator=torch.Generator().manual_seed(num_experts))
        load = load.square() / load.square().sum()
        bias = torch.linspace(-1, 1, num_experts)
        kept = bias.clone()
        new = call(answer, bias, load.clone(), rate)
        refuse(not isinstance(new, Tensor), f"return a tensor, not a {type(new).__name__}")
        refuse(not bias.equal(kept), "the bias that was given is changed; return a new one")
        step = rate * (1 - num_experts * load)
        compare(
            new,
            bias + step,
            {
                "the step has the wrong sign: busy experts become busier": bias - step,
                "this is the sign update; take the size of the violation": sign_update(
                    bias, load, rate
                ),
                "the violation is measured in shares; divide by the mean share": bias
                + step / num_experts,
                "1 minus the share itself; divide the share by its mean first": bias
                + rate * (1 - load),
                "the ratio is upside down: load over mean load": bias
                + rate * (1 / (num_experts * load) - 1),
                "this is the step alone; add it to the bias": step,
                "the rate is missing": bias + step / rate,
                "busier over all is not busier over the mean: subtract 1": bias
                - rate * num_experts * load,
                "the steps add up to 0 already; do not scale the bias": rate * (bias + step / rate),
            },
        )
    return "equal to bias + rate * (1 - load / mean load) for 4 and for 7 experts"


def _router(kind: str, num_experts: int) -> Routing:
    """A routing of the kind of sickness that it is named after, with top_k = 1."""
    generator = torch.Generator().manual_seed(num_experts)
    logits = torch.randn(41 * num_experts - 1, num_experts, generator=generator)  # not quite even
    own = torch.arange(len(logits)) % num_experts
    if kind == "healthy":
        logits[torch.arange(len(logits)), own] += 9
    elif kind == "indifferent":
        logits = 0.01 * logits
        logits[torch.arange(len(logits)), own] += 0.1
    elif kind == "uneven":
        logits[torch.arange(len(logits)), own] += 9
        logits[: len(logits) // 2, 0] += 40
    else:
        logits[torch.arange(len(logits)), own % (num_experts - 1)] += 9
        logits[: len(logits) // 2, 0] += 40  # and it is uneven
        logits[:, -1] -= 60
    probs = logits.softmax(-1)
    best = probs.topk(1, dim=-1)
    return Routing(best.values, best.indices, probs)


@check
def check_diagnose(answer: object) -> str:
    """Exercise 11.2: diagnose(health) -> "idle", "uneven", "indifferent" or "healthy"."""
    words = ("idle", "uneven", "indifferent", "healthy")
    for num_experts in (4, 8):
        for kind in words:
            found = call(answer, router_health(_router(kind, num_experts)))
            refuse(found not in words, f"return one of {', '.join(words)}, not {found!r}")
            if found == kind:
                continue
            if (kind, found) == ("indifferent", "healthy"):
                other = call(answer, router_health(_router("healthy", num_experts)))
                refuse(other == "indifferent", "turned around: who tells much apart is healthy")
            known = {
                ("idle", "uneven"): "an idle expert is named first, however uneven the rest is",
                ("idle", "healthy"): "the number of idle experts is not looked at",
                ("uneven", "healthy"): "a max violation above 1 is uneven",
                ("uneven", "indifferent"): "an uneven load is named before indifference",
                ("indifferent", "healthy"): "an even load is not all: look at what it tells apart",
                ("healthy", "indifferent"): "a router that is sure about each token is healthy; "
                "the entropy of the mean says nothing of single tokens",
                ("healthy", "uneven"): "a max violation below 1 is even enough",
                ("indifferent", "uneven"): "a max violation below 1 is even enough",
            }
            what = f"with {num_experts} experts, a router that is {kind} is called {found}"
            raise NotYet(known.get((kind, found), what))
    return "eight routers are told apart, and the worst sickness is named first"


@check
def check_repaired_rebalance(answer: object) -> str:
    """Exercise 11.3: repaired_rebalance(bias, routing, rate) -> the new bias, that evens loads."""
    # With this bias, counting first choices, weights or probabilities gives other signs.
    generator = torch.Generator().manual_seed(21)
    probs = (torch.randn(400, 6, generator=generator) + torch.linspace(2, -2, 6)).softmax(-1)
    start = 0.2 * torch.randn(6, generator=generator)
    start = start - start.mean()

    def route(bias: Tensor) -> Routing:
        experts = (probs + bias).topk(2, dim=-1).indices
        return Routing(probs.gather(1, experts), experts, probs)

    routing = route(start)
    new = call(answer, start.clone(), routing, 0.01)
    refuse(not isinstance(new, Tensor), f"return a tensor, not a {type(new).__name__}")
    load = expert_load(routing)
    right = sign_update(start, load, 0.01)
    if close(new, sign_update(start, probs.mean(dim=0), 0.01)):
        raise StillBuggy("the bias follows the probabilities, which it cannot change")
    drifting = start + 0.01 * (load.mean() - load).sign()
    if not (close(new, right) or close(new, drifting)):
        compare(new, right, _wrong_biases(start, routing, right))
    return "the load decides, so the step ends when the load is even"


def _wrong_biases(start: Tensor, routing: Routing, right: Tensor) -> Mistakes:
    """What mistakes give at a rate of 0.01."""
    load, probs = expert_load(routing), routing.probs
    firsts = routing.experts[:, 0].bincount(minlength=len(load)) / len(probs)
    weighed = torch.zeros_like(load).index_add_(
        0, routing.experts.flatten(), routing.weights.flatten()
    )
    return {
        "the step goes the wrong way": 2 * start - right,
        "only first choices are counted": sign_update(start, firsts, 0.01),
        "the step is proportional to the violation; keep the sign": start
        + 0.01 * (load.mean() - load),
        "the load is not compared with its mean": start - 0.01 * load.sign(),
        "the weights are counted instead of the assignments": sign_update(start, weighed, 0.01),
        "the old bias is lost": right - start,
        "probabilities plus bias say nothing of the choice; count the assignments": sign_update(
            start, probs.mean(dim=0) + start, 0.01
        ),
    }
