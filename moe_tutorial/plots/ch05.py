"""Figures of chapter 05."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES


def size_figure(sizes: Mapping[str, Sequence[float]]) -> Figure:
    """Typical size of the activations after every layer, on a logarithmic axis."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(sizes.items()):
        axes.plot(range(len(values)), values, STYLES[i % 4], marker="os^D"[i % 4],
                  color=COLORS[i], label=name)  # fmt: skip
    axes.set(yscale="log", xlabel="layers passed", ylabel="root mean square of the activations")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.legend()
    return figure


def norm_figure(vectors: Mapping[str, Tensor]) -> Figure:
    """The numbers of a few vectors as bars, one panel per vector, its mean as a dashed line."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(vectors), sharey=True, squeeze=False)[0]
    for i, (axes, (name, vector)) in enumerate(zip(panels, vectors.items(), strict=True)):
        axes.bar(range(len(vector)), vector.tolist(), color=COLORS[i])
        axes.axhline(0, color="black", linewidth=0.8)
        mean = round(vector.mean().item(), 2) + 0.0  # no -0.00
        axes.axhline(mean, color="black", linestyle="--", label=f"mean {mean:.2f}")
        axes.set(title=name, xlabel="number of the vector")
        axes.legend(loc="upper left", fontsize="small")
    highest = max(vector.max().item() for vector in vectors.values())
    panels[0].set(ylabel="value", ylim=(None, 1.3 * highest))
    return figure
