"""What a class has understood: judge returned notebooks, one folder per learner.

    python tools/report.py CLASS               (make report CLASS=folder)
    python tools/report.py CLASS --to FOLDER   report.csv and report.html go there

report.csv has a line for each exercise of each chapter that a learner returned: learner, chapter,
exercise, verdict, hint. report.html has the most frequent hints of every exercise, without names.

This runs strangers' code with your rights: imports and definitions of the notebooks, and what the
checks call. Limits on time and memory and an empty folder stop accidents, not malice. Run it as a
user who owns nothing, or in a container without network; README.md ("Teach with it") says how.
"""

from __future__ import annotations

import argparse
import ast
import csv
import html
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import judging
import returned as reading
from judging import Limits, Outcome
from returned import Exercise, Job, Returned

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = ("solved", "wrong", "untouched", "missing", "syntax error", "not run", "time", "memory",
            "ended", "unreadable")  # fmt: skip
BEST_FIRST = {verdict: place for place, verdict in enumerate(VERDICTS)}
FREQUENT = 5  # hints per exercise on the page
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ccc }
td { text-align: right } td:first-child, th:first-child { text-align: left }"""


class Row(NamedTuple):
    """One line of the table."""

    learner: str
    chapter: str
    exercise: str
    verdict: str
    hint: str


class Asked(NamedTuple):
    """A row that waits for the outcome of a job."""

    row: Row
    exercise: Exercise
    job: Job
    file: Returned
    answer: str


def notebooks_of(folder: Path) -> dict[str, list[Path]]:
    """Learner -> notebooks. Raises: ValueError if there is no learner."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the one that holds a folder per learner")
    found = {}
    for learner in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(
            path
            for path in learner.rglob("*.ipynb")
            if path.is_file() and not any(part.startswith(".") for part in path.parts)
        )
        if paths:
            found[learner.name] = paths
    if not found:
        raise ValueError(f"{folder} holds no folder with notebooks; make one for each learner")
    return found


def examine(
    learner: str, path: Path, exercises: Sequence[Exercise], chapters: dict[str, Returned]
) -> Iterable[Row | Asked]:
    """What one notebook answers; what must be run for it is asked for, not run."""
    try:
        file = reading.take_apart(reading.read_cells(path))
    except (ValueError, OSError) as error:
        chapter = reading.chapter_in_name(path, list(chapters)) or "?"
        yield Row(learner, chapter, "", "unreadable", f"{path.name}: {error}")
        return
    chapter = reading.chapter_of(path, file, exercises)
    if chapter is None:
        hint = f"{path.name}: no exercise of the course is in it, and no chapter in its name"
        yield Row(learner, "?", "", "unreadable", hint)
        return
    for exercise in exercises:
        if exercise.chapter == chapter:
            yield _about(Row(learner, chapter, exercise.number, "", ""), exercise, file, chapters)


def _about(
    row: Row, exercise: Exercise, file: Returned, chapters: dict[str, Returned]
) -> Row | Asked:
    answers = reading.answers_to(exercise, file)
    if answers:
        job = reading.job_for(exercise, answers[-1], file, chapters[exercise.chapter])
        return Asked(row, exercise, job, file, answers[-1].source)
    written = re.compile(rf"(?:def|class)\s+{exercise.name}\b|^{exercise.name}\s*=", re.MULTILINE)
    for cell in file.broken:
        if written.search(cell.source):
            hint = f"code cell {cell.number}: {cell.reason}"
            return row._replace(verdict="syntax error", hint=hint)
    if any(exercise.name in part.names for part in file.parts):
        return row._replace(verdict="untouched")
    return row._replace(verdict="missing", hint=f"no {exercise.name} in the notebook")


def judged(asked: Asked, outcome: Outcome) -> Row:
    """The row with its outcome; a name that only the notebook could have given is not a mistake."""
    verdict, hint = outcome.verdict, outcome.hint
    if name := re.search(r"NameError: name '(\w+)' is not defined", hint):
        if error := _failed(asked.job, outcome, name[1]):
            verdict, hint = "not run", f"it needs {name[1]}, which failed here: {error}"
        elif name[1] in asked.file.left_out:
            verdict = "not run"
            hint = f"it needs {name[1]}, which a cell computes; only definitions are run"
    if verdict == "solved" and asked.answer == asked.exercise.solution:
        hint = "word for word the course's solution"
    return asked.row._replace(verdict=verdict, hint=hint)


def _failed(job: Job, outcome: Outcome, name: str) -> str | None:
    """The error of the part that should have given a name."""
    for i, error in outcome.failed:
        if name in reading.names_set(ast.parse(job.parts[i]).body[0]):
            return error
    return None


