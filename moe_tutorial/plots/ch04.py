"""Figures of chapter 04."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial.plots.base import COLORS, STYLES


def rotation_figure(pairs: Tensor, angles: Tensor) -> Figure:
    """One pair of numbers at positions 0, 1, 2, ...: as arrows, and each number by itself.

    pairs: (T, 2), the pair after its rotation at every position; angles: (T,), in radians.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    plane, axes = figure.subplots(1, 2, width_ratios=(4, 5))
    reach = 1.25 * pairs.norm(dim=-1).max().item()
    for position, (x, y) in enumerate(pairs.tolist()):
        gray = f"{0.75 * position / len(pairs):.2f}"
        arrow = {"arrowstyle": "->", "color": gray, "linewidth": 2}
        plane.annotate("", (x, y), (0, 0), arrowprops=arrow)
        plane.text(1.13 * x, 1.13 * y, str(position), ha="center", va="center")
    plane.set(
        title="the pair as an arrow, at each position", xlabel="first number",
        ylabel="second number", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal",
    )  # fmt: skip
    for i, (name, marker) in enumerate({"first": "o", "second": "s"}.items()):
        values = pairs[:, i].tolist()
        axes.plot(values, STYLES[i], marker=marker, color=COLORS[i], label=f"{name} number")
    axes.set(title="the same two numbers", xlabel="position", ylabel="value")
    axes.set_xticks(range(len(pairs)), [f"{p}\n{a:.1f}" for p, a in enumerate(angles.tolist())])
    axes.set_xlabel("position, and below it the angle in radians")
    axes.legend()
    return figure


def frequency_figure(cos: Tensor) -> Figure:
    """Cosine of every pair's angle at every position, as a heat map. Shapes: cos (T, Dh / 2)."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cos.T.numpy(), cmap="cividis", vmin=-1, vmax=1, aspect="auto")
    axes.set(xlabel="position", ylabel="pair (0 is the fastest)")
    figure.colorbar(image, ax=axes, label="cos(position x frequency)")
    return figure


def offset_figure(offsets: Sequence[int], panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Score q.k against the offset between query and key, for several positions of the key.

    panels: title of a panel -> name of a curve -> one score per offset.
    """
    figure = Figure(figsize=(8, 3.3), dpi=85, layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        for i, (name, scores) in enumerate(curves.items()):
            # Equal curves cover each other: the first is wide and pale, the others lie on it.
            width, alpha = (7, 0.35) if i == 0 else (2, 1)
            axes.plot(
                offsets, scores.tolist(), STYLES[i % 4], color=COLORS[i], linewidth=width,
                alpha=alpha, label=name,
            )  # fmt: skip
        axes.set(title=title, xlabel="offset: query position - key position")
    row[0].set_ylabel("score q.k")
    row[0].legend()
    return figure


def layout_figure(layouts: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Which numbers of a vector form a pair, one row of boxes per layout.

    layouts: name -> the positions of the two numbers of pair 0, pair 1, ...
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for row, pairs in enumerate(layouts.values()):
        base = -1.7 * row
        for pair, (a, b) in enumerate(pairs):
            color = COLORS[pair % len(COLORS)]
            for i, box in enumerate((a, b)):
                axes.bar(box, 0.5, 0.85, base, color=color, alpha=0.35, edgecolor="black")
                axes.text(box, base + 0.25, f"pair {pair}\n{'first' if i == 0 else 'second'}",
                          ha="center", va="center", fontsize=9)  # fmt: skip
            height = 0.2 + 0.35 * (abs(b - a) - 1) / len(pairs) + 0.1 * pair
            height = height if abs(b - a) > 1 else 0.2
            axes.plot((a, a, b, b), (base + 0.5, base + 0.5 + height, base + 0.5 + height,
                      base + 0.5), STYLES[pair % 4], color=color, linewidth=2)  # fmt: skip
    size = 2 * max(len(pairs) for pairs in layouts.values())
    axes.set_xticks(range(size), [f"x[{i}]" for i in range(size)])
    axes.set_yticks([0.25 - 1.7 * row for row in range(len(layouts))], list(layouts))
    axes.set(xlabel="number of the vector", ylim=(1.7 * (1 - len(layouts)) - 0.05, None))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
