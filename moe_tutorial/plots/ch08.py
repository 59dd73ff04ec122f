"""Figures of chapter 08."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from moe_tutorial.config import ModelConfig
from moe_tutorial.moe import default_hidden_dim
from moe_tutorial.plots.base import COLORS, curves, one_panel, side_by_side
from moe_tutorial.plots.history import busiest_curves, loss_curves
from moe_tutorial.training import StepRecord

Point = tuple[float, float]


def model_figure(config: ModelConfig, vocab_size: int, batch_size: int, seq_len: int) -> Figure:
    """The whole model as boxes: the way from ids to logits below, one block enlarged above."""
    figure, axes = one_panel(height=4.6, xlim=(0, 100), ylim=(0, 50))
    axes.set_axis_off()
    _whole_way(axes, config, vocab_size, (batch_size, seq_len))
    _one_block(axes, config, (batch_size, seq_len, config.dim))
    return figure


def _whole_way(axes: Axes, config: ModelConfig, vocab_size: int, ids: tuple[int, int]) -> None:
    names = [f"block {i + 1}" for i in range(config.num_layers)]
    if len(names) > 3:
        names[1:-1] = ["..."]
    stream = f"{(*ids, config.dim)}"
    boxes = [
        (f"embedding\n{vocab_size} x {config.dim}", COLORS[4], stream),
        *((name, COLORS[5], stream) for name in names),
        (f"norm\n{config.dim}", "#DDDDDD", stream),
        (f"head\n{config.dim} x {vocab_size}", COLORS[4], f"{(*ids, vocab_size)}"),
    ]
    left, step = 14.0, 82 / len(boxes)
    axes.text(0, 7, f"ids\n{ids}", va="center")
    _arrow(axes, (8, 7), (left, 7))
    for text, color, shape in boxes:
        _box(axes, (left, 3), 0.62 * step, 8, text, color)
        _arrow(axes, (left + 0.64 * step, 7), (left + 0.98 * step, 7))
        axes.text(left + 0.81 * step, 1, shape, ha="center", va="center", fontsize=9)
        left += step
    axes.text(96.5, 7, "logits", va="center")
    first = 14 + step  # block 1 is the second box
    for x, corner in ((first, 1), (first + 0.62 * step, 99)):
        axes.plot((x, corner), (11.6, 15.4), ":", color="black", linewidth=1)


def _one_block(axes: Axes, config: ModelConfig, stream: tuple[int, int, int]) -> None:
    _box(axes, (1, 16), 98, 33, "", "#F7F7F7")
    dim, num_tokens = config.dim, stream[0] * stream[1]
    width = config.hidden_dim or default_hidden_dim(dim)
    axes.text(3, 22, f"x\n{stream}", va="center")
    for start, end in ((16, 45), (48, 92), (95, 99)):
        _arrow(axes, (start, 22), (end, 22))
    heads = f"attention\n{config.num_heads} heads of {dim // config.num_heads}\nRoPE on q and k"
    experts = f"{config.top_k} of {config.num_experts} experts\nSwiGLU\n{dim} → {width} → {dim}"
    branches = (
        (18, 46.5, [("norm", 8, "#DDDDDD"), (heads, 14, COLORS[0])]),
        (50, 93.5, [
            ("norm", 8, "#DDDDDD"),
            (f"router\n{num_tokens} tokens\n{config.num_experts} scores each", 12, COLORS[3]),
            (experts, 14, COLORS[2]),
        ]),
    )  # fmt: skip
    for start, end, boxes in branches:
        axes.plot((start, start), (22, 38), color="black", linewidth=1)
        right, gap = start, 1.5  # the end of the box before, and the arrow after it
        for text, size, color in boxes:
            _arrow(axes, (right, 38), (right + gap, 38))
            _box(axes, (right + gap, 32), size, 12, text, color)
            right, gap = right + gap + size, 2.5
        axes.plot((right, end), (38, 38), color="black", linewidth=1)
        _arrow(axes, (end, 38), (end, 24))
        axes.text(end, 22, "+", ha="center", va="center", fontsize="large",
                  bbox={"boxstyle": "circle", "facecolor": "white"})  # fmt: skip


def _box(axes: Axes, corner: Point, width: float, height: float, text: str, color: str) -> None:
    light = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.3", linewidth=1,
                           facecolor=color, edgecolor="black", alpha=0.35)  # fmt: skip
    axes.add_patch(light)
    middle = (corner[0] + width / 2, corner[1] + height / 2)
    axes.text(*middle, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, start: Point, end: Point) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "linewidth": 1})


def schedule_figure(rates: Mapping[str, Sequence[float]]) -> Figure:
    """Learning rate at every step, one curve per schedule."""
    figure, axes = one_panel("step", "learning rate per step", 2.8)
    curves(axes, rates, first=1)
    axes.set_ylim(0, None)
    axes.legend()
    return figure


def loss_figure(
    records: Sequence[StepRecord], total: int, baselines: Mapping[str, float]
) -> Figure:
    """Training and held-out loss so far, beside counted baselines; the axis ends at `total` steps.

    Right: the second half enlarged, around the lowest baseline, where the curves cross it.
    baselines: name -> validation loss, nats per character.
    """
    titles = ("all steps", "the second half")
    figure, panels = side_by_side(
        titles, "step", "nats per character", 3.8, sharey=False, width_ratios=(3, 2)
    )
    for axes in panels:
        loss_curves(axes, [record._asdict() for record in records], baselines,
                    train="training", markersize=4, digits=3)  # fmt: skip
    panels[0].set(xlim=(0, total), ylim=(0.9, 4.3))
    lowest = min(baselines.values())
    panels[1].set(xlim=(total / 2, total), ylim=(lowest - 0.25, lowest + 0.25))
    panels[0].legend(fontsize="small", loc="upper right")
    return figure


def busiest_figure(loads: Mapping[str, Tensor]) -> Figure:
    """The busiest expert's share over the mean share, per layer over the steps, a panel per run.

    loads: name -> (steps, L, E), the load at every step; drawn as the mean of 20 steps.
    """
    figure, panels = side_by_side(loads, "step", "largest share / mean share,\nmean of 20 steps")
    for axes, load in zip(panels, loads.values(), strict=True):
        busiest_curves(axes, range(1, len(load) + 1), load, width=20)
    panels[-1].legend(fontsize="small")
    return figure
