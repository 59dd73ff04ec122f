"""The sliders of chapter 09."""

from collections.abc import Sequence

import ipywidgets as widgets
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.sampling import next_token_probs
from moe_tutorial.widgets.base import control, page


def sampling_slider(logits: Tensor, symbols: Sequence[str]) -> widgets.VBox:
    """`plots.sampling_figure` of one distribution under the three settings that you choose.

    Shapes: logits (V,), one for each of the symbols.
    """
    number, most, width = widgets.FloatSlider, len(symbols), "420px"
    sliders = (
        control(number, "temperature (0: greedy)", 1, width, min=0, max=3, step=0.1),
        control(widgets.IntSlider, f"top-k ({most}: all)", most, width, min=1, max=most),
        control(number, "top-p (1: all)", 1, width, min=0.05, max=1, step=0.05),
    )

    def draw(temperature: float, top_k: int, top_p: float) -> bytes:
        before = next_token_probs(logits, temperature)
        after = next_token_probs(logits, temperature, top_k, top_p)
        name = f"temperature {temperature:g}, top-k {top_k}, top-p {top_p:g}"
        return plots.png(plots.sampling_figure(symbols, {name: (before, after)}, highest=1))

    return page(draw, *sliders)
