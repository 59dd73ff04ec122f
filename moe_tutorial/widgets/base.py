"""What all widgets share."""

from collections.abc import Callable

import ipywidgets as widgets


def control(
    kind: type, name: str, value: object, width: str | None = None, **options: object
) -> widgets.Widget:
    """A slider, field or bar with its whole name beside it, no wider than the page."""
    style, layout = {"description_width": "initial"}, {"width": width}
    if width:
        layout["max_width"] = "calc(100% - 4px)"  # of the page; the rest are its margins
    return kind(value=value, description=name, style=style, layout=layout, **options)


def page(
    draw: Callable[..., bytes], *sliders: widgets.Widget, above: tuple[widgets.Widget, ...] = ()
) -> widgets.VBox:
    """Sliders above the PNG that `draw` makes of their values, anew when one is let go.

    above: what stands between them, for `draw` to fill.
    """
    picture = widgets.Image(format="png", layout={"max_width": "100%"})  # of the page

    def redraw(change: object = None) -> None:
        picture.value = draw(*(slider.value for slider in sliders))

    for slider in sliders:
        slider.continuous_update = False
        slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([*sliders, *above, picture])
