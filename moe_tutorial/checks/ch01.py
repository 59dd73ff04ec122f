"""Checks of the exercises of chapter 01."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial.checks.base import (
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    recognize,
    refuse,
)


@check
def check_add_one_loss(answer: Callable[[str, str], float]) -> str:
    train, validation = "abracadabra", "barbed!"
    loss = float(call(answer, train, validation))
    n, seen, both = len(train), len(set(train)), len(set(train + validation))
    counts = [train.count(char) for char in validation]
    refuse(math.isinf(loss), "the loss is infinite; does a character without a count get (0 + 1)?")
    mean = sum(math.log(count + 1) for count in counts) / len(counts)
    right, no_v, seen_v = (math.log(total) - mean for total in (n + both, n, n + seen))
    mistakes = {
        "the probabilities add up to more than 1; the total grows by V as well": no_v,
        "V leaves out the characters that only the validation text has": seen_v,
        "this is the sum over the validation text, not the mean per character": right * len(counts),
        "a character that comes twice in the validation text counts twice": (
            math.log(n + both)
            - sum(math.log(train.count(char) + 1) for char in set(validation))
            / len(set(validation))
        ),
        "this is in bits; nats use the natural logarithm": right / math.log(2),
        "the sign is wrong: ln p is negative, the loss is -ln p": -right,
    }
    texts = f"train {train!r} and validation {validation!r}"
    otherwise = f"for {texts} it should be {right:.4f}, yours is {loss:.4f}"
    compare(loss, right, mistakes, 1e-6, otherwise)
    return f"{right:.4f} nats per character, with a character that training never showed"


@check
def check_split_windows(answer: Callable[[str, int, float], tuple[list[str], list[str]]]) -> str:
    text, size = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN", 4
    train, validation = call(answer, text, size, 0.25)
    windows = _windows(text, size)
    split_late = sorted(train + validation) == sorted(windows)
    shared = set("".join(train)) & set("".join(validation))
    if split_late:
        consequence = f"{len(shared)} characters of the text are in windows of both parts"
        if (train, validation) == (windows[:28], windows[28:]):
            raise StillBuggy(consequence)
        raise NotYet(f"{consequence}; split the text once, then each part by itself")
    refuse(shared, "some characters of the text are in windows of both parts")
    first, last = windows[:27], windows[30:]  # the text is split at 30 of 40 characters
    if (train, validation) == (first[:-1], last[:-1]):
        raise NotYet("the last window of each part is missing: starts go up to len - block_size")
    refuse(train == first[::size], "windows begin at every character, not at every block_size-th")
    if set("".join(validation)) != set(text[30:]):
        raise NotYet("the validation part is the last quarter of the text, all of it")
    if (train, validation) != (first, last):
        raise NotYet("the windows are not in the order of the text, or some are missing")
    _compare_other_texts(answer, text)
    return f"{len(train)} and {len(validation)} windows, and no character is in both parts"


def _windows(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(len(text) - size + 1)]


def _compare_other_texts(answer: Callable, text: str) -> None:
    """Characters that come again, then another block_size and share."""
    repeated = "abcde" * 8
    train, validation = call(answer, repeated, 4, 0.25)
    if (train, validation) != (_windows(repeated[:30], 4), _windows(repeated[30:], 4)):
        found = f"{len(train)} and {len(validation)} windows instead of 27 and 7"
        remedy = "equal characters may be in both parts, only positions may not"
        raise NotYet(f"in a text that repeats itself you have {found}; {remedy}")
    train, validation = call(answer, text, 3, 0.5)
    if (train, validation) != (_windows(text[:20], 3), _windows(text[20:], 3)):
        raise NotYet("right for block_size 4 and a share of 0.25, but wrong for 3 and 0.5")


@check
def check_smooth_pairs(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    counts = torch.tensor([[2, 1, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    lower = torch.tensor([0.4, 0.3, 0.2, 0.1])
    result = torch.as_tensor(call(answer, counts.clone(), lower.clone())).float()
    total, kinds = counts.sum(dim=1, keepdim=True), (counts > 0).sum(dim=1, keepdim=True)
    right = torch.where(total > 0, (counts + kinds * lower) / (total + kinds), lower)
    if result.shape != right.shape:
        raise NotYet(f"the result has shape {tuple(result.shape)}, not {tuple(right.shape)}")
    if result[2].isnan().any():
        raise NotYet("the row without counts is 0 / 0; it should be the lower order itself")
    if close(result[2], torch.zeros(4)):
        raise NotYet("the row without counts is all zeros; it should be the lower order itself")
    if close(result[2], torch.full((4,), 1 / 4)):
        raise NotYet("the row without counts is 1 / V; it should be the lower order itself")
    recognize(result, _smoothing_mistakes(counts, lower))
    if not close(result.sum(dim=1), torch.ones(4)):
        raise NotYet("the rows do not add up to 1; are the sums taken along each row?")
    if not close(result, right):
        row, column = ((result - right).abs() > 1e-6).nonzero()[0].tolist()
        ours, expected = result[row, column], right[row, column]
        raise NotYet(f"row {row}, column {column} should be {expected:.4f}, yours is {ours:.4f}")
    return "every row adds up to 1, and a history never seen falls back"


def _smoothing_mistakes(counts: Tensor, lower: Tensor) -> dict[str, Tensor]:
    total, kinds = counts.sum(dim=1, keepdim=True), (counts > 0).sum(dim=1, keepdim=True)
    columns, column_kinds = counts.sum(dim=0), (counts > 0).sum(dim=0)
    flat, flat_kinds = total.squeeze(), kinds.squeeze()  # (V,) instead of (V, 1)
    no_axis = (counts + flat_kinds * lower) / (flat + flat_kinds)
    by_row = {
        "kinds is the number of counts above 0 in a row, not V": (counts + 4 * lower) / (total + 4),
        "kinds is the number of counts above 0 in a row, not their sum": (
            (counts + total * lower) / (2 * total)
        ),
        "kinds is missing, above and below the line": (counts + lower) / (total + 1),
        "above the line, lower must be multiplied by kinds": (counts + lower) / (total + kinds),
        "below the line, kinds is missing: total + kinds": (counts + kinds * lower) / total,
        "lower is used only where a count is 0; mix it into every entry": torch.where(
            counts > 0, counts / total, lower
        ),
        "this is counts / total, without lower; mix in kinds * lower": counts / total,
    }
    mistakes = {mistake: torch.where(total > 0, p, lower) for mistake, p in by_row.items()}
    return mistakes | {
        "the sums are taken down the columns; take them along each row, dim=1": (
            (counts + column_kinds * lower) / (columns + column_kinds)
        ),
        "the sums have lost their axis and now belong to columns; keepdim=True": torch.where(
            flat > 0, no_axis, lower
        ),
    }
