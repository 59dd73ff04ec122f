"""Figures of chapter 09."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from moe_tutorial.plots.base import COLORS, tick_label
from moe_tutorial.plots.described import Figure


def sampling_figure(
    symbols: Sequence[str], rows: Mapping[str, tuple[Tensor, Tensor]], highest: float | None = None
) -> Figure:
    """One row of bars per setting: what it keeps in color, what it drops gray and hatched.

    rows: name of the setting -> (before, after), the probabilities (V,) before anything is dropped
    and those to draw from. A dropped bar has its old height; a black line marks the old height of a
    kept one. All rows share their y axis, which ends at `highest` (default: above the highest bar).
    Of rows longer than the symbols the rest is counted, not drawn.
    """
    figure = Figure(figsize=(8, max(3, 0.6 + 1.15 * len(rows))), layout="constrained")
    panels = figure.subplots(len(rows), sharex=True, sharey=True, squeeze=False)[:, 0]
    if highest is None:
        highest = 1.05 * max(probs.max().item() for pair in rows.values() for probs in pair)
    for axes, (name, (before, after)) in zip(panels, rows.items(), strict=True):
        kept = [i for i in range(len(symbols)) if after[i] > 0]
        dropped = [i for i in range(len(symbols)) if after[i] == 0]
        axes.bar(kept, after[kept].tolist(), color=COLORS[0], label="kept")
        axes.bar(dropped, before[dropped].tolist(), color="#DDDDDD", edgecolor="#777777",
                 hatch="///", label="dropped")  # fmt: skip
        if dropped:
            left, right = [i - 0.4 for i in kept], [i + 0.4 for i in kept]
            axes.hlines(before[kept].tolist(), left, right, color="black", linewidth=1.5)
        count = f"{name}: {after.count_nonzero()} of {len(after)} kept"
        axes.text(0.99, 0.92, count, ha="right", va="top", transform=axes.transAxes)
        axes.set_ylim(0, highest)
    panels[-1].set_xticks(range(len(symbols)), [tick_label(symbol) for symbol in symbols])
    panels[-1].set_xlabel("next character")
    figure.supylabel("probability", fontsize="medium")
    return figure
