"""`make report`: every kind of returned notebook gets its verdict, and one stops no other.

One class holds a learner per kind. Its harmless kinds are judged twice: here, and (slow) all of
them by the tool as a teacher calls it, each answer in a process of its own.
"""

import ast
import csv
import itertools
import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
from chapters import PRESENT, cells, code, exercise_ids, exercises, right_answers, wrong_answers
from conftest import ROOT, environment

sys.path.insert(0, str(ROOT / "tools"))
import judging
import report
import returned
from judging import Limits, Outcome
from report import Row

SOLUTION = {i: e.solution.partition("### END")[0] for i, e in exercises("07_moe").items()}
FIRST, SECOND, THIRD = SOLUTION
WRONG = {i: [answer for answer, _ in answers] for i, answers in wrong_answers("07_moe").items()}
PLACE = 1 + [c.id for c in code("07_moe") if "solution" not in c.tags].index(SECOND)
HEAD = "def biased_routing(logits, bias, top_k):\n"
BODY = SOLUTION[SECOND].partition(HEAD)[2]
UNBALANCED = "not yet: the weights do not add up to 1; divide them by the sum of the chosen"
LEAKED = "not yet: the bias leaks into the weights; take the weights from the sigmoids alone"
LIMITS = Limits(seconds=4, memory=0.5)


def notebook(answers=None, chapter="07_moe", **changes):
    """A student's notebook as a dict; answers: id of a cell -> its new source."""
    answers = answers or {}
    kept = [dict(c.raw) for c in cells(chapter) if "solution" not in c.tags]
    for cell in kept:
        cell["source"] = answers.get(cell["id"], "".join(cell["source"])).replace("###", "#")
        cell.update(outputs=[], execution_count=None) if cell["cell_type"] == "code" else None
    return {"cells": kept, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **changes}


def with_cell(source, answers=SOLUTION, place=0):
    """A notebook with one more code cell."""
    book = notebook(answers)
    cell = {"cell_type": "code", "id": "more", "metadata": {}, "outputs": [], "source": source}
    book["cells"].insert(place % (len(book["cells"]) + 1), cell)
    return book


def second(body, **more):
    """Exercise 7.2 answered by this body, the others solved."""
    return notebook({**SOLUTION, SECOND: HEAD + body, **more})


def without_tags_and_checks():
    book = notebook(SOLUTION)
    book["cells"] = [c for c in book["cells"] if not c["source"].startswith("checks.check_")]
    for cell in book["cells"]:
        cell["metadata"] = {}
        del cell["id"]
    return book


def duplicated():
    """Solved, and then an untouched copy of every exercise, with the same ids, at the end."""
    book = notebook(SOLUTION)
    book["cells"] += [c for c in notebook()["cells"] if "-exercise-" in c["id"]]
    return book


def only_exercises():
    book = notebook(SOLUTION)
    book["cells"] = [c for c in book["cells"] if c["id"] in SOLUTION]
    return book


def with_solutions_of_the_course():
    """The full notebook, not the student's: solutions below untouched stubs."""
    return {"cells": [dict(c.raw) for c in cells("07_moe")], "nbformat": 4, "metadata": {}}


def broken(source):
    return with_cell(f"{source}\nif True print('no')", SOLUTION)


