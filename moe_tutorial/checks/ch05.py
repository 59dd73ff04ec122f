"""Checks of the exercises of chapter 05."""

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare


def _rms_norm(x: Tensor, eps: float, dim: int | tuple[int, ...] = -1) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=dim, keepdim=True) + eps)


@check
def check_normalize_list(answer: object) -> str:
    """Exercise 5.1: normalize_list(values, eps) in plain Python."""
    for values, eps in (([3.0, 4.0], 0.0), ([1.0, -2.0, 2.0, 1.0], 0.5), ([0.0, 0.0, 0.0], 1e-5)):
        result = call(answer, values, eps)
        if not isinstance(result, list | tuple) or len(result) != len(values):
            raise NotYet(f"for {values} it returns {result} instead of a list of {len(values)}")
        x = torch.tensor(values, dtype=torch.float64)
        mean_square = x.square().mean()
        root, length = (mean_square + eps).sqrt(), (x.square().sum() + eps).sqrt()
        without_eps = x / mean_square.sqrt()
        mistakes = {
            "it divides by the length; take the mean of the squares, not their sum": x / length,
            "it divides by the mean square; take its root": x / (mean_square + eps),
            "it multiplies by the root; divide by it": x * root,
            "eps is not used": without_eps,
            "eps is outside of the root; add it to the mean square": x / (mean_square.sqrt() + eps),
            "it subtracts the mean, as LayerNorm does": _rms_norm(x - x.mean(), eps),
            "it adds eps after the division; put the divisor in parentheses": without_eps + eps,
            "it divides by the mean": x / (x.mean() + eps),
        }
        compare(torch.tensor(result, dtype=torch.float64), _rms_norm(x, eps), mistakes)
    return "(3, 4), four numbers with a large eps, and zeros"


@check
def check_layer_norm(answer: object) -> str:
    """Exercise 5.2: layer_norm(x, weight, bias, eps) against PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 4), 4, 4))
    x, eps = x + 1, 0.1
    result = torch.as_tensor(call(answer, x, weight, bias, eps))
    right = F.layer_norm(x, (4,), weight, bias, eps)
    plain, centered = _rms_norm(x, eps), x - x.mean(dim=-1, keepdim=True)
    unbiased = centered / (x.var(dim=-1, keepdim=True) + eps).sqrt()
    late = plain - plain.mean(dim=-1, keepdim=True)
    normalized = {
        "the mean is not subtracted": plain,
        "the mean is that of all numbers; take one per vector": _rms_norm(x - x.mean(), eps),
        "eps is not passed on; use the eps of the call": _rms_norm(centered, 1e-5),
        "the variance divides by D - 1; divide by D": unbiased,
        "the mean is subtracted from the result; subtract it before the division": late,
    }
    mistakes = {mistake: wrong * weight + bias for mistake, wrong in normalized.items()}
    early = _rms_norm(centered * weight + bias, eps)
    mistakes |= {
        "the bias is missing": right - bias,
        "the weight is missing": _rms_norm(centered, eps) + bias,
        "weight and bias are applied before the division; apply them at the end": early,
    }
    compare(result, right, mistakes)
    return "equal to PyTorch's layer_norm: RMSNorm of x minus its mean, plus a bias"


@check
def check_repaired_norm(answer: object) -> str:
    """Exercise 5.3: repaired_norm(x, eps), find the bug."""
    x, eps = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), 1e-5
    result = torch.as_tensor(call(answer, x, eps))
    if close(result, _rms_norm(x, eps, 1)):
        raise StillBuggy("changing the last position changes the result at position 0")
    sequence, batch = _rms_norm(x, eps, (1, 2)), _rms_norm(x, eps, (0, 1, 2))
    length = (x.square().sum(dim=-1, keepdim=True) + eps).sqrt()
    mistakes = {
        "now the sequences of a batch influence each other": _rms_norm(x, eps, 0),
        "one mean for a whole sequence: positions still influence each other": sequence,
        "one mean for the whole batch: positions still influence each other": batch,
        "it divides by the length; take the mean of the squares, not their sum": x / length,
    }
    compare(result, _rms_norm(x, eps), mistakes)
    return "every vector is normalized by itself; no position changes another"
