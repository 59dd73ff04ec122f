import math
import sys

import pytest
import torch

from moe_tutorial import checks
from moe_tutorial.checks.base import NotYet, call, check, gradient, times_run, uses_torch
from moe_tutorial.rmsnorm import RMSNorm

ONE = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        (ONE, ONE + 1e-8, "same within 1e-06: (2, 3)"),
        ([ONE, ONE[0]], (ONE, ONE[0]), "same within 1e-06: (2, 3), (3,)"),
        ([0.5, 1.5], [0.5, 1.5], "same within 1e-06: (2,)"),
        (ONE * -torch.inf, ONE * -torch.inf, "same within 1e-06: (2, 3)"),
        (ONE, ONE[:1], "different: shapes (2, 3) and (1, 3)"),
        (ONE, ONE.double(), "different: torch.float32 and torch.float64"),
        (ONE, ONE + 0.25, "different: the largest difference is 2e-01, more than 1e-06"),
        ([ONE, ONE], [ONE, None], "different: tensor 2: one of them is None"),
        ([ONE], [ONE, ONE], "different: 1 tensors against 2"),
        (ONE, ONE * torch.nan, "different: the largest difference is nan, more than 1e-06"),
    ],
)
def test_same_says_what_differs(a, b, line, capsys):
    checks.same(a, b)
    assert capsys.readouterr().out == f"{line}\n"


def test_show_source_leaves_out_docstrings_and_keeps_comments(capsys):
    checks.show_source(RMSNorm)
    source = capsys.readouterr().out
    assert source.startswith("class RMSNorm(nn.Module):\n    def __init__(")
    assert '"""' not in source
    assert "# squares of float16 numbers overflow" in source


@check
def check_double(answer):
    if call(answer, 2) != 4:
        raise NotYet("it is not doubled")
    return "twice 2 is 4"


def stub(x):
    """Twice x."""
    ...


def forgets_to_return(x):
    x * 2


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (stub, "not attempted yet"),
        (..., "not attempted yet"),
        (None, "not attempted yet"),
        (lambda x: ..., "not attempted yet"),
        (forgets_to_return, "not yet: it returns None; is there a return?"),
        (lambda x: x / 0, "not yet: it raised ZeroDivisionError: division by zero"),
        (lambda: 4, "not yet: it raised TypeError"),
        (lambda x: x, "not yet: it is not doubled"),
        (lambda x: 2 * x, "correct: twice 2 is 4"),
        (3, "not yet: it is not a function"),
        (lambda x: torch.ones(2), "not yet: the answer cannot be compared"),
    ],
)
def test_every_kind_of_answer_gets_one_line(answer, line, capsys):
    check_double(answer)
    printed = capsys.readouterr().out
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_a_long_error_is_cut_between_two_words(capsys):
    check_double(lambda x: int("no number" + " word" * 99))
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.endswith(" word word ...")
    assert len(printed) < 190


def with_torch(x):
    return float(torch.tensor(x).sqrt())


def test_torch_is_noticed_inside_of_helpers_too():
    assert uses_torch(with_torch, 4.0)
    assert uses_torch(lambda x: [with_torch(x)], 4.0)
    assert not uses_torch(math.sqrt, 4.0)
    assert not uses_torch(lambda x: x**0.5, 4.0)


def test_calls_are_counted_by_name_and_profiling_goes_on():
    def profiler(*_): ...

    sys.setprofile(profiler)
    try:
        assert times_run("with_torch", lambda x: [with_torch(y) for y in (x, x)], 4.0) == 2
        assert times_run("with_torch", math.sqrt, 4.0) == 0
        with pytest.raises(NotYet):
            times_run("with_torch", lambda x: x / 0, 4.0)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_gradient_is_none_where_none_arrives():
    x = torch.ones(3, requires_grad=True)
    assert torch.equal(gradient(3 * x, x), torch.full((3,), 18.0))
    assert gradient(x.detach(), x) is None
    assert gradient(torch.ones(3, requires_grad=True) * 2, x) is None
