"""Figures of chapter 02."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from moe_tutorial.plots.base import COLORS, STYLES, one_panel, tick_label


def ids_figure(text: str, ids: Sequence[int]) -> Figure:
    """The id at every position of a short text, with the characters below the axis."""
    figure, axes = one_panel("character, in reading order", "id", 3, ylim=(0, max(ids) * 1.2))
    axes.vlines(range(len(text)), 0, ids, color=COLORS[0])
    axes.plot(range(len(text)), ids, "o", color=COLORS[0], clip_on=False)  # id 0 is on the edge
    for position, i in enumerate(ids):
        axes.annotate(str(i), (position, i), (0, 6), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(text)), [tick_label(char) for char in text])
    return figure


def vocabulary_growth_figure(texts: Mapping[str, str]) -> Figure:
    """How many different characters have been seen after the first, second, ... of each text."""
    figure, axes = one_panel("characters read", "different characters seen", xscale="log")
    for i, (name, text) in enumerate(texts.items()):
        first = sorted(text.index(char) + 1 for char in set(text))  # characters read so far
        x, y = [*first, len(text)], [*range(1, len(first) + 1), len(first)]
        label = f"{name}: {len(first)} after {len(text):,}"
        axes.step(x, y, STYLES[i], where="post", label=label, color=COLORS[i])
    axes.legend()
    return figure
