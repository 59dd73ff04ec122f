"""What a teacher holds in hand agrees with the notebooks: pages, guide, handout, citation."""

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import pairwise

import pytest
import torch
import yaml
from chapters import NOTEBOOKS, PRESENT, Cell, read
from conftest import ROOT

import moe_tutorial
from moe_tutorial.balance import router_health
from moe_tutorial.moe import Routing, load_balancing_loss

TEACHING = ROOT / "teaching"
TEMPLATE = [
    "Aim", "Before", "Minutes per section", "Misconceptions", "Where people get stuck",
    "On the board", "Discuss", "If time is short", "After the exercises",
]  # fmt: skip
GUIDE = [
    "For whom", "How to use a page", "Set-up session",
    "A lecture of 90 minutes, with a demonstration", "A workshop of two days",
    "A course of eight weeks", "Minutes", "In groups", "Language models", "Survey before",
    "Survey after", "Report back", "Sources",
]  # fmt: skip
NOT_TAUGHT = {"Objectives", "Before you start", "Build it", "Exercises", "Summary", "Next"}
FREE = ("break", "lunch", "doors open")
every_page = pytest.mark.parametrize("chapter", PRESENT)


@functools.cache
def cells(chapter: str) -> list[Cell]:
    return read(NOTEBOOKS / f"{chapter}.ipynb")


