"""Checks of the exercises of chapter 16."""

import torch
from torch import Tensor

from moe_tutorial.checks.base import (
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    recognize,
    refuse,
)
from moe_tutorial.speculation import accept_probability, rest

P = torch.tensor([8, 4, 3, 1]) / 16
Q = torch.tensor([4, 8, 2, 2]) / 16
NUMBERS = [0.05, 0.3, 0.45, 0.55, 0.7, 0.95]


@check
def check_accepts(answer: object) -> str:
    """Exercise 16.1: accepts(p, q, token, number), whether a guess is kept."""
    found, ratios = [], []
    for p, q in ((P, Q), (P.flip(0), Q), (Q, P)):
        for token in range(4):
            for number in NUMBERS:
                said = call(answer, p.clone(), q.clone(), token, number)
                single = isinstance(said, bool) or (
                    isinstance(said, Tensor) and said.dtype == torch.bool and said.ndim == 0
                )
                refuse(not single, "return one True or False")
                found.append(bool(said))
                ratios.append((p[token].item(), q[token].item(), number, p, q))
    right = [u < p / q for p, q, u, *_ in ratios]
    mistakes = {
        "it is the other way round: the guess comes from q, and p wants it; p / q": (
            [u < q / p for p, q, u, *_ in ratios]
        ),
        "it rejects what should be kept: accept when the number is below": (
            [u >= p / q for p, q, u, *_ in ratios]
        ),
        "p alone forgets how often the draft guesses it": [u < p for p, q, u, *_ in ratios],
        "q alone does not ask the model": [u < q for p, q, u, *_ in ratios],
        "min(p, q) is the share of all guesses; of those of this token, p / q are kept": (
            [u < min(p, q) for p, q, u, *_ in ratios]
        ),
        "p of q or more is always kept, but less is kept sometimes; use the number": (
            [p >= q for p, q, u, *_ in ratios]
        ),
        "this is the share of all guesses; each token has its own chance": (
            [u < torch.minimum(p, q).sum().item() for *_, u, p, q in ratios]
        ),
        "always the same answer": [found[0]] * len(found),
    }
    for mistake, wrong in mistakes.items():
        refuse(found == wrong, mistake)
    for (p, q, number, *_), ours, expected in zip(ratios, found, right, strict=True):
        refuse(ours != expected, f"p = {p}, q = {q}, number {number}: {expected}, not {ours}")
    return "kept whenever p is at least q, and below that in the share p / q of the cases"


ROWS_P = torch.stack([P, P.flip(0), torch.tensor([0.0, 0.5, 0.5, 0.0]), P / 2 + Q / 2, P])
ROWS_Q = torch.stack([Q, Q, torch.full((4,), 0.25), P, P])  # more rows than columns


@check
def check_rest_of_rows(answer: object) -> str:
    """Exercise 16.2: rest_of_rows(p, q), the rest distribution of every row."""
    p, q = ROWS_P.clone(), ROWS_Q.clone()
    found = call(answer, p, q)
    refuse(isinstance(found, list | tuple), "return one tensor for all rows; torch.stack makes it")
    found = torch.as_tensor(found)
    refuse(not (p.equal(ROWS_P) and q.equal(ROWS_Q)), "it changes what it was given; compute anew")
    p, q = ROWS_P, ROWS_Q
    right = torch.stack([rest(*row) for row in zip(p, q, strict=True)])
    left, back = (p - q).clamp(min=0), (q - p).clamp(min=0)
    gap = (p - q).abs()
    first = slice(4)  # the last row has no rest
    if found.shape == right.shape:
        mistakes = {
            "p - q is negative where the draft guesses too often; cut at 0": p - q,
            "the rows do not add up to 1; divide each by its sum": left,
            "absolute values keep what was guessed too often; only p above q is missing": (
                gap / gap.sum(-1, keepdim=True)
            ),
            "this is what the draft guesses too often; take what it guesses too rarely": (
                back / back.sum(-1, keepdim=True)
            ),
            "all rows are divided by one sum; each has its own": left / left.sum(),
            "columns are divided by their sums; a row is a distribution": left / left.sum(0),
            "a softmax gives the forbidden ones a chance; divide by the sum": left.softmax(-1),
            "this is p: what was accepted would be counted twice": p,
            "p comes in for single zeros; give it only for a row that is zero as a whole": (
                torch.where(left > 0, left / left.sum(-1, keepdim=True), p)
            ),
        }
        recognize(found[first], {text: wrong[first] for text, wrong in mistakes.items()})
        _refuse_no_numbers(found, right)
    compare(found, right, {})
    return "each row holds what the draft guesses too rarely, and p where nothing is missing"


