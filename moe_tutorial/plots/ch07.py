"""Figures of chapter 07."""

import html
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import (
    COLORS,
    EXPERT_COLORS,
    curves,
    one_panel,
    side_by_side,
    visible,
)


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


def dispatch_figure(chosen: Tensor, names: Sequence[str]) -> Figure:
    """Three columns: assignments in reading order, sorted into slices by expert, added up again.

    chosen: (N, K), the experts of each token. names: of the N tokens.
    """
    assigned, choices = chosen.flatten().tolist(), chosen.shape[1]
    order = sorted(range(len(assigned)), key=assigned.__getitem__)
    figure, axes = one_panel(height=0.32 * len(order) + 0.6, width=6.5)
    for row, assignment in enumerate(order):
        token, expert = assignment // choices, assigned[assignment]
        back = choices * token + (choices - 1) / 2  # the middle of the token's assignments
        for x, y, text in (
            (0, assignment, f"{names[token]} to {expert}"),
            (1, row, f"expert {expert}: {names[token]}"),
            (2, back, f"{names[token]}: sum of {choices}"),
        ):
            edge = "black" if x == 2 else _color(expert)
            box = {"boxstyle": "round", "facecolor": "white", "edgecolor": edge}
            axes.text(x, y, text, bbox=box, ha="center", va="center")
        axes.plot([0, 1, 2], [assignment, row, back], color=_color(expert), zorder=0)
    axes.set(xlim=(-0.4, 2.4), ylim=(len(order) - 0.5, -0.5), yticks=[])
    axes.set_xticks(range(3), ["reading order", "sorted: slices", "added up"])
    return figure


def time_figure(
    tokens: Sequence[int], ratios: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Time of a mixture as a multiple of its rivals', by number of tokens; dashed: equal time.

    ratios: panel (forward, training) -> rival -> one multiple per number of tokens.
    """
    figure, panels = side_by_side(ratios, "tokens at once", "time / time of the rival")
    for axes, rivals in zip(panels, ratios.values(), strict=True):
        curves(axes, rivals, tokens, markers=True)
        axes.axhline(1, color="black", linestyle="--", linewidth=1)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(tokens, [str(n) for n in tokens])
        axes.set_yticks([1 / 16, 1 / 4, 1, 4, 16], ["1/16", "1/4", "1", "4", "16"])
        axes.minorticks_off()
    panels[-1].legend(fontsize="small")
    return figure


def load_figure(loads: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Share of the assignments f (bars) and mean probability P (markers), a panel per router."""
    figure, panels = side_by_side(loads, "expert", "share")
    for i, (axes, (load, probs)) in enumerate(zip(panels, loads.values(), strict=True)):
        axes.bar(range(len(load)), load.tolist(), color=COLORS[i % len(COLORS)], label="f, load")
        axes.plot(probs.tolist(), "D", color="black", markerfacecolor="white", label="P, mean")
        axes.axhline(1 / len(load), color="black", linestyle="--", label="even share")
        axes.set_xticks(range(len(load)))
    panels[-1].legend(fontsize="small")
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


def _color(expert: int) -> str:
    return EXPERT_COLORS[expert % len(EXPERT_COLORS)]


def expert_colors(expert: int) -> tuple[str, str]:
    """The color of an expert, and black or white for letters on it, whichever can be read."""
    color = _color(expert)
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return color, "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 100 else "#fff"


def _style(expert: int) -> str:
    """The two colors as CSS."""
    color, ink = expert_colors(expert)
    return f"background:{color};color:{ink}"
