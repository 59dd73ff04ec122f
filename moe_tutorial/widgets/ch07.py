"""The slider of chapter 07."""

import html

import ipywidgets as widgets

from moe_tutorial import plots
from moe_tutorial.moe import Routing
from moe_tutorial.widgets.base import control, page


def routing_slider(text: str, routing: Routing) -> widgets.VBox:
    """`plots.routing_figure` for the character of the text that you choose."""
    name, last = "character of the passage", len(text) - 1
    slider = control(widgets.IntSlider, name, 0, "500px", max=last)
    context = widgets.HTML()

    def draw(position: int) -> bytes:
        before, after = text[max(0, position - 30) : position], text[position + 1 :][:30]
        char = f"<mark><b>{html.escape(plots.visible(text[position]))}</b></mark>"
        context.value = f"<code>{html.escape(before)}{char}{html.escape(after)}</code>"
        probs, chosen = routing.probs[position], routing.experts[position].tolist()
        title = f"{plots.tick_label(text[position])} goes to {', '.join(map(str, chosen))}"
        return plots.png(plots.routing_figure(probs, chosen, title))

    return page(draw, slider, above=(context,))
