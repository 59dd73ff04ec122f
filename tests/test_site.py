"""What `make site` gathers before Sphinx sees it: nothing is left out, nothing is typed twice."""

import argparse
import importlib
import json
import re
import sys
import tomllib
from types import ModuleType

import pytest
from chapters import NOTEBOOKS, PRESENT
from conftest import ROOT

from moe_tutorial.config import Config

sys.path.insert(0, str(ROOT / "site"))
import docstrings
import gather
import generate
import sliders
import vendor

GLOSSARY = tomllib.loads((ROOT / "site" / "glossary.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The cells of every chapter as the site has them; the browser tests read the figures."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        names = dict.fromkeys(sliders.SLIDERS, lambda path: {"of": f"</{path.stem}>"})
        patch.setattr(gather, "SLIDERS", names)
        gather.copy_notebooks(folder)
    paths = sorted((folder / "notebooks").glob("*.ipynb"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in paths}


def test_every_chapter_is_copied_with_every_cell(copies):
    assert list(copies) == PRESENT
    for chapter, cells in copies.items():
        stored = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
        added = [cell for cell in cells if cell["id"].endswith("-page")]
        sources = [gather.REMARK.sub("", "".join(c["source"])) for c in stored]
        assert [c["source"] for c in cells if c not in added] == sources
        assert len(added) == sum("\nwidgets." in f"\n{''.join(c['source'])}" for c in stored)


def test_every_picture_says_what_it_shows(copies):
    pictures = 0
    for cells in copies.values():
        for cell in cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    pictures += 1
                    assert len(cell["metadata"]["mystnb"]["image"]["alt"].split()) >= 4
    assert pictures > 50


def test_solutions_are_folded_and_nothing_else_is(copies):
    for cells in copies.values():
        tags = [set(cell["metadata"].get("tags", [])) for cell in cells]
        assert sum("hide-cell" in t for t in tags) >= 2
        assert all(("hide-cell" in t) == ("solution" in t) for t in tags)


def test_no_cell_shows_the_name_of_a_widget_in_place_of_it(copies):
    assert "VBox(" not in json.dumps([c.get("outputs") for cells in copies.values() for c in cells])


def test_no_page_speaks_of_a_kernel_that_does_not_run(copies):
    text = "".join(c["source"] for cells in copies.values() for c in cells)
    assert "running kernel" not in text


def test_every_widget_has_its_slider_or_says_that_it_needs_the_notebook(copies):
    text = "".join(
        "".join(c["source"]) for cells in copies.values() for c in cells
        if c["id"].endswith("-page")
    )  # fmt: skip
    drawn = re.findall(r'class="course-slider" id="(\w+)"', text)
    assert sorted(drawn) == sorted(sliders.SLIDERS)
    needed = re.findall(r"`widgets\.(\w+)` computes while you use it", text)
    assert needed == ["expert_surgery"]
    assert [text.count(each) for each in gather.ELSEWHERE.values()] == [1]
    assert r'{"of":"<\/04_rope>"}</script>' in text  # nothing in the data ends the script


def test_a_widget_that_no_chapter_makes_is_refused(tmp_path):
    path = tmp_path / "99_none.ipynb"
    path.write_text('{"cells": []}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"no cell with widgets\.nothing"):
        sliders.arguments(path, "nothing")


def test_an_error_in_a_chapter_is_not_swallowed(tmp_path):
    path = tmp_path / "99_broken.ipynb"
    for tags, error in ([], ZeroDivisionError), (["raises-exception"], ValueError):
        cell = {"cell_type": "code", "metadata": {"tags": tags}, "source": ["1 / 0"]}
        path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
        with pytest.raises(error):
            sliders.arguments(path, "nothing")


def test_a_frame_for_every_combination():
    found = sliders.frames(lambda a, b: a + b, (1, 2), (10, 20, 30))
    assert found == {"0,0": 11, "0,1": 21, "0,2": 31, "1,0": 12, "1,1": 22, "1,2": 32}


def test_every_key_of_the_configuration_has_its_row_with_a_meaning():
    expected = {
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key in field.annotation.model_fields
    }
    rows = generate.settings()
    assert {row.name for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(len(row.meaning) > 10 and row.value for row in rows)
    page = generate.settings_page()
    assert all(f"| `{row.name}` | `{row.value}` |" in page for row in rows)


def test_a_meaning_of_several_lines_is_whole():
    (dataset,) = (row for row in generate.settings() if row.name == "training.dataset")
    assert dataset.value == '"fables"'
    assert dataset.meaning.endswith('such as "wikitext", or its folder')


def test_every_flag_of_every_command_is_listed():
    from moe_tutorial.command.cli import build_parser

    page = generate.settings_page()
    (commands,) = (
        a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )  # fmt: skip
    for name, command in commands.choices.items():
        section = page.partition(f"### {name}\n")[2].partition("\n##")[0]
        for action in command._actions:
            assert all(f"`{option}" in section or f", {option}" in section
                       for option in action.option_strings)  # fmt: skip


def defined_in(module: ModuleType) -> set[str]:
    """Public functions and classes of a module, as Python sees them."""
    return {
        name for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, type(defined_in) | type)
        and value.__module__ == module.__name__
    }  # fmt: skip


@pytest.mark.parametrize("name", ["moe", "balance", "cards", "plots.base", "command.cli"])
def test_every_public_name_is_in_the_reference(name):
    names = generate.public_names(f"moe_tutorial.{name}")
    module = importlib.import_module(f"moe_tutorial.{name}")
    assert {n for n, kind in names.items() if kind != "data"} == defined_in(module)
    page = generate.reference_page(f"moe_tutorial.{name}")
    for public, kind in names.items():
        assert f".. auto{kind}:: {public}\n" in page


def test_the_reference_has_every_module():
    found = {path for path in (ROOT / "moe_tutorial").rglob("*.py") if path.name != "__main__.py"}
    assert len(generate.modules()) == len(found)


@pytest.mark.parametrize("chapter", PRESENT)
def test_what_a_chapter_sets_in_italics_is_a_term_or_is_stressed(chapter):
    known = {*GLOSSARY["terms"], *GLOSSARY["emphasis"]}
    unknown = [w for w in generate.italics(NOTEBOOKS / f"{chapter}.ipynb") if w not in known]
    assert unknown == [], "define it in site/glossary.toml, or add it to `emphasis` there"


def test_every_term_has_a_chapter_that_introduces_it():
    first = generate.introduced()
    assert [term for term in GLOSSARY["terms"] if term not in first] == []
    assert set(GLOSSARY["terms"]) & set(GLOSSARY["emphasis"]) == set()
    assert first["idle expert"].stem == "07_moe"
    page = generate.glossary()
    for term in GLOSSARY["terms"]:
        assert f"\n{term}\n  " in page


def test_the_table_of_chapters_has_the_minutes_that_each_chapter_plans():
    rows = re.findall(r"\(notebooks/(\w+)\.ipynb\) \| (.*?) \| (\d+) \|", generate.chapter_table())
    assert [chapter for chapter, _, _ in rows] == PRESENT
    for chapter, _, minutes in rows:
        assert f"Plan {minutes} minutes" in generate.markdown(NOTEBOOKS / f"{chapter}.ipynb")


def test_facts_that_age_have_a_day():
    from moe_tutorial.cards import CARDS, CHECKED

    page = generate.facts()
    assert f"Checked {CHECKED}." in page
    assert all(generate.plain(card.name) in page for card in CARDS)


def test_every_section_of_the_readme_is_on_one_page_and_links_lead_there():
    pages = gather.pages_of_readme()
    headings = re.findall(r"^## (.+)$", "".join(pages.values()), re.MULTILINE)
    assert sorted(headings) == sorted(set(gather.readme_sections()) - {"", "The chapters"})
    assert "[Beyond one machine](more.md#beyond-one-machine)" in pages["run.md"]
    for page, text in pages.items():
        for there, anchor in re.findall(r"\]\(([\w.]*)#([^)]+)\)", text):
            anchors = [gather._anchor(h) for h in re.findall(r"^## (.+)$", pages[there or page],
                                                             re.MULTILINE)]  # fmt: skip
            assert anchor in anchors


def test_a_file_that_is_no_page_is_named_and_not_linked():
    text = (
        "[`CITATION.cff`](CITATION.cff), [b](../LICENSE), [c](x.md#y), [d](https://e.f/g), [h](#i)"
    )
    found = "`CITATION.cff`, b, [c](x.md#y), [d](https://e.f/g), [h](#i)"
    assert gather.relinked(text) == found


def test_links_to_the_readme_and_to_modules_lead_to_their_pages():
    text = "[a](../README.md) [b](../moe_tutorial/plots/ch07.py) [c](../notebooks/07_moe.ipynb)"
    found = "[a](../run.md) [b](../reference/moe_tutorial.plots.ch07.rst) "
    assert gather.relinked(text) == found + "[c](../notebooks/07_moe.ipynb)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = a * b, `x` of `T`s_max", "y = a \\* b, ``x`` of ``T``\\ s\\_max\n"),
        (
            "One.\n\n    for x in y:\n        pass",
            "One.\n\n::\n\n        for x in y:\n            pass\n",
        ),
        (
            "What.\nShapes: x (N, D).\nRaises: ValueError.",
            "What.\n\nShapes: x (N, D).\n\nRaises: ValueError.\n",
        ),
    ],
)
def test_docstrings_are_shown_as_they_are_written(text, expected):
    assert docstrings.convert(text) == expected


def test_a_value_does_not_get_the_docstring_of_its_type():
    lines = ["Built-in immutable sequence."]
    docstrings.as_rst(None, "data", "moe_tutorial.cards.CARDS", (), None, lines)
    assert lines == []


def test_a_method_that_another_package_put_into_a_class_is_left_out():
    from moe_tutorial.plots.described import Figure

    asked = (None, "class", "set", Figure.set, False, None)
    assert docstrings.skip_foreign(*asked) is True
    assert (
        docstrings.skip_foreign(None, "class", "x", Figure._repr_mimebundle_, False, None) is None
    )


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"npm was not found; install Node\.js"):
        vendor.vendor(tmp_path / "cache", tmp_path / "site")


def test_another_package_than_the_checked_one_is_refused(tmp_path):
    package = vendor.PACKAGES[0]
    (tmp_path / f"{package.name}-{package.version}.tgz").write_bytes(b"something else")
    with pytest.raises(OSError, match=f"not {package.sha256}; remove it"):
        vendor.vendor(tmp_path, tmp_path / "site")
