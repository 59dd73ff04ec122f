"""The picture of a training run that `train` leaves in its folder."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES, curves, side_by_side


def history_figure(
    records: Sequence[Mapping[str, object]], baselines: Mapping[str, float]
) -> Figure:
    """Loss curves beside counted baselines, the busiest expert over time, and the load at the end.

    records: the lines of metrics.jsonl. baselines: name -> validation loss, nats per character.
    """
    titles = ("Loss", "Busiest expert", "Load in the last tenth")
    figure, (loss_axes, even_axes, load_axes) = side_by_side(
        titles, "step", "nats per character", 4, 13, sharey=False, width_ratios=(5, 4, 4)
    )
    loss_curves(loss_axes, records, baselines)
    loss_axes.legend(fontsize="small")

    loads = torch.tensor([r["expert_load"] for r in records])  # (steps, L, E)
    busiest_curves(even_axes, [r["step"] for r in records], loads)
    even_axes.set_ylabel("share / mean share (1 = even)")
    even_axes.legend(fontsize="small")

    last = loads[-max(1, len(loads) // 10) :].mean(dim=0)  # (L, E)
    load_map(figure, load_axes, last)
    return figure


def load_map(figure: Figure, axes: Axes, load: Tensor) -> None:
    """The share of every expert as a color, a row per layer. Shapes: load (L, E)."""
    image = axes.imshow(load.numpy(), cmap="cividis", vmin=0, aspect="auto")
    axes.set(xlabel="expert", ylabel="layer", xticks=range(load.shape[1]))
    axes.set_yticks(range(load.shape[0]), range(1, load.shape[0] + 1))
    figure.colorbar(image, ax=axes, label="share of assignments")


def loss_curves(
    axes: Axes, records: Sequence[Mapping[str, object]], baselines: Mapping[str, float], *,
    train: str = "train", markersize: int = 3, digits: int = 2,
) -> None:  # fmt: skip
    """The loss of every step, smoothed, and on held-out text; baselines, with `digits`, in gray."""
    losses = smooth(torch.tensor([r["loss"] for r in records]))
    axes.plot([r["step"] for r in records], losses.tolist(), color=COLORS[0],
              label=f"{train}, mean of 50")  # fmt: skip
    measured = [r for r in records if r["validation_loss"] is not None]
    axes.plot([r["step"] for r in measured], [r["validation_loss"] for r in measured], "o-",
              color=COLORS[1], markersize=markersize, label="held out")  # fmt: skip
    for i, (name, loss) in enumerate(baselines.items()):
        label = f"{name} {loss:.{digits}f}"
        axes.axhline(loss, linestyle=STYLES[1 + i % 3], color="gray", label=label)


def busiest_curves(axes: Axes, steps: Sequence[int], loads: Tensor, width: int = 50) -> None:
    """The busiest expert's share over the mean share, per layer. Shapes: loads (steps, L, E)."""
    busiest = smooth(loads, width).amax(dim=-1) * loads.shape[-1]  # (steps, L)
    curves(axes, {f"layer {i + 1}": ratio for i, ratio in enumerate(busiest.T.tolist())}, steps)
    axes.axhline(1, color="black", linewidth=0.8)


def smooth(values: Tensor, width: int = 50) -> Tensor:
    """Mean of each value and the up to width - 1 before it, over the first axis."""
    total = torch.cat((torch.zeros_like(values[:1]), values)).cumsum(dim=0)
    end = torch.arange(1, len(values) + 1)
    start = (end - width).clamp(min=0)
    count = (end - start).view(-1, *[1] * (values.ndim - 1))
    return (total[end] - total[start]) / count
