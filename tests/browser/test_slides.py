"""A deck in JupyterLab: step by step to its last slide, with a slider that moves on the way."""

import sys

import pytest
from conftest import ROOT
from test_sliders import Slider, eventually, picture, settle

pytest.importorskip("jupyterlab_slideshow")
sys.path.insert(0, str(ROOT / "tools"))
import slides
from lab import find_chromium, jupyter_lab

SHOWN = ".jp-Notebook .jp-Cell.jp-deck-mod-visible"
FORWARD = ".jp-deck-mod-direction-forward"


@pytest.fixture(scope="module")
def rope(tmp_path_factory):
    """The deck of chapter 04, at its first slide; it notes what leaves the machine."""
    if find_chromium() is None:
        pytest.skip("no Chromium: `make test-browser` installs one where it may")
    folder = tmp_path_factory.mktemp("decks")
    slides.write_decks(slides.chapters(["04"]), folder)
    with jupyter_lab(folder, tmp_path_factory.mktemp("jupyter")) as lab:
        page = lab.open("04_rope.ipynb")
        page.outside = []
        page.on("request", lambda request: page.outside.append(request.url))
        notebook = "window.jupyterapp.shell.currentWidget.content"
        page.evaluate(f"{notebook}.activeCellIndex = 0")
        page.evaluate("window.jupyterapp.commands.execute('deck:start')")
        page.wait_for_selector(SHOWN)
        yield page


def shown(page):
    return page.locator(SHOWN).all_inner_texts()


def step(page):
    """One click forward; whether another slide or fragment is shown then."""
    before = shown(page)
    if page.locator(f"{FORWARD}.jp-mod-disabled").count():
        return False
    page.locator(FORWARD).click()
    eventually(lambda: shown(page) != before)
    return True


def test_the_next_steps_are_shown_the_slider_moves_and_nothing_hidden_appears(rope):
    first = shown(rope)
    assert len(first) == 1
    assert first[0].strip().startswith("04 RoPE")
    assert step(rope)
    assert shown(rope)[0].startswith("Objectives")
    seen, sliders = [first, shown(rope)], 0
    while len(seen) < 300 and step(rope):
        seen.append(shown(rope))
        box = f"{SHOWN} .jp-OutputArea .widget-vbox"
        if not sliders and rope.locator(f"{box} [role=slider]").count():
            slider = Slider(rope, rope.locator(f"{box} [role=slider]"))
            at_start = picture(rope, box)
            assert slider.press("ArrowRight", 3) == 3
            eventually(lambda box=box, at_start=at_start: picture(rope, box) != at_start)
            settle(rope)
            sliders += 1
    assert sliders == 1
    asked = next(i for i, texts in enumerate(seen) if texts[0].startswith("Before you run"))
    assert len(seen[asked]) == 1
    assert seen[asked + 1][0] == seen[asked][0]
    assert "tiny_attention(man_bit_dog" in seen[asked + 1][1]
    words = "\n".join(text for texts in seen for text in texts)
    assert "Summary" in words
    assert "Exercise 4." not in words
    assert "SOLUTION" not in words
    assert [url for url in rope.outside if "127.0.0.1" not in url] == []
