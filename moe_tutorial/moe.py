"""The mixture of experts: router, SwiGLU experts, dispatch, load. Chapter 07.

Shape letters: B batch, T time, N = B*T tokens, D dim, F hidden_dim, E experts, K = top_k.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.rmsnorm import widen

RouterKind = Literal["softmax", "sigmoid"]
Experts = Sequence[Callable[[Tensor], Tensor]]  # each (n, D) -> (n, D)
FEW = 3  # tokens up to which sending every row alone was faster than sorting them


def default_hidden_dim(dim: int) -> int:
    """Width inside a SwiGLU: 8/3 of dim, rounded up to a multiple of 8 (128 -> 344, 256 -> 688).

    Three matrices of this width hold as many parameters as the two of a plain 4 * dim network.
    """
    return 8 * math.ceil(dim / 3)


def swiglu(x: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor) -> Tensor:
    """(silu(x w_gate) * (x w_up)) w_down.

    Shapes: x (N, D), w_gate and w_up (D, F), w_down (F, D) -> (N, D).
    Source: Shazeer 2020, arXiv:2002.05202. Chapter 07.
    """
    hidden = F.silu(x @ w_gate) * (x @ w_up)
    return hidden @ w_down


class SwiGLU(nn.Module):
    """One SwiGLU network without biases: an expert, the shared expert, and the dense rival.

    Shapes: x (..., D) -> (..., D). Raises: ValueError if dim or hidden_dim is below 1.
    """

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        if min(dim, hidden_dim) < 1:
            raise ValueError(f"dim={dim} and hidden_dim={hidden_dim} must be at least 1")
        self.w_gate = nn.Parameter(torch.empty(dim, hidden_dim))
        self.w_up = nn.Parameter(torch.empty(dim, hidden_dim))
        self.w_down = nn.Parameter(torch.empty(hidden_dim, dim))
        for weight in self.parameters():  # 1 / sqrt(inputs): each product as large as its input
            nn.init.normal_(weight, std=weight.shape[-2] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.w_gate, self.w_up, self.w_down)


class Routing(NamedTuple):
    """What the router of one layer decided for N tokens."""

    weights: Tensor  # (N, K) float, how much each chosen expert counts
    experts: Tensor  # (N, K) int64, which experts were chosen, best first
    probs: Tensor  # (N, E) float, softmax over all experts


class Router(nn.Module):
    """Score all experts for every token and choose the top_k best.

    softmax: weights = softmax over the K chosen logits (sum to 1; Mixtral, arXiv:2401.04088).
    sigmoid: weights = sigmoid of each chosen logit (Llama 4).
    With top_k = 1 this softmax is always 1, so no loss on the output reaches the router; a sigmoid
    lets it through, as would a softmax over all E, not renormalized (Switch, arXiv:2101.03961).
    Computed in float32 at least, also under autocast. Shapes: x (N, D) -> Routing.
    Raises: ValueError if top_k is not in 1 .. num_experts or router is neither of the two.
    """

    def __init__(self, *, dim: int, num_experts: int, top_k: int, router: RouterKind) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"top_k={top_k} is not between 1 and num_experts={num_experts}; "
                f"lower top_k or add experts"
            )
        if router not in ("softmax", "sigmoid"):
            raise ValueError(f"router={router!r} is unknown; choose softmax or sigmoid")
        self.scores = nn.Linear(dim, num_experts, bias=False)
        self.top_k = top_k
        self.router = router

    def forward(self, x: Tensor) -> Routing:
        # A rounded logit can choose another expert, so published models widen bfloat16 here.
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self(x)
        logits = F.linear(widen(x), widen(self.scores.weight))  # (N, E)
        chosen, experts = logits.topk(self.top_k, dim=-1)
        weights = chosen.softmax(-1) if self.router == "softmax" else chosen.sigmoid()  # (N, K)
        return Routing(weights, experts, logits.softmax(-1))


def dispatch(x: Tensor, routing: Routing, experts: Experts, *, scale_input: bool) -> Tensor:
    """Send every token to its chosen experts and add up what comes back.

    The N*K assignments (token, expert) are sorted by expert, so that each expert gets one slice
    without gaps. Nothing is dropped, no expert has a capacity: no token changes another's output.
    Shapes: x (N, D) -> (N, D), through E experts.
    """
    assigned = routing.experts.flatten()  # (N*K,)
    order = assigned.argsort(stable=True)  # (N*K,)
    token = order // routing.experts.shape[1]  # (N*K,)
    scale = routing.weights.to(x.dtype).flatten()[order, None]  # (N*K, 1)
    counts = assigned.bincount(minlength=len(experts)).tolist()
    rows = x.index_select(0, token)  # (N*K, D)
    if scale_input:
        rows = rows * scale  # (N*K, D)
    # While training, an idle expert gets its empty slice, and with it gradients of zero.
    training = torch.is_grad_enabled()
    slices = zip(experts, rows.split(counts), strict=True)
    outputs = [expert(part) for expert, part in slices if training or len(part)]
    rows = torch.cat(outputs) if outputs else rows  # (N*K, D)
    if not scale_input:
        rows = rows * scale  # (N*K, D)
    return torch.zeros_like(x).index_add_(0, token, rows.to(x.dtype))


def dispatch_few(x: Tensor, routing: Routing, experts: Experts, *, scale_input: bool) -> Tensor:
    """`dispatch` for a few tokens and no gradients: generation, where sorting is not worth it.

    Each assignment is sent alone, those of one expert one after the other: its matrices are then
    still in the processor's cache. Shapes: x (N, D) -> (N, D), through E experts.
    """
    y = torch.zeros_like(x)  # (N, D)
    chosen = zip(routing.experts.tolist(), routing.weights.tolist(), strict=True)
    sent = [(e, n, w) for n, one in enumerate(chosen) for e, w in zip(*one, strict=True)]
    for e, n, weight in sorted(sent):
        row = x[n : n + 1] * weight if scale_input else x[n : n + 1]  # (1, D)
        y[n : n + 1].add_(experts[e](row), alpha=1 if scale_input else weight)
    return y


class MoE(nn.Module):
    """num_experts SwiGLU networks, of which each token uses top_k, and optionally a shared one.

    softmax router: y = sum over the chosen e of weight_e * expert_e(x)        (Mixtral).
    sigmoid router: y = sum over the chosen e of expert_e(weight_e * x)        (Llama 4).
    The shared expert is added with weight 1; neither router nor balance loss sees it.
    Shapes: x (B, T, D) -> (B, T, D) and a Routing of N = B*T tokens; N may be 0.
    Raises: ValueError as `Router` and `SwiGLU`. Chapter 07.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        top_k: int,
        router: RouterKind = "softmax",
        shared_expert: bool = False,
    ) -> None:
        super().__init__()
        self.router = Router(dim=dim, num_experts=num_experts, top_k=top_k, router=router)
        # Differs from frameworks for GPUs, which stack the experts' matrices as (E, D, F) for one
        # grouped product; because on a CPU separate matrices are as fast, and faster with few
        # tokens: no gradients of slices need to be joined.
        self.experts = nn.ModuleList(
            SwiGLU(dim=dim, hidden_dim=hidden_dim) for _ in range(num_experts)
        )
        self.shared_expert = SwiGLU(dim=dim, hidden_dim=hidden_dim) if shared_expert else None

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        tokens = x.flatten(0, 1)  # (N, D)
        routing = self.router(tokens)
        few = len(tokens) <= FEW and not torch.is_grad_enabled()
        send = dispatch_few if few else dispatch
        y = send(tokens, routing, self.experts, scale_input=self.router.router == "sigmoid")
        if self.shared_expert is not None:
            y = y + self.shared_expert(tokens)  # (N, D)
        return y.view_as(x), routing

    def output_weights(self) -> list[Tensor]:
        """The matrices whose products are added to the residual stream."""
        shared = [] if self.shared_expert is None else [self.shared_expert]
        return [expert.w_down for expert in (*self.experts, *shared)]


