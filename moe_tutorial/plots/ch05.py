"""Figures of chapter 05."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, curves, one_panel, side_by_side


def size_figure(sizes: Mapping[str, Sequence[float]]) -> Figure:
    """Typical size of the activations after every layer, on a logarithmic axis."""
    figure, axes = one_panel("layers passed", "root mean square of the activations", yscale="log")
    curves(axes, sizes, markers=True)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.legend()
    return figure


def norm_figure(vectors: Mapping[str, Tensor]) -> Figure:
    """The numbers of a few vectors as bars, one panel per vector, its mean as a dashed line."""
    figure, panels = side_by_side(vectors, "place in the vector", "value", 3.2)
    for i, (axes, vector) in enumerate(zip(panels, vectors.values(), strict=True)):
        axes.bar(range(len(vector)), vector.tolist(), color=COLORS[i])
        axes.axhline(0, color="black", linewidth=0.8)
        mean = round(vector.mean().item(), 2) + 0.0  # no -0.00
        axes.axhline(mean, color="black", linestyle="--", label=f"mean {mean:.2f}")
        axes.legend(loc="upper left", fontsize="small")
    panels[0].set_ylim(None, 1.3 * max(vector.max().item() for vector in vectors.values()))
    return figure
