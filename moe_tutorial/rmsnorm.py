"""Root-mean-square normalization. Chapter 05.

Shape letters: D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scale every vector to root-mean-square 1, then stretch it by `weight`.

    y = x / sqrt(mean(x**2) + eps) * weight, over the last axis.

    Shapes: x (..., D), weight (D,) -> (..., D). Computed in float32, returned in x.dtype.
    Raises: ValueError if the last axis of x is not D.
    Source: Zhang & Sennrich 2019, arXiv:1910.07467. Chapter 05.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.weight):
            raise ValueError(f"the last axis has {x.shape[-1]} numbers, weight {len(self.weight)}")
        wide = x.float()  # squares of half-precision numbers overflow at 256
        mean_square = wide.square().mean(dim=-1, keepdim=True)
        return (wide * torch.rsqrt(mean_square + self.eps) * self.weight).to(x.dtype)
