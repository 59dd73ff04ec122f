"""Figures of chapter 06."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES, visible


def largest_weight_figure(
    sizes: Sequence[int], largest: Mapping[str, Sequence[float]], num_keys: int
) -> Figure:
    """The mean largest weight of a softmax against the head size; a line at 1 / num_keys."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(largest.items()):
        style = f"{'os^D'[i % 4]}{STYLES[i % 4]}"
        axes.plot(sizes, values, style, color=COLORS[i % len(COLORS)], label=name)
    label = f"equal weights, 1/{num_keys}"
    axes.axhline(1 / num_keys, color="black", linewidth=0.8, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="head size Dh", ylabel="largest weight, mean", ylim=(0, 1.02))
    axes.legend()
    return figure


def attention_figure(
    maps: Mapping[str, Tensor], symbols: Sequence[str], label: str = "weight"
) -> Figure:
    """One heat map per head: how much each position (row) takes from each position (column).

    maps: name -> (T, T). Where everything after the diagonal is exactly 0, it is left blank.
    """
    figure = Figure(figsize=(max(8, 3.2 * len(maps)), 3.8), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    highest = max(values.max().item() for values in maps.values())
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        later = torch.ones_like(values).triu(1).bool()
        shown = values if values[later].any() else values.masked_fill(later, torch.nan)
        image = axes.imshow(shown.numpy(), cmap="cividis", vmin=0, vmax=highest)
        axes.set(title=name, xlabel="taken from", facecolor="white")
        axes.set_xticks(range(len(symbols)), [visible(symbol) for symbol in symbols])
        axes.set_yticks(range(len(symbols)), [visible(symbol) for symbol in symbols])
        axes.tick_params(labelsize=8, length=0)
    panels[0].set_ylabel("position")
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    return figure
