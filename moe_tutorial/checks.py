"""The learner's self-checks: compare with the library, show its source, judge an exercise.

A check prints one line and never raises for a wrong answer: "not attempted yet", "not yet: ..." or
"the bug is still there: ..." with the likely mistake, or "correct: ..." with what was verified.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tutorial.attention import CausalSelfAttention, KVCache
from moe_tutorial.rope import apply_rope, rope_table, to_half_split, to_interleaved

Comparable = Tensor | float | Sequence[float] | Sequence[Tensor]


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
    if isinstance(values, list | tuple) and any(
        item is None or isinstance(item, Tensor | list | tuple) for item in values
    ):
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
            hidden.update(range(doc.lineno - 1, doc.end_lineno))
            if doc.end_lineno < len(lines) and not lines[doc.end_lineno].strip():
                hidden.add(doc.end_lineno)  # the blank line after it
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


def _check(examine: Callable[[object], str]) -> Callable[[object], None]:
    """Turn examine(answer), which raises a Verdict or returns what it verified, into a check."""

    @functools.wraps(examine)
    def check(answer: object) -> None:
        try:
            line = f"correct: {examine(answer)}"
        except Verdict as verdict:
            line = str(verdict)
        except Exception as error:  # an answer of an unexpected type or shape
            line = f"not yet: the answer cannot be compared ({_one_line(error)})"
        print(line)

    return check


def _call(function: Callable, *args: object, **kwargs: object) -> object:
    """What the learner's function or class returns; a Verdict if it is a stub, raises, or forgets.

    A body that has ended without `return` is told apart from the untouched `...`.
    """
    if not callable(function):
        raise NotAttempted if function in (None, ...) else NotYet("it is not a function")
    if _is_stub(function):
        raise NotAttempted
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        raise NotYet(f"it raised {_one_line(error)}") from None
    if result is ...:
        raise NotAttempted
    if result is None:
        raise NotYet("it returns None; is there a return?")
    return result


def _is_stub(function: Callable) -> bool:
    """Whether the body is only `...`, with or without a docstring."""
    if not inspect.isfunction(function):
        return False
    only = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    constants = set(function.__code__.co_consts) - {None, function.__doc__}
    return {i.opname for i in dis.get_instructions(function)} <= only and not constants


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]


def _close(answer: object, expected: object, tolerance: float = 1e-6) -> bool:
    """Whether the answer has the expected shape and values."""
    ours = torch.as_tensor(answer).detach().double()
    theirs = torch.as_tensor(expected).detach().double()
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def _compare(answer: Tensor, expected: Tensor, mistakes: Mapping[str, Tensor]) -> None:
    """Raise NotYet if the answer is not the expected one; name the mistake that explains it.

    mistakes: what to say -> the answer that this mistake gives.
    """
    if _close(answer, expected, 1e-5):
        return
    for mistake, wrong in mistakes.items():
        if _close(answer, wrong, 1e-5):
            raise NotYet(mistake)
    if answer.shape != expected.shape:
        raise NotYet(f"the shape is {tuple(answer.shape)} instead of {tuple(expected.shape)}")
    raise NotYet(f"the largest difference is {(answer - expected).abs().max():.4f}")


# --- Chapter 01 ---


@_check
def check_add_one_loss(answer: Callable[[str, str], float]) -> str:
    train, validation = "abracadabra", "barbed!"
    loss = float(_call(answer, train, validation))
    n, seen, both = len(train), len(set(train)), len(set(train + validation))
    counts = [train.count(char) for char in validation]

    def expected(total: int) -> float:
        return -sum(math.log((count + 1) / total) for count in counts) / len(counts)

    if math.isinf(loss):
        raise NotYet("the loss is infinite; does a character without a count get (0 + 1)?")
    if _close(loss, expected(n)):
        raise NotYet("the probabilities add up to more than 1; the total grows by V as well")
    if _close(loss, expected(n + seen)):
        raise NotYet("V leaves out the characters that only the validation text has")
    right = expected(n + both)
    if _close(loss, right * len(counts)):
        raise NotYet("this is the sum over the validation text, not the mean per character")
    if _close(loss, right / math.log(2)):
        raise NotYet("this is in bits; nats use the natural logarithm")
    if _close(loss, -right):
        raise NotYet("the sign is wrong: ln p is negative, the loss is -ln p")
    if not _close(loss, right):
        raise NotYet(
            f"for train {train!r} and validation {validation!r} it should be {right:.4f}, "
            f"yours is {loss:.4f}"
        )
    return f"{right:.4f} nats per character, with a character that training never showed"


@_check
def check_split_windows(answer: Callable[[str, int, float], tuple[list[str], list[str]]]) -> str:
    text, block_size, share = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN", 4, 0.25
    train, validation = _call(answer, text, block_size, share)
    windows = [text[i : i + block_size] for i in range(len(text) - block_size + 1)]
    if sorted(train + validation) == sorted(windows):
        shared = set("".join(train)) & set("".join(validation))
        consequence = f"{len(shared)} characters of the text are in windows of both parts"
        if (train, validation) == (windows[:28], windows[28:]):
            raise StillBuggy(consequence)
        raise NotYet(f"{consequence}; cut the text before you cut windows")
    cut = round(len(text) * (1 - share))
    if set("".join(train)) & set("".join(validation)):
        raise NotYet("some characters of the text are in windows of both parts")
    if (train, validation) == (windows[: cut - block_size], windows[cut : len(windows) - 1]):
        raise NotYet("the last window of each part is missing: starts go up to len - block_size")
    if train == windows[: cut - block_size + 1 : block_size]:
        raise NotYet("windows begin at every character, not at every block_size-th")
    if set("".join(train)) == set(text[cut:]) or set("".join(validation)) != set(text[cut:]):
        raise NotYet("the validation part is the last quarter of the text, all of it")
    if (train, validation) != (windows[: cut - block_size + 1], windows[cut:]):
        raise NotYet("the windows are not in the order of the text, or some are missing")
    return f"{len(train)} and {len(validation)} windows, and no character is in both parts"


@_check
def check_smooth_pairs(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    counts = torch.tensor([[2, 1, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    lower = torch.tensor([0.4, 0.3, 0.2, 0.1])
    result = torch.as_tensor(_call(answer, counts.clone(), lower.clone())).float()
    total, kinds = counts.sum(dim=1, keepdim=True), (counts > 0).sum(dim=1, keepdim=True)
    right = (counts + kinds * lower) / (total + kinds)
    right[2] = lower
    if result.shape != right.shape:
        raise NotYet(f"the result has shape {tuple(result.shape)}, not {tuple(right.shape)}")
    if result[2].isnan().any():
        raise NotYet("the row without counts is 0 / 0; it should be the lower order itself")
    if _close(result[2], torch.zeros(4)):
        raise NotYet("the row without counts is all zeros; it should be the lower order itself")
    if _close(result[1], (counts[1] + 4 * lower) / (4 + 4)) and not _close(result, right):
        raise NotYet("kinds is the number of counts above 0 in a row, not V and not the sum")
    if not _close(result.sum(dim=1), torch.ones(4)):
        raise NotYet("the rows do not add up to 1; are the sums taken along each row?")
    if not _close(result, right):
        raise NotYet(f"row 0 should begin with {right[0, 0]:.4f}, yours with {result[0, 0]:.4f}")
    return "every row adds up to 1, and a history never seen falls back"


# --- Chapter 02 ---


@_check
def check_symbols_by_count(answer: object) -> str:
    """Exercise 2.1: symbols_by_count(text) -> symbols, the most frequent first."""
    text = "to be or not to be"
    symbols = _call(answer, text)
    if not isinstance(symbols, list):
        raise NotYet(f"return a list, not a {type(symbols).__name__}: its order gives the ids")
    if any(not isinstance(symbol, str) for symbol in symbols):
        raise NotYet("the list must hold characters only, without their counts")
    if sorted(symbols) != sorted(set(text)):
        raise NotYet(f"{len(set(text))} different characters, each once; yours: {symbols}")
    expected = sorted(set(text), key=lambda char: (-text.count(char), char))
    if symbols != expected:
        counts = [text.count(symbol) for symbol in symbols]
        if symbols == sorted(symbols):
            raise NotYet("the symbols are in code point order, as before; sort by their counts")
        if counts == sorted(counts):
            raise NotYet(f"the rarest comes first; the counts along your list are {counts}")
        if counts == sorted(counts, reverse=True):
            raise NotYet("the counts are in order, but ties are not: sort ties by code point")
        raise NotYet(f"the counts along your list are {counts}; they must never grow")
    if _call(answer, "cbabac") != ["a", "b", "c"]:
        raise NotYet("three characters with equal counts must come in code point order")
    return "most frequent first, ties by code point, every symbol once"


@_check
def check_load_tokenizer(answer: object) -> str:
    """Exercise 2.2: load_tokenizer(saved_symbols, text), which must not change the vocabulary."""
    saved = list("badce")  # in no order, as a saved vocabulary may be
    symbols = list(_call(answer, list(saved), "deed").int_to_char)
    if symbols != saved:
        raise StillBuggy(
            f"the file says 'd' is {saved.index('d')}, the loaded tokenizer says "
            f"{symbols.index('d')}; a text must not change the saved vocabulary"
        )
    for text in ("abcdef", "bad fed", "vwxyz"):
        unknown = next(char for char in text if char not in saved)
        try:
            symbols = answer(list(saved), text).int_to_char
        except ValueError as error:
            if repr(unknown) not in str(error) and unknown not in str(error).split():
                raise NotYet(f"the error must name the unknown character {unknown!r}") from None
            continue
        except Exception as error:
            raise NotYet(
                f"an unknown character must raise a ValueError, not a {type(error).__name__}"
            ) from None
        if list(symbols) != saved:
            raise NotYet(f"the text {text!r} has changed the saved vocabulary to {symbols}")
        if len(set(text)) == len(saved):
            raise NotYet(f"{text!r} passes: as many symbols as saved, but not the same ones")
        raise NotYet(f"the text {text!r} passes, but {unknown!r} is not in the saved vocabulary")
    return "the saved vocabulary stays, and a text with another character is refused"


@_check
def check_byte_tokenizer(answer: object) -> str:
    """Exercise 2.3: a class with encode(text) -> ids of UTF-8 bytes and decode(ids) -> text."""
    methods = [vars(answer).get(name) for name in ("encode", "decode")] if callable(answer) else []
    if methods and all(_is_stub(method) for method in methods):
        raise NotAttempted
    tokenizer = _call(answer)
    for name, method in zip(("encode", "decode"), methods, strict=False):
        if _is_stub(method):
            raise NotYet(f"{name} is not written yet")
    text = "na\u00efve \u03a9\n"
    ids = _call(tokenizer.encode, text)
    if not isinstance(ids, Tensor) or ids.dtype != torch.long:
        raise NotYet("encode must return a tensor with dtype torch.long")
    expected = list(text.encode("utf-8"))
    if ids.tolist() == [ord(char) for char in text]:
        raise NotYet(
            f"the id {int(ids.max())} is no byte: ord gives code points, text.encode gives bytes"
        )
    if ids.tolist() != expected:
        raise NotYet(f"{text!r} has {len(expected)} bytes, {expected}; yours: {ids.tolist()}")
    decoded = _call(tokenizer.decode, torch.tensor(expected))
    if decoded == "".join(chr(byte) for byte in expected):
        raise NotYet("decode turns each byte into a character alone; two bytes may make one")
    if decoded != text:
        raise NotYet(f"decode(encode(text)) must be {text!r}; yours is {decoded!r}")
    if _call(tokenizer.encode, "").dtype != torch.long:
        raise NotYet("the ids of an empty text must be torch.long too; give the dtype")
    try:
        half = tokenizer.decode(torch.tensor([97, 206]))
    except UnicodeDecodeError:
        raise NotYet("half a character raises an error in decode; use errors='replace'") from None
    if half != "a\ufffd":
        raise NotYet(f"half a character must decode to {chr(0xFFFD)!r}; yours: {half!r}")
    return "any text goes round, and half a character does not stop decode"


# --- Chapter 03 ---


@_check
def check_count_pairs(answer: object) -> str:
    """Exercise 3.1: count_pairs(num_ids, seq_len, step), windows that start every step ids."""
    for num_ids, seq_len, step in ((10, 4, 1), (10, 4, 2), (10, 4, 3), (11, 4, 3), (602, 64, 64)):
        case = f"num_ids={num_ids}, seq_len={seq_len}, step={step}"
        count = _call(answer, num_ids, seq_len, step)
        starts = range(0, num_ids - seq_len, step)
        if isinstance(count, int) and count == len(starts):
            continue
        if not isinstance(count, int):
            raise NotYet(f"{case}: {count!r} is not a whole number of type int")
        if step > 1 and count == num_ids - seq_len:
            raise NotYet(f"{case}: {count} would be right for step=1")
        if count == len(range(0, num_ids - seq_len + 1, step)):
            raise NotYet(f"{case}: you count a window whose last target does not exist")
        if count == (num_ids - seq_len) // step:
            raise NotYet(f"{case}: the starts are {list(starts)}, so {len(starts)}, not {count}")
        if count == len(range(0, num_ids - seq_len - 1, step)):
            raise NotYet(f"{case}: you leave out the last window; start {starts[-1]} fits")
        raise NotYet(f"{case}: {len(starts)} pairs fit, yours: {count!r}")
    return "five cases, also where the step leaves a remainder"


@_check
def check_draw(answer: object) -> str:
    """Exercise 3.2: draw(ids, batch_size, seq_len, generator), whose bug leaves out a window."""
    ids, seq_len = torch.arange(10), 4
    x, y = _call(answer, ids, 600, seq_len, torch.Generator().manual_seed(0))
    if x.shape != (600, seq_len) or y.shape != x.shape:
        raise NotYet(f"x and y must be (600, 4); yours: {tuple(x.shape)} and {tuple(y.shape)}")
    starts = x[:, 0].unique().tolist()
    if not torch.equal(x, x[:, :1] + torch.arange(seq_len)):
        raise NotYet("the rows of x must be windows: ids in a row, from one start")
    if not torch.equal(y, x + 1):
        raise NotYet("y must be x shifted by one: y[0] starts at the id after x[0]")
    missing = sorted(set(range(len(ids) - seq_len)) - set(starts))
    if missing == [5]:
        raise StillBuggy("600 draws, and start 5 never comes: the last id is never a target")
    if missing:
        raise NotYet(f"the starts {missing} never come in 600 draws")
    again = _call(answer, ids, 600, seq_len, torch.Generator().manual_seed(0))[0]
    if not torch.equal(again, x):
        raise NotYet("the same seed gives other windows; pass the generator to torch.randint")
    return "every start from 0 to 5 comes, none outside, and a seed repeats its draw"


@_check
def check_strided_evaluation(answer: object) -> str:
    """Exercise 3.3: strided_evaluation(ids, seq_len, step) -> x, y, repeated targets -100."""
    ids, seq_len, step = torch.arange(17), 8, 4
    given = ids.clone()
    x, y = _call(answer, given, seq_len, step)
    if not torch.equal(given, ids):
        raise NotYet("your function has written -100 into ids: y is a view on them; clone it first")
    if x.shape != (3, 8) or y.shape != x.shape:
        raise NotYet(f"three windows of 8 fit; yours: {tuple(x.shape)} and {tuple(y.shape)}")
    if not torch.equal(x, ids.unfold(0, 8, 4)[:3]):
        raise NotYet(f"the windows must start at 0, 4, 8; yours: {x[:, 0].tolist()}")
    if torch.equal(y, x + 1):
        raise NotYet("every target is still there; the ones asked before must become -100")
    if (y[0] == -100).any():
        raise NotYet("the first window has no window before it: it keeps all its targets")
    if (y[1:, -step:] == -100).all():
        raise NotYet("you masked the new targets and kept the old ones")
    kept = y[y != -100]
    if len(kept) != len(kept.unique()):
        raise NotYet("some targets still count twice")
    if not torch.equal(kept, ids[1:]):
        lost = sorted(set(ids[1:].tolist()) - set(kept.tolist()))
        raise NotYet(f"the ids at positions {lost} are no target in any window")
    ids, seq_len, step = torch.arange(21), 8, 2  # another overlap
    _, y = _call(answer, ids.clone(), seq_len, step)
    if not torch.equal(y[y != -100], ids[1:]):
        raise NotYet("right for step=4, wrong for step=2: seq_len - step targets are repeated")
    return "every target once; after the first window each has more than seq_len - step inputs"


# --- Chapter 04 ---


@_check
def check_offset_score(answer: Callable) -> str:
    """Exercise 4.1: offset_score(q, k, offset, angle), the score of one rotated pair."""
    q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])

    def expected(turn: float) -> float:
        return 5 * math.cos(turn) - 5 * math.sin(turn)  # the 2 x 2 rotation, for this q and k

    for offset, angle in ((0, 0.3), (1, 0.3), (5, 0.3), (4, -0.7)):
        score = torch.as_tensor(_call(answer, q, k, offset, angle))
        if score.shape:
            raise NotYet(f"the score is one number, but it has shape {tuple(score.shape)}")
        if _close(score, expected(offset * angle), 1e-5):
            continue
        if _close(score, expected(-offset * angle), 1e-5):
            raise NotYet(
                "the wrong direction: turn the query by offset * angle, or the key by its negative"
            )
        if _close(score, q @ k, 1e-5):
            raise NotYet("it does not change with the offset: turn only one of the two")
        if _close(score, expected(angle), 1e-5):
            raise NotYet("it turns by one angle whatever the offset: the angle is per position")
        wanted = expected(offset * angle)
        raise NotYet(f"offset {offset}, angle {angle}: {score:.4f} instead of {wanted:.4f}")
    return "one rotation by offset * angle gives the score of any two positions so far apart"


@_check
def check_rotate_interleaved(answer: Callable) -> str:
    """Exercise 4.2: rotate_interleaved(x, cos, sin) for pairs (2i, 2i + 1)."""
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    table = rope_table(5, 8)
    result = torch.as_tensor(_call(answer, x, *table))
    expected = to_interleaved(apply_rope(to_half_split(x), *table))
    if result.shape != x.shape:
        raise NotYet(f"the shape is {tuple(result.shape)} instead of {tuple(x.shape)}")
    mistakes = {
        "it rotates the pairs (i, i + Dh/2) of x; convert x first": apply_rope(x, *table),
        "the result is still in the half-split layout; convert it back": to_half_split(expected),
        "the two conversions are in the wrong order": to_half_split(
            apply_rope(to_interleaved(x), *table)
        ),
        "the tables were permuted; leave them and permute x": apply_rope(
            x, *(to_interleaved(part) for part in table)
        ),
        "nothing is rotated": x,
    }
    _compare(result, expected, mistakes)
    return "neighbors are rotated, and the result is interleaved like x"


@_check
def check_repaired_table(answer: Callable) -> str:
    """Exercise 4.3: repaired_table(max_seq_len, head_dim), find the bug."""
    cos, sin = _call(answer, 6, 8)
    expected_cos, expected_sin = rope_table(6, 8)
    x = torch.ones(1, 1, 6, 8)
    if not _close(cos, expected_cos):
        if _close(cos, to_interleaved(expected_cos)) and _close(sin, to_interleaved(expected_sin)):
            raise NotYet("both tables are interleaved now, but apply_rope pairs i with i + Dh/2")
        raise NotYet("the table of cosines was right before")
    if _close(sin, to_interleaved(expected_sin)):
        length = apply_rope(x, cos, sin)[0, 0, 5].norm()
        raise StillBuggy(f"position 5 changes a length from {8**0.5:.2f} to {length:.2f}")
    mistakes = {
        "the rotation goes backward: the minus belongs to the first half": -expected_sin,
        "lengths still change: the first half of the sines needs a minus": torch.cat(
            (expected_sin[:, 4:], expected_sin[:, 4:]), dim=-1
        ),
    }
    _compare(sin, expected_sin, mistakes)
    return "both tables are half-split, and every length is kept"


# --- Chapter 05 ---


@_check
def check_normalize_list(answer: Callable) -> str:
    """Exercise 5.1: normalize_list(values, eps) in plain Python."""
    for values, eps in (([3.0, 4.0], 0.0), ([1.0, -2.0, 2.0, 1.0], 0.5), ([0.0, 0.0, 0.0], 1e-5)):
        result = _call(answer, values, eps)
        if not isinstance(result, list | tuple) or len(result) != len(values):
            raise NotYet(f"for {values} it returns {result} instead of a list of {len(values)}")
        x = torch.tensor(values, dtype=torch.float64)
        mean_square = x.square().mean()
        mistakes = {
            "it divides by the length; take the mean of the squares, not their sum": x
            / (x.square().sum() + eps).sqrt(),
            "it divides by the mean square; take its root": x / (mean_square + eps),
            "it multiplies by the root; divide by it": x * (mean_square + eps).sqrt(),
            "eps is not used": x / mean_square.sqrt(),
            "eps is outside of the root; add it to the mean square": x / (mean_square.sqrt() + eps),
            "it subtracts the mean, as LayerNorm does": (x - x.mean())
            / ((x - x.mean()).square().mean() + eps).sqrt(),
            "it adds eps after the division; put the divisor in parentheses": x / mean_square.sqrt()
            + eps,
            "it divides by the mean": x / (x.mean() + eps),
        }
        _compare(torch.tensor(result, dtype=torch.float64), _rms_normalize(x, eps), mistakes)
    return "(3, 4), four numbers with a large eps, and zeros"


@_check
def check_layer_norm(answer: Callable) -> str:
    """Exercise 5.2: layer_norm(x, weight, bias, eps) against PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 4), 4, 4))
    x, eps = x + 1, 0.1
    result = torch.as_tensor(_call(answer, x, weight, bias, eps))
    expected = F.layer_norm(x, (4,), weight, bias, eps)
    centered = x - x.mean(dim=-1, keepdim=True)
    mistakes = {
        "the mean is not subtracted": _rms_normalize(x, eps) * weight + bias,
        "the bias is missing": expected - bias,
        "the weight is missing": _rms_normalize(centered, eps) + bias,
        "weight and bias are applied before the division; apply them at the end": _rms_normalize(
            centered * weight + bias, eps
        ),
        "the mean is that of all numbers; take one per vector": _rms_normalize(x - x.mean(), eps)
        * weight + bias,
        "eps is not passed on; use the eps of the call": _rms_normalize(centered, 1e-5) * weight
        + bias,
        "the variance divides by D - 1; divide by D": centered
        / (x.var(dim=-1, keepdim=True) + eps).sqrt() * weight + bias,
        "the mean is subtracted from the result; subtract it before the division": (
            _rms_normalize(x, eps) - _rms_normalize(x, eps).mean(dim=-1, keepdim=True)
        ) * weight + bias,
    }  # fmt: skip
    _compare(result, expected, mistakes)
    return "equal to PyTorch's layer_norm: RMSNorm of x minus its mean, plus a bias"


