"""Figures of chapter 02."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from moe_tutorial.plots.base import COLORS, STYLES, visible


def ids_figure(text: str, ids: Sequence[int]) -> Figure:
    """The id at every position of a short text, with the characters below the axis."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.vlines(range(len(text)), 0, ids, color=COLORS[0])
    axes.plot(range(len(text)), ids, "o", color=COLORS[0])
    for position, i in enumerate(ids):
        axes.annotate(str(i), (position, i), (0, 6), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(text)), [visible(char) for char in text])
    axes.set(xlabel="character, in reading order", ylabel="id", ylim=(0, max(ids) * 1.2))
    return figure


def vocabulary_growth_figure(texts: Mapping[str, str]) -> Figure:
    """How many different characters have been seen after the first, second, ... of each text."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, text) in enumerate(texts.items()):
        first = sorted(text.index(char) + 1 for char in set(text))  # characters read so far
        seen = range(1, len(first) + 1)
        label = f"{name}: {len(first)} after {len(text):,}"
        axes.step(
            [*first, len(text)], [*seen, len(first)], STYLES[i], where="post", label=label,
            color=COLORS[i],
        )  # fmt: skip
    axes.set(xscale="log", xlabel="characters read", ylabel="different characters seen")
    axes.legend()
    return figure
