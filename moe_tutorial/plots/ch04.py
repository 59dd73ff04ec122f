"""Figures of chapter 04."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES, curves, one_panel, side_by_side


def rotation_figure(pairs: Tensor, angles: Tensor) -> Figure:
    """One pair of numbers at positions 0, 1, 2, ...: as arrows, and each number by itself.

    pairs: (T, 2), the pair after its rotation at every position; angles: (T,), in radians.
    """
    titles = ("the pair as an arrow, at each position", "the same two numbers")
    figure, (plane, axes) = side_by_side(titles, height=3.5, sharey=False, width_ratios=(4, 5))
    reach = 1.25 * pairs.norm(dim=-1).max().item()
    for position, (x, y) in enumerate(pairs.tolist()):
        gray = f"{0.75 * position / len(pairs):.2f}"
        arrow = {"arrowstyle": "->", "color": gray, "linewidth": 2}
        plane.annotate("", (x, y), (0, 0), arrowprops=arrow)
        plane.text(1.13 * x, 1.13 * y, str(position), ha="center", va="center")
    plane.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    plane.set(xlabel="first number", ylabel="second number")
    curves(axes, {"first number": pairs[:, 0], "second number": pairs[:, 1]}, markers=True)
    axes.set_xticks(range(len(pairs)), [f"{p}\n{a:.1f}" for p, a in enumerate(angles.tolist())])
    axes.set(xlabel="position, and below it the angle in radians", ylabel="value")
    axes.legend()
    return figure


def frequency_figure(cos: Tensor) -> Figure:
    """Cosine of every pair's angle at every position, as a heat map. Shapes: cos (T, Dh / 2)."""
    figure, axes = one_panel("position", "pair (0 is the fastest)")
    image = axes.imshow(cos.T.numpy(), cmap="cividis", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="cos(position x frequency)")
    return figure


def offset_figure(offsets: Sequence[int], panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Score q.k against the offset between query and key, for several positions of the key.

    panels: title of a panel -> name of a curve -> one score per offset.
    """
    label = "offset: query position - key position"
    figure, row = side_by_side(panels, label, "score q.k", 3.3, dpi=85)
    for axes, scores in zip(row, panels.values(), strict=True):
        curves(axes, scores, offsets, linewidth=2)
        # Equal curves cover each other: the first is wide and pale, the others lie on it.
        axes.lines[0].set(linewidth=7, alpha=0.35)
    row[0].legend()
    return figure


def layout_figure(layouts: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Which numbers of a vector form a pair, one row of boxes per layout.

    layouts: name -> the positions of the two numbers of pair 0, pair 1, ...
    """
    figure, axes = one_panel("place in the vector")
    for row, pairs in enumerate(layouts.values()):
        base = -1.7 * row
        top = base + 0.5
        for pair, (a, b) in enumerate(pairs):
            color = COLORS[pair % len(COLORS)]
            for box, which in ((a, "first"), (b, "second")):
                axes.bar(box, 0.5, 0.85, base, color=color, alpha=0.35, edgecolor="black")
                axes.text(box, base + 0.25, f"pair {pair}\n{which}", ha="center", va="center",
                          fontsize=9)  # fmt: skip
            between = abs(b - a) - 1
            bridge = top + 0.2 + (0.35 * between / len(pairs) + 0.1 * pair if between > 0 else 0)
            axes.plot((a, a, b, b), (top, bridge, bridge, top), STYLES[pair % 4], color=color,
                      linewidth=2)  # fmt: skip
    size = 2 * max(len(pairs) for pairs in layouts.values())
    axes.set_xticks(range(size), [f"x[{i}]" for i in range(size)])
    axes.set_yticks([0.25 - 1.7 * row for row in range(len(layouts))], list(layouts))
    axes.set_ylim(1.7 * (1 - len(layouts)) - 0.05, None)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
