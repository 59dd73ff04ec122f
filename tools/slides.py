"""Decks for a lecture, derived from the notebooks: nothing of them is stored.

    python tools/slides.py            (make slides) decks of all chapters, into build/slides
    python tools/slides.py 04 07      only these

JupyterLab shows them with the extension jupyterlab-slideshow, cells and sliders alive. A slide
begins with a heading and its first sentence, with a question ("Before you run"), or where the last
one has its code already; code and figures come at the next step. Exercises, printed sources and
long prose stay in the file, hidden; so does a cell tagged slide-skip.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from notebooks import chapters, tags

ROOT = Path(__file__).resolve().parent.parent
LONG = 45  # words of prose that nobody reads on a wall
HIDDEN_SECTIONS = {"Before you start", "Exercises", "Next"}
HIDDEN_TAGS = {"exercise", "check", "solution", "slide-skip"}
SOURCE = "checks.show_source("  # prints more than a wall holds
STEP = r"Before you run|\*\*\d\.\*\* "  # a prediction, or one of the questions


def deck(notebook: NotebookNode) -> NotebookNode:
    """A copy with a slide type on every cell; Markdown is divided where a new step begins."""
    copy = nbformat.from_dict(notebook)
    copy.cells = list(typed(copy.cells))
    return copy


def typed(cells: Sequence[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells with their slide types, in order."""
    section, has_code = "", False
    for cell in cells:
        for piece in divided(cell):
            section = heading(piece, "##") or section
            kind = "fragment"
            if section in HIDDEN_SECTIONS or tags(piece) & HIDDEN_TAGS or SOURCE in piece.source:
                kind = "skip"
            elif piece.cell_type == "code":
                kind, has_code = "slide" if has_code else "fragment", True
            elif heading(piece, "##?#?") or re.match(STEP, piece.source):
                kind, has_code = "slide", False
            elif words(piece.source) > LONG:
                kind = "notes"
            piece.metadata["slideshow"] = {"slide_type": kind}
            yield piece


def divided(cell: NotebookNode) -> list[NotebookNode]:
    """A code cell as it is; Markdown cut before headings and steps, and shortened."""
    if cell.cell_type != "markdown":
        return [cell]
    cuts = re.compile(rf"\n+(?=##+ |{STEP})")
    parts = [part for text in cuts.split(cell.source) for part in shortened(text)]
    ids = [cell.id, *(f"{cell.id}-{n}" for n in range(2, len(parts) + 1))]
    return [
        nbformat.from_dict({**cell, "id": i, "source": part, "metadata": dict(cell.metadata)})
        for i, part in zip(ids, parts, strict=True)
    ]


def shortened(text: str) -> list[str]:
    """Text below a heading that is too long for a wall: the first sentence, and the rest."""
    title, _, body = text.partition("\n")
    if not title.startswith("#") or words(body) <= LONG:
        return [text]
    sentence, _, rest = body.strip().partition("\n")
    return [f"{title}\n\n{sentence}", rest.strip()] if rest.strip() else [text]


def heading(cell: NotebookNode, marks: str) -> str:
    """The text of the heading with which a Markdown cell begins; marks: a pattern for its #."""
    found = re.match(rf"{marks} (.+)", cell.source) if cell.cell_type == "markdown" else None
    return found[1] if found else ""


def words(markdown: str) -> int:
    """Words of prose: lists, tables, formulas and code are meant to be looked at."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$", "", markdown, flags=re.DOTALL)
    prose = [line for line in text.splitlines() if not re.match(r"\s*([-*|>#]|\d+\.) ", line)]
    return len(" ".join(prose).split())


def write_decks(paths: Sequence[Path], folder: Path) -> None:
    """One deck per notebook, with its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        nbformat.write(deck(nbformat.read(path, as_version=4)), folder / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", metavar="NN", help="chapters; default: all")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "slides", metavar="D")
    options = parser.parse_args()
    try:
        paths = chapters(options.numbers)
    except ValueError as error:
        parser.error(str(error))
    write_decks(paths, options.to)
    print(f"{len(paths)} decks in {options.to}; open one, run all cells, select the first one, and "
          f"press the button with the cards above the notebook")  # fmt: skip


if __name__ == "__main__":
    main()