def best(rows: Iterable[Row]) -> list[Row]:
    """Of an exercise that a learner returned several times, the best answer."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row.learner, row.chapter, row.exercise, row.hint * (not row.exercise))
        if key not in found or BEST_FIRST[row.verdict] < BEST_FIRST[found[key].verdict]:
            found[key] = row
    return [found[key] for key in sorted(found)]


def report(folder: Path, limits: Limits, processes: int) -> list[Row]:
    """Read and judge a class; equal answers are run once."""
    exercises, chapters = reading.course()
    things = [
        thing
        for learner, paths in notebooks_of(folder).items()
        for path in paths
        for thing in examine(learner, path, exercises, chapters)
    ]
    asked = [thing for thing in things if isinstance(thing, Asked)]
    jobs = list(dict.fromkeys(each.job for each in asked))
    with ThreadPoolExecutor(processes) as pool:
        outcomes = dict(zip(jobs, pool.map(lambda job: judging.judge(job, limits), jobs),
                            strict=True))  # fmt: skip
    rows = [thing for thing in things if isinstance(thing, Row)]
    return best([*rows, *(judged(each, outcomes[each.job]) for each in asked)])


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """The rows; what a spreadsheet would take for a formula begins with an apostrophe."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for row in rows:
            writer.writerow(["'" + cell if cell[:1] in "=+-@\t\r" and cell else cell
                             for cell in row])  # fmt: skip


def page(rows: Sequence[Row], exercises: Sequence[Exercise], limits: Limits) -> str:
    """One page for the next lesson: verdicts and frequent hints of each exercise, no names."""
    shown = [e for e in exercises if any(row.chapter == e.chapter for row in rows)]
    by_exercise = {e: [row for row in rows if row.exercise == e.number] for e in shown}
    columns = [v for v in VERDICTS if any(row.verdict == v for each in by_exercise.values()
                                          for row in each)]  # fmt: skip
    lines = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Class report</title>",
        f"<style>{STYLE}</style><h1>Class report</h1>",
        f"<p>{len({row.learner for row in rows})} learners. Verdicts are those of the course's own "
        f"checks on what the notebooks define; they are feedback for a class, not an exam. The "
        f"checks ran the learners' code with the rights of whoever made this page, each answer for "
        f"at most {limits.seconds:g} seconds and {limits.memory:g} GB.</p><table><tr>"
        f"<th>exercise</th>{''.join(f'<th>{column}</th>' for column in columns)}</tr>",
    ]
    for exercise, found in by_exercise.items():
        counts = Counter(row.verdict for row in found)
        cells = "".join(f"<td>{counts[column] or ''}</td>" for column in columns)
        name = html.escape(f"{exercise.number} {exercise.title}")
        lines.append(f"<tr><td>{name}</td>{cells}</tr>")
    lines.append("</table>")
    for exercise, found in by_exercise.items():
        lines += _hints(exercise, found)
    lines += _unread(rows)
    return "\n".join(lines) + "\n"


def _hints(exercise: Exercise, rows: Sequence[Row]) -> list[str]:
    """The most frequent hints; those that differ in numbers only are counted together."""
    hints = [row.hint for row in rows if row.hint and row.verdict != "solved"]
    kinds = [re.sub(r"\d[\d.,e+-]*", "#", hint) for hint in hints]
    first = dict(zip(reversed(kinds), reversed(hints), strict=True))
    lines = [f"<h2>{html.escape(f'{exercise.number} {exercise.title}')}</h2>"]
    if not hints:
        return [*lines, "<p>No hints.</p>"]
    items = [
        f"<li>{count} of {len(rows)}: {html.escape(first[kind])}</li>"
        for kind, count in Counter(kinds).most_common(FREQUENT)
    ]
    return [*lines, "<ul>", *items, "</ul>"]


def _unread(rows: Sequence[Row]) -> list[str]:
    number = sum(not row.exercise for row in rows)
    return [f"<p>Files that could not be read: {number}; see report.csv.</p>"] * bool(number)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="CLASS", help="holds one folder per learner")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "report", metavar="FOLDER",
                        help="default: build/report")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=Limits().seconds, help="for each answer")
    parser.add_argument("--memory", type=float, default=Limits().memory, help="GB for each answer")
    parser.add_argument("--processes", type=int, default=_cores(), help="default: one per core")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when the first process imports PyTorch
    limits, began = Limits(options.seconds, options.memory), time.monotonic()
    try:
        options.to.mkdir(parents=True, exist_ok=True)
        print("running the learners' code, with your rights: see `Teach with it` in README.md")
        rows = report(options.folder, limits, max(1, options.processes))
        write_csv(rows, options.to / "report.csv")
        text = page(rows, reading.course()[0], limits)
        (options.to / "report.html").write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = Counter(row.verdict for row in rows)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    print(f"{len({row.learner for row in rows})} learners in {time.monotonic() - began:.0f} s: "
          f"{told}; {options.to / 'report.csv'}, {options.to / 'report.html'}")  # fmt: skip
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
