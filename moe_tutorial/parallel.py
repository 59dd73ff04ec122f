"""Experts divided over processes: tokens travel to their experts and back. Chapter 14.

Shape letters as in moe.py, and R ranks (processes), M rows that arrive at this rank.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from moe_tutorial.moe import MoE, Routing, dispatch

Group = dist.ProcessGroup | None  # None: all ranks


def experts_per_rank(num_experts: int, num_ranks: int) -> int:
    """E/R: rank r owns the experts r * E/R to (r+1) * E/R - 1. Raises: ValueError if not whole."""
    if num_experts % num_ranks:
        raise ValueError(
            f"num_experts={num_experts} cannot be divided evenly over {num_ranks} ranks; "
            f"the number of ranks must divide the number of experts"
        )
    return num_experts // num_ranks


def rows_between(experts: Sequence[Tensor], num_experts: int) -> Tensor:
    """How many rows each rank sends to each other one, before the experts compute.

    Row r, column s: from rank r to rank s. The diagonal stays at home; column sums are the work.
    Shapes: experts (N, K) int64 for each of R ranks, where N may differ -> (R, R) int64.
    """
    num_ranks = len(experts)
    owners = [e.flatten() // experts_per_rank(num_experts, num_ranks) for e in experts]
    return torch.stack([owner.bincount(minlength=num_ranks) for owner in owners])


def bytes_leaving(rows: Tensor, row_bytes: int) -> Tensor:
    """Bytes that each rank sends to others in one forward pass; one backward pass sends as many.

    A row leaves its home for an expert elsewhere, and the result leaves that rank for home.
    Shapes: rows (R, R) from `rows_between` -> (R,) int64. row_bytes: D times bytes per number.
    """
    away = rows - rows.diag().diag()  # (R, R)
    return (away.sum(dim=1) + away.sum(dim=0)) * row_bytes


@dataclass
class Traffic:
    """Bytes that one rank has sent to others so far; what stays on the rank is not counted."""

    counts: int = 0
    forward: int = 0
    backward: int = 0


def all_to_all(rows: Tensor, send: list[int], receive: list[int], group: Group) -> Tensor:
    """Split rows into R pieces, piece r for rank r; the pieces that arrive, in the order of ranks.

    It has no gradient; `Exchange` has. Every rank of the group must call it.
    Shapes: rows (sum of send, D) -> (sum of receive, D).
    Raises: ValueError if the counts of this rank cannot be right.
    """
    here = dist.get_rank(group)
    if sum(send) != len(rows) or receive[here] != send[here]:
        raise ValueError(
            f"rank {here} has {len(rows)} rows, send={send}, receive={receive}; send must add up "
            f"to the rows, and at place {here}, what the rank keeps, both must be equal"
        )
    received = rows.new_empty(sum(receive), *rows.shape[1:])
    dist.all_to_all_single(received, rows.contiguous(), receive, send, group=group)
    return received


class Exchange(torch.autograd.Function):
    """`all_to_all` with a gradient: what came from a rank, its gradient goes back to that rank.

    So backward is the same exchange with `send` and `receive` swapped. It happens on all ranks or
    on none: x must require a gradient on all or on none, and all must call backward.
    """

    @staticmethod
    def forward(ctx, rows, send, receive, group, traffic):
        ctx.send, ctx.receive, ctx.group, ctx.traffic = send, receive, group, traffic
        traffic.forward += _bytes_away(rows, send, group)
        return all_to_all(rows, send, receive, group)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        ctx.traffic.backward += _bytes_away(gradient, ctx.receive, ctx.group)
        return all_to_all(gradient, ctx.receive, ctx.send, ctx.group), None, None, None, None


def _bytes_away(rows: Tensor, send: list[int], group: Group) -> int:
    away = sum(send) - send[dist.get_rank(group)]
    return away * rows.shape[1] * rows.element_size()


def owned_experts(full: MoE, group: Group) -> nn.ModuleList:
    """Copies of the E/R experts that this rank owns; together the ranks of the group own them all.

    Raises: ValueError if the experts cannot be divided evenly.
    """
    size = experts_per_rank(len(full.experts), dist.get_world_size(group))
    first = dist.get_rank(group) * size
    return copy.deepcopy(full.experts[first : first + size])


def compute(rows: Tensor, arriving: Tensor, experts: nn.ModuleList) -> Tensor:
    """Arrived rows through the experts of this rank; each row needs one of them.

    Shapes: rows (M, D), sorted by rank of origin and then by expert; arriving (R, E/R) int64, how
    many there are of each -> (M, D).
    """
    num_ranks, size = arriving.shape
    chosen = torch.arange(size, device=rows.device).repeat(num_ranks)
    chosen = chosen.repeat_interleave(arriving.flatten())[:, None]  # (M, 1)
    ones = rows.new_ones(len(rows), 1)  # (M, 1)
    return dispatch(rows, Routing(ones, chosen, ones), experts, scale_input=False)


def visit(
    rows: Tensor, counts: Tensor, experts: nn.ModuleList, group: Group, traffic: Traffic
) -> Tensor:
    """To the ranks of the experts, through the experts, and home again in the same order.

    Shapes: rows (N*K, D) sorted by expert, counts (E,) rows for each expert -> (N*K, D).
    """
    leaving = counts.view(dist.get_world_size(group), -1)  # (R, E/R)
    arriving = torch.empty_like(leaving)  # (R, E/R)
    dist.all_to_all_single(arriving, leaving, group=group)
    traffic.counts += (leaving.numel() - leaving.shape[1]) * leaving.element_size()
    send, receive = leaving.sum(dim=1).tolist(), arriving.sum(dim=1).tolist()
    rows = Exchange.apply(rows, send, receive, group, traffic)  # (M, D)
    rows = compute(rows, arriving, experts)  # (M, D)
    return Exchange.apply(rows, receive, send, group, traffic)


class ExpertParallelMoE(nn.Module):
    """An `MoE` whose experts are divided over the ranks of a group; each rank has its own tokens.

    Router and shared expert are copied to every rank. A rank may have no token. Gradients after
    backward, if the loss is a sum over the tokens of all ranks: those of x and of the experts are
    complete; those of router and shared expert hold this rank's tokens only, until
    `sum_replicated_gradients`. The Routing is that of this rank's tokens.
    Shapes: x (B, T, D) -> (B, T, D) and a Routing of N = B*T tokens; B and T may differ by rank.
    Raises: ValueError if the experts cannot be divided evenly.
    Source: Lepikhin et al. 2020, arXiv:2006.16668, without a capacity. Chapter 14.
    """

    def __init__(self, full: MoE, group: Group = None) -> None:
        super().__init__()
        self.router = copy.deepcopy(full.router)
        self.experts = owned_experts(full, group)
        self.shared_expert = copy.deepcopy(full.shared_expert)
        self.group, self.traffic = group, Traffic()

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        tokens = x.flatten(0, 1)  # (N, D)
        routing = self.router(tokens)
        chosen = routing.experts.flatten()  # (N*K,)
        order = chosen.argsort(stable=True)  # (N*K,)
        token = order // self.router.top_k  # (N*K,)
        scale = routing.weights.flatten()[order, None]  # (N*K, 1)
        counts = chosen.bincount(minlength=routing.probs.shape[1])  # (E,)
        scale_input = self.router.router == "sigmoid"
        rows = tokens.index_select(0, token)  # (N*K, D)
        rows = rows * scale if scale_input else rows  # (N*K, D)
        rows = visit(rows, counts, self.experts, self.group, self.traffic)  # (N*K, D)
        rows = rows if scale_input else rows * scale  # (N*K, D)
        y = torch.zeros_like(tokens).index_add(0, token, rows)  # (N, D)
        if self.shared_expert is not None:
            y = y + self.shared_expert(tokens)  # (N, D)
        return y.view_as(x), routing


def replicated(layer: ExpertParallelMoE) -> list[nn.Parameter]:
    """The weights of which every rank has a copy: router and shared expert."""
    shared = () if layer.shared_expert is None else layer.shared_expert.parameters()
    return [*layer.router.parameters(), *shared]


def sum_replicated_gradients(layer: ExpertParallelMoE) -> None:
    """Add up the gradients of router and shared expert over the ranks; all must call it."""
    for parameter in replicated(layer):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad, group=layer.group)


def clip_over_ranks(layer: ExpertParallelMoE, max_norm: float) -> Tensor:
    """Clip by the norm that one process would have; all must call it, after the sum over ranks.

    norm**2 = sum over all ranks of their experts' norms**2 + that of the copies, counted once.
    Shapes: -> scalar, the norm before clipping.
    """
    square = get_total_norm(p.grad for p in layer.experts.parameters()) ** 2
    dist.all_reduce(square, group=layer.group)
    norm = (square + get_total_norm(p.grad for p in replicated(layer)) ** 2).sqrt()
    clip_grads_with_norm_(layer.parameters(), max_norm, norm)
    return norm


class RankResult(NamedTuple):
    """What one rank has after one forward and one backward pass."""

    y: Tensor  # (B, T, D)
    x_gradient: Tensor  # (B, T, D)
    gradients: dict[str, Tensor]  # by parameter; of the experts, those of this rank
    traffic: Traffic


def forward_and_backward(rank: int, full: MoE, batches: Sequence[Tensor]) -> RankResult:
    """The work of one rank: its batch through its experts; the loss is the sum of sin(y).

    Shapes: batches (B, T, D), one per rank. Raises: ValueError if there are more or fewer.
    """
    if len(batches) != dist.get_world_size():
        raise ValueError(f"{len(batches)} batches for {dist.get_world_size()} ranks; one for each")
    layer, x = ExpertParallelMoE(full), batches[rank].clone().requires_grad_()
    y, _ = layer(x)
    y.sin().sum().backward()
    sum_replicated_gradients(layer)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return RankResult(y.detach(), x.grad, gradients, layer.traffic)


def training_step(
    rank: int, full: MoE, batches: Sequence[Tensor], over_ranks: bool
) -> dict[str, Tensor]:
    """One step down the gradient of the same loss, clipped to norm 1; this rank's weights after it.

    over_ranks: clip by the norm of all ranks; else each by that of its own weights, and the copies
    of router and shared expert drift apart. Shapes: batches (B, T, D), one per rank.
    """
    layer = ExpertParallelMoE(full)
    layer(batches[rank])[0].sin().sum().backward()
    sum_replicated_gradients(layer)
    _ = clip_over_ranks(layer, 1.0) if over_ranks else clip_grad_norm_(layer.parameters(), 1.0)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    return layer.state_dict()
