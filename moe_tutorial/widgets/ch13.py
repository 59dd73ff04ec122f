"""The sliders of chapter 13."""

from collections.abc import Sequence

import ipywidgets as widgets

from moe_tutorial import plots
from moe_tutorial.cost import experts_touched
from moe_tutorial.widgets.base import control, page


def touched_slider(batches: Sequence[int]) -> widgets.VBox:
    """`plots.touched_figure` of the number of experts and the choices per token that you set."""
    number, width = widgets.IntSlider, "420px"
    sliders = (
        control(number, "experts", 32, width, min=2, max=128),
        control(number, "experts per token (at most all)", 2, width, min=1, max=16),
    )

    def draw(num_experts: int, top_k: int) -> bytes:
        top_k = min(num_experts, top_k)
        values = [experts_touched(num_experts, top_k, batch) for batch in batches]
        name = f"{top_k} of {num_experts}"
        return plots.png(plots.touched_figure(batches, {name: values}, {}))

    return page(draw, *sliders)