@_check
def check_repaired_norm(answer: Callable) -> str:
    """Exercise 5.3: repaired_norm(x, eps), find the bug."""
    x, eps = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), 1e-5
    result = torch.as_tensor(_call(answer, x, eps))
    wrong = {dim: x * torch.rsqrt(x.square().mean(dim=dim, keepdim=True) + eps) for dim in (0, 1)}
    if _close(result, wrong[1]):
        raise StillBuggy("changing the last position changes the result at position 0")
    mistakes = {
        "now the sequences of a batch influence each other": wrong[0],
        "one mean for a whole sequence: positions still influence each other": x
        * torch.rsqrt(x.square().mean(dim=(1, 2), keepdim=True) + eps),
        "one mean for the whole batch: positions still influence each other": x
        * torch.rsqrt(x.square().mean() + eps),
    }
    mistakes["it divides by the length; take the mean of the squares, not their sum"] = x * (
        torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + eps)
    )
    _compare(result, _rms_normalize(x, eps), mistakes)
    return "every vector is normalized by itself; no position changes another"


def _rms_normalize(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


# --- Chapter 06 ---


@_check
def check_window_mask(answer: Callable) -> str:
    """Exercise 6.1: window_mask(num_positions, width), a causal mask with a short memory."""
    for size, width in ((6, 3), (5, 1), (4, 9)):
        mask = torch.as_tensor(_call(answer, size, width))
        if mask.dtype != torch.bool:
            raise NotYet(f"a mask holds True and False, but this one is {mask.dtype}")
        t, s = torch.arange(size)[:, None], torch.arange(size)
        expected = (s <= t) & (s > t - width)
        mistakes = {
            "it is the causal mask: nothing is too long ago": s <= t,
            "nothing is visible: triu(i) with i > 0 begins right of the diagonal": torch.zeros_like(
                expected
            ),
            "position t sees the future": (s > t - width) & (s >= 0),
            "the window reaches into the future as well": (t - s).abs() < width,
            "one position too many: width counts position t itself": (s <= t) & (s >= t - width),
            "one position too few: width counts position t itself": (s <= t) & (s > t - width + 1),
            "position t does not see itself": (s < t) & (s >= t - width),
            "position t does not see itself, and one position is missing": (s < t)
            & (s > t - width),
            "True and False are swapped: True means that it is seen": ~expected,
            "rows and columns are swapped: a row is a query": expected.T,
        }
        _compare(mask.int(), expected.int(), {name: m.int() for name, m in mistakes.items()})
    return "position t sees the last `width` positions, itself included"


@_check
def check_repaired_scores(answer: Callable) -> str:
    """Exercise 6.2: repaired_scores(q, k, num_heads), find the bug."""
    generator = torch.Generator().manual_seed(0)
    for num_heads in (4, 2):
        q, k = torch.randn(2, 2, 32, 64, generator=generator)
        result = torch.as_tensor(_call(answer, q, k, num_heads))
        split = [x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k)]
        plain = split[0] @ split[1].transpose(-2, -1)  # (B, H, T, T)
        head_dim = 64 // num_heads
        if _close(result, plain * 64**-0.5, 1e-5):
            raise StillBuggy(
                f"in {num_heads} heads, standard normal q and k give scores of variance "
                f"{result.var():.2f} instead of 1"
            )
        mistakes = {
            "the scores are not scaled at all": plain,
            "it multiplies by the root of Dh; divide by it": plain * head_dim**0.5,
            "it divides by Dh; divide by its root": plain / head_dim,
            "it divides by the root of the number of heads": plain * num_heads**-0.5,
            "it divides by the root of T; take the last axis": plain * 32**-0.5,
        }
        _compare(result, plain * head_dim**-0.5, mistakes)
    return "the scores have variance 1 in 4 heads and in 2"


