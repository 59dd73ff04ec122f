"""Checks of the exercises of chapter 13."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare, refuse
from moe_tutorial.cost import experts_touched


@check
def check_touched_by(answer: object) -> str:
    """Exercise 13.1: touched_by(probs, batch) -> how many different experts are expected."""
    for probs, batch in (
        (torch.tensor([0.9, 0.5, 0.3, 0.2, 0.1]), 3),
        (torch.tensor([0.6, 0.3, 0.1, 0.0]), 2),
        (torch.tensor([1.0, 1.0, 0.7, 0.3]), 1),
    ):
        found = call(answer, probs.clone(), batch)
        many = isinstance(found, Tensor) and found.numel() != 1
        refuse(many, "there is one number for all experts together; add them up")
        right = (1 - (1 - probs) ** batch).sum()
        top_k, num_experts = round(probs.sum().item()), len(probs)
        even = probs / probs.sum()
        mistakes = {
            "these experts are equally likely; take each one's own probability": (
                experts_touched(num_experts, top_k, batch)
            ),
            "an expert that two tokens need is counted twice": batch * probs.sum(),
            "batch times the probability is a bound, not the probability": (
                (batch * probs).clamp(max=1).sum()
            ),
            "this asks that not all tokens choose the expert; one that does is enough": (
                (1 - probs**batch).sum()
            ),
            "these are the experts that nobody touches": ((1 - probs) ** batch).sum(),
            "this is the probability of any expert at all; add up over the experts": (
                1 - ((1 - probs) ** batch).prod()
            ),
            "subtract from 1 for each expert before adding up, not once for all": (
                1 - ((1 - probs) ** batch).sum()
            ),
            "this is the share of the experts; add up instead of averaging": right / num_experts,
            "the probabilities add up to K, as each token has K experts; do not divide them": (
                (1 - (1 - even) ** batch).sum()
            ),
        }
        found = torch.as_tensor(found).squeeze()
        compare(found, right, mistakes if batch > 1 else {}, tolerance=1e-5)
    return "an uneven load touches fewer experts than an even one"


class Trial(NamedTuple):
    """A row of a table of runs."""

    name: str
    active: int  # parameters that a token meets
    total: int  # parameters
    seconds: float  # of the whole training
    losses: list[float]  # validation, one per seed; the same seeds in all rows


def _winner(
    trials: Sequence[Trial],
    budget: str,
    spread: str = "paired",
    sign: int = 1,
    size: Callable[[Tensor], Tensor] = torch.abs,
) -> str:  # the right answer, or one of a mistake
    first, *rivals = trials
    rivals = [
        trial
        for trial in rivals
        if budget == "any" or abs(getattr(trial, budget) / getattr(first, budget) - 1) < 0.05
    ]
    rival = min(rivals, key=lambda trial: sum(trial.losses))
    ours, theirs = torch.tensor(first.losses), torch.tensor(rival.losses)
    gaps, root = ours - theirs, len(ours) ** 0.5
    error = {
        "paired": gaps.std() / root,
        "half": gaps.std() / root / 2,
        "biased": gaps.std(correction=0) / root,
        "single": (ours.var() + theirs.var()).sqrt() / root,
        "deviation": gaps.std(),
        "nothing": 0.0,
    }[spread]
    if size(gaps.mean()) <= 2 * error:
        return "none"
    return first.name if sign * gaps.mean() < 0 else rival.name


TRIALS = (
    Trial("mixture", 200, 530, 23.0, [1.30, 1.34, 1.32, 1.36, 1.28]),
    Trial("small", 196, 197, 17.0, [1.33, 1.36, 1.35, 1.385, 1.312]),  # worse, by the pairs only
    Trial("large", 528, 530, 37.0, [1.21, 1.27, 1.23, 1.29, 1.20]),  # better
    Trial("medium", 300, 301, 23.4, [1.31, 1.30, 1.36, 1.33, 1.29]),  # no difference
)
CLEAR = (  # two standard errors, not two standard deviations
    Trial("mixture", 100, 400, 10.0, [1.50, 1.52, 1.51]),
    Trial("large", 400, 396, 20.0, [1.55, 1.58, 1.55]),
    Trial("long", 100, 101, 10.2, [1.46, 1.51, 1.485]),
)
CLOSE = (  # between one standard error and two
    Trial("mixture", 300, 900, 30.0, [1.42, 1.45, 1.40, 1.43]),
    Trial("small", 300, 301, 20.0, [1.425, 1.445, 1.386, 1.405]),  # 1.5
    Trial("medium", 500, 501, 30.0, [1.423, 1.443, 1.384, 1.402]),  # 1.8; divided by n, 2.1
    Trial("large", 900, 901, 60.0, [1.36, 1.40, 1.33, 1.35]),
)
QUESTIONS = [
    (TRIALS, "active"), (TRIALS, "total"), (TRIALS, "seconds"), (CLEAR, "active"),
    (CLEAR, "total"), (CLEAR, "seconds"), (CLOSE, "active"), (CLOSE, "seconds"),
]  # fmt: skip


@check
def check_fair_winner(answer: object) -> str:
    """Exercise 13.2: fair_winner(trials, budget) -> a name or "none"."""
    found = [call(answer, list(trials), budget) for trials, budget in QUESTIONS]
    for one in found:
        refuse(not isinstance(one, str), f"return a name or 'none', not {one!r}")
    right = [_winner(*question) for question in QUESTIONS]
    mistakes = {
        "the error is never asked; a difference within twice the error is none": (
            {"spread": "nothing"}
        ),
        "one standard error is not enough; ask for twice": {"spread": "half"},
        "few pairs: divide the squares by n - 1, as `std()` does": {"spread": "biased"},
        "row 0 never wins: ask for the size of the difference, and it is no rival of its own": (
            {"size": Tensor.clone}
        ),
        "each row's own spread hides what the pairs show: same seed, same batches": (
            {"spread": "single"}
        ),
        "this is the deviation of one pair; the mean of n pairs varies root n times less": (
            {"spread": "deviation"}
        ),
        "the lower loss wins": {"sign": -1},
    }
    for mistake, change in mistakes.items():
        refuse(found == [_winner(*question, **change) for question in QUESTIONS], mistake)
    for budget in ("any", "active", "total"):
        same = [_winner(trials, budget) for trials, _ in QUESTIONS]
        wrong = "the rival must have the same budget" if budget == "any" else f"always by {budget}"
        refuse(found == same, f"{wrong}; only rows within 5 % of the mixture's are fair")
    refuse(set(found) == {"none"}, "always none: is the mixture compared with itself?")
    for (trials, budget), ours, expected in zip(QUESTIONS, found, right, strict=True):
        if ours != expected:
            names = ", ".join(trial.name for trial in trials)
            raise NotYet(f"of {names} at equal {budget}, it says {ours} instead of {expected}")
    return "who wins depends on what is held equal, and sometimes nobody does"


COUNTS = torch.tensor([5, 3, 60, 12, 8, 20, 45, 2, 1, 9, 15, 7])


def _table(
    counts: Tensor, num_experts: int, top_k: int, order: Tensor | None = None, charged: int = 9,
    busiest: bool = False,
) -> Tensor:  # fmt: skip
    """A balanced table with stable ties, or one with a mistake."""
    table = torch.zeros(len(counts), top_k, dtype=torch.long)
    load = torch.zeros(num_experts)
    order = counts.argsort(descending=True, stable=True) if order is None else order
    for token in order.tolist():
        table[token] = load.argsort(descending=busiest, stable=True)[:top_k]
        load[table[token, :charged]] += counts[token]
    return table


@check
def check_repaired_hash(answer: object) -> str:
    """Exercise 13.3: repaired_hash(counts, num_experts, top_k), find the bug."""
    for counts, num_experts, top_k in ((COUNTS, 4, 2), (COUNTS * 3, 3, 1), (COUNTS.flip(0), 6, 2)):
        size = num_experts, top_k
        table = call(answer, counts.clone(), *size)
        shape = (len(counts), top_k)
        if not isinstance(table, Tensor) or table.shape != shape:
            raise NotYet(f"return one tensor of shape {shape}")
        refuse(table.is_floating_point(), "experts are indices: the table holds whole numbers")
        outside = table.min() < 0 or table.max() >= num_experts
        refuse(outside, f"experts are numbered from 0 to {num_experts - 1}")
        twice = any(len(set(row)) < top_k for row in table.tolist())
        refuse(twice, "a character has the same expert twice")
        _refuse_uneven(table, counts, *size)
    return "the frequent characters are spread, and every expert gets about as much text"


def _refuse_uneven(table: Tensor, counts: Tensor, num_experts: int, top_k: int) -> None:
    weight = counts[:, None].expand(-1, top_k).flatten().float()
    load = torch.zeros(num_experts).index_add_(0, table.flatten(), weight)
    busiest = (load.max() / load.mean()).item()
    if busiest <= 1.1:
        return
    ones, ids = torch.ones_like(counts), torch.arange(len(counts))
    descending = counts.argsort(descending=True, stable=True)
    size = num_experts, top_k
    if close(table, _table(ones, *size, order=descending)):
        raise StillBuggy(
            f"the experts have equally many characters, but one has {busiest:.2f} times the mean "
            "share of the text"
        )
    mistakes = {
        "the rare characters come first, and nothing is left to level the frequent ones": (
            _table(counts, *size, order=counts.argsort(stable=True))
        ),
        "the characters come in the order of their ids; begin with the frequent ones": (
            _table(counts, *size, order=ids)
        ),
        "only the first expert of a character is charged": _table(counts, *size, charged=1),
        "the busiest experts get still more; take the idlest": _table(counts, *size, busiest=True),
    }
    otherwise = f"one expert has {busiest:.2f} times the mean share of the text"
    compare(table, _table(counts, *size), mistakes, otherwise=otherwise)