# Kind -> (notebook, verdicts of 7.1 to 7.3, or of 7.2 where the others are solved, and its hint).
ALL, SAME = ("solved",) * 3, "word for word the course's solution"
HARMLESS = {
    "solved": (notebook(SOLUTION), ALL, SAME),
    "untouched": (notebook(), ("untouched",) * 3, ""),
    "untouched but for a comment": (
        notebook({SECOND: HEAD + "    # how?\n    ..."}), ("untouched",) * 3, ""),
    "no sum": (second(BODY.replace(" / chosen.sum(dim=-1, keepdim=True)", "")), "wrong", None),
    "bias leaks": (
        second("    s = logits.sigmoid() + bias\n    best = s.topk(top_k)\n"
               "    return best.values / best.values.sum(-1, keepdim=True), best.indices"),
        "wrong", LEAKED),
    "bug still there": (
        notebook({**SOLUTION, THIRD: exercises("07_moe")[THIRD].stub.replace("experts", "e")}),
        ("solved", "solved", "wrong"), SAME),
    "checks and tags deleted": (without_tags_and_checks(), ALL, SAME),
    "duplicated cells": (duplicated(), ALL, SAME),
    "only the exercises": (only_exercises(), ALL, SAME),
    "the course's solutions below": (with_solutions_of_the_course(), ("untouched",) * 3, ""),
    "syntax error in another cell": (broken("def helper():\n    pass"), ALL, SAME),
    "syntax error in a check": (
        notebook({**SOLUTION, FIRST.replace("exercise", "check"): "checks.check_served(served"}),
        ALL, SAME),
    "syntax error in the answer": (
        second("    return logits topk"),
        "syntax error", f"code cell {PLACE}: invalid syntax in line 2"),
    "a package that is missing": (
        with_cell("import pandaz as pz", {**SOLUTION, SECOND: HEAD + "    return pz.no(logits)"}),
        "not run",
        "it needs pz, which failed here: ModuleNotFoundError: No module named 'pandaz'"),
    "a missing package that is not needed": (with_cell("import pandaz, torch"), ALL, SAME),
    "the imports deleted": (
        notebook({**SOLUTION, **{c.id: "" for c in cells("07_moe") if "import" in c.source
                                 and not c.tags}}), ALL, SAME),
    "a name never set": (
        second("    return nowhere"), "wrong",
        "not yet: it raised NameError: name 'nowhere' is not defined"),
    "needs what a cell computes": (
        with_cell("table = sorted([3, 2])", {**SOLUTION, SECOND: HEAD + "    return table"}),
        "not run", "it needs table, which a cell computes; only definitions are run"),
    "function renamed": (
        notebook({**SOLUTION, SECOND: SOLUTION[SECOND].replace("biased_r", "r")}),
        "missing", "no biased_routing in the notebook"),
    "an alias, a constant, a lambda": (
        with_cell("DIM = -1\nroute = torch.sigmoid\nlast = lambda x: x.sum(DIM, keepdim=True)",
                  {**SOLUTION, SECOND: "def mine(logits, bias, top_k):\n"
                   + BODY.replace("logits.sigmoid()", "route(logits)")
                   .replace("chosen.sum(dim=-1, keepdim=True)", "last(chosen)")
                   + "\nbiased_routing = mine"}, -1), ALL, ""),
    "magics": (
        notebook({**SOLUTION, SECOND: "%%time\n!ls\n%matplotlib inline\n" + SOLUTION[SECOND]}),
        ALL, SAME),
    "another language": (with_cell("%%bash\nrm -rf nothing"), ALL, SAME),
    "a helper of the notebook changed": (
        with_cell("def sum_of(x):\n    return x.sum(dim=-1, keepdim=True)",
                  {**SOLUTION, SECOND: SOLUTION[SECOND].replace(
                      "chosen.sum(dim=-1, keepdim=True)", "sum_of(chosen)")}), ALL, ""),
    "prints that it is correct": (
        second("    print('correct: all of it', end='')\n    return 1"), "wrong",
        "not yet: return two tensors: weights, experts"),
}  # fmt: skip
PROCESSES = {
    "endless loop": (
        second("    while True:\n        pass"),
        "time", "no answer in 4 seconds; an endless loop?"),
    "sleeps": (second("    import time\n    time.sleep(9999)"), "time", None),
    "memory without end": (
        second("    rows = []\n    while True:\n        rows.append(bytes(10**6))"),
        "memory", "it took more than 0.5 GB of memory"),
    "memory at once": (second("    return torch.ones(10**10)"), "memory", None),
    "deletes files": (
        with_cell("import shutil, pathlib\nshutil.rmtree('..')\n!rm -rf ..", {
            **SOLUTION, SECOND: HEAD + "    import glob, os\n    for name in glob.glob('*'):\n"
            "        os.remove(name)\n    open('left', 'w').write('x')\n" + BODY}), ALL, ""),
    "prints megabytes": (
        second("    import os\n    print('x' * 10**7)\n    os.system('yes | head -c 1000000')\n"
               + BODY), ALL, ""),
    "calls sys.exit": (
        with_cell("import sys\nsys.exit(1)", {**SOLUTION, SECOND: HEAD + "    sys.exit()"}),
        "ended", "it calls sys.exit"),
    "leaves at once": (
        second("    import os\n    os._exit(3)"), "ended",
        "its process ended without an answer (exit 3)"),
    "kills itself": (
        second("    import os\n    os.kill(os.getpid(), 9)"), "ended",
        "its process ended without an answer (exit -9)"),
    "asks": (second("    return input('?')"), "wrong", None),
    "recursion without end": (
        second("    return biased_routing(logits, bias, top_k)"), "wrong", None),
    "a class that never ends": (
        second("    return Slow()", **{FIRST: SOLUTION[FIRST] + "\nclass Slow:\n    while 1: 1"}),
        "time", None),
    "starts what goes on": (
        second("    import subprocess\n    subprocess.Popen(['sleep', '54321'])\n" + BODY),
        ALL, ""),
    "writes a file without end": (
        second("    with open('f', 'wb') as f:\n        while 1: f.write(bytes(10**7))"),
        "wrong", None),
}  # fmt: skip


