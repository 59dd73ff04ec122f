"""The slider of chapter 04."""

from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.widgets.base import control, page


def offset_slider(
    offsets: Sequence[int],
    panels_at: Callable[..., Mapping[str, Mapping[str, Tensor]]],
    last_position: int,
) -> widgets.VBox:
    """`plots.offset_figure` for the key at position 0 and at a position that you choose.

    panels_at: positions of the key -> the panels of the figure.
    """
    slider = control(widgets.IntSlider, "position of the key", 0, max=last_position)
    return page(lambda at: plots.png(plots.offset_figure(offsets, panels_at(0, at))), slider)
