"""Checks of the exercises of chapter 05."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tutorial.checks.base import (
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    refuse,
    times_run,
    uses_torch,
)


def _rms_norm(x: Tensor, eps: float, dim: int | tuple[int, ...] = -1) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=dim, keepdim=True) + eps)


@check
def check_normalize_list(answer: object) -> str:
    """Exercise 5.1: normalize_list(values, eps) in plain Python."""
    for values, eps in (([1.0, -2.0, 2.0, 5.0], 0.5), ([3.0, 4.0], 0.0), ([0.0, 0.0, 0.0], 1e-5)):
        given = list(values)
        result = call(answer, given, eps)
        refuse(given != values, "it changes the list that it was given; build a new list")
        if not isinstance(result, list | tuple) or len(result) != len(values):
            raise NotYet(f"for {values} it returns {result} instead of a list of {len(values)}")
        x = torch.tensor(values, dtype=torch.float64)
        mean_square = x.square().mean()
        root, length = (mean_square + eps).sqrt(), (x.square().sum() + eps).sqrt()
        without_eps = x / mean_square.sqrt()
        fewer = (x.square().sum() / (len(x) - 1) + eps).sqrt()
        mistakes = {
            "it divides by the length; take the mean of the squares, not their sum": x / length,
            "it divides by the mean square; take its root": x / (mean_square + eps),
            "it multiplies by the root; divide by it": x * root,
            "eps is not used": without_eps,
            "eps is outside of the root; add it to the mean square": x / (mean_square.sqrt() + eps),
            "it subtracts the mean, as LayerNorm does": _rms_norm(x - x.mean(), eps),
            "it adds eps after the division; put the divisor in parentheses": without_eps + eps,
            "it divides by the mean": x / (x.mean() + eps),
            "the mean divides by n - 1; divide by the number of values": x / fewer,
            "nothing is normalized": x,
        }
        compare(torch.tensor(result, dtype=torch.float64), _rms_norm(x, eps), mistakes)
    refuse(uses_torch(answer, [3.0, 4.0], 0.0), "the numbers are right, but use no torch here")
    return "(3, 4), four numbers with a large eps, and zeros"


@check
def check_layer_norm(answer: object) -> str:
    """Exercise 5.2: layer_norm(x, weight, bias, eps) against PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 4), 4, 4))
    x, eps = x + 1, 0.1
    given = x.clone()
    result = torch.as_tensor(call(answer, given, weight, bias, eps))
    refuse(not given.equal(x), "it changes x itself, in place; build a new tensor")
    right = F.layer_norm(x, (4,), weight, bias, eps)
    plain, centered = _rms_norm(x, eps), x - x.mean(dim=-1, keepdim=True)
    unbiased = centered / (x.var(dim=-1, keepdim=True) + eps).sqrt()
    late = plain - plain.mean(dim=-1, keepdim=True)
    normalized = {
        "the mean is not subtracted": plain,
        "the mean is that of all numbers; take one per vector": _rms_norm(x - x.mean(), eps),
        "the mean is taken over the positions; take one per vector, dim=-1": (
            _rms_norm(x - x.mean(dim=1, keepdim=True), eps)
        ),
        "eps is not passed on; use the eps of the call": _rms_norm(centered, 1e-5),
        "the variance divides by D - 1; divide by D": unbiased,
        "the mean is subtracted from the result; subtract it before the division": late,
    }
    mistakes = {mistake: wrong * weight + bias for mistake, wrong in normalized.items()}
    early = _rms_norm(centered * weight + bias, eps)
    mistakes |= {
        "the bias is multiplied by the weight; add it last": (
            (_rms_norm(centered, eps) + bias) * weight
        ),
        "the bias is missing": right - bias,
        "the weight is missing": _rms_norm(centered, eps) + bias,
        "weight and bias are applied before the division; apply them at the end": early,
    }
    compare(result, right, mistakes)
    runs = times_run("normalize", answer, x.clone(), weight, bias, eps)
    refuse(not runs, "equal to PyTorch's layer_norm, but it does not use `normalize`")
    return "equal to PyTorch's layer_norm: RMSNorm of x minus its mean, plus a bias"


@check
def check_repaired_norm(answer: object) -> str:
    """Exercise 5.3: repaired_norm(x, eps), find the bug."""
    x, eps = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), 0.1
    given = x.clone()
    result = torch.as_tensor(call(answer, given, eps))
    refuse(not given.equal(x), "it changes x itself, in place; build a new tensor")
    refuse(result.isnan().any(), "some results are not a number; are the numbers squared first?")
    if close(result, _rms_norm(x, eps, 1)):
        raise StillBuggy("changing the last position changes the result at position 0")
    sequence, batch = _rms_norm(x, eps, (1, 2)), _rms_norm(x, eps, (0, 1, 2))
    length = (x.square().sum(dim=-1, keepdim=True) + eps).sqrt()
    mean_square = x.square().mean(dim=-1, keepdim=True)
    mistakes = {
        "eps is outside of the root; add it to the mean square": x / (mean_square.sqrt() + eps),
        "eps is added to the factor; add it to the mean square": x * (mean_square.rsqrt() + eps),
        "eps is not used": _rms_norm(x, 0),
        "it subtracts the mean, as LayerNorm does": (
            _rms_norm(x - x.mean(dim=-1, keepdim=True), eps)
        ),
        "now the sequences of a batch influence each other": _rms_norm(x, eps, 0),
        "one mean for a whole sequence: positions still influence each other": sequence,
        "one mean for the whole batch: positions still influence each other": batch,
        "it divides by the length; take the mean of the squares, not their sum": x / length,
    }
    compare(result, _rms_norm(x, eps), mistakes)
    if not close(call(answer, x.clone(), 0.5), _rms_norm(x, 0.5)):
        raise NotYet("right for eps = 0.1, wrong for eps = 0.5; use the eps of the call")
    return "every vector is normalized by itself; no position changes another"
