"""tools/notebooks.py stores what a clean run prints, and nothing of the machine it ran on."""

import runpy
import subprocess
import sys

import nbformat
import pytest
from chapters import read
from conftest import ROOT
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

TOOL = runpy.run_path(str(ROOT / "tools" / "notebooks.py"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebooks") / "99_any.ipynb"
    cells = [
        new_markdown_cell("# 99 Any", id="ch99-title-01"),
        new_code_cell("from pathlib import Path\n1 + 1", id="ch99-sum-01", execution_count=7),
        new_code_cell(
            "Path('gone').read_text()",
            id="ch99-gone-01",
            metadata={"tags": ["raises-exception"], "scrolled": True},
        ),
        new_code_cell(
            "import ipywidgets\nipywidgets.VBox([ipywidgets.IntSlider()])", id="ch99-slider-01"
        ),
    ]
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": {}, "authors": []}), path)
    TOOL["execute"](path)
    return path


@pytest.mark.slow
def test_ids_stay_and_counts_begin_at_one(executed):
    cells = read(executed)
    assert [c.id for c in cells[1:]] == ["ch99-sum-01", "ch99-gone-01", "ch99-slider-01"]
    assert [c.raw["execution_count"] for c in cells[1:]] == [1, 2, 3]
    assert "".join(cells[1].raw["outputs"][0]["data"]["text/plain"]) == "2"


@pytest.mark.slow
def test_an_expected_error_is_stored_without_paths(executed):
    error = read(executed)[2].raw["outputs"][0]
    assert error["ename"] == "FileNotFoundError"
    assert len(error["traceback"]) == 1
    assert ".py" not in error["traceback"][0]


@pytest.mark.slow
def test_metadata_and_widget_models_are_dropped(executed):
    notebook = nbformat.read(executed, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.cells[2].metadata == {"tags": ["raises-exception"]}
    assert set(notebook.cells[3].outputs[0].data) == {"text/plain"}


@pytest.mark.slow
def test_result_is_what_nbstripout_verifies_and_a_second_run_changes_nothing(executed):
    before = executed.read_bytes()
    command = [sys.executable, "-m", "nbstripout", "--verify", *TOOL["STRIP"], str(executed)]
    subprocess.run(command, check=True)
    TOOL["execute"](executed)
    assert executed.read_bytes() == before


def test_an_unexpected_error_stops_the_run(tmp_path):
    path = tmp_path / "99_any.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0", id="ch99-a-01")]), path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        TOOL["execute"](path)


def test_the_makefile_verifies_what_the_tool_strips():
    makefile = " ".join((ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "").split())
    options = " ".join(f'"{o}"' if " " in o else o for o in TOOL["STRIP"])
    assert f"NBSTRIPOUT := {options}" in makefile
