"""Figures of chapter 01."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, curves, one_panel, tick_label


def symbol_figure(counts: Mapping[str, int]) -> Figure:
    """One bar per symbol, the most frequent first."""
    figure, axes = one_panel("symbol", "count", 3, title="How often each symbol occurs")
    ranked = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    axes.bar(range(len(ranked)), [counts[symbol] for symbol in ranked], color=COLORS[0])
    axes.set_xticks(range(len(ranked)), [tick_label(symbol) for symbol in ranked])
    return figure


def pair_figure(pair_counts: Tensor, symbols: Sequence[str]) -> Figure:
    """Share of each next symbol (column) after each symbol (row); pair_counts (V, V).

    A row without counts has no shares: it is gray, not zero.
    """
    figure, axes = one_panel("next symbol", "symbol", 6, 7, title="What follows each symbol")
    shares = pair_counts / pair_counts.sum(dim=1, keepdim=True)  # 0 / 0 is nan, drawn as nothing
    axes.set_facecolor("#bbbbbb")
    image = axes.imshow(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(symbols)), [tick_label(symbol) for symbol in symbols])
    axes.tick_params(labelsize=8)
    figure.colorbar(image, ax=axes, label="share of this row", shrink=0.8)
    return figure


def order_figure(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Validation loss against the order n = 0, 1, ... of counting; order 0 is uniform."""
    label = "order n (it looks n - 1 characters back; 0 is uniform)"
    figure, axes = one_panel(label, "validation loss, nats per character", width=7)
    curves(axes, losses, markers=True)
    axes.set_xticks(range(max(map(len, losses.values()))))
    axes.set(title="Predicting by counting", ylim=(0, None))
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure
