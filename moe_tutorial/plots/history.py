"""The picture of a training run that `train` leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES


def history_figure(
    records: Sequence[Mapping[str, object]], baselines: Mapping[str, float]
) -> Figure:
    """Loss curves beside counted baselines, the busiest expert over time, and the load at the end.

    records: the lines of metrics.jsonl. baselines: name -> validation loss, nats per character.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    loss_axes, even_axes, load_axes = figure.subplots(1, 3, width_ratios=(5, 4, 4))
    steps = [r["step"] for r in records]
    _plot_losses(loss_axes, records, steps, baselines)

    loads = torch.tensor([r["expert_load"] for r in records])  # (steps, L, E)
    busiest = smooth(loads).amax(dim=-1) * loads.shape[-1]  # (steps, L)
    for layer, ratio in enumerate(busiest.T.tolist()):
        color, style = COLORS[layer % len(COLORS)], STYLES[layer % len(STYLES)]
        even_axes.plot(steps, ratio, style, color=color, label=f"layer {layer + 1}")
    even_axes.axhline(1, color="black", linewidth=0.8)
    even_axes.set(title="Busiest expert", xlabel="step", ylabel="share / mean share (1 = even)")
    even_axes.legend(fontsize="small")

    last = loads[-max(1, len(loads) // 10) :].mean(dim=0)  # (L, E)
    image = load_axes.imshow(last.numpy(), cmap="cividis", vmin=0, aspect="auto")
    load_axes.set(title="Load in the last tenth", xlabel="expert", ylabel="layer")
    load_axes.set_xticks(range(last.shape[1]))
    load_axes.set_yticks(range(last.shape[0]), range(1, last.shape[0] + 1))
    figure.colorbar(image, ax=load_axes, label="share of assignments")
    return figure


def _plot_losses(
    axes: Axes,
    records: Sequence[Mapping[str, object]],
    steps: Sequence[int],
    baselines: Mapping[str, float],
) -> None:
    losses = torch.tensor([r["loss"] for r in records])
    axes.plot(steps, smooth(losses).tolist(), color=COLORS[0], label="train, mean of 50")
    measured = [(r["step"], r["validation_loss"]) for r in records if r["validation_loss"]]
    axes.plot(*zip(*measured, strict=True), "o-", color=COLORS[1], markersize=3, label="held out")
    for i, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, linestyle=STYLES[1 + i % 3], color="gray", label=f"{name} {loss:.2f}")
    axes.set(title="Loss", xlabel="step", ylabel="nats per character")
    axes.legend(fontsize="small")


def smooth(values: Tensor, width: int = 50) -> Tensor:
    """Mean of each value and the up to width - 1 before it, over the first axis."""
    total = torch.cat((torch.zeros_like(values[:1]), values)).cumsum(dim=0)
    end = torch.arange(1, len(values) + 1)
    start = (end - width).clamp(min=0)
    count = (end - start).view(-1, *[1] * (values.ndim - 1))
    return (total[end] - total[start]) / count
