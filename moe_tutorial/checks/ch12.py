"""Checks of the exercises of chapter 12."""

import math

import torch
from torch import Tensor

from moe_tutorial.checks.base import (
    Mistakes,
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    recognize,
    refuse,
)
from moe_tutorial.moe import Routing

TABLES = ([[1, 2, 3], [3, 2, 7]], [[3, 1], [1, 3]], [[4, 0, 0], [0, 2, 2]], [[6, 2], [3, 1]])


@check
def check_table_information(answer: object) -> str:
    """Exercise 12.1: table_information(table), bits from a table of counts."""
    for rows in TABLES:
        table = torch.tensor(rows, dtype=torch.float64)
        bits = call(answer, table.clone())
        refuse(isinstance(bits, Tensor) and bits.ndim, "the result is one number, not a tensor")
        bits = float(bits)
        refuse(math.isnan(bits), "0 times the logarithm of 0 is nan; an empty cell adds nothing")
        right, mistakes = _information(table)
        recognized = {name: wrong for name, wrong in mistakes.items() if abs(wrong - right) > 1e-5}
        if not close(bits, right, 1e-5):
            recognize(bits, recognized)
            raise NotYet(f"{bits:.4f} instead of {right:.4f} bits for the table {rows}")
    return "0.1887 bits if three of four follow, 1 if all do, and none from independent rows"


def _information(table: Tensor) -> tuple[float, Mistakes]:
    """The bits, and what mistakes give."""
    p = table / table.sum()
    rows, columns = p.sum(dim=1, keepdim=True), p.sum(dim=0, keepdim=True)

    def bits(weight: Tensor, ratio: Tensor) -> float:
        """The sum over the cells that are not empty."""
        seen = p > 0
        return (weight.expand_as(p)[seen] * ratio.expand_as(p)[seen].log2()).sum().item()

    right = bits(p, p / (rows * columns))
    of_rows, of_columns, of_both = (-bits(p, each) for each in (rows, columns, p))
    return right, {
        "these are nats; take the logarithm to base 2": right * math.log(2),
        "this is the entropy of the pairs, H(x, y)": of_both,
        "this is what the row leaves open, H(y | x), not what it tells": of_columns - right,
        "this is what the column leaves open, H(x | y), not what it tells": of_rows - right,
        "the sign is turned around": -right,
        "this is the share of the columns' entropy; the bits themselves are asked": (
            right / of_columns
        ),
        "the counts are not divided by their total in front of the logarithm": (
            right * table.sum().item()
        ),
        "each cell counts as often as if rows and columns were independent; weigh with p": bits(
            rows * columns, p / (rows * columns)
        ),
        "the ratio lacks the shares of the columns": bits(p, p / rows),
        "the ratio lacks the shares of the rows": bits(p, p / columns),
    }


BOARD_HASH, BOARD_BLIND, BOARD_REMOVE = 3, 1, (2, 5)


@check
def check_read_board(answer: object) -> str:
    """Exercise 12.2: read_board() -> hash layer, layer blind to characters, (layer, expert)."""
    found = call(answer)
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise NotYet("return three things: a layer, a layer, and a pair of layer and expert")
    hashing, blind, removed = found
    if not isinstance(removed, tuple | list) or len(removed) != 2:
        raise NotYet("the third is a pair: the layer and the expert")
    hashing, blind, removed = int(hashing), int(blind), tuple(map(int, removed))
    zero_based = (BOARD_HASH - 1, BOARD_BLIND - 1)
    refuse((hashing, blind) == zero_based, "the layers of the board are counted from 1")
    refuse(
        (hashing, blind) == (BOARD_BLIND, BOARD_HASH),
        "these two are the wrong way round: a hash is known from the character alone",
    )
    _name(hashing, BOARD_HASH, {
        2: "layer 2 has the most bits, but also the most to know; look at the share",
        1: "in layer 1 the character tells almost nothing",
        4: "in layer 4 the character tells only half of what is to know",
    }, "layer whose router is a hash")  # fmt: skip
    _name(blind, BOARD_BLIND, {
        4: "layer 4 tells far more than its shuffled text does; compare the two",
        2: "layer 2 tells far more than its shuffled text does; compare the two",
        3: "in layer 3 the character tells all that is to know",
    }, "layer that does not look at the character")  # fmt: skip
    _name(removed, BOARD_REMOVE, {
        (4, 0): "expert 0 of layer 4 has the least load, but load is not importance",
        (2, 0): "expert 0 of layer 2 costs the most; remove the one that costs least",
        (5, 2): "the pair is layer, expert",
        (3, 1): "expert 1 of layer 3 has the most load; look at what its removal costs",
        (3, 5): "expert 5 of layer 3 costs little, but another costs less",
        (1, 0): "expert 0 of layer 1 has the least load there, but load is not importance",
    }, "expert to remove")  # fmt: skip
    return "the hash is 3, layer 1 is blind, and expert 5 of layer 2 is missed least"


