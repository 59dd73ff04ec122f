"""Balance without a loss, and numbers that tell whether a router is alive. Chapter 11.

The model of chapter 08 uses `BiasedRouter` if `model.balance` asks for it.
Shape letters: N = B*T tokens, E experts, K = top_k.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.moe import Router, Routing, expert_load, load_summary
from moe_tutorial.rmsnorm import widen

Rule = Literal["bias", "quantile"]


def sign_update(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """One step up for every expert with too few assignments, one down for every one with too many.

    The mean stays 0, as only differences choose. Shapes: bias, load (E,) -> (E,).
    Source: Wang et al. 2024, arXiv:2408.15664; DeepSeek-V3, arXiv:2412.19437, section 2.1.2; the
    mean as in torchtitan.
    """
    step = rate * (load.mean() - load).sign()
    return bias + step - step.mean()


def quantile_bias(scores: Tensor, bias: Tensor, top_k: int) -> Tensor:
    """The bias with which each expert would have got its share K/E of this batch, about.

    A token takes expert e if scores_e + bias_e is above the token's threshold, halfway between its
    K-th and its (K+1)-th best. So the bias puts a share K/E of the tokens above it. The thresholds
    are those of the old bias: repeated on the same batch it comes closer.
    Shapes: scores (N, E), bias (E,) -> (E,). Source: Su 2026, kexue.fm/archives/11619.
    """
    if top_k == scores.shape[1]:
        return bias  # every token takes every expert
    best = (scores + bias).topk(top_k + 1, dim=-1).values  # (N, K + 1)
    threshold = best[:, -2:].mean(dim=-1, keepdim=True)  # (N, 1)
    margin = (scores - threshold).sort(dim=0, descending=True).values  # (N, E)
    last = max(0, round(len(scores) * top_k / scores.shape[1]) - 1)
    return margin[last].mean() - margin[last]


class BiasedRouter(nn.Module):
    """A `Router` whose choice is moved by a bias that no gradient sees; the weights are not.

    The bias is added after the score function (softmax over all E, or sigmoid). It is a buffer, so
    it is saved and not trained, and `rebalance` moves it after each training step.
    rule "bias": `sign_update` with rate; rule "quantile": `quantile_bias`, which has no rate.
    Shapes: x (N, D) -> Routing. Raises: ValueError if the quantile meets the sigmoid router.
    """

    def __init__(self, router: Router, rule: Rule, rate: float) -> None:
        super().__init__()
        if rule == "quantile" and router.router == "sigmoid":
            raise ValueError('balance="quantile" needs router="softmax"; with "sigmoid" use "bias"')
        self.scores, self.top_k, self.router = router.scores, router.top_k, router.router
        self.rule, self.rate = rule, rate
        self.register_buffer("bias", torch.zeros(router.scores.out_features, dtype=torch.float32))

    def forward(self, x: Tensor) -> Routing:
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self(x)
        logits = F.linear(widen(x), widen(self.scores.weight))  # (N, E)
        probs = logits.softmax(-1)  # (N, E)
        scores = probs if self.router == "softmax" else logits.sigmoid()  # (N, E)
        experts = (scores + self.bias).topk(self.top_k, dim=-1).indices  # (N, K)
        chosen = logits.gather(1, experts)  # (N, K), without the bias
        weights = chosen.softmax(-1) if self.router == "softmax" else chosen.sigmoid()  # (N, K)
        return Routing(weights, experts, probs)

    @torch.no_grad()
    def rebalance(self, routing: Routing) -> None:
        """Move the bias by what the tokens of one training step chose."""
        if self.rule == "bias":
            self.bias.copy_(sign_update(self.bias, expert_load(routing), self.rate))
        else:
            self.bias.copy_(quantile_bias(routing.probs, self.bias, self.top_k))


class RouterHealth(NamedTuple):
    """One layer in numbers that a dead router cannot fool together."""

    load: Tensor  # (E,) share of the assignments; sums to 1
    max_violation: float  # busiest over mean, minus 1: 0 if balanced, at most E/K - 1
    idle: int  # experts without a token
    token_entropy: float  # nats, mean over the tokens: 0 if sure, ln E if it does not care
    mean_entropy: float  # nats, of the mean probability: ln E if all are used alike

    @property
    def told_apart(self) -> float:
        """What the router's probabilities tell about the token, in nats: 0 if all tokens alike."""
        return self.mean_entropy - self.token_entropy


def router_health(routing: Routing) -> RouterHealth:
    """The load and the two entropies of one layer."""
    load, probs = expert_load(routing), routing.probs
    summary = load_summary(load)
    per_token = torch.special.entr(probs).sum(dim=-1).mean().item()
    of_mean = torch.special.entr(probs.mean(dim=0)).sum().item()
    return RouterHealth(load, summary.max_over_mean - 1, summary.idle, per_token, of_mean)


def sequence_balance_loss(routings: Sequence[Routing], batch_size: int) -> Tensor:
    """`load_balancing_loss` of every sequence by itself, averaged: 1 if balanced in each of them.

    Shapes: routings of N = B*T tokens -> scalar. Source: DeepSeek-V3, arXiv:2412.19437, (17).
    """
    layers = []
    for routing in routings:
        num_experts, top_k = routing.probs.shape[1], routing.experts.shape[1]
        chosen = F.one_hot(routing.experts, num_experts).sum(dim=1).float()  # (N, E)
        share = chosen.view(batch_size, -1, num_experts).mean(dim=1) / top_k  # (B, E)
        mean = routing.probs.view(batch_size, -1, num_experts).mean(dim=1)  # (B, E)
        layers.append(num_experts * (share * mean).sum(dim=-1).mean())
    return torch.stack(layers).mean()


class WindowBalanceLoss:
    """`load_balancing_loss` with the load of about the last `steps` batches instead of this one's.

    Source: the idea of Qiu et al. 2025, arXiv:2501.11873, who add up the loads of all devices.
    """

    def __init__(self, steps: int) -> None:
        self.keep = 1 - 1 / steps
        self.loads: list[Tensor] = []

    def __call__(self, routings: Sequence[Routing]) -> Tensor:
        """Shapes: -> scalar."""
        now = [expert_load(routing) for routing in routings]
        old = self.loads or now
        self.loads = [self.keep * a + (1 - self.keep) * b for a, b in zip(old, now, strict=True)]
        layers = [
            len(load) * (load * routing.probs.mean(dim=0)).sum()
            for load, routing in zip(self.loads, routings, strict=True)
        ]
        return torch.stack(layers).mean()


def drift(
    rule: Rule | None, *, rate: float = 0.01, steps: int = 200, seed: int = 0,
    num_experts: int = 32, top_k: int = 4, tokens: int = 512,
) -> list[float]:  # fmt: skip
    """The max violation per step of a router without a model, whose favorites wander.

    Logits are noise plus one offset per expert, which begins uneven and makes a random walk; the
    bias of step t was set by the batches before it. rule None: no bias.
    """
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(num_experts, generator=generator)
    bias, found = torch.zeros(num_experts), []
    for _ in range(steps):
        offset = offset + 0.05 * torch.randn(num_experts, generator=generator)
        noise = torch.randn(tokens, num_experts, generator=generator)
        probs = (noise + offset).softmax(dim=-1)
        experts = (probs + bias).topk(top_k, dim=-1).indices
        load = expert_load(Routing(probs.gather(1, experts), experts, probs))
        found.append(load_summary(load).max_over_mean - 1)
        if rule == "bias":
            bias = sign_update(bias, load, rate)
        elif rule == "quantile":
            bias = quantile_bias(probs, bias, top_k)
    return found
