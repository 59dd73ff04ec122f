"""Checks of the exercises of chapter 09."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare
from moe_tutorial.sampling import next_token_probs


@check
def check_count_top_p(answer: Callable) -> str:
    """Exercise 9.1: count_top_p(probs, top_p), how many characters top-p keeps."""
    mixed = torch.tensor([3, 8, 1, 4]) / 16  # sums are exact in floating point
    sure = torch.tensor([1, 14, 1]) / 16
    cases = [(mixed, p) for p in (0.7, 0.9, 0.5, 1.0)] + [(sure, 0.5)]
    counts = torch.tensor([int(call(answer, probs.clone(), p)) for probs, p in cases])
    mistakes: dict[str, list[int]] = {}
    for probs, p in cases:
        sums, unsorted = probs.sort(descending=True).values.cumsum(0), probs.cumsum(0)
        for mistake, number in (
            (
                "sort first; the sums must begin with the most probable",
                (unsorted - probs < p).sum(),
            ),
            ("sort downwards: descending=True", (probs.sort().values.cumsum(0) < p).sum() + 1),
            ("the character that crosses p is dropped; it belongs to the set", (sums <= p).sum()),
            ("the character that reaches p is dropped; it belongs to the set", (sums < p).sum()),
            ("one too many when p is reached exactly; compare with <", (sums <= p).sum() + 1),
            ("probabilities are compared one by one; add them up first", (probs < p).sum()),
            ("single probabilities above p are counted; add them up first", (probs >= p).sum()),
        ):
            mistakes.setdefault(mistake, []).append(int(number))
    expected = torch.tensor([2, 3, 1, 4, 1])
    for mistake, wrong in mistakes.items():
        if counts.tolist() == wrong:
            raise NotYet(mistake)
    for (probs, p), ours, right in zip(cases, counts.tolist(), expected.tolist(), strict=True):
        if ours != right:
            raise NotYet(f"of {[round(x, 4) for x in probs.tolist()]} top-p {p} keeps {right}, "
                         f"not {ours}")  # fmt: skip
    return "2, 3, 1, 4 and 1 kept, in any order of the probabilities"


@check
def check_repaired_probs(answer: Callable) -> str:
    """Exercise 9.2: repaired_probs(logits, temperature, top_p), find the bug."""
    logits = torch.tensor([3.0, 8.0, 1.0, 4.0]).log()
    results = [
        torch.as_tensor(call(answer, logits.clone(), temperature, 0.7))
        for temperature in (0.5, 2.0, 1.0)
    ]
    for temperature, result in zip((0.5, 2.0, 1.0), results, strict=True):
        scaled = logits / temperature
        right = next_token_probs(logits, temperature, top_p=0.7)
        if temperature == 0.5 and close(result, _keep_then(scaled, logits, 0.7)):
            raise StillBuggy("at temperature 0.5, one character reaches 0.7, and two are kept")
        compare(result, right, {
            "the temperature is used twice": next_token_probs(scaled, temperature, top_p=0.7),
            "the temperature has no effect": next_token_probs(logits, 1.0, top_p=0.7),
            "what is kept does not add up to 1": scaled.softmax(-1) * (right > 0),
            "the choice knows the temperature now, but the probabilities do not": _keep_then(
                logits, scaled, 0.7
            ),
            "top-p has no effect": scaled.softmax(-1),
        })  # fmt: skip
    return "1 kept at temperature 0.5, 2 at 1 and 3 at 2"


def _keep_then(logits: Tensor, chooser: Tensor, top_p: float) -> Tensor:
    """Top-p on one set of logits, probabilities from another."""
    probs = logits.softmax(-1) * (next_token_probs(chooser, top_p=top_p) > 0)
    return probs / probs.sum()


@check
def check_min_p_probs(answer: Callable) -> str:
    """Exercise 9.3: min_p_probs(logits, temperature, min_p)."""
    for weights, temperature, min_p in (
        ([3.0, 8.0, 1.0, 4.0], 1.0, 0.3),
        ([3.0, 8.0, 1.0, 4.0], 0.5, 0.2),
        ([3.0, 8.0, 1.0, 4.0], 2.0, 0.3),
        ([5.0, 5.0, 4.0, 5.0, 5.0], 1.0, 0.5),
        ([5.0, 5.0, 4.0, 5.0, 5.0], 1.0, 1.0),
    ):
        logits = torch.tensor(weights).log()
        result = torch.as_tensor(call(answer, logits.clone(), temperature, min_p))
        probs = (logits / temperature).softmax(-1)
        plain = logits.softmax(-1)
        kept = probs >= min_p * probs.max()
        mistakes = {
            "the bound is min_p itself; it is min_p times the largest probability": _renormalized(
                probs, probs >= min_p
            ),
            "what is kept does not add up to 1": probs * kept,
            "the choice is made before the temperature": _renormalized(
                probs, plain >= min_p * plain.max()
            ),
            "the temperature has no effect": _renormalized(plain, plain >= min_p * plain.max()),
            "the temperature multiplies the logits; divide by it": _renormalized(
                power := (logits * temperature).softmax(-1), power >= min_p * power.max()
            ),
            "the wrong ones are kept": _renormalized(probs, ~kept),
            "logits are compared; compare probabilities": _renormalized(
                probs, logits >= min_p * logits.max()
            ),
            "nothing is dropped": probs,
        }
        if result.isnan().any():
            raise NotYet(
                "nothing is kept, and 0 / 0 is not a number; 'at least' includes the bound"
            )
        compare(result, _renormalized(probs, kept), mistakes)
    return "the bound moves with the largest probability, after the temperature"


def _renormalized(probs: Tensor, kept: Tensor) -> Tensor:
    probs = probs * kept
    return probs / probs.sum()
