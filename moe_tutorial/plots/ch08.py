"""Figures of chapter 08."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from moe_tutorial.config import ModelConfig
from moe_tutorial.moe import default_hidden_dim
from moe_tutorial.plots.base import COLORS, STYLES
from moe_tutorial.plots.history import smooth
from moe_tutorial.training import StepRecord

Point = tuple[float, float]


def model_figure(config: ModelConfig, vocab_size: int, batch_size: int, seq_len: int) -> Figure:
    """The whole model as boxes: the way from ids to logits below, one block enlarged above."""
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 100), ylim=(0, 50))
    axes.set_axis_off()
    _whole_way(axes, config, vocab_size, (batch_size, seq_len))
    _one_block(axes, config, (batch_size, seq_len, config.dim))
    return figure


def _whole_way(axes: Axes, config: ModelConfig, vocab_size: int, ids: tuple[int, int]) -> None:
    layers = range(1, config.num_layers + 1)
    names = [f"block {i}" for i in layers]
    if len(names) > 3:
        names[1:-1] = ["..."]
    stream = f"{(*ids, config.dim)}"
    boxes = [
        (f"embedding\n{vocab_size} x {config.dim}", COLORS[4], stream),
        *((name, COLORS[5], stream) for name in names),
        (f"norm\n{config.dim}", "#DDDDDD", stream),
        (f"head\n{config.dim} x {vocab_size}", COLORS[4], f"{(*ids, vocab_size)}"),
    ]
    step = 82 / len(boxes)
    left = 14.0
    axes.text(0, 7, f"ids\n{ids}", va="center")
    _arrow(axes, (8, 7), (left, 7))
    for text, color, shape in boxes:
        _box(axes, (left, 3), 0.62 * step, 8, text, color)
        _arrow(axes, (left + 0.64 * step, 7), (left + 0.98 * step, 7))
        axes.text(left + 0.81 * step, 1, shape, ha="center", va="center", fontsize="small")
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
    _arrow(axes, (16, 22), (45, 22))
    _arrow(axes, (48, 22), (92, 22))
    _arrow(axes, (95, 22), (99, 22))
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
        left = start + 1.5
        axes.plot((start, start), (22, 38), color="black", linewidth=1)
        _arrow(axes, (start, 38), (left, 38))
        for i, (text, size, color) in enumerate(boxes):
            _box(axes, (left, 32), size, 12, text, color)
            if i + 1 < len(boxes):
                _arrow(axes, (left + size, 38), (left + size + 2.5, 38))
            left += size + 2.5
        axes.plot((left - 2.5, end), (38, 38), color="black", linewidth=1)
        _arrow(axes, (end, 38), (end, 24))
        axes.text(end, 22, "+", ha="center", va="center", fontsize="large",
                  bbox={"boxstyle": "circle", "facecolor": "white"})  # fmt: skip


def _box(axes: Axes, corner: Point, width: float, height: float, text: str, color: str) -> None:
    light = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.3", linewidth=1,
                           facecolor=color, edgecolor="black", alpha=0.35)  # fmt: skip
    axes.add_patch(light)
    middle = (corner[0] + width / 2, corner[1] + height / 2)
    axes.text(*middle, text, ha="center", va="center", fontsize="small")


def _arrow(axes: Axes, start: Point, end: Point) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "linewidth": 1})


def schedule_figure(rates: Mapping[str, Sequence[float]]) -> Figure:
    """Learning rate at every step, one curve per schedule."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(rates.items()):
        axes.plot(range(1, len(values) + 1), values, STYLES[i % len(STYLES)],
                  color=COLORS[i % len(COLORS)], label=name)  # fmt: skip
    axes.set(xlabel="step", ylabel="learning rate per step", ylim=(0, None))
    axes.legend()
    return figure


def loss_figure(
    records: Sequence[StepRecord], total: int, baselines: Mapping[str, float]
) -> Figure:
    """Training and held-out loss so far, beside counted baselines; the axis ends at `total` steps.

    baselines: name -> validation loss, nats per character.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    losses = torch.tensor([record.loss for record in records])
    steps = [record.step for record in records]
    axes.plot(steps, smooth(losses).tolist(), color=COLORS[0], label="training, mean of 50")
    measured = [(r.step, r.validation_loss) for r in records if r.validation_loss is not None]
    axes.plot([step for step, _ in measured], [loss for _, loss in measured], "o-",
              color=COLORS[1], markersize=4, label="held out")  # fmt: skip
    for i, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, linestyle=STYLES[1 + i % 3], color="gray", label=f"{name} {loss:.3f}")
    axes.set(xlabel="step", ylabel="nats per character", xlim=(0, total), ylim=(0.9, 4.3))
    axes.legend(fontsize="small", loc="upper right")
    return figure


def busiest_figure(loads: Mapping[str, Tensor]) -> Figure:
    """The busiest expert's share over the mean share, per layer over the steps, a panel per run.

    loads: name -> (steps, L, E), the load at every step; drawn as the mean of 20 steps.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, len(loads), sharey=True, squeeze=False)[0]
    for axes, (name, load) in zip(panels, loads.items(), strict=True):
        busiest = smooth(load, 20).amax(dim=-1) * load.shape[-1]  # (steps, L)
        for layer, ratio in enumerate(busiest.T.tolist()):
            axes.plot(range(1, len(ratio) + 1), ratio, STYLES[layer % len(STYLES)],
                      color=COLORS[layer % len(COLORS)], label=f"layer {layer + 1}")  # fmt: skip
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(title=name, xlabel="step")
    panels[0].set_ylabel("largest / mean, 20 steps (1 = even)")
    panels[-1].legend(fontsize="small")
    return figure
