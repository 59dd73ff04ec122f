"""Each check tells the untouched stub, the solution and plausible mistakes apart."""

import re

import pytest
from chapters import (
    PRESENT,
    cells,
    exercise_ids,
    exercises,
    judge,
    right_answers,
    wrong_answers,
)

UNTOUCHED = ("not attempted yet", "the bug is still there: ")
EXERCISES = [(chapter, i) for chapter in PRESENT for i in exercise_ids(chapter)]
each = pytest.mark.parametrize(("chapter", "exercise"), EXERCISES)
WRONG = [
    pytest.param(chapter, exercise, answer, message, id=f"{exercise}-{n}")
    for chapter in PRESENT
    for exercise, answers in wrong_answers(chapter).items()
    for n, (answer, message) in enumerate(answers)
]
RIGHT = [
    pytest.param(chapter, exercise, answer, id=f"{exercise}-{n}")
    for chapter in PRESENT
    for exercise, answers in right_answers(chapter).items()
    for n, answer in enumerate(answers)
]


def verdict(chapter: str, exercise: str, answer: str) -> str:
    """The one line that the check prints."""
    printed = judge(exercises(chapter)[exercise], answer)
    assert printed.count("\n") == 1
    assert printed.endswith("\n")
    return printed


@pytest.mark.parametrize("chapter", PRESENT)
def test_each_exercise_is_text_stub_check_and_solution(chapter):
    all_cells, number = cells(chapter), int(chapter[:2])
    places = [i for i, cell in enumerate(all_cells) if "exercise" in cell.tags]
    assert 2 <= len(places) <= 3
    for n, i in enumerate(places, start=1):
        text, stub, check, solution = all_cells[i - 1 : i + 3]
        assert text.source.startswith(f"### Exercise {number}.{n} ")
        assert (stub.id, check.id, solution.id) == tuple(
            f"{chapter_id(chapter)}-{part}-{n}" for part in ("exercise", "check", "solution")
        )
        assert (check.tags, solution.tags) == ({"check"}, {"solution"})
        assert check.source.startswith("checks.check_")
        assert "\n" not in check.source
        assert solution.raw["metadata"]["jupyter"] == {"source_hidden": True}
        assert solution.source.startswith("### BEGIN SOLUTION\n")
        assert solution.source.endswith(f"\n### END SOLUTION\n{check.source}")


def chapter_id(chapter: str) -> str:
    return f"ch{chapter[:2]}"


@each
def test_stub_is_not_correct(chapter, exercise):
    assert verdict(chapter, exercise, exercises(chapter)[exercise].stub).startswith(UNTOUCHED)


@pytest.mark.parametrize("chapter", PRESENT)
def test_one_exercise_is_to_find_a_bug(chapter):
    verdicts = [verdict(chapter, i, e.stub) for i, e in exercises(chapter).items()]
    assert sum(line.startswith(UNTOUCHED[1]) for line in verdicts) == 1


@each
def test_solution_is_correct(chapter, exercise):
    e = exercises(chapter)[exercise]
    solution, end, call = e.solution.partition("### END SOLUTION\n")
    assert end
    assert call == e.check
    assert verdict(chapter, exercise, solution).startswith("correct: ")


@each
def test_exercise_has_six_wrong_answers_of_different_kinds(chapter, exercise):
    answers = [answer for answer, _ in wrong_answers(chapter)[exercise]]
    assert len(set(answers)) == len(answers)
    assert len({message for _, message in wrong_answers(chapter)[exercise]}) >= 6


@each
def test_exercise_has_three_right_answers_beside_its_solution(chapter, exercise):
    answers = right_answers(chapter)[exercise]
    assert len({*answers, exercises(chapter)[exercise].solution}) == len(answers) + 1 >= 4


@pytest.mark.parametrize(("chapter", "exercise", "answer"), RIGHT)
def test_right_answer_written_otherwise_is_accepted(chapter, exercise, answer):
    assert verdict(chapter, exercise, answer).startswith("correct: ")


@pytest.mark.parametrize(("chapter", "exercise", "answer", "message"), WRONG)
def test_wrong_answer_is_told_its_mistake(chapter, exercise, answer, message):
    line = verdict(chapter, exercise, answer)
    assert not line.startswith("correct")
    assert message in line


@each
def test_answer_that_raises_is_reported(chapter, exercise):
    stub = exercises(chapter)[exercise].stub
    name = re.search(r"^(?:def|class) (\w+)", stub, flags=re.MULTILINE)[1]
    line = verdict(chapter, exercise, f"def {name}(*args, **kwargs):\n    return 1 / 0")
    assert line.startswith("not yet: it raised ZeroDivisionError")


def test_check_that_raises_is_caught_too():
    from moe_tutorial import checks

    for answer in (None, 3, "text", len, object()):
        for name, check in vars(checks).items():
            if name.startswith("check_"):
                check(answer)
