"""Sliders redraw the figure that the chapter shows."""

import re

import pytest
import torch
from test_plots import step_records

from moe_tutorial import plots, widgets
from moe_tutorial.analysis import read, rerouted, without
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.widgets.ch12 import NEW, NONE, Surgery


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


def test_training_strip_shows_the_chosen_snapshot_and_layer():
    strip = {"0": ["01", "22"], "100": ["11", "23"]}
    step, layer, page = widgets.training_strip("a<", strip, num_experts=4).children
    assert (step.options, layer.options) == (("0", "100"), (1, 2))
    experts = lambda: re.findall(r"to expert (\d)", page.value)  # noqa: E731
    assert experts() == ["0", "1"]
    assert "&lt;" in page.value
    step.value = "100"
    assert experts() == ["1", "1"]
    layer.value = 2
    assert experts() == ["2", "3"]


@pytest.fixture
def surgery(tiny_model):
    tokenizer = CharTokenizer.fit("abcdefghijklm")
    ids = torch.randint(13, (60,), generator=torch.Generator().manual_seed(0))
    return Surgery(tiny_model.eval(), tokenizer, ids, "abc")


def seen(surgery):
    return surgery.note.value, bytes(surgery.picture.value), surgery.text.value


def test_surgery_shows_what_the_changed_model_does_and_comes_back(surgery):
    as_trained = seen(surgery)
    assert as_trained[1].startswith(b"\x89PNG")
    routers = [block.moe.router for block in surgery.model.blocks]
    surgery.on[1].value = False
    without_one = seen(surgery)
    with rerouted(surgery.model, {0: without(1)}):
        loss = read(surgery.model, surgery.ids).losses.mean().item()
    assert f"<b>{loss:.3f}</b>" in without_one[0]
    assert as_trained[:2] != without_one[:2]
    taken = re.findall(r"layer 1: experts (\d), (\d)", surgery.text.value)
    assert len(taken) == NEW
    assert "1" not in {expert for pair in taken for expert in pair}
    surgery.layer.value = 1  # another layer: nothing is decided for it, and the first is kept
    assert all(box.value for box in surgery.on)
    assert seen(surgery)[:2] == without_one[:2]
    surgery.force.value = 3
    assert surgery.off == [{1}, set()]
    assert surgery.only == [NONE, 3]
    assert set(re.findall(r"layer 2: experts (\d, \d)", surgery.text.value)) == {"3, 3"}
    surgery.layer.value = 0
    assert [box.value for box in surgery.on] == [True, False, True, True, True]
    assert surgery.force.value == NONE
    surgery.as_trained()
    assert seen(surgery) == as_trained
    assert [block.moe.router for block in surgery.model.blocks] == routers


def test_surgery_says_when_too_few_experts_are_left(surgery):
    for e in range(4):
        surgery.on[e].value = False
    assert "1 of 5 experts are left; a token needs 2" in surgery.note.value
    surgery.on[0].value = True
    assert "held-out loss" in surgery.note.value
