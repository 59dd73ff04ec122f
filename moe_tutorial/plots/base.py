"""What all figures share."""

import functools
import io
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from torch import Tensor

from moe_tutorial.plots.described import Figure

# Okabe & Ito 2008: told apart by readers with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
EXPERT_COLORS = (*COLORS, "#F0E442", "#999999")  # gray instead of black: for eight experts
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")


def visible(char: str) -> str:
    """One drawable symbol for a character: a bracket below for a space, an arrow for a newline."""
    return {" ": "\u2423", "\n": "\u21b5"}.get(char, char)


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())


def tick_label(char: str) -> str:
    """`visible`, or the code point of a character that the font of the figures lacks."""
    shown = visible(char)
    return shown if ord(shown) in _glyphs() else f"U+{ord(char):04X}"


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def one_panel(
    xlabel: str = "", ylabel: str = "", height: float = 3.5, width: float = 8, **options: object
) -> tuple[Figure, Axes]:
    """A figure with one panel; sizes in inches, options as of `Axes.set`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(subplot_kw={"xlabel": xlabel, "ylabel": ylabel, **options})


def side_by_side(
    titles: Collection[str], xlabel: str = "", ylabel: str = "", height: float = 3,
    width: float = 8, *, dpi: float | None = None, sharey: bool = True, **options: object,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with a panel per title, from left to right; ylabel is only beside the first."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=sharey, squeeze=False, **options)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlabel=xlabel)
    panels[0].set_ylabel(ylabel)
    return figure, list(panels)


def curves(
    axes: Axes, named: Mapping[str, Sequence[float] | Tensor], x: Sequence[float] | None = None, *,
    first: int = 0, markers: bool = False, **line: object,
) -> None:  # fmt: skip
    """One line per name, told apart by color, style and perhaps marker.

    x: the same for all lines; without it, each counts from `first`.
    """
    for i, (name, values) in enumerate(named.items()):
        y = values.tolist() if isinstance(values, Tensor) else values
        marker, color = MARKERS[i % 4] if markers else "", COLORS[i % len(COLORS)]
        at = range(first, first + len(y)) if x is None else x
        axes.plot(at, y, STYLES[i % 4], color=color, marker=marker, label=name, **line)
