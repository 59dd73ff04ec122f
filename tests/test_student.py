"""The copies for a class have the exercises and not their solutions."""

import subprocess
import sys

import pytest
from chapters import PRESENT, cells, read
from conftest import ROOT, environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "notebooks"
    command = [sys.executable, str(ROOT / "tools" / "notebooks.py"), "--student", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    return folder


@pytest.mark.slow
def test_every_chapter_is_copied(folder):
    assert sorted(path.stem for path in folder.iterdir()) == PRESENT


@pytest.mark.slow
@pytest.mark.parametrize("chapter", PRESENT)
def test_solutions_are_gone_and_the_rest_is_kept(folder, chapter):
    copy = read(folder / f"{chapter}.ipynb")
    kept = [cell for cell in cells(chapter) if "solution" not in cell.tags]
    assert [cell.id for cell in copy] == [cell.id for cell in kept]
    for cell, original in zip(copy, kept, strict=True):
        said = "\nThe closed cell after it holds a solution."
        assert cell.source == original.source.replace(said, "")
    assert "solution" not in (folder / f"{chapter}.ipynb").read_text(encoding="utf-8").lower()


@pytest.mark.slow
@pytest.mark.parametrize("chapter", PRESENT)
def test_exercises_have_not_been_run(folder, chapter):
    for cell, original in zip(
        read(folder / f"{chapter}.ipynb"),
        [c for c in cells(chapter) if "solution" not in c.tags],
        strict=True,
    ):
        if {"exercise", "check"} & cell.tags:
            assert (cell.raw["outputs"], cell.raw["execution_count"]) == ([], None)
        else:
            assert cell.raw.get("outputs") == original.raw.get("outputs")


@pytest.mark.slow
def test_unknown_chapter_is_one_line():
    command = [sys.executable, str(ROOT / "tools" / "notebooks.py"), "77"]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no notebook 77" in result.stderr
