"""Figures of chapter 10."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, one_panel, side_by_side


def layouts_figure(layouts: Mapping[str, Mapping[str, Tensor]], highest_gate: int) -> Figure:
    """The same numbers in several layouts: one panel per layout, one grid of boxes per matrix.

    layouts: title -> name of a matrix -> its numbers, integers of shape (rows, columns). Boxes up
    to `highest_gate` belong to w_gate and are white; the others, of w_up, are gray and hatched.
    """
    widths = [max(w.shape[1] for w in tensors.values()) for tensors in layouts.values()]
    figure, panels = side_by_side(layouts, sharey=False, width_ratios=widths)
    for axes, tensors in zip(panels, layouts.values(), strict=True):
        top = 0.0
        for name, tensor in tensors.items():
            axes.text(-0.5, top + 0.2, name, va="bottom", fontsize=9)
            for r, row in enumerate(tensor.tolist()):
                for c, number in enumerate(row):
                    gate = number <= highest_gate
                    face, hatch = ("white", None) if gate else ("#DDDDDD", "///")
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                    y = top - r - 0.45
                    axes.bar(c, 0.9, 0.9, y - 0.45, color=face, edgecolor="black", hatch=hatch)
                    axes.text(c, y, str(number), ha="center", va="center", fontsize=9, bbox=box)
            top -= len(tensor) + 1
        axes.set(ylim=(-7.2, 1), xlim=(-0.6, tensor.shape[1] - 0.4), aspect="equal")
        axes.set_axis_off()
    return figure


def mistakes_figure(differences: Mapping[str, float], tolerance: float) -> Figure:
    """Largest difference of the logits for right and wrong translations, on a logarithmic axis.

    differences: name -> the largest difference; a dashed line marks the tolerance, and what is not
    within it is a cross.
    """
    figure, axes = one_panel("largest difference of a logit", "", 0.9 + 0.3 * len(differences))
    for row, value in enumerate(max(v, 1e-8) for v in differences.values()):
        color, marker = (COLORS[1], "X") if value > tolerance else (COLORS[0], "o")
        axes.plot(value, row, marker, color=color, markersize=9)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.axvline(tolerance, color="black", linestyle="--", label=f"tolerance {tolerance:g}")
    axes.set(xscale="log", xlim=(5e-9, 20))
    axes.invert_yaxis()
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return figure
