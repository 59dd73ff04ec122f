"""Sliders redraw the figure that the chapter shows."""

import torch
from test_plots import step_records

from moe_tutorial import plots, widgets


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


def test_sampling_slider_redraws_what_the_settings_leave(monkeypatch):
    drawn = {}

    real = plots.sampling_figure

    def figure(symbols, rows, highest):
        drawn["after"] = next(iter(rows.values()))[1]
        return real(symbols, rows, highest)

    monkeypatch.setattr(plots, "sampling_figure", figure)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    box = widgets.sampling_slider(logits, list("abcd"))
    temperature, top_k, top_p, picture = box.children
    assert {slider.style.description_width for slider in box.children[:3]} == {"initial"}
    assert (top_k.min, top_k.max, drawn["after"].count_nonzero()) == (1, 4, 4)
    before = bytes(picture.value)
    top_k.value = 3
    assert drawn["after"].count_nonzero() == 3
    top_p.value = 0.5
    assert drawn["after"].tolist() == [1, 0, 0, 0]
    top_k.value, top_p.value, temperature.value = 4, 1, 0
    assert drawn["after"].tolist() == [1, 0, 0, 0]
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert bytes(picture.value) != before


def test_live_curve_passes_every_record_on_and_redraws_now_and_then(monkeypatch):
    shown = []
    monkeypatch.setattr("moe_tutorial.widgets.ch08.display", shown.append)
    steps = iter(step_records([4.0, 3.0, 2.0, 1.5, 1.0], measured={4: 2.5}))
    live = widgets.live_curve(steps, 5, {"5 characters": 1.245}, every=2)
    first = next(live)
    bar, caption, picture = shown[0].children
    empty = bytes(picture.value)
    assert empty.startswith(b"\x89PNG")
    assert (first.step, bar.value, bar.max, caption.value) == (1, 0, 5, "")
    assert next(live).step == 2
    drawn = bytes(picture.value)
    assert drawn != empty
    assert (bar.value, caption.value) == (2, "step 2 of 5, loss of this batch 3.00")
    assert [record.step for record in live] == [3, 4, 5]
    assert bar.value == 5
    assert bytes(picture.value) != drawn
