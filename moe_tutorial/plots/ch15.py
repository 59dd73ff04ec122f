"""Figures of chapter 15."""

from collections.abc import Mapping, Sequence

from moe_tutorial.cards import Card
from moe_tutorial.plots.base import COLORS, curves, one_panel, side_by_side
from moe_tutorial.plots.described import Figure

MARKS = "os^DvP"


def score_figure(logits: Sequence[float], named: Mapping[str, Sequence[float]]) -> Figure:
    """The score of one expert against its logit, a curve per score."""
    figure, axes = one_panel("logit of one expert, the seven others at 0", "its score", 2.8)
    curves(axes, named, logits)
    figure.legend(fontsize="small", loc="outside upper center", ncols=len(named))
    return figure


def machines_figure(named: Mapping[str, Sequence[float]]) -> Figure:
    """How many machines a token meets: the share of tokens that meet 1, 2, ..., per rule."""
    figure, axes = one_panel("machines that a token is sent to", "share of the tokens", 2.8)
    width = 0.8 / len(named)
    for i, (name, shares) in enumerate(named.items()):
        at = [1 + n + (i - (len(named) - 1) / 2) * width for n in range(len(shares))]
        axes.bar(at, shares, width, color=COLORS[(0, 1, 4)[i % 3]], label=name)
    axes.set_xticks(range(1, 1 + max(map(len, named.values()))))
    figure.legend(fontsize="small", loc="outside upper center", ncols=len(named))
    return figure


def scale_figure(
    top_k: Sequence[int], named: Mapping[str, Sequence[float]],
    published: Mapping[str, tuple[int, float]],
) -> Figure:  # fmt: skip
    """The restoring scale against top_k, a curve per router, and a mark per published scale."""
    figure, axes = one_panel("top_k", "scale", 3.2)
    curves(axes, named, top_k)
    for i, (name, (k, scale)) in enumerate(published.items()):
        axes.plot(k, scale, MARKS[i % len(MARKS)], color=COLORS[(i + 2) % 6], label=name)
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    axes.minorticks_off()
    figure.legend(fontsize="small", loc="outside right upper")
    return figure


def cards_figure(cards: Sequence[Card]) -> Figure:
    """Width of an expert and share of the experts that a token meets, a mark per card.

    The cards of one year stand side by side, in the order in which they are given.
    """
    labels = ("width of an expert / dim", "share of the routed experts met")
    figure, panels = side_by_side(labels, "year", "", 3.2, 9, sharey=False)
    years = [card.year for card in cards]
    x = [
        year + 0.8 * (years[:i].count(year) + 0.5) / years.count(year) - 0.4
        for i, year in enumerate(years)
    ]
    kinds = [card.switches.score + " + bias" * card.switches.bias for card in cards]
    heights = (
        [card.hidden_dim / card.dim for card in cards],
        [card.top_k / (card.num_experts + card.zero_experts) for card in cards],
    )
    for axes, y in zip(panels, heights, strict=True):
        for i, kind in enumerate(dict.fromkeys(kinds)):
            own = [j for j, other in enumerate(kinds) if other == kind]
            label = kind if axes is panels[0] else None
            axes.plot(
                [x[j] for j in own], [y[j] for j in own], MARKS[i], color=COLORS[i], label=label
            )
        axes.set_yscale("log")
        axes.set_xticks(sorted(set(years)))
    panels[0].set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    panels[1].set_yticks([0.02, 0.05, 0.1, 0.25], ["2 %", "5 %", "10 %", "25 %"])
    for axes in panels:
        axes.minorticks_off()
    figure.legend(fontsize="small", loc="outside upper center", ncols=5)
    return figure
