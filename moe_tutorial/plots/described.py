"""Figures that say in words what they show: the alternative text of their pictures."""

import matplotlib.figure
from matplotlib.axes import Axes
from matplotlib.container import BarContainer


class Figure(matplotlib.figure.Figure):
    """A figure that Jupyter shows as a PNG with alternative text."""

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
        from IPython.core.pylabtools import print_figure

        picture = print_figure(self, fmt="png", base64=True)
        return {"image/png": picture}, {"image/png": {"alt": description(self)}}


def description(figure: matplotlib.figure.Figure) -> str:
    """Titles, axes and legends, panel by panel."""
    colors = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    panels = [_panel(axes) for axes in figure.axes if axes not in colors]
    labels = [axes.get_ylabel() or axes.get_xlabel() for axes in colors]
    return " ".join(panels + [f"The color is the {label}." for label in labels if label])


def _panel(axes: Axes) -> str:
    title, x, y = (
        text.replace("\n", " ") for text in (axes.get_title(), axes.get_xlabel(), axes.get_ylabel())
    )
    shown = " against ".join(filter(None, (y, x)))
    named = [text for text in axes.get_legend_handles_labels()[1] if not text.startswith("_")]
    bars = any(isinstance(container, BarContainer) for container in axes.containers)
    kind = "Heat map" if axes.images else "Bars" if bars else "Curves" if axes.lines else "Drawing"
    words = []
    if kind == "Drawing" or not (title or shown or named):
        kind = "Drawing"
        words = [
            text.get_text().replace("\n", " ") for text in axes.texts if text.get_text().strip()
        ]
    parts = [f"{kind} \u201c{title}\u201d" if title else kind, shown, ", ".join(named)]
    if words:
        parts.append("with the words " + ", ".join(dict.fromkeys(words)))
    return ": ".join(filter(None, parts)) + "."
