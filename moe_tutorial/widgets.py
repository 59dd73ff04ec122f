"""Sliders, each a function that shows one of the figures of plots.py under values you choose."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
from matplotlib.figure import Figure
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.moe import Routing


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


# --- Chapter 04 ---


def offset_slider(
    offsets: Sequence[int],
    panels_at: Callable[..., Mapping[str, Mapping[str, Tensor]]],
    last_position: int,
) -> widgets.VBox:
    """`plots.offset_figure` for the key at position 0 and at a position that you choose.

    panels_at: positions of the key -> the panels of the figure.
    """
    slider = widgets.IntSlider(
        value=0, min=0, max=last_position, description="position of the key",
        style={"description_width": "initial"}, continuous_update=False,
    )  # fmt: skip
    picture = widgets.Image(format="png")

    def draw(position: int) -> None:
        picture.value = png(plots.offset_figure(offsets, panels_at(0, position)))

    slider.observe(lambda change: draw(change["new"]), names="value")
    draw(slider.value)
    return widgets.VBox([slider, picture])


# --- Chapter 07 ---


def routing_slider(text: str, routing: Routing) -> widgets.VBox:
    """`plots.routing_figure` for the character of the text that you choose."""
    slider = widgets.IntSlider(
        value=0, min=0, max=len(text) - 1, description="character of the passage",
        style={"description_width": "initial"}, layout={"width": "500px"}, continuous_update=False,
    )  # fmt: skip
    context, picture = widgets.HTML(), widgets.Image(format="png")

    def draw(position: int) -> None:
        before, after = text[max(0, position - 30) : position], text[position + 1 :][:30]
        char = f"<mark><b>{html.escape(plots.visible(text[position]))}</b></mark>"
        context.value = f"<code>{html.escape(before)}{char}{html.escape(after)}</code>"
        probs, chosen = routing.probs[position], routing.experts[position].tolist()
        title = f"{plots.visible(text[position])} goes to {', '.join(map(str, chosen))}"
        picture.value = png(plots.routing_figure(probs, chosen, title))

    slider.observe(lambda change: draw(change["new"]), names="value")
    draw(slider.value)
    return widgets.VBox([slider, context, picture])
