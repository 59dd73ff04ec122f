"""Figures of chapter 14."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, MARKERS, STYLES, curves, one_panel, side_by_side


def rows_figure(rows: Tensor) -> Figure:
    """How many rows go from each rank to each other one; the diagonal, hatched, stays at home.

    rows: (R, R), sender by receiver.
    """
    figure, axes = one_panel("to rank (its column: the rows it computes)", "from rank", 3.2)
    image = axes.imshow(rows.tolist(), cmap="Blues", vmin=0, aspect="auto")
    for sender, line in enumerate(rows.tolist()):
        for receiver, count in enumerate(line):
            ink = "white" if count > 0.6 * rows.max() else "black"
            axes.text(receiver, sender, str(count), ha="center", va="center", color=ink)
        axes.bar(sender, 1, 1, sender - 0.5, fill=False, hatch="//", edgecolor="#999999")
    ranks = range(len(rows))
    axes.set(xticks=ranks, yticks=ranks, xlim=(-0.5, len(rows) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    figure.colorbar(image, ax=axes, label="rows")
    return figure


def traffic_figure(
    counted: Sequence[Mapping[int, Mapping[int, float]]],
    predicted: Sequence[Mapping[int, Mapping[int, float]]],
) -> Figure:
    """Bytes per token in one forward pass: counted (markers), and by the formula (lines).

    Both: by number of ranks, and by number of experts; each maps top_k -> number -> bytes.
    """
    figure, panels = side_by_side(("", ""), "ranks", "bytes per token, forward", 3.4)
    for axes, points, lines in zip(panels, counted, predicted, strict=True):
        for i, top_k in enumerate(points):
            color, x = COLORS[i], list(points[top_k])
            axes.plot(x, [lines[top_k][number] for number in x], STYLES[i], color=color)
            axes.plot(x, list(points[top_k].values()), MARKERS[i], color=color)
            axes.plot([], [], MARKERS[i] + STYLES[i], color=color, label=f"top_k {top_k}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
        title = "marker: counted, line: formula"
        axes.legend(
            fontsize="small", loc="upper left", ncols=3, title=title, title_fontsize="small"
        )
    tops = [max(values.values()) for points in counted for values in points.values()]
    panels[0].set_ylim(0, 1.45 * max(tops))  # room for the legend; the panels share this axis
    panels[1].set_xlabel("experts, on the same number of ranks")
    return figure


def work_figure(work: Mapping[str, Tensor]) -> Figure:
    """Rows that each rank computes; gray: the time it waits for the slowest rank.

    work: title -> (R,) rows.
    """
    figure, panels = side_by_side(work, "rank", "rows")
    for axes, load in zip(panels, work.values(), strict=True):
        ranks, rows = range(len(load)), load.tolist()
        axes.bar(ranks, rows, color=COLORS[0], label="computes")
        waits = [max(rows) - row for row in rows]
        axes.bar(ranks, waits, bottom=rows, color="#DDDDDD", hatch="//", edgecolor="#999999",
                 label="waits")  # fmt: skip
        axes.axhline(sum(rows) / len(rows), color="black", linestyle="--", label="mean")
        axes.set_xticks(ranks)
    panels[0].set_ylim(0, 1.1 * max(load.max().item() for load in work.values()))
    panels[0].legend(fontsize="small", loc="upper left", ncols=3)
    return figure


def fabric_figure(
    widths: Sequence[int], ratios: Mapping[str, Sequence[float]], marks: Mapping[str, int]
) -> Figure:
    """Time on the wire over time of arithmetic, against the width F of an expert, both logarithmic.

    ratios: name of a link -> one ratio per width. marks: name -> width, drawn as a vertical line.
    """
    figure, axes = one_panel("hidden_dim F of one expert", "wire time / arithmetic time", 3.6)
    curves(axes, ratios, widths, linewidth=2)
    axes.axhline(1, color="black", linewidth=1)
    axes.set(xscale="log", yscale="log")
    for name, width in marks.items():
        axes.axvline(width, color="#777777", linewidth=1, linestyle=":")
        axes.annotate(name, (width, 1), (3, 3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="bottom", fontsize=8)  # fmt: skip
    axes.legend(fontsize="small")
    return figure
