"""Figures of chapter 12."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import (
    COLORS,
    EXPERT_COLORS,
    MARKERS,
    STYLES,
    one_panel,
    side_by_side,
    visible,
)

Seeds = Sequence[float]  # one number per seed
HATCHES = ("", "//", "..")


def information_figure(layers: Mapping[str, Mapping[str, Mapping[str, Seeds]]]) -> Figure:
    """Bits that each feature tells, a panel per layer: bars of the mean, a dot per seed.

    layers: title -> feature -> state of the model (untrained, trained) -> bits of the seeds.
    """
    figure, panels = side_by_side(layers, "bits about the choice", height=3)
    for axes, features in zip(panels, layers.values(), strict=True):
        for row, states in enumerate(features.values()):
            for i, (state, bits) in enumerate(states.items()):
                y, height = row + 0.8 * (i + 0.5) / len(states) - 0.4, 0.8 / len(states)
                label = state if row == 0 else None
                axes.barh(y, mean(bits), height, color=COLORS[5 - i], hatch=HATCHES[i], label=label,
                          edgecolor="white")  # fmt: skip
                axes.plot(bits, [y] * len(bits), "|", color="black", markersize=7)
        axes.set_yticks(range(len(features)), list(features))
    panels[0].invert_yaxis()  # the axis is shared
    panels[-1].legend(fontsize="small")
    return figure


def over_steps_figure(
    steps: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[Seeds]]], ylabel: str
) -> Figure:
    """Curves over training, of the mean over seeds, in a band from the lowest to the highest.

    panels: title -> name of the curve -> for every seed its values at the steps.
    """
    figure, axes_of = side_by_side(panels, "training step", ylabel, 2.9, dpi=85)
    for axes, named in zip(axes_of, panels.values(), strict=True):
        for i, (name, seeds) in enumerate(named.items()):
            columns = list(zip(*seeds, strict=True))
            color = COLORS[i % len(COLORS)]
            axes.plot(steps, [mean(c) for c in columns], STYLES[i % 4], color=color,
                      marker=MARKERS[i % 4], markersize=4, label=name)  # fmt: skip
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set(ylim=(0, None))
    lines = axes_of[-1].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(lines[0]), fontsize="small")
    return figure


def strip_figure(text: str, snapshots: Mapping[str, str], title: str) -> Figure:
    """A piece of text, a row per snapshot: the color and the digit are the expert's.

    snapshots: name of the row -> one digit per character.
    """
    rows = [[int(digit) for digit in digits] for digits in snapshots.values()]
    figure, axes = one_panel("character", "step", 0.27 * len(rows) + 0.9, 8, title=title)
    colors = ListedColormap(EXPERT_COLORS)
    axes.imshow(rows, cmap=colors, vmin=0, vmax=len(EXPERT_COLORS) - 1, aspect="auto")
    for y, row in enumerate(rows):
        for x, expert in enumerate(row):
            ink = "white" if expert == 0 else "black"  # the first color is dark
            place = {"ha": "center", "va": "center", "fontsize": 7}
            axes.text(x, y, str(expert), color=ink, **place)
    axes.set_xticks(range(len(text)), [visible(char) for char in text])
    axes.set_yticks(range(len(rows)), list(snapshots))
    axes.tick_params(length=0)
    return figure


def spread_figure(
    panels: Mapping[str, Mapping[str, Seeds]], xlabels: Sequence[str], height: float = 3.2
) -> Figure:
    """Rows of named numbers: the bar is the mean over the seeds, every stroke is one seed."""
    figure, axes_of = side_by_side(panels, height=height, sharey=False)
    for axes, rows, label in zip(axes_of, panels.values(), xlabels, strict=True):
        means = [mean(values) for values in rows.values()]
        axes.barh(range(len(rows)), means, color=COLORS[5], edgecolor="black")
        for y, values in enumerate(rows.values()):
            axes.plot(values, [y] * len(values), "|", color="black", markersize=10)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(xlabel=label)
        axes.invert_yaxis()
    return figure


def removal_figure(layers: Mapping[str, tuple[Seeds, Seeds]]) -> Figure:
    """Every expert as a point: its load, and what the held-out loss gains when it is removed.

    layers: name -> loads and costs, of all seeds.
    """
    figure, axes = one_panel("load (share of assignments)", "added loss, nats per character", 3.6)
    for i, (name, (loads, costs)) in enumerate(layers.items()):
        axes.plot(loads, costs, MARKERS[i], color=COLORS[i], markerfacecolor="none", label=name)
    axes.set(ylim=(0, None))
    axes.legend(fontsize="small")
    return figure


def surgery_figure(layers: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """The load of every expert, a panel per layer, and as strokes the load before the change.

    layers: title -> load as trained and load now, both (E,).
    """
    figure, panels = side_by_side(layers, "expert", "share of assignments", 2.6)
    for axes, (before, now) in zip(panels, layers.values(), strict=True):
        experts = range(len(now))
        colors = [EXPERT_COLORS[e % len(EXPERT_COLORS)] for e in experts]
        axes.bar(experts, now.tolist(), color=colors, edgecolor="black", label="now")
        axes.plot(before.tolist(), "_", color="black", markersize=14, label="as trained")
        axes.set_xticks(experts)
    lines = panels[-1].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(lines[0]), fontsize="small")
    return figure


def ratio_figure(ratios: Mapping[str, Tensor]) -> Figure:
    """How the probability of every text changed, a panel per name. Shapes: ratios (W,)."""
    figure, panels = side_by_side(
        ratios, "probability of a text / as in float32", "texts", 2.8, dpi=85
    )
    edges = [0.4 + 0.05 * i for i in range(33)]
    for axes, values in zip(panels, ratios.values(), strict=True):
        axes.hist(values.clamp(edges[0], edges[-1]).tolist(), edges, color=COLORS[0])
        axes.axvline(1, color="black", linestyle="--", linewidth=1)
        axes.set(yscale="log", ylim=(0.5, None))
    return figure
