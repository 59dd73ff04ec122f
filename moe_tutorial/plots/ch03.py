"""Figures of chapter 03."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, curves, one_panel, side_by_side, tick_label


def windows_figure(text: str, seq_len: int) -> Figure:
    """Every window of a short text as a row: its input, and the last target one further right."""
    num_windows = len(text) - seq_len
    figure, axes = one_panel("position in the text", "start of the window", 0.4 * num_windows + 1.2)
    frame = {"fill": False, "edgecolor": COLORS[1], "linewidth": 2}
    for start in range(num_windows):
        axes.barh(start, seq_len, 0.8, start - 0.5, color=COLORS[5], label="input x")
        axes.barh(start, seq_len, 0.8, start + 0.5, label="target y", **frame)
        for position in range(start, start + seq_len + 1):
            axes.text(position, start, tick_label(text[position]), ha="center", va="center")
    axes.set(xticks=range(len(text)), yticks=range(num_windows), xlim=(-0.7, len(text) - 0.3))
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:2], labels[:2], loc="upper right")  # those of the first window
    return figure


def target_counts_figure(counts: Mapping[str, Tensor]) -> Figure:
    """How often every position of a text is a target, for several ways to take windows."""
    figure, axes = one_panel("position in the text", "times a target")
    curves(axes, counts, drawstyle="steps-mid")
    axes.legend()
    return figure


def split_figure(splits: Mapping[str, tuple[Sequence[int], Sequence[int]]], seq_len: int) -> Figure:
    """Which positions the windows of two splits touch, one panel for each way to split.

    splits: name -> (starts of the training windows, starts of the validation windows).
    A window covers seq_len + 1 positions: its input and its last target.
    """
    labels = "position in the text", "start of the window"
    figure, panels = side_by_side(splits, *labels, height=4, sharex=True)
    looks = (
        {"label": "training", "color": COLORS[5]},
        {"label": "validation", "color": COLORS[1], "hatch": "///"},
    )
    for axes, parts in zip(panels, splits.values(), strict=True):
        for starts, look in zip(parts, looks, strict=True):
            left = [start - 0.5 for start in starts]
            axes.barh(starts, seq_len + 1, 0.8, left, edgecolor="white", **look)
        axes.legend(loc="upper right")
    panels[0].invert_yaxis()
    return figure
