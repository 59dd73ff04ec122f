"""Re-execute the notebooks in place, or write a copy of them for a class.

python tools/notebooks.py              all chapters in order, each from a clean kernel
python tools/notebooks.py 01 04        only these
python tools/notebooks.py --student D  a copy in folder D, without solutions
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "name": "python"}  # for `nbconvert --to script`
STRIP = (
    "--keep-output", "--keep-count", "--keep-id",
    "--extra-keys", "metadata.language_info.version cell.metadata.execution metadata.widgets",
)  # fmt: skip
SOLUTION_BELOW = "The closed cell after it holds a solution."
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def chapters(numbers: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks whose names begin with these numbers, all without numbers, in order."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    chosen = [path for path in paths if not numbers or path.name[:2] in numbers]
    if missing := set(numbers) - {path.name[:2] for path in chosen}:
        raise ValueError(f"no notebook {', '.join(sorted(missing))} in {folder}")
    return chosen


def execute(path: Path) -> None:
    """Run one notebook from a clean kernel; store outputs and counts; normalize the rest."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        # Stored tracebacks are one line: the frames would hold paths of this machine.
        extra_arguments=["--InteractiveShell.xmode=Minimal"],
    )
    client.execute()
    normalize(notebook)
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, "-m", "nbstripout", *STRIP, str(path)], check=True)


def normalize(notebook: NotebookNode) -> None:
    """Keep ids, tags and hidden sources; drop what differs from run to run."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("jupyter", "tags") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)  # refers to a model of this run


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """The notebook without solution cells, and with its exercises not yet run."""
    copy = nbformat.from_dict(notebook)
    copy.cells = [cell for cell in copy.cells if "solution" not in tags(cell)]
    for cell in copy.cells:
        cell.source = cell.source.replace(f"\n{SOLUTION_BELOW}", "")
        if {"exercise", "check"} & tags(cell):
            cell.outputs, cell.execution_count = [], None
    return copy


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def write_student_copies(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        nbformat.write(student_copy(nbformat.read(path, as_version=4)), folder / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "numbers", nargs="*", metavar="NN", help="chapters, such as 01; default all"
    )
    parser.add_argument("--student", type=Path, metavar="DIR", help="write copies for a class here")
    options = parser.parse_args()
    try:
        paths = chapters(options.numbers)
    except ValueError as error:
        parser.error(str(error))
    if options.student:
        write_student_copies(paths, options.student)
        return
    for path in paths:
        print(path.name, flush=True)
        execute(path)


if __name__ == "__main__":
    main()
