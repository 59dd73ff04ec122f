"""The slider of chapter 07."""

from __future__ import annotations

import html

import ipywidgets as widgets

from moe_tutorial import plots
from moe_tutorial.moe import Routing
from moe_tutorial.widgets.base import png


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
