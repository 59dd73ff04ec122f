"""The notebooks as the tests see them: which there are, their cells, tags, code and exercises."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import re
import runpy
import symtable
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

NOTEBOOKS = ROOT / "notebooks"
LIBRARY = ROOT / "moe_tutorial"
# Notebook -> the library modules that it builds.
CHAPTERS = {
    "01_corpus": ("corpus",),
    "02_tokenizer": ("tokenizer",),
    "03_batching": ("batching",),
    "04_rope": ("rope",),
    "05_rmsnorm": ("rmsnorm",),
    "06_attention": ("attention",),
    "07_moe": ("moe",),
    "08_training": ("model", "checkpoint", "training"),
    "09_sampling": ("sampling",),
    "10_hugging_face": ("layouts", "families", "translation", "hugging_face"),
    "11_router_health": ("balance",),
    "12_specialists": ("analysis",),
    "13_does_it_pay": ("cost",),
    "14_many_devices": ("parallel",),
    "15_routers": ("cards", "routers"),
}
PRESENT = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
MACHINERY = {"exercise", "check", "solution"}


class Cell(NamedTuple):
    """One cell of a notebook."""

    id: str
    kind: str
    source: str
    tags: set[str]
    raw: dict


class Exercise(NamedTuple):
    """One exercise with the names that the chapter has defined before it."""

    stub: str
    check: str
    solution: str
    namespace: dict


def read(path: Path) -> list[Cell]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        Cell(c["id"], c["cell_type"], "".join(c["source"]), set(c["metadata"].get("tags", [])), c)
        for c in cells
    ]


def cells(chapter: str) -> list[Cell]:
    return read(NOTEBOOKS / f"{chapter}.ipynb")


def code(chapter: str) -> list[Cell]:
    return [cell for cell in cells(chapter) if cell.kind == "code"]


def python(source: str) -> str:
    """The cell without its magics, which are not Python."""
    return re.sub(r"^%.*$", "", source, flags=re.MULTILINE)


def module_tree(module: str) -> ast.Module:
    return ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))


def exercise_ids(chapter: str) -> list[str]:
    return [cell.id for cell in code(chapter) if "exercise" in cell.tags]


def wrong_answers(chapter: str) -> dict[str, list[tuple[str, str]]]:
    """Exercise -> wrong answers, each with a part of what its check must say."""
    return runpy.run_path(str(ROOT / f"tests/wrong_answers/ch{chapter[:2]}.py"))["WRONG"]


def right_answers(chapter: str) -> dict[str, list[str]]:
    """Exercise -> answers that differ from its solution and are right as well."""
    return runpy.run_path(str(ROOT / f"tests/right_answers/ch{chapter[:2]}.py"))["RIGHT"]


@functools.cache
def exercises(chapter: str) -> dict[str, Exercise]:
    """Run the cells that the exercises need once; at each exercise keep a copy of the names."""
    wrong = [answer for each in wrong_answers(chapter).values() for answer, _ in each]
    right = [answer for each in right_answers(chapter).values() for answer in each]
    return exercises_of(cells(chapter), wrong + right)


def exercises_of(cells: list[Cell], answers: Sequence[str] = ()) -> dict[str, Exercise]:
    namespace: dict = {"__name__": "__main__"}
    found = {}
    in_code = [cell for cell in cells if cell.kind == "code"]
    needed = needed_cells(in_code, answers)
    with contextlib.chdir(NOTEBOOKS):
        for i, cell in enumerate(in_code):
            if "exercise" in cell.tags:
                check, solution = in_code[i + 1 : i + 3]
                found[cell.id] = Exercise(
                    cell.source, check.source, solution.source, dict(namespace)
                )
            elif cell.id in needed:
                raises = "raises-exception" in cell.tags
                with contextlib.suppress(Exception) if raises else contextlib.nullcontext():
                    run(cell.source, namespace)
    return found


def needed_cells(in_code: list[Cell], answers: Sequence[str]) -> set[str]:
    """Ids of the ordinary cells that set, directly or not, a name that exercises or answers use."""
    names = set().union(*(global_names(answer)[1] for answer in answers))
    needed = set()
    for cell in reversed(in_code):
        defined, used = global_names(cell.source)
        if cell.tags & MACHINERY:
            names |= used
        elif defined & names:
            needed.add(cell.id)
            names |= used
    return needed


def global_names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell sets, `name.attribute = ...` included, and those it reads."""
    defined, used = set(), set()

    def visit(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
                used.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    try:
        table = symtable.symtable(python(source), "<cell>", "exec")
    except SyntaxError:  # a wrong answer may be one
        return defined, used
    visit(table)
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
            defined.add(symbol.get_name())
    for node in ast.walk(ast.parse(python(source))):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            defined |= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
    return defined, used


def run(source: str, namespace: dict) -> str:
    """Run source in namespace; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(python(source), "<cell>", "exec"), namespace)
    return printed.getvalue()


def judge(exercise: Exercise, answer: str) -> str:
    """What the exercise's check prints about an answer."""
    namespace = dict(exercise.namespace)
    run(answer, namespace)
    return run(exercise.check, namespace)