def _name(found: object, right: object, mistakes: dict[object, str], what: str) -> None:
    if found != right:
        raise NotYet(mistakes.get(found, f"{found} is not the {what}"))


@check
def check_repaired_without(answer: object) -> str:
    """Exercise 12.3: repaired_without(routing, expert), find the bug."""
    for num_experts, top_k, expert in ((6, 2, 1), (5, 3, 4), (4, 1, 0)):
        logits = torch.randn(40, num_experts, generator=torch.Generator().manual_seed(0))
        chosen, experts = logits.topk(top_k, dim=-1)
        given = Routing(chosen.softmax(-1), experts, logits.softmax(-1))
        copy = Routing(*(each.clone() for each in given))
        found = call(answer, copy, expert)
        refuse(
            not isinstance(found, tuple) or len(found) != 3,
            "return a Routing: weights, experts, probs",
        )
        weights, taken, probs = found
        refuse(
            any(not torch.equal(a, b) for a, b in zip(copy, given, strict=True)),
            "it writes into the routing that it was given",
        )
        hit = (experts == expert).any(dim=1)  # (N,)
        _removed(weights, taken, given, hit, expert)
        _next_best(weights, taken, given, expert)
        refuse(
            probs.shape != given.probs.shape or not torch.equal(probs, given.probs),
            "probs are what the router thought; statistics need them unchanged",
        )
    return "the next best takes the place, and the weights add up to 1"


def _removed(weights: Tensor, taken: Tensor, given: Routing, hit: Tensor, expert: int) -> None:
    """Is the expert gone, and does every token get its whole output?"""
    refuse(weights.shape != taken.shape, "weights and experts have different shapes")
    there = taken == expert  # (N, K)
    loud = (weights * there).sum(dim=1)  # (N,)
    total = weights.sum(dim=1)  # (N,)
    refuse(bool((loud > 1e-6).any()), f"expert {expert} still has a weight")
    whole = torch.ones_like(total)
    if torch.equal(taken, given.experts) and not close(total, whole, 1e-5):
        alone = given.weights.masked_fill(given.experts == expert, 0)
        if close(weights, alone, 1e-5):
            share = total[hit].mean().item()
            raise StillBuggy(
                f"the weights of a token that lost its expert add up to {share:.2f} on average"
            )
    refuse(not weights.isfinite().all(), "a token that lost its only expert gets 0 / 0")
    refuse(
        close(total[~hit], whole[~hit], 1e-5) and bool((total[hit] > 1 + 1e-5).any()),
        "the weights of some tokens add up to more than 1",
    )
    refuse(
        bool(there.any()),
        "the other weights are stretched, but no other expert takes the place",
    )


def _next_best(weights: Tensor, taken: Tensor, given: Routing, expert: int) -> None:
    """Do the best of the others serve, with the router's weights?"""
    top_k = given.experts.shape[1]
    refuse(taken.shape[1] != top_k, f"every token keeps {top_k} experts, not {taken.shape[1]}")
    allowed = given.probs.clone()
    allowed[:, expert] = -1
    best = allowed.topk(top_k, dim=-1).indices
    if not torch.equal(taken.sort(dim=1).values, best.sort(dim=1).values):
        twice = (taken.sort(dim=1).values.diff(dim=1) == 0).any()
        refuse(bool(twice), "some tokens get the same expert twice")
        raise NotYet("the place goes to the next best expert of each token")
    chosen = given.probs.gather(1, taken)
    mistakes = {
        "the weights are the probabilities among all experts; divide by their sum": chosen,
        "this is a softmax of probabilities; divide them by their sum": chosen.softmax(-1),
        "the new experts have the weights of the old ones": given.weights,
        "the weights are equal; they follow the probabilities": torch.full_like(chosen, 1 / top_k),
    }
    compare(weights, chosen / chosen.sum(dim=1, keepdim=True), mistakes)
