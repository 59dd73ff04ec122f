"""Figures of chapter 07."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, visible

# Okabe & Ito's eight, without black: one for each of eight experts.
EXPERT_COLORS = (*COLORS, "#F0E442", "#999999")


def routing_figure(probs: Tensor, chosen: Sequence[int], title: str) -> Figure:
    """The probability of every expert for one token; the chosen ones dark and hatched."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for label, color, hatch, experts in (
        ("chosen", COLORS[1], "//", [e for e in range(len(probs)) if e in chosen]),
        ("not chosen", "#BBBBBB", "", [e for e in range(len(probs)) if e not in chosen]),
    ):
        heights = [probs[e].item() for e in experts]
        axes.bar(experts, heights, color=color, hatch=hatch, edgecolor="black", label=label)
        for expert, height in zip(experts, heights, strict=True):
            axes.annotate(f"{height:.2f}", (expert, height), (0, 3), textcoords="offset points",
                          ha="center")  # fmt: skip
    axes.set_xticks(range(len(probs)))
    axes.set(xlabel="expert", ylabel="probability", title=title, ylim=(0, 1.4 * probs.max().item()))
    axes.legend(loc="upper right", ncols=2)  # above the bars
    return figure


def load_figure(loads: Mapping[str, Tensor]) -> Figure:
    """Share of the assignments per expert, one panel per router; dashed: an even share."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, len(loads), sharey=True, squeeze=False)[0]
    for i, (axes, (name, load)) in enumerate(zip(panels, loads.items(), strict=True)):
        axes.bar(range(len(load)), load.tolist(), color=COLORS[i % len(COLORS)])
        axes.axhline(1 / len(load), color="black", linestyle="--", label="even share")
        axes.set(title=name, xlabel="expert")
        axes.set_xticks(range(len(load)))
    panels[0].set_ylabel("share of assignments")
    panels[-1].legend(fontsize="small")
    return figure


def cost_figure(costs: Mapping[str, tuple[int, int]]) -> Figure:
    """Two prices of each network: multiplications for one token, and numbers kept in memory."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = list(costs)
    for i, label in enumerate(("multiplications per token", "parameters in memory")):
        values = [costs[name][i] for name in names]
        panels[i].barh(range(len(names)), values, color=COLORS[i])
        for row, value in enumerate(values):
            panels[i].text(value, row, f" {value:,}", va="center")
        panels[i].set(xlabel=label, xlim=(0, 1.35 * max(values)))
        panels[i].locator_params(axis="x", nbins=4)
        panels[i].xaxis.set_major_formatter("{x:,.0f}")
    panels[0].set_yticks(range(len(names)), names)
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
        style = f"background:{_expert_color(expert)};color:{_ink(_expert_color(expert))}"
        shown = f"{visible(char)}<br>" if char == "\n" else html.escape(char)
        spans.append(f'<span style="{style}" title="{html.escape(tip)}">{shown}</span>')
    legend = " ".join(
        f'<span style="background:{_expert_color(e)};color:{_ink(_expert_color(e))}">'
        f"&nbsp;{e}&nbsp;</span>"
        for e in range(num_experts)
    )
    return (
        f'<div style="font-family:monospace;line-height:1.6;white-space:pre-wrap">'
        f"{''.join(spans)}<br>expert {legend}</div>"
    )


def _expert_color(expert: int) -> str:
    return EXPERT_COLORS[expert % len(EXPERT_COLORS)]


def _ink(background: str) -> str:
    """Black or white, whichever can be read on this background."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 100 else "#fff"
