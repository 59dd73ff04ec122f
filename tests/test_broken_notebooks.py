"""A changed output, library line or solution cannot go unnoticed: shown on copies of a chapter."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from chapters import LIBRARY, MACHINERY, NOTEBOOKS, exercises_of, judge, read
from conftest import ROOT, environment

pytestmark = pytest.mark.slow

CHAPTER = "05_rmsnorm"  # a short one; any would do
PRINTED = re.compile(r"\d")


def nbval(folder, **variables) -> list[str]:
    """Run strict nbval as `make test` does; the cells that failed, as "file::Cell 3"."""
    result = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env",
            "--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "-p", "no:cacheprovider",
            "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder),
        ],
        cwd=ROOT, env=environment() | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return re.findall(r"^FAILED (?:.*/)?(\w+\.ipynb::Cell \d+)", result.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def notebook() -> dict:
    return json.loads((NOTEBOOKS / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def index_of_printed_number(notebook: dict) -> int:
    """The first ordinary cell that prints a number."""
    return next(
        i
        for i, cell in enumerate(code_cells(notebook))
        if not MACHINERY & set(tags(cell))
        and cell["outputs"]
        and PRINTED.search("".join(cell["outputs"][0].get("text", [])))
    )


def index_of_solution(notebook: dict) -> int:
    return next(i for i, c in enumerate(code_cells(notebook)) if "solution" in tags(c))


def write(notebook: dict, path) -> None:
    path.write_text(json.dumps(notebook), encoding="utf-8")


def with_changed_output(notebook: dict) -> dict:
    broken = json.loads(json.dumps(notebook))
    output = code_cells(broken)[index_of_printed_number(broken)]["outputs"][0]
    text = "".join(output["text"])
    digit = PRINTED.search(text)[0]
    output["text"] = text.replace(digit, str((int(digit) + 1) % 10), 1)
    return broken


def with_changed_solution(notebook: dict) -> dict:
    """The first solution replaced by its stub, so that the check no longer says correct."""
    broken = json.loads(json.dumps(notebook))
    cells = code_cells(broken)
    i = index_of_solution(broken)
    stub, check = "".join(cells[i - 2]["source"]), "".join(cells[i - 1]["source"])
    cells[i]["source"] = f"### BEGIN SOLUTION\n{stub}\n### END SOLUTION\n{check}"
    return broken


def changed_library(folder) -> str:
    """A copy of the library in which the first line of the first function that is shown differs."""
    shutil.copytree(LIBRARY, folder / "moe_tutorial")
    shutil.copytree(ROOT / "data", folder / "data")
    source = "\n".join("".join(cell.source) for cell in read(NOTEBOOKS / f"{CHAPTER}.ipynb"))
    shown = re.search(r"checks\.show_source\(lib\.(\w+)\)", source)[1]
    path = folder / "moe_tutorial" / f"{CHAPTER[3:]}.py"
    text = path.read_text(encoding="utf-8")
    changed = re.sub(rf"(?m)^(def|class) {shown}\b.*$", r"\g<0>  # changed", text)
    assert changed != text
    path.write_text(changed, encoding="utf-8")
    return str(folder)


def test_changed_output_and_changed_solution_fail_and_nothing_else_does(notebook, tmp_path):
    write(notebook, tmp_path / "intact.ipynb")
    write(with_changed_output(notebook), tmp_path / "output.ipynb")
    write(with_changed_solution(notebook), tmp_path / "solution.ipynb")
    assert nbval(tmp_path) == [
        f"output.ipynb::Cell {index_of_printed_number(notebook)}",
        f"solution.ipynb::Cell {index_of_solution(notebook)}",
    ]


def test_changed_library_line_fails_where_the_chapter_shows_it(notebook, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(notebook, folder / "intact.ipynb")
    library = changed_library(tmp_path / "library")
    shows = [i for i, c in enumerate(code_cells(notebook)) if "show_source(" in str(c["source"])]
    assert nbval(folder, PYTHONPATH=library) == [f"intact.ipynb::Cell {shows[0]}"]


def test_changed_solution_fails_its_own_test_too(notebook, tmp_path):
    write(with_changed_solution(notebook), tmp_path / "solution.ipynb")
    first = next(iter(exercises_of(read(tmp_path / "solution.ipynb")).values()))
    solution = first.solution.partition("### END SOLUTION")[0]
    assert not judge(first, solution).startswith("correct")


def test_missing_count_fails_the_structure_test(notebook):
    # nbval compares nothing in a cell without a count, so the counts are tested by themselves.
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert [None, *counts[1:]] != list(range(1, len(counts) + 1))


def test_nbstripout_notices_metadata(notebook, tmp_path):
    noisy = json.loads(json.dumps(notebook))
    noisy["cells"][0]["metadata"]["execution"] = {"iopub.status.busy": "today"}
    write(noisy, tmp_path / "noisy.ipynb")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = re.search(r"^NBSTRIPOUT := (.*\\\n.*)$", makefile, re.MULTILINE)[1]
    command = f"{sys.executable} -m nbstripout --verify {options} {tmp_path / 'noisy.ipynb'}"
    assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 1
