"""Figures of chapter 11."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, curves, one_panel, side_by_side
from moe_tutorial.plots.history import busiest_curves, load_map, smooth

Band = Sequence[Sequence[float]]  # one curve per seed


def health_figure(
    load: Tensor,
    steps: Sequence[int] = (),
    loads: Tensor | None = None,
    entropies: Tensor | None = None,
) -> Figure:
    """A dashboard: the load of every layer now, and how it and the entropies came there.

    Shapes: load (L, E); loads (S, L, E) and entropies (S, L, 2), per token and of the mean, at the
    steps; None without a record.
    """
    titles = ["Load now"]
    titles += [] if loads is None else ["Busiest expert, mean of 50 steps"]
    titles += [] if entropies is None else ["Entropies, mean of 50 steps"]
    figure, panels = side_by_side(titles, height=3.4, width=5 * len(titles), sharey=False)
    load_map(figure, panels[0], load)
    if loads is not None:
        busiest_curves(panels[1], steps, loads)
        panels[1].set(xlabel="step", ylabel="share / mean share (1 = even)")
        panels[1].legend(fontsize="small")
    if entropies is not None:
        for layer, pair in enumerate(entropies.unbind(dim=1)):  # (S, 2)
            for which, line in ((0, "-"), (1, "--")):
                kind = ("per token", "of the mean")[which]
                panels[-1].plot(
                    steps, smooth(pair[:, which], 50), line, color=COLORS[layer % len(COLORS)],
                    label=f"layer {layer + 1}, {kind}", linewidth=1.2,
                )  # fmt: skip
        panels[-1].set(xlabel="step", ylabel="nats")
        panels[-1].set_ylim(0, None)
        panels[-1].legend(fontsize="small")
    return figure


def gradient_figure(behind: Sequence[float], slopes: Sequence[float]) -> Figure:
    """How hard the balance loss pushes an idle expert, against how far behind its logit is."""
    figure, axes = one_panel("logits behind the others", "minus the slope of the loss", 2.8)
    axes.semilogy(behind, slopes, "o-", color=COLORS[0])
    return figure


def drift_figure(named: Mapping[str, Sequence[float]], width: int = 20) -> Figure:
    """The max violation of a drifting router, a curve per rule, as the mean of `width` steps."""
    label = f"max violation, mean of {width} steps" if width > 1 else "max violation"
    figure, axes = one_panel("step", label, 3)
    smoothed = {name: smooth(Tensor(values), width) for name, values in named.items()}
    curves(axes, smoothed, first=1, linewidth=1.2)
    axes.set_ylim(0, None)
    figure.legend(fontsize="small", loc="outside upper center", ncols=len(named))
    return figure


def tradeoff_figure(points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """The load against the loss, a mark per kind of balance, its number beside it.

    points: "kind number" -> max violation and held-out loss, one of each per seed; the lines reach
    from the smallest to the largest.
    """
    figure, axes = one_panel(
        "max violation on the held-out text, mean of the layers", "held-out loss, nats", 4
    )
    kinds = list(dict.fromkeys(name.partition(" ")[0] for name in points))
    for name, (x, y) in points.items():
        kind, _, number = name.partition(" ")
        i, middle = kinds.index(kind), (sum(x) / len(x), sum(y) / len(y))
        axes.errorbar(
            *middle, xerr=_reach(x, middle[0]), yerr=_reach(y, middle[1]), fmt="osD^vX*P"[i % 8],
            color=COLORS[i % len(COLORS)], elinewidth=0.6,
            label=None if kind in axes.get_legend_handles_labels()[1] else kind,
        )  # fmt: skip
        right, up = ((1, 4), (1, -11), (-1, -11), (1, 4), (-1, 4))[i % 5]  # neighbors of two kinds
        axes.annotate(number, middle, (5 * right, up), textcoords="offset points",
                      ha="left" if right > 0 else "right", fontsize="small")  # fmt: skip
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(0, None)
    figure.legend(fontsize="small", loc="outside right upper")
    return figure


def _reach(values: Sequence[float], middle: float) -> list[list[float]]:
    """From the middle down to the smallest and up to the largest."""
    return [[middle - min(values)], [max(values) - middle]]


def violation_figure(named: Mapping[str, Band], every: int) -> Figure:
    """The max violation of one layer over the training, a panel per way, a thin line per seed."""
    figure, panels = side_by_side(named, "step", "max violation", 2.6, 10, dpi=75)
    for axes, (_, band) in zip(panels, named.items(), strict=True):
        for values in band:
            axes.plot([every * (i + 1) for i in range(len(values))], values, color=COLORS[0],
                      linewidth=0.8)  # fmt: skip
    panels[0].set_ylim(0, None)  # at last: it would fix what the panels share
    return figure


def entropy_figure(named: Mapping[str, tuple[float, float]], most: float) -> Figure:
    """Entropy per token and of the mean, two bars per router."""
    figure, axes = one_panel("", "nats", 2.8)
    for offset, which, color in ((-0.2, 0, COLORS[0]), (0.2, 1, COLORS[4])):
        heights = [pair[which] for pair in named.values()]
        label = ("per token, averaged", "of the mean probability")[which]
        axes.bar([i + offset for i in range(len(named))], heights, 0.38, color=color, label=label)
    _line(axes, most)
    axes.set_xticks(range(len(named)), list(named))
    figure.legend(fontsize="small", loc="outside upper center", ncols=3)
    return figure


def _line(axes: Axes, most: float) -> None:
    axes.axhline(most, color="gray", linestyle=":", label="ln E")
