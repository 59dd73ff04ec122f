"""What every check is made of: comparing, showing source, verdicts in one line."""

import ast
import dis
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Comparable = Tensor | float | Sequence[float] | Sequence[Tensor]
Mistakes = Mapping[str, object]  # what to say -> the answer that this mistake gives


def same(a: Comparable, b: Comparable, tolerance: float = 1e-6) -> None:
    """Print whether two tensors, or two sequences of tensors, are equal up to tolerance."""
    ours, theirs = _tensors(a), _tensors(b)
    if len(ours) != len(theirs):
        print(f"different: {len(ours)} tensors against {len(theirs)}")
        return
    for i, (x, y) in enumerate(zip(ours, theirs, strict=True), start=1):
        if reason := _difference(x, y, tolerance):
            print(f"different: {f'tensor {i}: ' * (len(ours) > 1)}{reason}")
            return
    shapes = ", ".join(str(tuple(x.shape)) for x in ours)
    print(f"same within {tolerance:g}: {shapes}")


def _tensors(values: object) -> list[Tensor | None]:
    kinds = Tensor | list | tuple | None
    if isinstance(values, list | tuple) and any(isinstance(item, kinds) for item in values):
        return [tensor for item in values for tensor in _tensors(item)]
    return [None if values is None else torch.as_tensor(values)]


def _difference(x: Tensor | None, y: Tensor | None, tolerance: float) -> str:
    """Why x and y are not equal; "" if they are."""
    if x is None or y is None:
        return "" if x is y else "one of them is None"
    if x.shape != y.shape:
        return f"shapes {tuple(x.shape)} and {tuple(y.shape)}"
    if x.dtype != y.dtype:
        return f"{x.dtype} and {y.dtype}"
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    if torch.allclose(x, y, rtol=0, atol=tolerance):
        return ""
    gap = torch.where(x == y, 0, (x - y).abs()).max()
    return f"the largest difference is {gap:.0e}, more than {tolerance:g}"


def show_source(obj: type | Callable) -> None:
    """Print the source of a class or function without its docstrings."""
    source = textwrap.dedent(inspect.getsource(obj))
    lines = source.splitlines()
    hidden = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            doc = node.body[0]
            blank = lines[doc.end_lineno : doc.end_lineno + 1] == [""]  # after it
            hidden.update(range(doc.lineno - 1, doc.end_lineno + blank))
    print("\n".join(line for i, line in enumerate(lines) if i not in hidden))


class Verdict(Exception):
    """What a check prints instead of "correct"."""


class NotAttempted(Verdict):
    """The stub was not changed: raise NotAttempted."""

    def __str__(self) -> str:
        return "not attempted yet"


class NotYet(Verdict):
    """A wrong answer: raise NotYet("the likely mistake")."""

    def __str__(self) -> str:
        return f"not yet: {super().__str__()}"


class StillBuggy(Verdict):
    """A find-the-bug exercise was not changed: raise StillBuggy("what still goes wrong")."""

    def __str__(self) -> str:
        return f"the bug is still there: {super().__str__()}"


def check(examine: Callable[[object], str]) -> Callable[[object], None]:
    """Turn examine(answer), which raises a Verdict or returns what it verified, into a check."""

    @functools.wraps(examine)
    def judge(answer: object) -> None:
        try:
            line = f"correct: {examine(answer)}"
        except Verdict as verdict:
            line = str(verdict)
        except Exception as error:  # an answer of an unexpected type or shape
            line = f"not yet: the answer cannot be compared ({_one_line(error)})"
        print(line)

    return judge


def call(function: Callable, *args: object, **kwargs: object) -> object:
    """What the learner's function or class returns; a Verdict if it is a stub, raises, or forgets.

    A body that has ended without `return` is told apart from the untouched `...`.
    """
    if function in (None, ...) or is_stub(function):
        raise NotAttempted
    refuse(not callable(function), "it is not a function")
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        raise NotYet(f"it raised {_one_line(error)}") from None
    if result is ...:
        raise NotAttempted
    refuse(result is None, "it returns None; is there a return?")
    return result


def is_stub(function: Callable) -> bool:
    """Whether the body is only `...`, with or without a docstring."""
    if not inspect.isfunction(function):
        return False
    only = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    constants = set(function.__code__.co_consts) - {None, function.__doc__}
    return {i.opname for i in dis.get_instructions(function)} <= only and not constants


def _one_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")


class _Torch(TorchFunctionMode):
    """Remembers whether torch was used inside."""

    used = False

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None) -> object:
        self.used = True
        return func(*args, **(kwargs or {}))


def uses_torch(function: Callable, *args: object) -> bool:
    """Whether a call of the learner's function runs anything of torch."""
    with _Torch() as torch_inside:
        call(function, *args)
    return torch_inside.used


def times_run(name: str, function: Callable, *args: object) -> int:
    """How often a Python function of this name runs in a call of the learner's function."""
    names: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: event == "call" and names.append(frame.f_code.co_name))
    try:
        call(function, *args)
    finally:
        sys.setprofile(before)
    return names.count(name)


def gradient(result: Tensor, x: Tensor) -> Tensor | None:
    """The gradient of the sum of result**2 with respect to x; None if none arrives."""
    if not result.requires_grad:
        return None
    return torch.autograd.grad(result.square().sum(), x, retain_graph=True, allow_unused=True)[0]


def close(answer: object, expected: object, tolerance: float = 1e-6) -> bool:
    """Whether the answer has the expected shape and values."""
    ours, theirs = (torch.as_tensor(x).detach().double() for x in (answer, expected))
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def refuse(wrong: object, mistake: str) -> None:
    """Raise NotYet(mistake) if wrong."""
    if wrong:
        raise NotYet(mistake)


def recognize(answer: object, mistakes: Mistakes, tolerance: float = 1e-5) -> None:
    """Raise NotYet if a mistake explains the answer."""
    for mistake, wrong in mistakes.items():
        refuse(close(answer, wrong, tolerance), mistake)


def compare(
    answer: object, right: object, mistakes: Mistakes, tolerance: float = 1e-5, otherwise: str = ""
) -> None:
    """Raise NotYet if the answer is not the right one; name the mistake that explains it.

    otherwise: what to say if none does, instead of how the answer differs.
    """
    if close(answer, right, tolerance):
        return
    recognize(answer, mistakes, tolerance)
    refuse(otherwise, otherwise)
    if answer.shape != right.shape:
        raise NotYet(f"the shape is {tuple(answer.shape)} instead of {tuple(right.shape)}")
    raise NotYet(f"the largest difference is {(answer - right).abs().max():.4f}")


def compare_masks(mask: Tensor, right: Tensor, mistakes: Mapping[str, Tensor]) -> None:
    """Compare as numbers: bool tensors have no difference."""
    refuse(mask.dtype != torch.bool, f"a mask holds True and False, but this one is {mask.dtype}")
    otherwise = ""
    if mask.shape == right.shape and not mask.equal(right):
        t, s = (mask != right).nonzero()[0].tolist()
        sees = "sees" if mask[t, s] else "does not see"
        otherwise = f"of {len(mask)} positions, position {t} {sees} position {s}"
    numbers = {mistake: wrong.int() for mistake, wrong in mistakes.items()}
    compare(mask.int(), right.int(), numbers, otherwise=otherwise)
