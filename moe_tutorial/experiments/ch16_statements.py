"""Chapter 16: what must come out."""

from collections.abc import Callable
from itertools import pairwise
from statistics import mean

from moe_tutorial.experiments.base import Results

Statements = dict[str, Callable[[Results], bool]]
LENGTHS = ("1", "2", "3", "4", "6", "8", "12")
USUAL, OTHERS = "counts of 5", ("counts of 2", "counts of 3", "counts of 4", "counts of 6")
SMALLER, ONE_LAYER = "smaller model", "one layer"


def acceptance(results: Results, draft: str) -> list[float]:
    """The mean overlap, of every seed."""
    return [run["acceptance"] for run in results.of("trained", draft)]


def above(results: Results, one: str, other: str) -> bool:
    """Whether a draft is accepted more often than another with every seed."""
    pairs = zip(acceptance(results, one), acceptance(results, other), strict=True)
    return all(a > b for a, b in pairs)


def cost(results: Results, draft: str) -> list[float]:
    """Time of a guess over that of a pass for one token, of every seed."""
    pairs = zip(results.of("trained", "guess"), results.of("trained", "pass"), strict=True)
    return [guess[draft] / passes[0] for guess, passes in pairs]


def all_passes(results: Results, length: str) -> float:
    """Characters per pass with the usual draft, whether it had room for all guesses or not."""
    return mean(run["written"][length]["per pass"] for run in results.of("trained", USUAL))


def with_room(results: Results, length: str) -> float:
    """Characters per pass, of the passes that had room for all guesses."""
    runs = [run["written"][length]["accepted"] for run in results.of("trained", USUAL)]
    return mean(sum(accepted) / accepted[0] for accepted in runs)


def predicted(results: Results, length: str) -> float:
    """Characters per pass if all guesses were alike and independent."""
    share = mean(acceptance(results, USUAL))
    return sum(share**i for i in range(int(length) + 1))


def next_accepted(results: Results) -> list[float]:
    """Of 8 guesses: the share of the first, the second, ... accepted where all before it were."""
    runs = [run["written"]["8"]["accepted"] for run in results.of("trained", USUAL)]
    reached = [sum(counts) for counts in zip(*runs, strict=True)]
    return [after / before for before, after in pairwise(reached)]


def speeds(results: Results, length: str) -> list[float]:
    """How many times faster than plain generation, of every seed."""
    whole = [run["written"][length]["per pass"] for run in results.of("trained", USUAL)]
    passes = [drafted[LENGTHS.index(length)] for drafted in results.of("trained", "drafted")]
    found = zip(whole, passes, results.of("trained", "plain"), strict=True)
    return [number * plain / one for number, one, plain in found]


def predicted_share(results: Results, length: str) -> float:
    """Of the time of a pass with all that belongs to it: the pass, its guesses and one draw."""
    found, place = [], LENGTHS.index(length)
    columns = (results.of("trained", key) for key in ("pass", "plain", "guess", "drafted"))
    for passes, plain, guess, drafted in zip(*columns, strict=True):
        known = passes[place + 1] + plain - passes[0] + int(length) * guess[USUAL]
        found.append(known / drafted[place])
    return mean(found)


DRAFTS: Statements = {
    "counts of 5 are accepted more often than counts of 2, 3, 4 and 6, with every seed": (
        lambda r: all(above(r, USUAL, other) for other in OTHERS)
    ),
    "and more often than the smaller model, with every seed": (lambda r: above(r, USUAL, SMALLER)),
    "the model's own first layer is accepted in less than half of the cases, with every seed": (
        lambda r: max(acceptance(r, ONE_LAYER)) < 0.5
    ),
    "a guess of the smaller model takes over half of a pass, one from counts under a quarter": (
        lambda r: min(cost(r, SMALLER)) > 0.5 and max(cost(r, USUAL)) < 0.25
    ),
    "where there is room, up to 4 guesses write what is predicted, within 5 %": (
        lambda r: all(abs(with_room(r, n) / predicted(r, n) - 1) < 0.05 for n in LENGTHS[:4])
    ),
    "with 12 guesses they write over 5 % more": (
        lambda r: with_room(r, "12") > 1.05 * predicted(r, "12")
    ),
    "the last four of eight guesses are accepted more often than the first four, if reached": (
        lambda r: mean(next_accepted(r)[4:]) > mean(next_accepted(r)[:4])
    ),
    "all passes together write less than those with room, for every length": (
        lambda r: all(all_passes(r, n) < with_room(r, n) for n in LENGTHS)
    ),
    "with counts of 5 every length is faster than plain generation, with every seed": (
        lambda r: all(speed > 1 for n in LENGTHS for speed in speeds(r, n))
    ),
    "a pass, its guesses and one draw are 70 to 85 % of the time, for every length": (
        lambda r: all(0.7 < predicted_share(r, n) < 0.85 for n in LENGTHS)
    ),
    "4, 6 and 8 guesses are faster than 1 and 2, on average": (
        lambda r: (
            min(mean(speeds(r, n)) for n in LENGTHS[3:6])
            > max(mean(speeds(r, n)) for n in LENGTHS[:2])
        )
    ),
    "from 3 guesses on no length is 10 % slower than the best, on average": (
        lambda r: (
            min(mean(speeds(r, n)) for n in LENGTHS[2:])
            > 0.9 * max(mean(speeds(r, n)) for n in LENGTHS)
        )
    ),
}
TWINS = ("dense, active size", "dense, total size")


def growth(results: Results, variant: str, place: int = 0) -> list[float]:
    """Time of a pass for 13 tokens over that for one (or another number), of every process."""
    return [times[-1] / times[place] for times in results.of(variant, "milliseconds")]


PASS_TIME: Statements = {
    "large: from 1 to 13 tokens the mixture's pass grows over 1.5 times as much as any twin's": (
        lambda r: (
            min(growth(r, "large, mixture"))
            > 1.5 * max(g for twin in TWINS for g in growth(r, f"large, {twin}"))
        )
    ),
    "from 2 to 13 tokens it grows over 3 times, those of the twins less than 2 times": (
        lambda r: (
            min(growth(r, "large, mixture", 1)) > 3
            and max(g for twin in TWINS for g in growth(r, f"large, {twin}", 1)) < 2
        )
    ),
    "from 1 to 13 tokens it grows less than its touched experts do": (
        lambda r: all(
            time < touched[-1] / touched[0]
            for time, touched in zip(
                growth(r, "large, mixture"), r.of("large, mixture", "touched"), strict=True
            )
        )
    ),
    "small: a pass for 13 tokens takes less than 2.3 times that for one, in all three models": (
        lambda r: max(g for v in ("mixture", *TWINS) for g in growth(r, f"small, {v}")) < 2.3
    ),
}