def expert_load(routing: Routing) -> Tensor:
    """Share of the N*K assignments that each expert got; sums to 1. Shapes: -> (E,)."""
    num_experts = routing.probs.shape[-1]
    counts = routing.experts.flatten().bincount(minlength=num_experts)
    return counts / routing.experts.numel()


class LoadSummary(NamedTuple):
    """The load of one layer in two numbers."""

    max_over_mean: float  # 1 if all experts get the same share, E if one gets everything
    idle: int  # experts that got no token at all


def load_summary(load: Tensor) -> LoadSummary:
    """How uneven a load is. Shapes: load (E,), summing to 1."""
    return LoadSummary(float(load.max() * len(load)), int((load == 0).sum()))


def load_balancing_loss(routings: Sequence[Routing]) -> Tensor:
    """E * sum over e of f_e * P_e in each layer, averaged over the layers: 1 if balanced.

    f_e is the share of the N*K assignments that expert e got (sums to 1, no gradient), P_e the mean
    of its probability in the softmax over all experts. It encourages balance and does not measure
    it: with half the experts idle it can fall to 0.4. So look at `expert_load` beside it.
    Shapes: -> scalar. Chapter 07.
    Source: Fedus et al. 2021, arXiv:2101.03961, with f counted over the top k.
    """
    layers = [
        routing.probs.shape[-1] * (expert_load(routing) * routing.probs.mean(dim=0)).sum()
        for routing in routings
    ]
    return torch.stack(layers).mean()
