"""Figures of chapter 16."""

import html
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from torch import Tensor, minimum

from moe_tutorial.plots.base import (
    COLORS,
    MARKERS,
    STYLES,
    one_panel,
    side_by_side,
    tick_label,
    visible,
)
from moe_tutorial.plots.described import Figure

# How a token came about -> CSS. Told apart by the line, too, where colors cannot be seen.
ORIGINS = {
    "accepted": "background:#56B4E9;color:#000",
    "corrected": "background:#D55E00;color:#000;text-decoration:underline",
    "drawn": "background:#fff;color:#000;outline:1px solid #000",
}
Curves = Mapping[str, Sequence[float]]


def parts_figure(symbols: Sequence[str], p: Tensor, q: Tensor) -> Figure:
    """Two bars per symbol: what the draft guesses, and what is written, by how it came about."""
    figure, axes = one_panel("character", "probability", 3, 6.5)
    both, places = minimum(p, q), range(len(symbols))
    left, right = [i - 0.2 for i in places], [i + 0.2 for i in places]
    line = {"width": 0.36, "edgecolor": "black"}
    axes.bar(left, both.tolist(), color=COLORS[5], label="guessed, accepted", **line)
    axes.bar(left, (q - both).tolist(), bottom=both.tolist(), color="#DDDDDD", hatch="///",
             label="guessed, rejected", **line)  # fmt: skip
    axes.bar(right, both.tolist(), color=COLORS[5], **line)
    axes.bar(right, (p - both).tolist(), bottom=both.tolist(), color=COLORS[1], hatch="..",
             label="corrected", **line)  # fmt: skip
    axes.set_xticks(places, [tick_label(symbol) for symbol in symbols])
    axes.legend(fontsize="small")
    return figure


def origin_html(text: str, origins: Sequence[str], tips: Sequence[str], before: str = "") -> str:
    """The text as HTML: each character shows how it came about, with a tooltip of your own."""
    spans = [f"<b>{html.escape(before)}</b>"] if before else []
    for char, origin, tip in zip(text, origins, tips, strict=True):
        shown = f"{visible(char)}<br>" if char == "\n" else html.escape(char)
        spans.append(f'<span style="{ORIGINS[origin]}" title="{html.escape(tip)}">{shown}</span>')
    legend = " ".join(
        f'<span style="{style}">&nbsp;{origin}&nbsp;</span>' for origin, style in ORIGINS.items()
    )
    return (
        f'<div style="font-family:monospace;line-height:1.6;white-space:pre-wrap">'
        f"{''.join(spans)}<br>{legend}</div>"
    )


def length_figure(
    lengths: Sequence[int], predicted: Curves, measured: Curves, ylabel: str
) -> Figure:
    """Against the length of the draft: what is predicted (lines) and measured (markers)."""
    figure, axes = one_panel("guesses per pass", ylabel, 3.2, 6.5)
    for i, (name, values) in enumerate(predicted.items()):
        axes.plot(lengths, values, STYLES[i % 4], color=COLORS[i % 6], label=name)
    for i, (name, values) in enumerate(measured.items(), start=len(predicted)):
        style = {"color": COLORS[i % 6], "markerfacecolor": "none", "label": name}
        joined = "" if predicted else STYLES[i % 4]
        axes.plot(lengths, values, (*MARKERS, "v")[i % 5] + joined, **style)
    _finish(axes)
    return figure


def pass_figure(tokens: Sequence[int], panels: Mapping[str, Curves]) -> Figure:
    """Time of a pass for several tokens, in passes for one; a panel per size of the models."""
    figure, all_axes = side_by_side(panels, "tokens in one pass", "time, in passes for one token",
                                    3.2, dpi=85)  # fmt: skip
    for axes, named in zip(all_axes, panels.values(), strict=True):
        for i, (name, times) in enumerate(named.items()):
            relative = [time / times[0] for time in times]
            axes.plot(tokens, relative, MARKERS[i % 4] + STYLES[i % 4], color=COLORS[i],
                      markerfacecolor="none", label=name)  # fmt: skip
        axes.grid(alpha=0.3)
    all_axes[0].set_ylim(0, None)  # at last: it would fix what the panels share
    all_axes[-1].legend(fontsize="small")
    return figure


def gain_figure(batches: Sequence[int], named: Curves, highest: float | None = None) -> Figure:
    """How many times faster a draft makes writing, against the texts written at once."""
    figure, axes = one_panel("texts at once", "times faster", 3.2, 6.5)
    for i, (name, values) in enumerate(named.items()):
        axes.plot(batches, values, MARKERS[i % 4] + STYLES[i % 4], color=COLORS[i % 6],
                  markersize=4, label=name)  # fmt: skip
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches[::2], [f"{batch:,}" for batch in batches[::2]], rotation=45)
    axes.minorticks_off()
    _finish(axes)
    axes.set_ylim(0, highest)
    return figure


def _finish(axes: Axes) -> None:
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
