"""A deck in JupyterLab: its steps, a slider that moves on its slide, and what stays hidden."""

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


NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"


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
        page.evaluate(f"{NOTEBOOK}.activeCellIndex = 0")
        page.evaluate("window.jupyterapp.commands.execute('deck:start')")
        page.wait_for_selector(SHOWN)
        yield page


def shown(page):
    return page.locator(SHOWN).all_inner_texts()


def step(page):
    """One click forward; what is shown then."""
    before = shown(page)
    page.locator(FORWARD).click()
    eventually(lambda: shown(page) != before, seconds=60)
    return shown(page)


def go_to(page, begin):
    """Show the slide of the cell whose source begins so."""
    before = shown(page)
    page.evaluate(
        f"""begin => {{
            const cells = {NOTEBOOK}.widgets;
            {NOTEBOOK}.activeCellIndex = cells.findIndex(
                cell => cell.model.sharedModel.getSource().startsWith(begin));
        }}""",
        begin,
    )
    eventually(lambda: shown(page) != before, seconds=60)


def test_a_step_shows_the_next_slide_and_a_question_stands_before_its_code(rope):
    (first,) = shown(rope)
    assert first.strip().startswith("04 RoPE")
    assert step(rope)[0].strip().startswith("Objectives")
    assert step(rope)[0].strip().startswith("Intuition")  # nothing of "Before you start"
    go_to(rope, "Before you run this: in the other sentence")
    (question,) = shown(rope)
    again, code = step(rope)
    assert again == question
    assert "tiny_attention(man_bit_dog" in code


def test_a_slider_moves_on_its_slide(rope):
    go_to(rope, "from moe_tutorial import widgets")
    box = f"{SHOWN} .jp-OutputArea .widget-vbox"
    slider = Slider(rope, rope.locator(f"{box} [role=slider]"))
    at_start = picture(rope, box)
    assert slider.press("ArrowRight", 3) == 3
    eventually(lambda: picture(rope, box) != at_start, seconds=60)
    settle(rope)


def test_exercises_and_sources_are_passed_over_and_nothing_is_asked_outside(rope):
    go_to(rope, "Equal in all three")
    assert not any("show_source" in text for text in shown(rope))
    assert step(rope)[0].strip().startswith("Summary")
    assert [url for url in rope.outside if "127.0.0.1" not in url] == []
