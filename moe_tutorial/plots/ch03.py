"""Figures of chapter 03."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES, visible


def windows_figure(text: str, seq_len: int) -> Figure:
    """Every window of a short text as a row: its input, and the last target one further right."""
    num_windows = len(text) - seq_len
    figure = Figure(figsize=(8, 0.4 * num_windows + 1.2), layout="constrained")
    axes = figure.subplots()
    for start in range(num_windows):
        axes.barh(start, seq_len, 0.8, start - 0.5, color=COLORS[5], label="input x")
        axes.barh(
            start, seq_len, 0.8, start + 0.5, fill=False, edgecolor=COLORS[1], linewidth=2,
            label="target y",
        )  # fmt: skip
        for position in range(start, start + seq_len + 1):
            axes.text(position, start, visible(text[position]), ha="center", va="center")
    axes.set(xlabel="position in the text", ylabel="start of the window")
    axes.set_xticks(range(len(text)))
    axes.set_yticks(range(num_windows))
    axes.set_xlim(-0.7, len(text) - 0.3)
    axes.invert_yaxis()
    axes.legend(*_first_of_each_label(axes), loc="upper right")
    return figure


def target_counts_figure(counts: Mapping[str, Tensor]) -> Figure:
    """How often every position of a text is a target, for several ways to cut windows."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, count) in enumerate(counts.items()):
        axes.step(
            range(len(count)), count.tolist(), STYLES[i], where="mid", color=COLORS[i], label=name
        )
    axes.set(xlabel="position in the text", ylabel="times a target")
    axes.legend()
    return figure


def split_figure(splits: Mapping[str, tuple[Sequence[int], Sequence[int]]], seq_len: int) -> Figure:
    """Which positions the windows of two splits touch, one panel for each way to split.

    splits: name -> (starts of the training windows, starts of the validation windows).
    A window covers seq_len + 1 positions: its input and its last target.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, (train, validation)) in zip(panels, splits.items(), strict=True):
        for starts, color, hatch, label in (
            (train, COLORS[5], "", "training"),
            (validation, COLORS[1], "///", "validation"),
        ):
            axes.barh(
                starts, seq_len + 1, 0.8, [start - 0.5 for start in starts], color=color,
                hatch=hatch, edgecolor="white", label=label,
            )  # fmt: skip
        axes.set(title=name, xlabel="position in the text")
    panels[0].set_ylabel("start of the window")
    panels[0].invert_yaxis()
    panels[0].legend(loc="upper right")
    return figure


def _first_of_each_label(axes: Axes) -> tuple[list, list[str]]:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    return list(handles.values()), list(handles)
