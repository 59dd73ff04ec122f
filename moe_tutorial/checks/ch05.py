"""Checks of the exercises of chapter 05."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare


@check
def check_normalize_list(answer: Callable) -> str:
    """Exercise 5.1: normalize_list(values, eps) in plain Python."""
    for values, eps in (([3.0, 4.0], 0.0), ([1.0, -2.0, 2.0, 1.0], 0.5), ([0.0, 0.0, 0.0], 1e-5)):
        result = call(answer, values, eps)
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
        compare(torch.tensor(result, dtype=torch.float64), _rms_normalize(x, eps), mistakes)
    return "(3, 4), four numbers with a large eps, and zeros"


@check
def check_layer_norm(answer: Callable) -> str:
    """Exercise 5.2: layer_norm(x, weight, bias, eps) against PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 4), 4, 4))
    x, eps = x + 1, 0.1
    result = torch.as_tensor(call(answer, x, weight, bias, eps))
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
    compare(result, expected, mistakes)
    return "equal to PyTorch's layer_norm: RMSNorm of x minus its mean, plus a bias"


@check
def check_repaired_norm(answer: Callable) -> str:
    """Exercise 5.3: repaired_norm(x, eps), find the bug."""
    x, eps = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), 1e-5
    result = torch.as_tensor(call(answer, x, eps))
    wrong = {dim: x * torch.rsqrt(x.square().mean(dim=dim, keepdim=True) + eps) for dim in (0, 1)}
    if close(result, wrong[1]):
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
    compare(result, _rms_normalize(x, eps), mistakes)
    return "every vector is normalized by itself; no position changes another"


def _rms_normalize(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
