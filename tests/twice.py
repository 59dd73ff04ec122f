"""Run a chapter with every cell executed twice, in a folder with an awkward name.

python tests/twice.py NOTEBOOK FOLDER
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

AWKWARD_NAME = "zwölf Boxkämpfer 日本 🦊"


def run_twice(notebook: Path, folder: Path) -> None:
    """Execute every code cell twice in a row; the kernel's working directory is the folder's child.

    Raises: nbclient's CellExecutionError if a cell without the tag raises-exception fails.
    """
    here = folder / AWKWARD_NAME / "notebooks"
    here.mkdir(parents=True, exist_ok=True)
    content = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    content.cells = []
    for cell in cells:
        again = copy.deepcopy(cell)
        again.id = f"{cell.id}-again"[-64:]
        content.cells += [cell, again]
    client = NotebookClient(
        content, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(here)}}
    )
    client.execute()


def run_twice_in_new_process(notebook: Path, folder: Path) -> str:
    """The same, where event loops and sockets end with the process; the error, or nothing."""
    command = [sys.executable, "-W", "ignore", __file__, str(notebook), str(folder)]
    result = subprocess.run(
        command, cwd=notebook.parent, capture_output=True, text=True, check=False
    )
    return f"{notebook.stem}: {result.stderr}" if result.returncode else ""


if __name__ == "__main__":
    run_twice(Path(sys.argv[1]), Path(sys.argv[2]))
