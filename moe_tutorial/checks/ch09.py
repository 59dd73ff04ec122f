"""Checks of the exercises of chapter 09."""

import torch
from torch import Tensor

from moe_tutorial.checks.base import StillBuggy, call, check, close, compare, recognize, refuse
from moe_tutorial.sampling import next_token_probs


@check
def check_count_top_p(answer: object) -> str:
    """Exercise 9.1: count_top_p(probs, top_p), how many characters top-p keeps."""
    mixed = torch.tensor([3, 8, 1, 4]) / 16  # sums are exact in floating point
    sure = torch.tensor([1, 14, 1]) / 16
    cases = [(mixed, p) for p in (0.7, 0.9, 0.5, 1.0)] + [(sure, 0.5)]
    counts = [int(call(answer, probs.clone(), p)) for probs, p in cases]
    mistakes: dict[str, list[Tensor]] = {}
    for probs, p in cases:
        sums, upward = probs.sort(descending=True).values.cumsum(0), probs.sort().values.cumsum(0)
        before = probs.cumsum(0) - probs
        wrong = {
            "sort first; the sums must begin with the most probable": (before < p).sum(),
            "sort downwards: descending=True": (upward < p).sum() + 1,
            "the character that crosses p is dropped; it belongs to the set": (sums <= p).sum(),
            "the character that reaches p is dropped; it belongs to the set": (sums < p).sum(),
            "one too many when p is reached exactly; compare with <": (sums <= p).sum() + 1,
            "probabilities are compared one by one; add them up first": (probs < p).sum(),
            "single probabilities above p are counted; add them up first": (probs >= p).sum(),
        }
        for mistake, number in wrong.items():
            mistakes.setdefault(mistake, []).append(number)
    recognize(counts, mistakes)
    for (probs, p), ours, right in zip(cases, counts, (2, 3, 1, 4, 1), strict=True):
        rounded = [round(x, 4) for x in probs.tolist()]
        refuse(ours != right, f"of {rounded} top-p {p} keeps {right}, not {ours}")
    return "2, 3, 1, 4 and 1 kept, in any order of the probabilities"


@check
def check_repaired_probs(answer: object) -> str:
    """Exercise 9.2: repaired_probs(logits, temperature, top_p), find the bug."""
    logits = torch.tensor([3.0, 8.0, 1.0, 4.0]).log()
    results = {t: _call_with_logits(answer, logits, t, 0.7) for t in (0.5, 2.0, 1.0)}
    for temperature, result in results.items():
        right = next_token_probs(logits, temperature, top_p=0.7)
        probs = (logits / temperature).softmax(-1)
        early = _renormalized(probs, next_token_probs(logits, top_p=0.7) > 0)
        if temperature == 0.5 and close(result, early):
            raise StillBuggy("at temperature 0.5, one character reaches 0.7, and two are kept")
        alone = "the best alone may reach top_p; compare the sum before each character"
        refuse(result.isnan().any(), f"nothing is kept at temperature {temperature}: {alone}")
        compare(result, right, _top_p_mistakes(logits, temperature, right))
    return "1 kept at temperature 0.5, 2 at 1 and 3 at 2"


def _top_p_mistakes(logits: Tensor, temperature: float, right: Tensor) -> dict[str, Tensor]:
    scaled, plain = logits / temperature, logits.softmax(-1)
    probs, shares = scaled.softmax(-1), plain / temperature
    best, order = probs.sort(descending=True)
    dropped = torch.zeros(4, dtype=torch.bool).scatter(0, order, best.cumsum(0) <= 0.7)
    # The order of the shares is that of the probabilities, but their sum is 1 / temperature.
    before = (shares[order].cumsum(0) - shares[order])[order.argsort()]
    return {
        "the temperature is used twice": next_token_probs(scaled, temperature, top_p=0.7),
        "the temperature has no effect": next_token_probs(logits, top_p=0.7),
        "the temperature multiplies the logits; divide by it": (
            next_token_probs(logits, 1 / temperature, top_p=0.7)
        ),
        "probabilities are divided; divide the logits, then take the softmax": (
            _renormalized(plain, before < 0.7)
        ),
        "what is kept does not add up to 1": probs * (right > 0),
        "the choice knows the temperature now, but the probabilities do not": (
            _renormalized(plain, right > 0)
        ),
        "top-p has no effect": probs,
        "the result is still sorted; put every probability back in its place": (
            right.sort(descending=True).values
        ),
        "the sorting is not undone: index_copy_ puts back, [order] does not": (
            right.sort(descending=True).values[order]
        ),
        "the character that crosses top_p is dropped; it belongs to the set": (
            _renormalized(probs, dropped)
        ),
    }


def _call_with_logits(answer: object, logits: Tensor, *numbers: float) -> Tensor:
    given = logits.clone()
    result = torch.as_tensor(call(answer, given, *numbers))
    in_place = "it changes the logits that it was given, in place; compute new ones"
    refuse(not given.equal(logits), in_place)
    return result


@check
def check_min_p_probs(answer: object) -> str:
    """Exercise 9.3: min_p_probs(logits, temperature, min_p)."""
    many = [9.0, 5.0, 2.0, 7.0, 12.0, 3.0]  # every mistake keeps others of these
    mixed, flat = [3.0, 8.0, 1.0, 4.0], [5.0, 5.0, 4.0, 5.0, 5.0]
    cases = [(many, 0.5, 0.4), (mixed, 1.0, 0.3), (mixed, 0.5, 0.2), (mixed, 2.0, 0.3)]
    cases += [(flat, 1.0, 0.5), (flat, 1.0, 1.0)]
    for weights, temperature, min_p in cases:
        logits = torch.tensor(weights).log()
        result = _call_with_logits(answer, logits, temperature, min_p)
        probs, plain = (logits / temperature).softmax(-1), logits.softmax(-1)
        power = (logits * temperature).softmax(-1)
        kept, early, of_logits = (s >= min_p * s.max() for s in (probs, plain, logits))
        multiplied = _renormalized(power, power >= min_p * power.max())
        mistakes = {
            "the bound is min_p itself; it is min_p times the largest probability": (
                _renormalized(probs, probs >= min_p)
            ),
            "what is kept does not add up to 1": probs * kept,
            "the choice is made before the temperature": _renormalized(probs, early),
            "the temperature has no effect": _renormalized(plain, early),
            "the temperature multiplies the logits; divide by it": multiplied,
            "the wrong ones are kept": _renormalized(probs, ~kept),
            "logits are compared; compare probabilities": _renormalized(probs, of_logits),
            "the first is taken for the best one; take probs.max()": (
                _renormalized(probs, probs >= min_p * probs[0])
            ),
            "nothing is dropped": probs,
        }
        nothing = f"nothing is kept with min_p = {min_p:g}, and 0 / 0 is not a number"
        if min_p == 1:
            nothing = f"{nothing}; 'at least' includes the bound"
        refuse(result.isnan().any(), nothing)
        compare(result, _renormalized(probs, kept), mistakes)
    return "the bound moves with the largest probability, after the temperature"


def _renormalized(probs: Tensor, kept: Tensor) -> Tensor:
    return probs * kept / (probs * kept).sum()
