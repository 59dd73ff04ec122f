"""What a figure says to those who cannot see it."""

import base64

from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure as Plain

from moe_tutorial.plots.base import one_panel, side_by_side
from moe_tutorial.plots.described import Figure, description


def test_curves_are_described_by_title_axes_and_legend():
    figure, axes = one_panel("step", "loss", title="Training")
    axes.plot([1, 2], label="mixture")
    axes.plot([2, 1], label="dense")
    axes.plot([0, 0])  # no name, no word
    assert description(figure) == "Curves “Training”: loss against step: mixture, dense."


def test_panels_are_described_from_left_to_right():
    figure, (left, right) = side_by_side(["before", "after"], "expert", "share")
    left.bar([0, 1], [1, 2])
    right.bar([0, 1], [2, 1], label="load")
    assert description(figure) == "Bars “before”: share against expert. Bars “after”: expert: load."


def test_a_heat_map_says_what_its_color_is():
    figure, axes = one_panel("key", "query")
    figure.colorbar(axes.imshow([[0, 1]]), ax=axes, label="weight")
    assert description(figure) == "Heat map: query against key. The color is the weight."


def test_a_drawing_says_its_words_once():
    figure, axes = one_panel()
    for word in ("norm", "attention", "norm"):
        axes.text(0, 0, word)
    axes.plot([0, 1])  # a line of the drawing, no curve
    assert description(figure) == "Drawing: with the words norm, attention."


def test_jupyter_gets_picture_and_text_and_the_same_picture_as_of_any_figure():
    figures = [kind(figsize=(2, 1)) for kind in (Figure, Plain)]
    for figure in figures:
        figure.subplots(subplot_kw={"xlabel": "a", "ylabel": "b"}).plot([1, 2])
    data, metadata = figures[0]._repr_mimebundle_(include=None, exclude=None)
    assert base64.b64decode(data["image/png"]) == print_figure(figures[1], fmt="png")
    assert metadata == {"image/png": {"alt": "Curves: b against a."}}