def _refuse_no_numbers(found: Tensor, right: Tensor) -> None:
    """What goes wrong where a sum is 0: everywhere without the cut, in the last row with it."""
    endless = not found[:-1].isfinite().all()
    refuse(endless, "p - q adds up to 0 in every row; cut at 0 before you add up")
    nothing = not found[-1].isfinite().all()
    refuse(nothing, "where p = q the sum is 0, and 0 / 0 is no number; give p there")
    if close(found[:-1], right[:-1]):
        refuse(not found[-1].any(), "where p = q the row is all zeros; give p there")
        other = not close(found[-1], right[-1])
        refuse(other, "all rows are right but the one where p = q; give p there")


DRAWS = 1500
WANTED, GUESSED = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])


@check
def check_repaired_guess(answer: object) -> str:
    """Exercise 16.3: repaired_guess(p, q, generator) -> token, kept; find the bugs."""
    counts, kept = torch.zeros(3), 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        result = call(answer, WANTED.clone(), GUESSED.clone(), generator)
        pair = isinstance(result, tuple | list) and len(result) == 2
        refuse(not pair, "return two things: the token, and whether it is the kept guess")
        counts[int(result[0])] += 1
        kept += bool(result[1])
    _judge_shares(counts / DRAWS, kept / DRAWS)
    return "written as often as p says, and three of four guesses are kept"


def _judge_shares(shares: Tensor, kept: float) -> None:
    """Which rule explains best how often each token is written and a guess is kept."""
    p, q = WANTED, GUESSED
    right, turned = accept_probability(p, q), accept_probability(q, p)
    rules = {  # what to say -> how probably a guess is kept, what comes after a rejection
        "": (right, rest(p, q)),
        "both": (turned, p),
        "one bug is left: what was accepted has had its share, and gets another from p": (right, p),
        "one bug is left: the ratio is upside down": (turned, rest(p, q)),
        "after a rejection it is drawn from q again": (right, q),
        "after a rejection comes what the draft guesses too often; p - q, not q - p": (
            right,
            rest(q, p),
        ),
        "p alone forgets how often the draft guesses it; p / q": (p, rest(p, q)),
        "every guess is kept, so the text is the draft's": (torch.ones(3), p),
        "after a rejection all are equally likely": (right, torch.ones(3) / 3),
    }
    found = torch.tensor([*shares.tolist(), kept])
    gaps = {}
    for name, (accept, after) in rules.items():
        share = (q * accept).sum()
        expected = torch.cat([q * accept + (1 - share) * after, share[None]])
        gaps[name] = (found - expected).abs().max().item()
    nearest = min(gaps, key=gaps.get)
    written = ", ".join(f"{share:.2f}" for share in found[:3].tolist())
    said = f"written {written}, but p is 0.50, 0.50, 0.00"
    if gaps[nearest] > 0.05:
        refuse(not close(found[:3], p, 0.05), said)
        raise NotYet(f"the text is right, but {kept:.2f} of the guesses are kept; 0.75 could be")
    if nearest == "both":
        raise StillBuggy(said)
    refuse(nearest, f"{nearest} ({said})")