def code(chapter: str) -> list[Cell]:
    return [cell for cell in cells(chapter) if cell.kind == "code"]


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it."""
    return {
        part.partition("\n")[0]: part.partition("\n")[2].strip()
        for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    }


def page(chapter: str) -> str:
    return (TEACHING / f"{chapter}.md").read_text(encoding="utf-8")


@functools.cache
def markdown(chapter: str) -> str:
    text = "\n".join(cell.source for cell in cells(chapter) if cell.kind == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def taught(chapter: str) -> list[str]:
    """The headings of the notebook for which a teacher needs minutes."""
    found = re.findall(r"^##{1,2} (.+)$", markdown(chapter), flags=re.MULTILINE)
    return [heading for heading in found if heading not in NOT_TAUGHT]


def planned(chapter: str) -> list[tuple[str, int]]:
    """The parts and minutes of "Before you start"."""
    plan = re.search(r"Plan \d+ minutes: (.+?)\.(?:\s|$)", markdown(chapter), re.DOTALL)[1]
    plan = re.sub(r" \(estimated[^)]*\)", "", plan)
    return [(name, int(n)) for n, name in re.findall(r"(\d+) for (.+?)(?=, \d+ for|$)", plan)]


def shown(chapter: str) -> str:
    """Everything that a reader of the notebook sees."""
    outputs = [output for cell in code(chapter) for output in cell.raw["outputs"]]
    printed = ["".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs]
    return "\n".join([cell.source for cell in cells(chapter)] + printed)


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of all tables, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table if not set(row[0]) <= set("-: ")]


def test_every_chapter_has_a_page_and_no_page_is_without_a_chapter():
    assert sorted(path.stem for path in TEACHING.glob("*.md")) == sorted([*PRESENT, "guide"])


@every_page
def test_a_page_follows_the_template_and_is_short(chapter):
    text = page(chapter)
    assert list(sections(text)) == TEMPLATE
    assert text.startswith(f"# Teaching chapter {chapter[:2]}: ")
    assert f"(../notebooks/{chapter}.ipynb)" in text
    assert 60 <= len(text.splitlines()) <= 110
    assert all(sections(text).values())
    aim = sections(text)["Aim"]
    assert "\n" not in aim
    assert "```\n" in sections(text)["On the board"]


@every_page
def test_minutes_are_those_of_the_notebook_section_by_section(chapter):
    minutes = sections(page(chapter))["Minutes per section"]
    table = rows(minutes)[1:]
    parts = [(name.strip("*"), int(n.strip("*"))) for name, n in table if name.startswith("**")]
    assert parts == planned(chapter)
    assert minutes.startswith(f"{sum(n for _, n in parts)} minutes. ")
    assert [name for name, _ in table if not name.startswith("**")] == taught(chapter)
    sums, at = Counter(), -1
    for name, n in table:
        at += name.startswith("**")
        sums[at] += 0 if name.startswith("**") else int(n)
    assert list(sums.values()) == [n for _, n in parts]


@every_page
def test_minutes_that_nobody_measured_are_called_estimates(chapter):
    minutes = sections(page(chapter))["Minutes per section"]
    assert "the minutes of single sections are estimates" in minutes
    assert "Nobody has timed a class with this page." in minutes


@every_page
def test_three_misconceptions_have_a_question_and_a_cell_that_refutes_them(chapter):
    text = sections(page(chapter))["Misconceptions"]
    items = re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]
    assert len(items) == 3
    outputs = {cell.id: cell.raw["outputs"] for cell in code(chapter)}
    for item in items:
        claim, asked, refuted = re.fullmatch(
            r"\*\*(.+\.)\*\*\n +Ask: (.+)\n +Refuted by (.+)", item.strip(), re.DOTALL
        ).groups()
        assert len(claim) > 10
        assert "?" in asked
        named = re.findall(r"`(ch\d\d-[a-z0-9-]+)`", refuted.partition(":")[0])
        assert named
        assert all(outputs[name] for name in named)  # the cell is there and prints something


@every_page
def test_every_cell_and_number_of_a_page_is_in_the_notebook(chapter):
    text, ids = page(chapter), {cell.id for cell in cells(chapter)}
    assert set(re.findall(r"`(ch\d\d-[a-z0-9-]+)`", text)) <= ids
    text = re.sub(r"[Ee]xercises? \d+\.\d", "", text)
    numbers = set(re.findall(r"(?<![\d.])\d+\.\d+(?:e-?\d+)?(?![\d.]*\d)", text))
    seen = shown(chapter)
    assert [number for number in numbers if number not in seen] == []


@every_page
def test_every_exercise_is_named_in_its_page(chapter):
    named = sections(page(chapter))["After the exercises"]
    exercises = re.findall(r"^### Exercise (\S+) (.+)$", markdown(chapter), flags=re.MULTILINE)
    assert len(exercises) >= 2
    for number, title in exercises:
        assert f"Exercise {number}, {title.partition(' (')[0].rstrip('?')}" in named


@every_page
def test_questions_to_discuss_have_answers(chapter):
    items = re.split(r"^- ", sections(page(chapter))["Discuss"], flags=re.MULTILINE)[1:]
    assert len(items) >= 3
    for item in items:
        question, answer = re.fullmatch(r"\*\*(.+)\*\* (.+)", item.strip(), re.DOTALL).groups()
        assert re.search(r"\?|\.", question)
        assert len(answer.split()) >= 8


@every_page
def test_what_the_notebook_skips_is_what_the_page_skips(chapter):
    text = re.search(r"When time is short, skip (.+?)\.(?:\s|$)", markdown(chapter), re.DOTALL)[1]
    names = re.findall(r"[\"*]([^\"*]+)[\"*]", text) + re.findall(r"exercise \d+\.\d", text)
    assert names
    short = sections(page(chapter))["If time is short"]
    assert [name for name in names if name not in short] == []


def named(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell gives, and those that it takes from cells before it."""
    nodes = list(ast.walk(ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))))
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    stored |= {(n.asname or n.name).partition(".")[0] for n in nodes if isinstance(n, ast.alias)}
    own = stored | {n.arg for n in nodes if isinstance(n, ast.arg)}
    return stored, {n.id for n in nodes if isinstance(n, ast.Name)} - own


NOT_NEEDED = "No later cell needs what is left out here."


@pytest.mark.parametrize("chapter", [c for c in PRESENT if NOT_NEEDED in page(c)])
def test_no_later_cell_needs_what_is_left_out(chapter):
    short, section = sections(page(chapter))["If time is short"], ""
    given, missing = set(), set()
    for cell in cells(chapter):
        if cell.kind == "markdown":
            section = (re.findall(r"^##{1,2} (.+)$", cell.source, re.MULTILINE) or [section])[-1]
        elif f"`{cell.id}`" in short or f'"{section}"' in re.match(r"Skip .+", short)[0]:
            missing |= named(cell.source)[0] - given
        else:
            stored, taken = named(cell.source)
            assert not taken & missing, cell.id
            given, missing = given | stored, missing - stored
    assert missing


