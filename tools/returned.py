"""What a returned notebook holds, read without running any of it.

Nothing is needed in a notebook but the names of its functions: no tags, no ids, no file name. Kept
are imports, functions, classes, and assignments of a constant, a lambda or another name. Where a
learner's file lacks a name, the course's own notebook gives it.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LARGEST = 20_000_000  # bytes of a notebook
PLAIN_CELLS = re.compile(r"^\s*%%(time|timeit|capture)\b.*\n?")  # below it, the cell is Python
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Part(NamedTuple):
    """One import, definition or plain assignment."""

    source: str
    names: frozenset[str]  # that it sets; "*" for all of a module
    uses: frozenset[str]


class Broken(NamedTuple):
    """A code cell that is no Python."""

    number: int  # from 1, among the code cells
    source: str
    reason: str


@dataclass
class Returned:
    """A notebook, taken apart."""

    parts: list[Part] = field(default_factory=list)  # in the order of the file
    broken: list[Broken] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)  # names set by what is not run


class Exercise(NamedTuple):
    """One exercise of the course."""

    chapter: str  # 07_moe
    number: str  # 7.1
    title: str
    name: str  # of the learner's function or class
    check: str  # of the function in moe_tutorial.checks
    stub: str  # normalized, see `normal`
    solution: str


class Job(NamedTuple):
    """What is run to judge an exercise."""

    parts: tuple[str, ...]
    name: str
    check: str


def read_cells(path: Path) -> list[dict]:
    """The cells of a notebook. Raises: ValueError, one line."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        cells = [{**cell, "source": "".join(cell["source"])} for cell in content["cells"]]
        return [cell for cell in cells if isinstance(cell["cell_type"], str)]
    except json.JSONDecodeError as error:
        raise ValueError(f"no notebook, or cut off in line {error.lineno}") from None
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"no notebook ({type(error).__name__})") from None


def take_apart(cells: Sequence[dict]) -> Returned:
    """All that can be run of the code cells; solutions of the course are left out."""
    returned, number = Returned(), 0
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        number += 1
        if "### BEGIN SOLUTION" in cell["source"] or "solution" in tags(cell):
            continue
        try:
            body = parsed(cell["source"])
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = f" in line {error.lineno}" if getattr(error, "lineno", None) else ""
            reason = f"{getattr(error, 'msg', 'cannot be read')}{where}"
            returned.broken.append(Broken(number, cell["source"], reason))
            continue
        for node in body:
            parts = list(parts_of(node))
            returned.parts += parts
            if not parts:
                returned.left_out |= names_set(node)
    return returned


def tags(cell: dict) -> set[str]:
    """The tags of a cell; a stranger's metadata may be anything."""
    metadata = cell.get("metadata")
    found = metadata.get("tags") if isinstance(metadata, dict) else None
    return {tag for tag in found if isinstance(tag, str)} if isinstance(found, list) else set()


def parsed(source: str) -> list[ast.stmt]:
    """The statements of a cell, its magics made Python. Raises: SyntaxError and others."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compile(source, "<cell>", "exec", flags).body
    except SyntaxError:  # or magics, which are slow to find
        from IPython.core.inputtransformer2 import TransformerManager

        source = TransformerManager().transform_cell(PLAIN_CELLS.sub("", source))
        return compile(source, "<cell>", "exec", flags).body


def parts_of(node: ast.stmt) -> Iterator[Part]:
    """What is run of one statement: each imported name by itself, or the whole, or nothing."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            single = ast.Import([alias])
            if isinstance(node, ast.ImportFrom):
                single = ast.ImportFrom(node.module, [alias], node.level)
            name = alias.asname or alias.name.partition(".")[0]
            yield Part(ast.unparse(single), frozenset({name}), frozenset())
    elif _is_kept(node):
        uses = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        yield Part(ast.unparse(node), frozenset(names_set(node)), frozenset(uses))


