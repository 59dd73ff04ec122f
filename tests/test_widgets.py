"""Sliders redraw the figure that the chapter shows."""

import torch

from moe_tutorial import widgets
from moe_tutorial.moe import Routing


def test_offset_slider_redraws_for_the_chosen_position():
    asked = []

    def panels_at(*places):
        asked.append(places)
        return {"rotated": {f"key at {place}": torch.tensor([1.0, place]) for place in places}}

    box = widgets.offset_slider([0, 1], panels_at, last_position=9)
    slider, picture = box.children
    assert (slider.min, slider.max, slider.style.description_width) == (0, 9, "initial")
    before = bytes(picture.value)
    slider.value = 7
    assert asked == [(0, 0), (0, 7)]
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert bytes(picture.value) != before


def test_routing_slider_shows_the_chosen_character_and_its_experts():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    routing = Routing(torch.ones(2, 2), probs.topk(2).indices, probs)
    slider, context, picture = widgets.routing_slider("a<", routing).children
    assert (slider.min, slider.max, slider.style.description_width) == (0, 1, "initial")
    assert context.value == "<code><mark><b>a</b></mark>&lt;</code>"
    before = bytes(picture.value)
    slider.value = 1
    assert context.value == "<code>a<mark><b>&lt;</b></mark></code>"
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert bytes(picture.value) != before
