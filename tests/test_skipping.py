"""What a chapter says may be skipped can be skipped: the rest runs without it."""

import re

import nbformat
import pytest
from chapters import NOTEBOOKS, PRESENT
from nbclient import NotebookClient


def markdown(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def may_be_skipped(notebook):
    """Titles of the sections, and the words behind them: nothing, or that their cells must run."""
    titles, rest = re.search(
        r"When time is short, skip (.+?)(, but run their cells.*)?\.$",
        markdown(notebook), re.MULTILINE,
    ).groups()  # fmt: skip
    exercises = [name.capitalize() for name in re.findall(r"exercise \d+\.\d", titles)]
    return [*re.findall(r"[\"*]([^\"*]+)[\"*]", titles), *exercises], rest


def without(notebook, titles):
    """The notebook without the code of these sections."""
    kept, title = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            title = (re.findall(r"^##{1,2} (.+)$", cell.source, re.MULTILINE) or [title])[-1]
        elif title.startswith(tuple(titles)):
            continue
        kept.append(cell)
    return nbformat.from_dict({**notebook, "cells": kept})


@pytest.mark.slow
@pytest.mark.parametrize("chapter", PRESENT)
def test_the_rest_of_a_chapter_runs_without_what_may_be_skipped(chapter):
    notebook = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4)
    titles, run_them = may_be_skipped(notebook)
    short = without(notebook, titles)
    assert len(short.cells) < len(notebook.cells)
    if not run_them:
        folder = {"metadata": {"path": str(NOTEBOOKS)}}  # where chapter 09 finds a model
        NotebookClient(short, timeout=300, kernel_name="python3", resources=folder).execute()
