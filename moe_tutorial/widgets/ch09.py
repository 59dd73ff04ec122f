"""The sliders of chapter 09."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.sampling import next_token_probs
from moe_tutorial.widgets.base import png


def sampling_slider(logits: Tensor, symbols: Sequence[str]) -> widgets.VBox:
    """`plots.sampling_figure` of one distribution under the three settings that you choose.

    Shapes: logits (V,), one for each of the symbols.
    """
    style, layout = {"description_width": "initial"}, {"width": "420px"}
    most = len(symbols)
    temperature = widgets.FloatSlider(
        value=1, min=0, max=3, step=0.1, description="temperature (0: greedy)",
        style=style, layout=layout, continuous_update=False,
    )  # fmt: skip
    top_k = widgets.IntSlider(
        value=most, min=1, max=most, description=f"top-k ({most}: all)",
        style=style, layout=layout, continuous_update=False,
    )  # fmt: skip
    top_p = widgets.FloatSlider(
        value=1, min=0.05, max=1, step=0.05, description="top-p (1: all)",
        style=style, layout=layout, continuous_update=False,
    )  # fmt: skip
    picture = widgets.Image(format="png")

    def draw() -> None:
        before = next_token_probs(logits, temperature.value)
        after = next_token_probs(logits, temperature.value, top_k.value, top_p.value)
        name = f"temperature {temperature.value:g}, top-k {top_k.value}, top-p {top_p.value:g}"
        picture.value = png(plots.sampling_figure(symbols, {name: (before, after)}, highest=1))

    for slider in (temperature, top_k, top_p):
        slider.observe(lambda change: draw(), names="value")
    draw()
    return widgets.VBox([temperature, top_k, top_p, picture])
