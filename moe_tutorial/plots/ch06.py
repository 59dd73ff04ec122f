"""Figures of chapter 06."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import curves, one_panel, side_by_side, tick_label


def largest_weight_figure(
    sizes: Sequence[int], largest: Mapping[str, Sequence[float]], num_keys: int
) -> Figure:
    """The mean largest weight of a softmax against the head size; a line at 1 / num_keys."""
    figure, axes = one_panel("head size Dh", "largest weight, mean", ylim=(0, 1.02))
    curves(axes, largest, sizes, markers=True)
    axes.axhline(1 / num_keys, color="black", linewidth=0.8, label=f"equal weights, 1/{num_keys}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.legend()
    return figure


def attention_figure(
    maps: Mapping[str, Tensor], symbols: Sequence[str], label: str = "weight"
) -> Figure:
    """One heat map per head: how much each position (row) takes from each position (column).

    maps: name -> (T, T). Where everything after the diagonal is exactly 0, it is left white.
    """
    width = max(8, 3.2 * len(maps))
    figure, panels = side_by_side(maps, "taken from", "position", 3.8, width, sharey=False)
    highest = max(values.max().item() for values in maps.values())
    for axes, values in zip(panels, maps.values(), strict=True):
        later = torch.ones_like(values).triu(1).bool()
        shown = values if values[later].any() else values.masked_fill(later, torch.nan)
        image = axes.imshow(shown.numpy(), cmap="cividis", vmin=0, vmax=highest)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(len(symbols)), [tick_label(symbol) for symbol in symbols])
        axes.tick_params(labelsize=8, length=0)
        axes.set_facecolor("white")
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    return figure
