"""The slider of chapter 11."""

import ipywidgets as widgets

from moe_tutorial import plots
from moe_tutorial.balance import drift
from moe_tutorial.widgets.base import control, page

RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def drift_slider(steps: int = 200) -> widgets.VBox:
    """`plots.drift_figure` of the sign update with the rate that you choose, beside the others."""
    fixed = {"no bias": drift(None, steps=steps), "quantile": drift("quantile", steps=steps)}

    def draw(rate: float) -> bytes:
        moved = drift("bias", rate=rate, steps=steps)
        return plots.png(plots.drift_figure({**fixed, f"sign, rate {rate:g}": moved}))

    name = "rate of the sign update"
    return page(draw, control(widgets.SelectionSlider, name, 0.01, "420px", options=RATES))
