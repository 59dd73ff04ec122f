"""Every chapter has the same form; what the form is for is said in each test's name."""

import ast
import base64
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from chapters import CHAPTERS, LIBRARY, NOTEBOOKS, PRESENT, cells, code, python
from conftest import ROOT

SECTIONS = [
    "Objectives", "Before you start", "Intuition", "Build it", "Check it against the library",
    "Exercises", "Summary", "Questions", "Next",
]  # fmt: skip
TAGS = {"final", "exercise", "check", "solution", "raises-exception", "nbval-ignore-output",
        "slide-skip"}  # fmt: skip
FIRST_LINES = "%matplotlib inline\nimport torch\n\nfrom moe_tutorial import "
every_chapter = pytest.mark.parametrize("chapter", PRESENT)


def prose(chapter: str) -> str:
    """All Markdown outside code fences."""
    text = "\n".join(cell.source for cell in cells(chapter) if cell.kind == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def section(chapter: str, name: str) -> str:
    """The Markdown of one section."""
    return prose(chapter).partition(f"## {name}\n")[2].partition("\n## ")[0]


def lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


@cache
def defined() -> dict[Path, set[str]]:
    """Functions and classes of each module of the library."""
    return {
        path: {
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        for path in LIBRARY.rglob("*.py")
    }


@cache
def definitions(chapter: str) -> set[str]:
    """Functions and classes that the notebook defines, exercises aside."""
    tree = [
        node
        for cell in code(chapter)
        if not cell.tags & {"exercise", "solution"}
        for node in ast.walk(ast.parse(python(cell.source)))
    ]
    return {n.name for n in tree if isinstance(n, ast.FunctionDef | ast.ClassDef)} - {
        method.name
        for node in tree
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef)
    }


def outputs(chapter: str) -> list[dict]:
    return [output for cell in code(chapter) for output in cell.raw["outputs"]]


def test_every_chapter_is_there():
    assert list(CHAPTERS) == PRESENT


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_has_its_modules_and_their_tests(chapter):
    for module in CHAPTERS[chapter]:
        assert (LIBRARY / f"{module}.py").is_file()
        assert (ROOT / "tests" / f"test_{module}.py").is_file()


@every_chapter
def test_headings_are_the_same_everywhere(chapter):
    title, *sections = re.findall(r"^##? .+$", prose(chapter), flags=re.MULTILINE)
    assert re.fullmatch(rf"# {chapter[:2]} .+", title)
    assert sections == [f"## {section}" for section in SECTIONS]


@every_chapter
def test_no_heading_skips_a_level(chapter):
    levels = [len(h) for h in re.findall(r"^(#+) ", prose(chapter), flags=re.MULTILINE)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@every_chapter
def test_the_minutes_are_divided_over_the_sections(chapter):
    """Plan 60 minutes: 10 for ..., 50 for ... . When time is short, skip ..."""
    text = section(chapter, "Before you start")
    whole, parts = re.search(r"Plan (\d+) minutes: (.+?)\.\s", text, flags=re.DOTALL).groups()
    assert sum(map(int, re.findall(r"\b\d+\b(?= for)", parts))) == int(whole)
    assert "When time is short, " in text


@every_chapter
def test_the_reader_predicts_at_least_five_times(chapter):
    assert prose(chapter).count("Before you run") >= 5


@every_chapter
def test_three_questions_have_folded_answers_for_every_option(chapter):
    """Questions **1.** to **3.**, an option per line, - (a) ...; the answer is folded."""
    questions = re.split(r"^\*\*\d\.\*\* ", section(chapter, "Questions"), flags=re.MULTILINE)[1:]
    assert len(questions) == 3
    for text in questions:
        asked, folded = text.split("<details>\n<summary>Answer</summary>\n\n")
        options = re.findall(r"^- \((\w)\) ", asked, flags=re.MULTILINE)
        assert 3 <= len(options) <= 4
        assert options == list("abcd")[: len(options)]
        assert all(f"({letter})" in folded for letter in options)
        assert folded.rstrip().endswith("</details>")


@every_chapter
def test_key_points_are_few(chapter):
    points = re.findall(r"^- ", section(chapter, "Summary"), flags=re.MULTILINE)
    assert 3 <= len(points) <= 6


@every_chapter
def test_cells_are_many_and_short(chapter):
    sizes = [lines(cell.source) for cell in code(chapter)]
    assert 20 <= len(sizes) <= 45
    assert median(sizes) <= 6
    assert max(sizes) <= 25


@every_chapter
def test_prose_per_line_of_code(chapter):
    text = prose(chapter).replace(section(chapter, "Questions"), "")
    ratio = len(text.split()) / sum(lines(cell.source) for cell in code(chapter))
    assert 5 <= ratio <= 12


@every_chapter
def test_tags_are_known_and_few_outputs_are_ignored(chapter):
    tags = [tag for cell in cells(chapter) for tag in cell.tags]
    assert set(tags) <= TAGS
    assert tags.count("nbval-ignore-output") <= 3
    assert "final" in tags


@every_chapter
def test_counts_are_from_one_clean_run(chapter):
    counts = [cell.raw["execution_count"] for cell in code(chapter)]
    assert counts == list(range(1, len(counts) + 1))


@every_chapter
def test_ids_are_unique_and_readable(chapter):
    ids = [cell.id for cell in cells(chapter)]
    assert len(set(ids)) == len(ids)
    pattern = rf"ch{chapter[:2]}(-[a-z0-9]+)+-\d+"
    assert [i for i in ids if not re.fullmatch(pattern, i) or len(i) > 64] == []


@every_chapter
def test_metadata_is_kernel_tags_and_hidden_sources(chapter):
    notebook = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    # Without the ending, `nbconvert --to script` writes .txt.
    assert notebook["metadata"]["language_info"] == {"name": "python", "file_extension": ".py"}
    for cell in cells(chapter):
        assert set(cell.raw["metadata"]) <= {"tags", "jupyter"}, cell.id


@every_chapter
def test_file_and_pictures_are_small(chapter):
    assert (NOTEBOOKS / f"{chapter}.ipynb").stat().st_size <= 400_000
    pictures = [
        o["data"]["image/png"] for o in outputs(chapter) if "image/png" in o.get("data", {})
    ]
    assert pictures
    assert max(len(base64.b64decode("".join(picture))) for picture in pictures) <= 60_000


@every_chapter
def test_every_picture_has_alternative_text(chapter):
    for output in outputs(chapter):
        if "image/png" in output.get("data", {}):
            assert len(output["metadata"]["image/png"]["alt"].split()) >= 4


@every_chapter
def test_outputs_hold_nothing_of_this_machine(chapter):
    for output in outputs(chapter):
        assert output.get("name") != "stderr"
        data = output.get("data", {})
        assert "image/svg+xml" not in data
        text = "".join(output.get("text", [])) + "".join(data.get("text/plain", []))
        assert not re.search(r"/home/|/tmp/|/root/|site-packages|0x[0-9a-f]{6}|Warning:", text)
        assert str(ROOT) not in json.dumps(output)


@every_chapter
def test_first_cell_is_the_same_everywhere(chapter):
    first = code(chapter)[0].source
    assert first.startswith(FIRST_LINES)
    module = CHAPTERS[chapter][-1]
    for line in ("checks, plots", f"{module} as lib"):  # isort decides which comes first
        assert f"\nfrom moe_tutorial import {line}\n" in first
    assert first.endswith("\n\n_ = torch.manual_seed(0)")


@every_chapter
def test_chapter_is_checked_against_the_library(chapter):
    source = "\n".join(cell.source for cell in code(chapter))
    assert "checks.same(" in source
    assert "checks.show_source(lib." in source


@every_chapter
def test_library_is_imported_only_up_to_this_chapter(chapter):
    upto = list(CHAPTERS)[: list(CHAPTERS).index(chapter) + 1]
    allowed = {module for name in upto for module in CHAPTERS[name]} | {
        "checks", "plots", "widgets", "config", "processes", "trust", "experiments",
    }  # fmt: skip
    for cell in code(chapter):
        for node in ast.walk(ast.parse(python(cell.source))):
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith("moe_tutorial") for a in node.names), cell.id
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("moe_tutorial"):
                module = node.module.split(".")[1] if "." in node.module else ""
                assert ({module} if module else {a.name for a in node.names}) <= allowed, cell.id


@every_chapter
def test_chapter_defines_nothing_that_belongs_to_another(chapter):
    own = {LIBRARY / f"{module}.py" for module in CHAPTERS[chapter]}
    theirs = set().union(*(names for path, names in defined().items() if path not in own))
    for other in set(PRESENT) - {chapter}:
        theirs |= definitions(other)
    assert definitions(chapter) & theirs == set()


@every_chapter
def test_links_lead_somewhere(chapter):
    for target in re.findall(r"\]\(([^)#]+)", prose(chapter)):
        if not target.startswith("https://"):
            known = {f"{name}.ipynb" for name in CHAPTERS}
            assert target in known or (NOTEBOOKS / target).exists(), target