def _is_kept(node: ast.stmt) -> bool:
    if isinstance(node, ast.Try):  # such as an import with another in its place
        inside = [*node.body, *node.orelse, *node.finalbody]
        inside += [statement for handler in node.handlers for statement in handler.body]
        return all(isinstance(s, ast.Import | ast.ImportFrom | ast.Pass) or _is_kept(s)
                   for s in inside)  # fmt: skip
    if isinstance(node, ast.Assign):
        return all(isinstance(t, ast.Name) for t in node.targets) and _is_plain(node.value)
    return isinstance(node, DEFINITIONS)


def _is_plain(value: ast.expr) -> bool:
    """A lambda, another name, or a constant: nothing is called."""
    if isinstance(value, ast.Lambda | ast.Name):
        return True
    if isinstance(value, ast.Attribute):
        return _is_plain(value.value)
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def names_set(node: ast.stmt) -> set[str]:
    """The names that a statement sets, those inside functions and classes not counted."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    found = {
        name.id
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    return found.union(
        *(names_set(s) for s in ast.iter_child_nodes(node) if isinstance(s, ast.stmt))
    )


def normal(source: str) -> str:
    """Code without comments and layout, to tell whether it was changed."""
    return ast.unparse(ast.parse(source))


@functools.cache
def course(folder: Path = NOTEBOOKS) -> tuple[list[Exercise], dict[str, Returned]]:
    """The exercises of all chapters, and their notebooks without exercises and solutions."""
    exercises, chapters = [], {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        cells = read_cells(path)
        for i, cell in enumerate(cells):
            if "exercise" in tags(cell):
                exercises.append(_exercise(path.stem, *cells[i - 1 : i + 4]))
        chapters[path.stem] = take_apart(
            [cell for cell in cells if not tags(cell) & {"exercise", "check"}]
        )
    return exercises, chapters


def _exercise(chapter: str, text: dict, stub: dict, check: dict, solution: dict, *_: dict):
    """An exercise from its four cells; the check is `checks.check_name(name)`."""
    call = ast.parse(check["source"]).body[0].value
    number, title = re.match(r"### Exercise (\S+) (.+)", text["source"]).groups()
    name = call.args[0].id
    texts = [_definition(cell["source"], name) for cell in (stub, solution)]
    return Exercise(chapter, number, title, name, call.func.attr, *texts)


def _definition(source: str, name: str) -> str:
    return next(ast.unparse(s) for s in parsed(source) if name in names_set(s))


def answers_to(exercise: Exercise, returned: Returned) -> list[Part]:
    """The learner's versions of one exercise, in order, without untouched copies of the stub."""
    versions = [part for part in returned.parts if exercise.name in part.names]
    return [part for part in versions if part.source != exercise.stub]


def job_for(exercise: Exercise, answer: Part, returned: Returned, chapter: Returned) -> Job:
    """What must be run for one answer: it, and whatever it needs, directly or not.

    A name is the learner's own where the file has it, else the course's.
    """
    own = [p for p in returned.parts if exercise.name not in p.names or p is answer]
    theirs = {name for part in own for name in part.names}
    parts = [part for part in chapter.parts if not part.names <= theirs] + own
    found: set[int] = set()
    names, seen = [exercise.name], {exercise.name}
    while names:
        name = names.pop()
        for i, part in enumerate(parts):
            if i not in found and part.names & {name, "*"}:
                found.add(i)
                names += part.uses - seen
                seen |= part.uses
    return Job(tuple(parts[i].source for i in sorted(found)), exercise.name, exercise.check)


def chapter_of(path: Path, returned: Returned, exercises: Sequence[Exercise]) -> str | None:
    """The chapter whose exercises a notebook has, whatever it is called; else that of its name."""
    counts: dict[str, int] = {}
    text = [*(n for p in returned.parts for n in p.names), *(b.source for b in returned.broken)]
    for exercise in exercises:
        pattern = re.compile(rf"(?:^|(?:def|class)\s+){exercise.name}\b")
        counts[exercise.chapter] = counts.get(exercise.chapter, 0) + any(map(pattern.search, text))
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else chapter_in_name(path, list(counts))


def chapter_in_name(path: Path, chapters: Sequence[str]) -> str | None:
    """The chapter whose number is in a file's name."""
    numbers = re.findall(r"(?<!\d)(\d\d)_", path.name)
    return next((c for c in chapters if numbers and c[:2] == numbers[0]), None)
