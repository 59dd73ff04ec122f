"""What does routing cost: one MoE layer, forward and backward, against a dense SwiGLU?"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.contenders import (
    DenseLayer,
    Setup,
    active_hidden_dim,
    fastest,
    hugging_face,
    implementations,
    ours,
)
from benchmarks.effort import Effort
from benchmarks.report import Table, against
from benchmarks.timing import interleave, ratio, spread

TARGETS = {64: 2.0, 1024: 1.10, 2048: 1.10, 16384: 0.9}  # times the dense layer, at most


def both_ways(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    """One call is forward and backward, to the weights and to x (1, N, D)."""

    def call() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y = layer(x)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(torch.ones_like(y))

    return call


def their_layer(setup: Setup) -> tuple[nn.Module, nn.Module]:
    """The whole model of transformers, and the layers of its first block that are ours' `moe`."""
    model = hugging_face(setup.model)
    block = model.model.layers[0]
    if not setup.model.shared_expert:
        return model, block.mlp

    class WithShared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.routed, self.shared = block.block_sparse_moe, block.shared_mlp

        def forward(self, x: Tensor) -> Tensor:
            return self.routed(x) + self.shared(x)

    return model, WithShared()


def matmul_rate(rounds: int) -> float:
    """Multiply-adds per second of CPU time of a float32 product of 1024 x 1024 matrices."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = interleave({"matmul": lambda: a @ b}, rounds, 0.1)["matmul"]
    return 1024**3 / median(times)


def measure(effort: Effort) -> Table:
    """Equal active multiply-adds; the routers are on top."""
    rate = matmul_rate(effort.rounds)
    table = Table(
        "MoE layer, forward + backward, CPU time in ms, one core",
        ["model", "tokens", "this library", "transformers", "dense", "of the matmul rate",
         "÷ dense", "theirs ÷ dense", "spread"],
        notes=[f"Matmul rate: {2 * rate / 1e9:.0f} GFLOP/s in float32."],
        measurements={"matmul_flops_per_second": 2 * rate},
    )  # fmt: skip
    for name, setup in effort.setups.items():
        hidden_dim = active_hidden_dim(setup.model)
        dense = DenseLayer(setup.model.dim, hidden_dim)
        layer = ours(setup.model).blocks[0].moe
        model, theirs = their_layer(setup)
        for tokens in effort.layer_tokens:
            x = torch.randn(1, tokens, setup.model.dim, requires_grad=True)
            call = both_ways(theirs, x)
            best = fastest(model, implementations(setup.model, tokens), call)
            times = interleave(
                {"ours": both_ways(layer, x), "transformers": call, "dense": both_ways(dense, x)},
                effort.rounds,
                effort.min_seconds,
            )
            products = 9 * tokens * setup.model.dim * hidden_dim  # 3 forward, 6 backward
            ours_dense = ratio(times["ours"], times["dense"])
            verdict = (
                f" ({against(ours_dense, TARGETS[tokens], at_most=True)})"
                if tokens in TARGETS
                else ""
            )
            ms = {key: f"{1000 * median(rounds):.2f}" for key, rounds in times.items()}
            table.rows.append(
                [
                    name, f"{tokens:,}", ms["ours"], f"{ms['transformers']} ({best})", ms["dense"],
                    f"{products / rate / median(times['ours']):.0%}",
                    f"{ours_dense:.2f}{verdict}",
                    f"{ratio(times['transformers'], times['dense']):.2f}",
                    f"{max(map(spread, times.values())):.1%}",
                ]
            )  # fmt: skip
            table.measurements[f"{name} {tokens}"] = times
    return table
