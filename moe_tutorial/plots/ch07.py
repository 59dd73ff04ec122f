"""Figures of chapter 07."""

import html
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, EXPERT_COLORS, one_panel, side_by_side, visible


def routing_figure(probs: Tensor, chosen: Sequence[int], title: str) -> Figure:
    """The probability of every expert for one token; the chosen ones dark and hatched."""
    figure, axes = one_panel("expert", "probability", 3, title=title)
    for label, color, hatch, experts in (
        ("chosen", COLORS[1], "//", [e for e in range(len(probs)) if e in chosen]),
        ("not chosen", "#BBBBBB", "", [e for e in range(len(probs)) if e not in chosen]),
    ):
        heights = probs[experts].tolist()
        axes.bar(experts, heights, color=color, hatch=hatch, edgecolor="black", label=label)
    for expert, prob in enumerate(probs.tolist()):
        text, above = f"{prob:.2f}", (0, 3)
        axes.annotate(text, (expert, prob), above, textcoords="offset points", ha="center")
    axes.set(xticks=range(len(probs)), ylim=(0, 1.4 * probs.max().item()))
    axes.legend(loc="upper right", ncols=2)  # above the bars
    return figure


def load_figure(loads: Mapping[str, Tensor]) -> Figure:
    """Share of the assignments per expert, one panel per router; dashed: an even share."""
    figure, panels = side_by_side(loads, "expert", "share of assignments")
    for i, (axes, load) in enumerate(zip(panels, loads.values(), strict=True)):
        axes.bar(range(len(load)), load.tolist(), color=COLORS[i % len(COLORS)])
        axes.axhline(1 / len(load), color="black", linestyle="--", label="even share")
        axes.set_xticks(range(len(load)))
    panels[-1].legend(fontsize="small")
    return figure


def cost_figure(costs: Mapping[str, tuple[int, int]]) -> Figure:
    """Two prices of each network: multiplications for one token, and numbers kept in memory."""
    figure, panels = side_by_side(("", ""), height=2.6)
    for i, label in enumerate(("multiplications per token", "parameters in memory")):
        values = [cost[i] for cost in costs.values()]
        bars = panels[i].barh(range(len(costs)), values, color=COLORS[i])
        panels[i].bar_label(bars, fmt=" {:,}")
        panels[i].set(xlabel=label, xlim=(0, 1.35 * max(values)))
        panels[i].locator_params(axis="x", nbins=4)
        panels[i].xaxis.set_major_formatter("{x:,.0f}")
    panels[0].set_yticks(range(len(costs)), list(costs))
    panels[0].invert_yaxis()
    return figure


def expert_html(text: str, experts: Sequence[int], probs: Tensor) -> str:
    """The text as HTML, each character in the color of its expert, with a tooltip.

    experts: one per character. probs: (N, E), of which the tooltip shows that expert's.
    """
    tips = [
        f"{visible(char)} expert {expert}, {row[expert].item():.0%}"
        for char, expert, row in zip(text, experts, probs, strict=True)
    ]
    return colored_html(text, experts, tips, num_experts=probs.shape[1])


def colored_html(
    text: str, experts: Sequence[int], tips: Sequence[str], *, num_experts: int, before: str = ""
) -> str:
    """`expert_html` with tooltips of your own, one per character, and text before it in black."""
    spans = [f"<b>{html.escape(before)}</b>"] if before else []
    for char, expert, tip in zip(text, experts, tips, strict=True):
        shown = f"{visible(char)}<br>" if char == "\n" else html.escape(char)
        spans.append(f'<span style="{_style(expert)}" title="{html.escape(tip)}">{shown}</span>')
    legend = " ".join(
        f'<span style="{_style(e)}">&nbsp;{e}&nbsp;</span>' for e in range(num_experts)
    )
    return (
        f'<div style="font-family:monospace;line-height:1.6;white-space:pre-wrap">'
        f"{''.join(spans)}<br>expert {legend}</div>"
    )


def _style(expert: int) -> str:
    """The color of an expert as CSS, with letters in black or white, whichever can be read."""
    color = EXPERT_COLORS[expert % len(EXPERT_COLORS)]
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    ink = "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 100 else "#fff"
    return f"background:{color};color:{ink}"
