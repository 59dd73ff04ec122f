"""Sliders redraw the figure that the chapter shows."""

import math
import re

import pytest
import torch
from test_plots import step_records

from moe_tutorial import plots, widgets
from moe_tutorial.analysis import read, rerouted, without
from moe_tutorial.moe import Routing
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.widgets.ch07 import HandRouter
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


def sent_by_hand(experts, ahead):
    chosen = torch.tensor(experts)[:, None]
    logits = ahead * torch.nn.functional.one_hot(chosen[:, 0], 4)
    return Routing(torch.ones(len(experts), 1), chosen, logits.softmax(-1))


@pytest.fixture
def by_hand():
    return HandRouter("The dog sat by the g", sent_by_hand, num_experts=4)


def said(by_hand):
    """MaxVio, balance loss, and whether equal characters meet one expert."""
    violation, loss, loyal = re.findall(r"<b>([^<]+)</b>", by_hand.note.value)
    return float(violation), float(loss), loyal


def test_the_hand_router_says_what_the_library_measures(by_hand):
    p = math.e**2 / (math.e**2 + 3)  # of the chosen expert, two logits ahead
    assert said(by_hand) == (3.0, round(4 * p, 3), "yes")  # all to expert 0
    start = bytes(by_hand.picture.value)
    assert start.startswith(b"\x89PNG")
    by_hand.experts[4:] = [0, 1, 2, 3] * 4  # the first four by clicks
    for token, button in enumerate(by_hand.tokens[:4]):
        for _ in range(token):
            button.click()
    assert by_hand.experts == [0, 1, 2, 3] * 5
    assert said(by_hand) == (0.0, 1.0, "no")
    assert by_hand.meter.value == 0
    assert bytes(by_hand.picture.value) != start
    assert (by_hand.tokens[1].description, by_hand.tokens[3].description) == ("h 1", "\u2423 3")
    assert "load 25%, 25%, 25%, 25%; idle experts 0" in by_hand.note.value
    for _ in range(3):
        by_hand.tokens[1].click()
    assert by_hand.experts[1] == 0  # after the last expert comes the first
    by_hand.again.click()
    assert (by_hand.experts, bytes(by_hand.picture.value)) == ([0] * 20, start)


def test_the_hand_router_can_be_won_and_can_fool_the_number(by_hand):
    by_hand.ahead.value = 0.0
    assert said(by_hand) == (3.0, 1.0, "yes")  # P is even: 1, whatever the load
    by_hand.ahead.value = 8.0
    groups = (
        {" ": 0} | dict.fromkeys("heT", 1) | dict.fromkeys("gtd", 2) | dict.fromkeys("osaby", 3)
    )
    assert set(groups) == set(by_hand.text)
    by_hand.experts[:-1] = [groups[char] for char in by_hand.text[:-1]]
    for _ in range(groups[by_hand.text[-1]]):
        by_hand.tokens[-1].click()
    assert said(by_hand) == (0.0, 1.0, "yes")  # the five spaces have an expert of their own
