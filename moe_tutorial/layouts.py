"""Steps between two layouts of the same numbers, each with a way back. Chapter 10.

Shape letters: D dim, H heads, E experts, F hidden_dim.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.rope import to_half_split, to_interleaved

Tensors = list[Tensor]


class Step(NamedTuple):
    """One change of layout and its inverse."""

    there: Callable[[Tensors], Tensors]
    back: Callable[[Tensors], Tensors]


def _transpose(tensors: Tensors) -> Tensors:
    return [tensor.mT for tensor in tensors]


TRANSPOSE = Step(_transpose, _transpose)  # we multiply x @ w; a Linear layer stores the transpose
SPLIT = Step(lambda one: list(one[0].chunk(3)), lambda three: [torch.cat(three)])
STACK = Step(lambda many: [torch.stack(many)], lambda one: list(one[0].unbind()))
JOIN = Step(  # gate and up of an expert side by side, gate first
    lambda parts: [torch.cat(pair, -1) for pair in zip(parts[::2], parts[1::2], strict=True)],
    lambda joined: [half for both in joined for half in both.chunk(2, -1)],
)


def interleave(num_heads: int) -> Step:
    """Rows of q and k in the order of Meta's pairs (2i, 2i + 1); v has no pairs."""

    def rows(w: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
        return order(w.unflatten(0, (num_heads, -1)).mT).mT.flatten(0, 1)

    def there(qkv: Tensors) -> Tensors:
        return [rows(qkv[0], to_interleaved), rows(qkv[1], to_interleaved), qkv[2]]

    def back(qkv: Tensors) -> Tensors:
        return [rows(qkv[0], to_half_split), rows(qkv[1], to_half_split), qkv[2]]

    return Step(there, back)


class Rule(NamedTuple):
    """Tensors of ours (names after blocks.i.), tensors of theirs (after model.layers.i.), steps."""

    ours: str
    theirs: str
    steps: tuple[Step, ...] = ()
