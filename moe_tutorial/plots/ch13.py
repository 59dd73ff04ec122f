"""Figures of chapter 13."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_tutorial.plots.base import COLORS, MARKERS, STYLES, one_panel, side_by_side

WIDTH = 6.5  # inches
Curve = tuple[Sequence[float], Sequence[Sequence[float]]]  # x, and a line of values per seed


def touched_figure(
    batches: Sequence[int],
    formula: Mapping[str, Sequence[float]],
    counted: Mapping[str, Sequence[float]],
) -> Figure:
    """Different experts against tokens at once: by the formula (lines) and counted (markers)."""
    figure, axes = one_panel("tokens at once", "different experts", 3, WIDTH)
    for i, (name, values) in enumerate(formula.items()):
        axes.plot(batches, values, STYLES[i % 4], color=COLORS[i], label=name)
    for i, (name, values) in enumerate(counted.items(), start=len(formula)):
        at = batches[: len(values)]
        axes.plot(at, values, MARKERS[i % 4], color=COLORS[i], markerfacecolor="none", label=name)
    _batch_axis(axes, batches)
    axes.set_ylim(0, None)
    axes.legend(fontsize="small")
    return figure


def per_token_figure(batches: Sequence[int], named: Mapping[str, Sequence[float]]) -> Figure:
    """Milliseconds per token against tokens at once, a curve per layer, both axes logarithmic."""
    figure, axes = one_panel("tokens at once", "milliseconds per token", 3, WIDTH, yscale="log")
    for i, (name, values) in enumerate(named.items()):
        per_token = [value / batch for value, batch in zip(values, batches, strict=True)]
        line = MARKERS[i % 4] + STYLES[i % 4]
        axes.plot(batches, per_token, line, color=COLORS[i], label=name)
    _batch_axis(axes, batches)
    axes.legend(fontsize="small")
    return figure


def _batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def seeds_figure(named: Mapping[str, Sequence[float]], xlabel: str) -> Figure:
    """A row per variant: a circle per seed, the mean as a bar, its standard deviation as a line."""
    figure, axes = one_panel(xlabel, "", 0.3 * len(named) + 0.7, WIDTH)
    figure.set_dpi(85)  # many of these stand in one chapter
    line = {"fmt": "|", "color": COLORS[1], "markersize": 14, "capsize": 3}
    for row, (name, values) in enumerate(named.items()):
        reach = stdev(values) if len(values) > 1 else 0
        axes.errorbar(mean(values), row, xerr=reach, label=name, **line)
        axes.plot(values, [row] * len(values), "o", color=COLORS[0], markerfacecolor="none")
    axes.set_yticks(range(len(named)), list(named))
    axes.set_ylim(len(named) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    return figure


def learning_figure(panels: Mapping[str, Mapping[str, Curve]], ylabel: str) -> Figure:
    """Means over the seeds with their standard deviation, a panel per kind of x axis."""
    width = 2.5 + 2.2 * len(panels)
    figure, all_axes = side_by_side(["" for _ in panels], "", ylabel, 3, width, dpi=80)
    for axes, (xlabel, named) in zip(all_axes, panels.items(), strict=True):
        for i, (name, (x, runs)) in enumerate(named.items()):
            at_x = list(zip(*runs, strict=True))
            middle, reach = [mean(v) for v in at_x], [stdev(v) for v in at_x]
            style = {"fmt": MARKERS[i % 4] + STYLES[i % 4], "color": COLORS[i % len(COLORS)]}
            axes.errorbar(x, middle, reach, label=name, markersize=3, capsize=2, **style)
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.3)
    all_axes[-1].legend(fontsize="small")
    return figure
