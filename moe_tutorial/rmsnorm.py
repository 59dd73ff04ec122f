"""Root-mean-square normalization. Chapter 05.

Shape letters: D dim.
"""

import torch
from torch import Tensor, nn


def widen(x: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 if they are float64. Shapes: any -> the same."""
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    """Scale every vector to root-mean-square 1, then stretch it by `weight`.

    y = x / sqrt(mean(x**2) + eps) * weight, over the last axis.

    Shapes: x (..., D), weight (D,) -> (..., D). Computed in float32, or float64 where x is float64,
    and returned in x.dtype.
    Raises: ValueError if the last axis of x is not D, or D is below 1.
    Source: Zhang & Sennrich 2019, arXiv:1910.07467. Chapter 05.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim} must be at least 1")
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.weight):
            raise ValueError(f"the last axis has {x.shape[-1]} numbers, weight {len(self.weight)}")
        wide = widen(x)  # squares of float16 numbers overflow from 256 on
        mean_square = wide.square().mean(dim=-1, keepdim=True)
        return (wide * torch.rsqrt(mean_square + self.eps) * self.weight).to(x.dtype)
