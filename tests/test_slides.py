"""Decks are the notebooks, divided into steps: nothing is lost, and what is too long is hidden."""

import re
import runpy
import sys

import nbformat
import pytest
from chapters import NOTEBOOKS, PRESENT
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(ROOT / "tools"))
import slides

each = pytest.mark.parametrize("chapter", PRESENT)
HIDDEN = ("skip", "notes")


@pytest.fixture(scope="module")
def decks():
    return {
        chapter: slides.deck(nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4))
        for chapter in PRESENT
    }


def kind(cell):
    return cell.metadata.slideshow.slide_type


def visible(deck):
    return [cell for cell in deck.cells if kind(cell) not in HIDDEN]


def text_of(notebook, cell_type):
    return "\n".join(c.source for c in notebook.cells if c.cell_type == cell_type).split()


@each
def test_nothing_is_lost_added_or_reordered(decks, chapter):
    original = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4)
    for cell_type in ("markdown", "code"):
        assert text_of(decks[chapter], cell_type) == text_of(original, cell_type)
    nbformat.validate(decks[chapter])
    assert len({cell.id for cell in decks[chapter].cells}) == len(decks[chapter].cells)


@each
def test_it_begins_with_the_title_and_hides_exercises_and_sources(decks, chapter):
    shown = visible(decks[chapter])
    assert shown[0].source.startswith(f"# {chapter[:2]} ")
    assert kind(shown[0]) == "slide"
    for cell in shown:
        assert not set(cell.metadata.get("tags", [])) & {"exercise", "check", "solution"}
        assert not re.search(r"### Exercise|show_source|^%matplotlib", cell.source)


@each
def test_a_prediction_stands_alone_until_the_next_step_shows_code(decks, chapter):
    shown = visible(decks[chapter])
    predictions = [i for i, cell in enumerate(shown) if cell.source.startswith("Before you run")]
    assert len(predictions) >= 3
    for i in predictions:
        assert kind(shown[i]) == "slide"
        assert (shown[i + 1].cell_type, kind(shown[i + 1])) == ("code", "fragment")
    assert not any(re.search(r".\nBefore you run", cell.source) for cell in shown)


@each
def test_a_slide_has_one_cell_of_code_and_little_prose(decks, chapter):
    code_cells, prose = 0, 0
    for cell in visible(decks[chapter]):
        begins = kind(cell) == "slide"
        code_cells = (0 if begins else code_cells) + (cell.cell_type == "code")
        prose = (0 if begins else prose) + slides.words(cell.source) * (cell.cell_type != "code")
        assert code_cells <= 1, cell.source
        question = cell.source.startswith(("**", "Before"))  # folded answers, or a question
        assert prose <= 3 * slides.LONG or question, cell.source


@each
def test_figures_are_steps(decks, chapter):
    for cell in decks[chapter].cells:
        pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        if pictures and not set(cell.metadata.get("tags", [])) & slides.HIDDEN_TAGS:
            assert kind(cell) in ("fragment", "slide")


def test_rules_on_a_small_notebook():
    long = "A first sentence.\n" + "word " * 60
    cells = [
        new_markdown_cell(f"# 01 T\n\n## Objectives\n\n- a\n\n## Before you start\n\n{long}"),
        new_code_cell("import torch"),
        new_markdown_cell(f"## Build it\n\n{long}"),
        new_code_cell("1"),
        new_markdown_cell("So it is.\nBefore you run this: what?"),
        new_code_cell("2"),
        new_code_cell("3"),
        new_code_cell("4", metadata={"tags": ["slide-skip"]}),
        new_markdown_cell("word " * 46),
        new_markdown_cell("$$x$$\n\n" + "- word\n" * 46),
        new_markdown_cell("## Questions\n\n**1.** Who?\n\n- (a) I\n\n**2.** Why?"),
        new_markdown_cell("## Exercises\n\nDo.\n\n### Exercise 1.1 X\n\nBefore you run"),
    ]
    notebook = new_notebook(cells=cells)
    before = nbformat.writes(notebook)
    found = [(kind(c), c.source.split("\n")[0][:16]) for c in slides.deck(notebook).cells]
    assert found == [
        ("slide", "# 01 T"), ("slide", "## Objectives"),
        ("skip", "## Before you st"), ("skip", " ".join(["word"] * 4)[:16]),
        ("skip", "import torch"),
        ("slide", "## Build it"), ("notes", " ".join(["word"] * 4)[:16]), ("fragment", "1"),
        ("fragment", "So it is."), ("slide", "Before you run t"), ("fragment", "2"),
        ("slide", "3"), ("skip", "4"),
        ("notes", " ".join(["word"] * 4)[:16]), ("fragment", "$$x$$"),
        ("slide", "## Questions"), ("slide", "**1.** Who?"), ("slide", "**2.** Why?"),
        ("skip", "## Exercises"), ("skip", "### Exercise 1.1"), ("skip", "Before you run"),
    ]  # fmt: skip
    assert nbformat.writes(notebook) == before


def test_decks_are_written_under_the_names_of_their_chapters(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slides.py", "04", "--to", str(tmp_path / "decks")])
    runpy.run_path(str(ROOT / "tools" / "slides.py"), run_name="__main__")
    assert [path.name for path in (tmp_path / "decks").iterdir()] == ["04_rope.ipynb"]
    assert capsys.readouterr().out.startswith("1 decks in ")