def expected(verdicts):
    return verdicts if isinstance(verdicts, tuple) else ("solved", verdicts, "solved")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The class on disk: a folder per kind, and some files that are no such notebooks."""
    folder = tmp_path_factory.mktemp("class")
    for kind, (book, *_) in {**HARMLESS, **PROCESSES}.items():
        (folder / kind).mkdir()
        (folder / kind / "07_moe.ipynb").write_text(json.dumps(book), encoding="utf-8")
    text = json.dumps(notebook(SOLUTION), indent=1)
    files = {
        "renamed/my homework (2).ipynb": text,
        "in a folder below/work/07_moe.ipynb": text,
        "a mark before it/07_moe.ipynb": "\ufeff" + text,
        "truncated/07_moe.ipynb": text[: len(text) // 2],
        "empty/07_moe.ipynb": "",
        "other json/07_moe.ipynb": '{"cells": [{"cell_type": "code"}, 3]}',
        "deep json/07_moe.ipynb": "[" * 100_000,
        "not of the course/holidays.ipynb": json.dumps({"cells": []}),
        "returned twice/07_moe.ipynb": json.dumps(notebook()),
        "returned twice/07_moe (1).ipynb": json.dumps(notebook({SECOND: SOLUTION[SECOND]})),
        "returned twice/.ipynb_checkpoints/07_moe.ipynb": text,
        "=1+1/07_moe.ipynb": json.dumps(notebook()),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def verdicts(rows, learner):
    return tuple(row.verdict for row in rows if row.learner == learner)


def hint(rows, learner, number="7.2"):
    return next(row.hint for row in rows if (row.learner, row.exercise) == (learner, number))


@pytest.fixture(scope="module")
def judged(folder):
    """Judged in this process: all kinds but those that need one of their own; rows and jobs."""
    everyone, jobs = report.notebooks_of(folder), []
    harmless = {name: paths for name, paths in everyone.items() if name not in PROCESSES}

    def judge(job, limits):
        jobs.append(job)
        return judging.outcome(*judging.line_of(*job), limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "judge", judge)
        patch.setattr(report, "notebooks_of", lambda _: harmless)
        return report.report(folder, LIMITS, processes=1), jobs


@pytest.fixture(scope="module")
def rows(judged):
    return judged[0]


def check_kind(rows, kind, found):
    _, wanted, words = found
    assert verdicts(rows, kind) == expected(wanted), [r for r in rows if r.learner == kind]
    if words is not None:
        assert hint(rows, kind) == words


@pytest.mark.parametrize("kind", HARMLESS)
def test_kind_gets_its_verdict(rows, kind):
    check_kind(rows, kind, HARMLESS[kind])


def check_files(rows):
    for name in ("renamed", "in a folder below", "a mark before it"):
        assert verdicts(rows, name) == ALL, name
    unread = {row.learner: row for row in rows if row.verdict == "unreadable"}
    assert set(unread) == {"truncated", "empty", "other json", "deep json", "not of the course"}
    assert re.fullmatch(
        r"07_moe.ipynb: no notebook, or cut off in line \d+", unread["truncated"].hint
    )
    assert unread["truncated"].chapter == "07_moe"
    assert unread["other json"].hint == "07_moe.ipynb: no notebook (KeyError)"
    assert unread["not of the course"].chapter == "?"
    assert verdicts(rows, "returned twice") == ("untouched", "solved", "untouched")


def test_files_that_are_renamed_damaged_or_returned_twice(rows):
    check_files(rows)


def test_equal_answers_are_run_once(judged):
    rows, jobs = judged
    assert len(jobs) == len(set(jobs)) < len([row for row in rows if row.verdict != "untouched"])


def test_only_what_an_answer_needs_is_run(folder):
    exercises_, chapters = returned.course()
    file = returned.take_apart(notebook(SOLUTION)["cells"])
    exercise = next(e for e in exercises_ if e.name == "biased_routing")
    (answer,) = returned.answers_to(exercise, file)
    job = returned.job_for(exercise, answer, file, chapters["07_moe"])
    assert job.parts == (answer.source,)
    exercise = next(e for e in exercises_ if e.name == "served")
    (answer,) = returned.answers_to(exercise, file)
    job = returned.job_for(exercise, answer, file, chapters["07_moe"])
    assert job.parts == ("import torch.nn.functional as F", answer.source)


def test_the_course_has_three_exercises_a_chapter_with_their_titles():
    found, chapters = returned.course()
    assert list(chapters) == PRESENT
    numbers = [f"{int(c[:2])}.{n + 1}" for c in PRESENT for n in range(len(exercise_ids(c)))]
    assert [exercise.number for exercise in found] == numbers
    assert all(exercise.title and exercise.check.startswith("check_") for exercise in found)


def test_what_is_kept_of_a_cell():
    source = (
        "import a.b, c as d\nfrom e import f as g, h\nx = sorted([1])\ny = [1, {2: 'three'}]\n"
        "z = a.b.c\nw = open\nwith open('f') as v: pass\nfor u in x: print(u)\nx.y = 1\n"
        "try:\n    import i\nexcept ImportError:\n    i = None\nprint('no')\nasync def j(): pass"
    )
    file = returned.take_apart([{"cell_type": "code", "source": source}])
    kept = [part.source.splitlines()[0] for part in file.parts]
    assert kept == [
        "import a.b", "import c as d", "from e import f as g", "from e import h",
        "y = [1, {2: 'three'}]", "z = a.b.c", "w = open", "try:", "async def j():",
    ]  # fmt: skip
    assert [set(part.names) for part in file.parts[:4]] == [{"a"}, {"d"}, {"g"}, {"h"}]
    assert file.parts[7].names == {"i"}
    assert file.left_out == {"x", "v", "u"}


def test_a_table_that_a_spreadsheet_does_not_execute(tmp_path):
    row = Row("=1+1", "07_moe", "7.1", "wrong", '-2 is, no "place"\nx')
    report.write_csv([row], tmp_path / "r.csv")
    text = (tmp_path / "r.csv").read_text(encoding="utf-8")
    assert text.startswith("learner,chapter,exercise,verdict,hint\n'=1+1,07_moe,7.1,wrong,\"'-2")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1][:4] == ["'=1+1", *row[1:4]]


def test_the_page_counts_hints_and_has_no_names():
    hints = ["1.5 away", "2.25 away", "<b>far</b>"]
    rows = [Row(f"Learner {i}", "07_moe", "7.1", "wrong", h) for i, h in enumerate(hints)]
    rows += [Row("Learner 9", "07_moe", "7.1", "solved", "word for word the course's solution"),
             Row("Learner 8", "07_moe", "", "unreadable", "07_moe.ipynb: cut")]  # fmt: skip
    text = report.page(rows, returned.course()[0], LIMITS)
    assert "Learner" not in text
    assert "<p>5 learners." in text
    assert "<li>2 of 4: 1.5 away</li>\n<li>1 of 4: &lt;b&gt;far&lt;/b&gt;</li>" in text
    assert "word for word" not in text
    line = next(line for line in text.splitlines() if line.startswith("<tr><td>7.1 "))
    assert re.findall(r"<td>(\d*)</td>", line) == ["1", "3"]
    assert "ran the learners' code with the rights of whoever made this page" in text
    assert "Files that could not be read: 1; see report.csv." in text
    assert "<h2>7.2" in text
    assert "<h2>6.1" not in text


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("correct: yes", Outcome("solved", "")),
        ("not yet: a", Outcome("wrong", "not yet: a")),
        ("the bug is still there: a", Outcome("wrong", "the bug is still there: a")),
        ("not attempted yet", Outcome("untouched", "not attempted yet")),
        ("it calls sys.exit", Outcome("ended", "it calls sys.exit")),
        ("not yet: it raised MemoryError: ",
         Outcome("memory", "it took more than 0.5 GB of memory")),
    ],
)  # fmt: skip
def test_the_line_of_a_check_becomes_a_verdict(line, outcome):
    assert judging.outcome(line, (), LIMITS) == outcome


def test_a_folder_without_learners_is_one_line(tmp_path, capsys):
    (tmp_path / "07_moe.ipynb").write_text("{}", encoding="utf-8")
    for folder, words in ((tmp_path, "holds no folder with notebooks; make one for each learner"),
                          (tmp_path / "gone", "is no folder; name the one that")):  # fmt: skip
        assert report.main([str(folder), "--to", str(tmp_path / "to")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert words in error


# In processes


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    """The tool, as a teacher calls it: its rows, its page, and what it printed."""
    to = tmp_path_factory.mktemp("report")
    (folder.parent / "precious").write_text("x", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "report.py"), str(folder), "--to", str(to),
         "--seconds", str(LIMITS.seconds), "--memory", str(LIMITS.memory), "--processes", "2"],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with (to / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = [Row(*line) for line in csv.reader(file)][1:]
    page = (to / "report.html").read_text(encoding="utf-8")
    return rows, page, result


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
@pytest.mark.parametrize("kind", {**HARMLESS, **PROCESSES})
def test_kind_gets_its_verdict_in_a_process_of_its_own(told, kind):
    check_kind(told[0], kind, {**HARMLESS, **PROCESSES}[kind])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
def test_the_class_is_told_and_untouched(told, folder):
    rows, page, result = told
    check_files(rows)
    assert verdicts(rows, "'=1+1") == ("untouched",) * 3
    assert result.stderr == ""
    first, last = result.stdout.splitlines()
    assert first.startswith("running the learners' code, with your rights")
    assert last.startswith(f"{len(list(folder.iterdir()))} learners in ")
    assert "no answer in 4 seconds; an endless loop?</li>" in page
    assert (folder.parent / "precious").read_text(encoding="utf-8") == "x"
    assert {path.name for path in folder.glob("*/*")} <= {
        "07_moe.ipynb", "07_moe (1).ipynb", "my homework (2).ipynb", "holidays.ipynb", "work",
        ".ipynb_checkpoints",
    }  # fmt: skip


@pytest.mark.slow
def test_what_an_answer_started_is_ended_with_it(told):
    left = [p for p in psutil.process_iter(["cmdline"]) if "54321" in (p.info["cmdline"] or [])]
    assert left == []


@pytest.fixture(scope="module")
def answered():
    """Every right and every wrong answer of the course, judged each in a process of its own."""
    found, chapters = returned.course()
    by_id = {f"ch{e.chapter[:2]}-exercise-{e.number.split('.')[1]}": e for e in found}
    outcomes = {}
    for chapter in PRESENT:
        answers = {i: [(a, None) for a in right] for i, right in right_answers(chapter).items()}
        for i, wrong in wrong_answers(chapter).items():
            answers[i] = [*answers[i], (exercises(chapter)[i].solution, None), *wrong]
        for i, each in answers.items():
            for n, (answer, message) in enumerate(each):
                answer = answer.partition("### END")[0].replace("### BEGIN", "#")
                file = returned.take_apart(notebook({i: answer}, chapter)["cells"])
                outcomes[i, n] = by_id[i], file, chapters[chapter], message
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("chapter", PRESENT)
def test_every_known_answer_of_the_course_gets_its_verdict(answered, chapter):
    """405 right and wrong answers: what a learner's file gives is enough for each of them."""
    limits = Limits(seconds=30)
    for (i, n), (exercise, file, course, message) in answered.items():
        if exercise.chapter != chapter:
            continue
        thing = report._about(Row("", chapter, exercise.number, "", ""), exercise, file,
                              {chapter: course})  # fmt: skip
        if isinstance(thing, report.Asked):
            thing = report.judged(thing, judging.judge(thing.job, limits))
        if message is None:
            assert thing.verdict == "solved", (i, n, thing)
        else:
            assert thing.verdict in ("wrong", "untouched", "syntax error", "missing"), (i, n, thing)
            assert thing.verdict != "wrong" or message in thing.hint, (i, n, thing)