@_check
def check_run_in_pieces(answer: Callable) -> str:
    """Exercise 6.3: run_in_pieces(attention, x, cos, sin, lengths) with one cache."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        attention, x = CausalSelfAttention(dim=12, num_heads=3), torch.randn(2, 7, 12)
        cos, sin = rope_table(7, 4)
        expected = attention(x, cos, sin)
        rows: list[int] = []
        attention.qkv.register_forward_hook(lambda module, args, y: rows.append(y.shape[1]))
        for lengths in ([3, 1, 3], [1] * 7, [7]):
            rows.clear()
            result = _call(answer, attention, x, cos, sin, lengths)
            computed = list(rows)
            if not isinstance(result, Tensor):
                raise NotYet("join the outputs of the pieces to one tensor, with torch.cat")
            if lengths[-1] < 7 and _close(result, expected[:, -lengths[-1] :], 1e-5):
                raise NotYet("this is the output of the last piece only; join all of them")
            mistakes = {
                "every piece is rotated as if it began at position 0": _in_pieces(
                    attention, x, cos, sin, lengths, one_cache=True
                ),
                "the pieces do not see the earlier ones: use one cache for all of them": _in_pieces(
                    attention, x, cos, sin, lengths, one_cache=False
                ),
            }
            _compare(result, expected, mistakes)
            if sum(computed) != 7:
                raise NotYet(
                    f"the output is right, but it took {sum(computed)} rows for 7 positions"
                )
            if computed != lengths:
                raise NotYet(f"the output is right, but the pieces are {computed}, not {lengths}")
    return "7 positions in 3 pieces, in 7 and in 1, and every row was computed once"


def _in_pieces(
    attention: CausalSelfAttention,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    lengths: Sequence[int],
    *,
    one_cache: bool,
) -> Tensor:
    """What run_in_pieces gives if every piece is rotated as if it began at position 0.

    With a new cache for every piece the true positions give the same: only offsets count.
    """
    sizes = {"num_heads": attention.num_heads, "head_dim": attention.head_dim}
    cache = KVCache(batch_size=len(x), max_seq_len=x.shape[1], **sizes)
    outputs = []
    for piece in x.split(lengths, dim=1):
        here = slice(piece.shape[1])
        outputs.append(attention(piece, cos[here], sin[here], cache if one_cache else None))
    return torch.cat(outputs, dim=1)


# --- Chapter 07 ---


@_check
def check_mix(answer: Callable) -> str:
    """Exercise 7.1: mix(logits, outputs, top_k), the output of a mixture for one token."""
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0, 1.5])
    outputs = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [-3.0, 1.0], [4.0, -2.0]])
    for top_k in (2, 3, 1):
        result = torch.as_tensor(_call(answer, logits.clone(), outputs.clone(), top_k))
        chosen, experts = logits.topk(top_k)
        expected = chosen.softmax(-1) @ outputs[experts]
        mistakes = {
            "all experts take part; choose top_k of them first": logits.softmax(-1) @ outputs,
            "the weights do not add up to 1: softmax over the chosen logits, not over all": (
                logits.softmax(-1)[experts] @ outputs[experts]
            ),
            "these are sigmoid weights; use the softmax over the chosen": chosen.sigmoid()
            @ outputs[experts],
            "the first experts are taken, not the chosen ones": chosen.softmax(-1)
            @ outputs[:top_k],
            "the logits themselves are the weights; take their softmax": chosen @ outputs[experts],
            "the chosen outputs are added without weights": outputs[experts].sum(dim=0),
            "the chosen outputs are averaged without weights": outputs[experts].mean(dim=0),
        }
        _compare(result, expected, mistakes)
    return "the weighted sum for top_k = 2, 3 and 1"


@_check
def check_biased_routing(answer: Callable) -> str:
    """Exercise 7.2: biased_routing(logits, bias, top_k) -> weights, experts."""
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([2.0, 0.0, -2.0, 0.5, 0.0])
    result = _call(answer, logits.clone(), bias.clone(), 2)
    if not isinstance(result, tuple) or len(result) != 2:
        raise NotYet("return two tensors: weights, experts")
    weights, experts = result
    if weights.shape != (9, 2) or experts.shape != (9, 2):
        raise NotYet(f"both must be (9, 2): {tuple(weights.shape)} and {tuple(experts.shape)}")
    if experts.is_floating_point():
        raise NotYet("experts are indices; the order of the results is weights, experts")

    def chosen_by(scores: Tensor) -> Tensor:
        return scores.topk(2, dim=-1).indices.sort(dim=-1).values

    ours = experts.sort(dim=-1).values
    if torch.equal(ours, chosen_by(logits)):
        raise NotYet("the bias does not change which experts are chosen")
    if torch.equal(ours, chosen_by(logits - bias)):
        raise NotYet("the bias is subtracted; a positive bias must attract tokens")
    if not torch.equal(ours, chosen_by(logits + bias)):
        raise NotYet("the chosen are not the two largest of logits + bias in each row")
    picked = logits.gather(1, experts)
    mistakes = {
        "the bias leaks into the weights; take the weights from the logits alone": (
            (logits + bias).gather(1, experts).softmax(-1)
        ),
        "the weights are the bare logits; take their softmax": picked,
        "the softmax goes over all experts; take it over the chosen": logits.softmax(-1).gather(
            1, experts
        ),
        "the softmax goes over the tokens; take it over the chosen, dim=-1": picked.softmax(0),
        "these are the best logits, not those of the chosen experts": logits.topk(
            2, dim=-1
        ).values.softmax(-1),
    }
    _compare(weights, picked.softmax(-1), mistakes)
    return "the bias decides who is chosen, and no weight knows it"


@_check
def check_repaired_loss(answer: Callable) -> str:
    """Exercise 7.3: repaired_loss(logits, top_k), find the bug."""
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    logits[:, 3] -= 9  # never chosen
    inputs = logits.clone().requires_grad_()
    loss = _call(answer, inputs, 2)
    if not isinstance(loss, Tensor) or loss.shape:
        raise NotYet("the loss is one number, a tensor without axes")
    if not loss.requires_grad:
        raise NotYet("the loss has no gradient; the probabilities must keep theirs")
    (gradient,) = torch.autograd.grad(loss, inputs, allow_unused=True)
    if gradient is None:
        raise NotYet("no gradient reaches the logits")
    chosen, experts = logits.topk(2, dim=-1)
    load = experts.flatten().bincount(minlength=5) / experts.numel()
    mean = logits.softmax(-1).mean(dim=0)
    renormalized = torch.zeros_like(logits).scatter(1, experts, chosen.softmax(-1))
    if _close(loss, 5 * (load * renormalized.mean(dim=0)).sum(), 1e-5):
        raise StillBuggy("expert 3 is never chosen, and its gradient is exactly 0")
    mistakes = {
        "these are sigmoids; take the softmax over all experts": 5
        * (load * logits.sigmoid().mean(dim=0)).sum(),
        "the softmax goes over the tokens; take it over the experts, dim=-1": 5
        * (load * logits.softmax(0).mean(dim=0)).sum(),
        "the chosen are all that is left: the others' probabilities are set to 0": 5
        * (load * (logits.softmax(-1) * (renormalized > 0)).mean(dim=0)).sum(),
        "the load is replaced as well; it stays the share of assignments": 5 * (mean * mean).sum(),
        "the scale has changed: the factor is the number of experts": (load * mean).sum(),
        "the load adds up to top_k now; balanced should stay 1": 10 * (load * mean).sum(),
    }
    _compare(loss, 5 * (load * mean).sum(), mistakes)
    if not gradient[:, 3].any():
        raise NotYet("the value is right, but expert 3 still has no gradient")
    return f"{loss.item():.4f}, and the expert that is never chosen gets a gradient"
