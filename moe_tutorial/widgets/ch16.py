"""The sliders of chapter 16."""

from collections.abc import Callable, Sequence

import ipywidgets as widgets

from moe_tutorial import plots
from moe_tutorial.widgets.base import control, page


def gain_slider(
    batches: Sequence[int], gain: Callable[[int, int, int, float, int], float]
) -> widgets.VBox:
    """`plots.gain_figure` of the mixture, the acceptance and the draft length that you set.

    gain: of num_experts, top_k, batch, acceptance and draft_length. 1 of 1 is a dense model.
    """
    number, share, width = widgets.IntSlider, widgets.FloatSlider, "420px"
    sliders = (
        control(number, "experts", 256, width, min=1, max=512),
        control(number, "experts per token (at most all)", 8, width, min=1, max=16),
        control(share, "share of accepted guesses", 0.8, width, min=0, max=0.99, step=0.01),
        control(number, "guesses per pass", 3, width, min=1, max=12),
    )

    def draw(num_experts: int, top_k: int, accepted: float, length: int) -> bytes:
        top_k = min(num_experts, top_k)
        shapes = {f"{top_k} of {num_experts}": (num_experts, top_k), "dense": (1, 1)}
        named = {
            name: [gain(*shape, batch, accepted, length) for batch in batches]
            for name, shape in shapes.items()
        }
        return plots.png(plots.gain_figure(batches, named, highest=length + 1.5))

    return page(draw, *sliders)