def unlike_others(answer, learner):
    """The same answer with a line of its own, so that it is not run once for all who gave it."""
    tree = ast.parse(answer)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.body.insert(0, ast.parse(f"learner = {learner}").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.slow
def test_a_class_of_thirty_with_three_chapters_each_takes_less_than_five_minutes(tmp_path):
    """On two cores; 270 answers, of which a third is right, a third wrong, a third untouched."""
    wanted = {}
    for learner, chapter in itertools.product(range(30), ("05_rmsnorm", "07_moe", "08_training")):
        answers = {}
        for n, i in enumerate(exercise_ids(chapter)):
            kind = (learner + n) % 3
            right, wrong = right_answers(chapter)[i], wrong_answers(chapter)[i]
            choice = (right[learner % 3], wrong[learner % 5][0], exercises(chapter)[i].stub)[kind]
            answers[i] = choice if kind == 2 else unlike_others(choice, learner)
            number = f"{int(chapter[:2])}.{n + 1}"
            wanted[f"{learner:02}", number] = ("solved", "wrong", "untouched")[kind]
        path = tmp_path / "class" / f"{learner:02}" / f"{chapter}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook(answers, chapter)), encoding="utf-8")
    began = time.monotonic()
    rows = report.report(tmp_path / "class", Limits(), processes=2)
    assert time.monotonic() - began < 300
    assert {(row.learner, row.exercise): row.verdict for row in rows} == wanted
