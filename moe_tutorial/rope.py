"""Rotary position embedding: the position of a token as an angle. Chapter 04.

Shape letters: B batch, H heads, T time, Dh head size (even; Dh / 2 pairs are rotated).
"""

import torch
from torch import Tensor


def rope_frequencies(head_dim: int, theta: float = 10_000.0) -> Tensor:
    """Angle per position, in radians, of each pair: theta ** (-2i / Dh) for i = 0 .. Dh/2 - 1.

    Shapes: -> (Dh / 2,) float32. Raises: ValueError if head_dim is odd or below 2.
    Source: Su et al. 2021, arXiv:2104.09864. Chapter 04.
    """
    if head_dim % 2 or head_dim < 2:
        raise ValueError(
            f"head_dim={head_dim} is not even, and RoPE rotates pairs of numbers; choose dim and "
            f"num_heads so that dim / num_heads is even, such as {max(2, head_dim + 1)}"
        )
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim  # (Dh / 2,)
    return theta**-exponents


def rope_table(max_seq_len: int, head_dim: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of position * frequency, for positions 0 .. max_seq_len - 1.

    Both hold every angle twice, once for each number of its pair; the sine is negative for the
    first number.
    Shapes: -> cos, sin (max_seq_len, Dh) float32. Raises: ValueError as `rope_frequencies`, and if
    max_seq_len is below 1.
    """
    if max_seq_len < 1:
        raise ValueError(f"max_seq_len={max_seq_len} leaves no position; it must be at least 1")
    positions = torch.arange(max_seq_len, dtype=torch.float32)
    angles = torch.outer(positions, rope_frequencies(head_dim, theta))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pair (x[i], x[i + Dh/2]) of every position by its angle: the half-split layout.

    The dot product of a rotated query and a rotated key then depends on their offset only.
    Shapes: x (B, H, T, Dh), cos and sin (T, Dh) -> (B, H, T, Dh).
    Raises: ValueError if cos or sin are of other positions or another head size than x.
    Source: Su et al. 2021, arXiv:2104.09864, in the pairing of Hugging Face's Llama. Chapter 04.
    """
    if not cos.shape == sin.shape == x.shape[-2:]:
        raise ValueError(
            f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must be (T, Dh) = "
            f"{tuple(x.shape[-2:])} as in x; take the rows of the positions of x"
        )
    first, second = x.chunk(2, dim=-1)
    partner = torch.cat((second, first), dim=-1)  # the shape of x
    return x * cos + partner * sin


def to_interleaved(x: Tensor) -> Tensor:
    """From pairs (i, i + Dh/2) to pairs (2i, 2i + 1), over the last axis. Shapes: (..., Dh)."""
    return torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)


def to_half_split(x: Tensor) -> Tensor:
    """From pairs (2i, 2i + 1) to pairs (i, i + Dh/2), over the last axis. Shapes: (..., Dh)."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
