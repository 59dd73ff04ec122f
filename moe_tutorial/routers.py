"""One function for nearly all published routers, and a router that trains with it. Chapter 15.

Which published model has which settings stands in `cards`.

Shape letters: N = B*T tokens, E experts, K = top_k, G groups of E / G experts.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.balance import BiasedRouter, Rule
from moe_tutorial.config import ModelConfig
from moe_tutorial.moe import Router, Routing
from moe_tutorial.rmsnorm import widen

Score = Literal["softmax", "sigmoid", "sqrtsoftplus"]


def softmax(logits: Tensor) -> Tensor:
    """The scores of a token sum to 1, so experts compete. Shapes: (N, E) -> (N, E)."""
    return logits.softmax(dim=-1)


def sqrt_softplus(logits: Tensor) -> Tensor:
    """sqrt(ln(1 + exp(logit))): any positive size. Shapes: (N, E) -> (N, E). DeepSeek-V4."""
    return F.softplus(logits).sqrt()


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax, "sigmoid": torch.sigmoid, "sqrtsoftplus": sqrt_softplus,
}  # fmt: skip


class Switches(NamedTuple):
    """What published routers differ in. The defaults: softmax over all experts, and nothing else.

    Without groups, kept_groups and group_best play no part.
    """

    score: Score = "softmax"
    bias: bool = False  # a number per expert, not trained, is added to the scores that choose
    groups: int = 1  # the experts are divided into this many, one per machine; 1: no groups
    kept_groups: int = 1  # experts are chosen from this many groups only
    group_best: int = 1  # a group counts as much as this many of its best experts together
    normalize: bool = False  # the weights are divided by their sum
    scale: float = 1.0  # the weights are multiplied by it


def route_by(logits: Tensor, top_k: int, switches: Switches, bias: Tensor | None = None) -> Routing:
    """Choose top_k experts per token and weigh them, as the switches say.

    score s = softmax over all E, sigmoid or sqrt(softplus) of the logits; c = s + bias chooses:
    of the kept groups (those with the largest sum of their group_best best c) the top_k largest c.
    weight of a chosen expert = scale * s, or scale * s / sum of s over the chosen.
    So the bias chooses and never weighs, and no gradient reaches it.
    Shapes: logits (N, E), bias (E,) -> Routing; its experts are ordered by c, probs are softmax.
    Raises: ValueError if a setting does not fit, or the bias is missing or not asked for.
    Source: the routers of transformers 5.23 (see `CARDS`); groups by their best as DeepSeek-V2
    (arXiv:2405.04434), by their two best, with the bias, as DeepSeek-V3 (arXiv:2412.19437).
    """
    _verify(switches, logits.shape[1], top_k, bias)
    scores = SCORES[switches.score](logits)  # (N, E)
    choice = scores if bias is None else scores + bias  # (N, E)
    if switches.groups > 1:
        groups = choice.unflatten(-1, (switches.groups, -1))  # (N, G, E / G)
        best = groups.topk(switches.group_best, dim=-1).values.sum(dim=-1)  # (N, G)
        kept = best.topk(switches.kept_groups, dim=-1).indices
        closed = torch.ones_like(best, dtype=torch.bool).scatter(1, kept, False)  # (N, G)
        choice = groups.masked_fill(closed[..., None], float("-inf")).flatten(1)  # (N, E)
    experts = choice.topk(top_k, dim=-1).indices  # (N, K)
    weights = scores.gather(1, experts)  # (N, K), of the scores without the bias
    if switches.normalize:
        # All chosen sigmoids can be rounded to 0; the published code adds this number as well.
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)  # (N, K)
    return Routing(switches.scale * weights, experts, logits.softmax(dim=-1))


def _verify(switches: Switches, num_experts: int, top_k: int, bias: Tensor | None) -> None:
    if switches.score not in SCORES:
        raise ValueError(f"score={switches.score!r} is unknown; choose {', '.join(SCORES)}")
    if switches.bias != (bias is not None):
        has = "and none is given" if bias is None else "and one is given"
        raise ValueError(f"switches.bias={switches.bias}, {has}; they must agree")
    if num_experts % switches.groups:
        raise ValueError(f"num_experts={num_experts} is not divisible by groups={switches.groups}")
    size = num_experts // switches.groups
    if switches.groups > 1 and not 1 <= switches.group_best <= size:
        raise ValueError(f"group_best={switches.group_best} is not between 1 and {size} per group")
    open_experts = size * min(switches.kept_groups, switches.groups)
    if not 1 <= top_k <= open_experts:
        raise ValueError(
            f"top_k={top_k} is not between 1 and {open_experts}, the experts of "
            f"kept_groups={switches.kept_groups} of groups={switches.groups}"
        )


def restoring_scale(switches: Switches, num_experts: int, top_k: int, seed: int = 0) -> float:
    """The scale with which a mixture of independent experts varies as much as one of them.

    If outputs of experts are independent and of variance 1, sum of w * output has the variance
    sum of w**2. So the scale is the mean over tokens of 1 / sqrt(sum of w**2), for logits drawn
    from a standard normal distribution, before any scale and without a bias.
    Source: Moonlight, arXiv:2502.16982, which computes its 2.446 in this way.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4096, num_experts, generator=generator)
    weights = route_by(logits, top_k, switches._replace(scale=1.0, bias=False)).weights
    return weights.square().sum(dim=-1).rsqrt().mean().item()


class SwitchedRouter(BiasedRouter):
    """A router that trains, made of the switches; its weights scale the outputs of the experts.

    With a rule the bias chooses, and `rebalance` moves it after each training step; without one
    there is none. Computed in float32 at least. Shapes: x (N, D) -> Routing.
    """

    def __init__(self, router: Router, switches: Switches, rule: Rule | None, rate: float) -> None:
        super().__init__(router, rule or "bias", rate)
        self.switches = switches._replace(bias=rule is not None)
        self.router = "switched"  # `MoE` scales inputs for "sigmoid" only
        if rule is None:
            self.bias = None

    def forward(self, x: Tensor) -> Routing:
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self(x)
        logits = F.linear(widen(x), widen(self.scores.weight))  # (N, E)
        return route_by(logits, self.top_k, self.switches, self.bias)

    def rebalance(self, routing: Routing) -> None:
        """Move the bias, if there is one, by what the tokens of one training step chose."""
        if self.bias is not None:
            super().rebalance(routing)


def switches_of(model: ModelConfig) -> Switches | None:
    """What the keys router_score, router_normalize and router_scale ask for; None if nothing."""
    if (model.router_score, model.router_normalize, model.router_scale) == (None, None, 1.0):
        return None
    divides = model.router == "softmax"
    return Switches(
        score=model.router_score or model.router,
        bias=model.balance in ("bias", "quantile"),
        normalize=divides if model.router_normalize is None else model.router_normalize,
        scale=model.router_scale,
    )


def configured_router(model: ModelConfig, router: Router) -> nn.Module:
    """The router that the section model asks for, made from the plain one of a layer."""
    rule = model.balance if model.balance in ("bias", "quantile") else None
    switches = switches_of(model)
    if switches is not None:
        return SwitchedRouter(router, switches, rule, model.bias_update_rate)
    return BiasedRouter(router, rule, model.bias_update_rate) if rule else router