def guide() -> str:
    return (TEACHING / "guide.md").read_text(encoding="utf-8")


def clock(time: str) -> int:
    return 60 * int(time[:2]) + int(time[3:])


def schedules() -> dict[str, list[tuple[int, int, str]]]:
    """Each table with clock times: from, to, what."""
    found = {}
    for name, text in sections(guide()).items():
        for i, table in enumerate(re.split(r"\n\n", text)):
            times = [row for row in rows(table) if re.fullmatch(r"\d\d:\d\d-\d\d:\d\d", row[0])]
            if times:
                found[f"{name} {i}"] = [
                    (clock(t[:5]), clock(t[6:]), " ".join(what)) for t, *what in times
                ]
    return found


def test_the_guide_has_what_a_teacher_asks_for():
    assert list(sections(guide())) == GUIDE
    assert all(sections(guide()).values())
    assert len(schedules()) == 4  # the set-up, the lecture, two days


@pytest.mark.parametrize("name", schedules())
def test_a_schedule_has_no_gap_and_a_break_after_ninety_minutes_at_most(name):
    table = schedules()[name]
    assert all(start < end for start, end, _ in table)
    assert all(a[1] == b[0] for a, b in pairwise(table))
    without = 0
    for start, end, what in table:
        without = 0 if what.startswith(FREE) else without + end - start
        assert without <= 90, what


def test_the_lecture_takes_ninety_minutes():
    (lecture,) = (table for name, table in schedules().items() if name.startswith("A lecture"))
    assert lecture[-1][1] - lecture[0][0] == 90


def test_the_workshop_gives_a_chapter_the_minutes_of_its_notebook():
    given = Counter()
    for name, table in schedules().items():
        for start, end, what in table if name.startswith("A workshop") else ():
            if found := re.match(r"chapter (\d\d)", what):
                given[found[1]] += end - start
    assert len(given) >= 7
    for chapter in PRESENT:
        if chapter[:2] in given:
            assert given[chapter[:2]] >= sum(n for _, n in planned(chapter)), chapter


def test_the_workshop_divides_a_chapter_where_its_minutes_allow():
    slots = {}
    for name, table in schedules().items():
        for start, end, what in table if name.startswith("A workshop") else ():
            if found := re.match(r"chapter (\d\d)(?:, to \"(.+)\")?", what):
                slots.setdefault(found[1], []).append((end - start, found[2]))
    divided = {number: found for number, found in slots.items() if len(found) > 1}
    assert len(divided) >= 3
    for number, ((first, last), *later) in divided.items():
        (chapter,) = (chapter for chapter in PRESENT if chapter.startswith(number))
        table = rows(sections(page(chapter))["Minutes per section"])[1:]
        names = [name for name, _ in table]
        minutes = [0 if name.startswith("**") else int(n) for name, n in table]
        before = sum(minutes[: names.index(last) + 1])
        assert before <= first, chapter
        assert sum(minutes) - before <= sum(length for length, _ in later), chapter


def test_the_eight_weeks_hold_every_chapter_in_the_minutes_of_a_meeting():
    weeks = rows(sections(guide())["A course of eight weeks"])[1:]
    assert [week for week, *_ in weeks] == [str(n) for n in range(1, 9)]
    taught_in = [number for _, numbers, *_ in weeks for number in numbers.split(", ")]
    assert sorted(taught_in) == [chapter[:2] for chapter in PRESENT]
    for _, numbers, exercises, minutes in weeks:
        plans = [planned(c) for c in PRESENT if c[:2] in numbers.split(", ")]
        counted = [plan[:-1] if exercises == "at home" else plan for plan in plans]
        assert int(minutes) == sum(n for plan in counted for _, n in plan)
        assert int(minutes) <= 2 * (clock("15:20") - clock("14:00"))


