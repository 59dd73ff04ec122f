"""Figures of chapter 01."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES, visible


def symbol_figure(counts: Mapping[str, int]) -> Figure:
    """One bar per symbol, the most frequent first."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    axes.bar(range(len(ranked)), [count for _, count in ranked], color=COLORS[0])
    axes.set_xticks(range(len(ranked)), [visible(symbol) for symbol, _ in ranked])
    axes.set(xlabel="symbol", ylabel="count", title="How often each symbol occurs")
    return figure


def pair_figure(pair_counts: Tensor, symbols: Sequence[str]) -> Figure:
    """Share of each next symbol (column) after each symbol (row); pair_counts (V, V)."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shares = pair_counts / pair_counts.sum(dim=1, keepdim=True).clamp(min=1)
    image = axes.imshow(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    labels = [visible(symbol) for symbol in symbols]
    axes.set_xticks(range(len(symbols)), labels)
    axes.set_yticks(range(len(symbols)), labels)
    axes.tick_params(labelsize=8)
    axes.set(xlabel="next symbol", ylabel="symbol", title="What follows each symbol")
    figure.colorbar(image, ax=axes, label="share of this row", shrink=0.8)
    return figure


def order_figure(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Validation loss against the order n = 0, 1, ... of counting; order 0 is uniform."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(losses.items()):
        style = f"{'os^D'[i % 4]}{STYLES[i % len(STYLES)]}"
        axes.plot(range(len(values)), values, style, color=COLORS[i % len(COLORS)], label=name)
    axes.set_xticks(range(max(map(len, losses.values()))))
    axes.set(xlabel="order n (it looks n - 1 symbols back; 0 is uniform)", ylim=(0, None))
    axes.set(ylabel="validation loss, nats per character", title="Predicting by counting")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure
