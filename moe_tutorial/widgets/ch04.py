"""The slider of chapter 04."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.widgets.base import png


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