@pytest.mark.parametrize("path", sorted(TEACHING.glob("*.md")), ids=lambda path: path.stem)
def test_links_of_the_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert (TEACHING / target).exists(), target


HANDOUT = TEACHING / "handout.html"


def test_the_picture_of_the_handout_is_the_half_idle_router():
    logits = torch.tensor([0.0] * 4 + [20.0] * 4).repeat(8, 1)  # as in chapter 07, moved by 20
    logits[torch.arange(8), torch.arange(8) % 4] = 20.01
    routing = Routing(torch.ones(8, 1), logits.topk(1).indices, logits.softmax(-1))
    health, text = router_health(routing), HANDOUT.read_text(encoding="utf-8")
    said = dict(re.findall(r'<b id="([a-z-]+)">([\d.]+)</b>', text))
    loss = load_balancing_loss([routing]).item()
    assert said == {
        "idle": str(health.idle), "max-violation": f"{health.max_violation:.2f}",
        "loss": f"{loss:.2f}",
    }  # fmt: skip
    bottom, top, share = 140, 16, 0.25  # the axis of the picture: pixels of 0 and of 25 %
    bars = [int(h) for h in re.findall(r'<rect [^>]*height="(\d+)"', text)]
    loads = [round((bottom - top) * f / share) for f in health.load.tolist() if f > 0]
    assert bars == loads
    diamonds = [int(y) + 5 for y in re.findall(r'<path d="M\d+ (\d+) l5 5', text)]
    means = [bottom - (bottom - top) * p / share for p in routing.probs.mean(dim=0).tolist()]
    assert diamonds == pytest.approx(means, abs=1)


def test_the_letters_of_the_handout_are_those_of_the_notebooks():
    text = HANDOUT.read_text(encoding="utf-8")
    letters = re.findall(r"<th>([A-Z]h?(?:, [A-Z]h?)*)</th>", text)
    explained = "\n".join(markdown(chapter) for chapter in PRESENT)
    for letter in ", ".join(letters).split(", "):
        assert re.search(rf"\b{letter} \(", explained), letter


@pytest.mark.slow
def test_the_handout_is_one_page_of_a4(tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    from lab import FLAGS, find_chromium

    if find_chromium() is None:
        pytest.skip("no Chromium: `make test-browser` installs one where it may")
    pdf = tmp_path / "handout.pdf"
    settings = [f"--user-data-dir={tmp_path}", "--no-pdf-header-footer", f"--print-to-pdf={pdf}"]
    command = [find_chromium(), "--headless", *FLAGS, *settings, HANDOUT.as_uri()]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    printed = pdf.read_bytes()
    assert re.findall(rb"/Type\s*/Pages\s.*?/Count (\d+)", printed, re.DOTALL) == [b"1"]
    size = re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", printed).groups()
    assert [float(n) for n in size] == pytest.approx([595.3, 841.9], abs=1)  # points


def test_the_citation_is_valid_and_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what the format asks for
    assert citation["version"] == moe_tutorial.__version__
    assert (citation["license"], citation["abstract"]) == (
        project["license"],
        project["description"],
    )
    [[author]] = [list(one.values()) for one in citation["authors"]]
    assert author in (ROOT / "LICENSE").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {citation['title']}\n")


def test_the_container_installs_what_make_installs():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^//.*$", "", text, flags=re.MULTILINE))
    target = settings["postCreateCommand"].removeprefix("make ")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"INSTALLED := {target.replace('.venv', '$(VENV)')}\n" in makefile
    python = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = re.search(r"python:([\d.]+)", settings["image"])[1]
    assert f">={version}" == python["requires-python"]
    binder = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [line.split() for line in binder if not line.startswith("#")]
    index = settings["containerEnv"]["PIP_EXTRA_INDEX_URL"]
    assert asked == [["--extra-index-url", index], ["-r", "../requirements.txt"]]
    assert (ROOT / ".binder" / "runtime.txt").read_text("utf-8") == f"python-{version}\n"
    for said in (text, "\n".join(binder)):
        assert "Never built" in said
