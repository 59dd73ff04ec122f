"""What chapter 13 says of its experiments, as assertions over their results."""

from collections.abc import Callable
from itertools import combinations
from statistics import mean

from moe_tutorial.cost import experts_touched
from moe_tutorial.experiments.base import Results

Statements = dict[str, Callable[[Results], bool]]
NARROW, WIDE = "dense, active size", "dense, total size"


def at_step(results: Results, variant: str, step: int) -> list[float]:
    """The held-out loss on the way, one per seed."""
    return [dict(map(tuple, points))[step] for points in results.of(variant, "curve")]


def leads(results: Results, step: int) -> list[float]:
    """How far the hash is below the learned router in the long trainings, one per seed."""
    hashed, learned = (at_step(results, router, step) for router in TWICE)
    return [high - low for low, high in zip(hashed, learned, strict=True)]


def by_seed(results: Results, one: str, other: str, key: str) -> list[tuple]:
    """A measurement of two variants, a pair per seed."""
    return list(zip(results.of(one, key), results.of(other, key), strict=True))


def least(results: Results, variant: str) -> list[float]:
    """The least time of all processes, per number of tokens."""
    return [min(times) for times in zip(*results.of(variant, "milliseconds"), strict=True)]


def speed_ups(results: Results) -> list[float]:
    """How many times the mixture's layer is faster than the dense one of equal total size."""
    pairs = zip(least(results, WIDE), least(results, "mixture"), strict=True)
    return [large / mixture for large, mixture in pairs]


def per_expert(results: Results, variant: str) -> list[float]:
    """Milliseconds per touched expert, per number of tokens."""
    counts = results.of(variant, "touched")[0]
    return [time / count for time, count in zip(least(results, variant), counts, strict=True)]


def ahead_at(results: Results, steps: tuple[int, ...]) -> bool:
    """Whether the hash was below the learned router with every seed, after each of the steps."""
    return all(
        a < b
        for step in steps
        for a, b in zip(
            at_step(results, "hash", step), at_step(results, "learned", step), strict=True
        )
    )


ROUTER_WORTH: Statements = {
    "the hash ends below the learned router with every seed": (
        lambda r: r.all_below("hash", "learned", "loss")
    ),
    "the hash ends below the frozen router with every seed": (
        lambda r: r.all_below("hash", "frozen", "loss")
    ),
    "the hash ends below one expert, by more than twice the standard error": (
        lambda r: (
            r.differ("hash", "one expert", "loss")
            and r.mean("hash", "loss") < r.mean("one expert", "loss")
        )
    ),
    "between the learned and the frozen router no difference is seen": (
        lambda r: not r.differ("learned", "frozen", "loss")
    ),
    "the learned router does not end below one expert with every seed": (
        lambda r: not r.all_below("learned", "one expert", "loss")
    ),
    "the hash is ahead of the learned router already after 100 and 200 steps, with every seed": (
        lambda r: ahead_at(r, (100, 200))
    ),
    "the hash's busiest expert has at most 10 % above the mean, the learned one's 20 % or more": (
        lambda r: max(r.of("hash", "violation")) < 0.1 and min(r.of("learned", "violation")) > 0.2
    ),
    "the learned and the frozen router change over 30 % of their choices from step 0 to 100": (
        lambda r: all(k[0] < 0.7 for v in ("learned", "frozen") for k in r.of(v, "kept"))
    ),
    "in the last 100 steps both still change some, the hash none": (
        lambda r: (
            all(k[-1] < 0.99 for v in ("learned", "frozen") for k in r.of(v, "kept"))
            and all(k[-1] == 1 for k in r.of("hash", "kept"))
        )
    ),
    "the frozen router changes two thirds to nine tenths as many as the learned, with every seed": (
        lambda r: all(
            2 / 3 < (1 - mean(frozen)) / (1 - mean(learned)) < 0.9
            for frozen, learned in by_seed(r, "frozen", "learned", "kept")
        )
    ),
    "a character's two favorite experts explain less than 90 % of the learned choices": (
        lambda r: max(r.of("learned", "by character")) < 0.9
    ),
    "a trained router touches as many experts as the formula says, within 3 %": (
        lambda r: all(
            abs(mean(counts) / experts_touched(8, 2, batch) - 1) < 0.03
            for kind in ("consecutive", "independent")
            for batch, *counts in zip(
                (1, 2, 4, 8, 16, 32),
                *(found[kind] for found in r.of("learned", "touched")),
                strict=True,
            )
        )
    ),
}
TOUCHED: Statements = {
    "one token: over eight times as fast as the dense layer of equal total size": (
        lambda r: speed_ups(r)[0] > 8
    ),
    "two tokens: the dense layer of equal total size takes over 1.8 times as long as for one": (
        lambda r: least(r, WIDE)[1] > 1.8 * least(r, WIDE)[0]
    ),
    "16 and 32 tokens: less than half of that advantage is left": (
        lambda r: max(speed_ups(r)[4:6]) < speed_ups(r)[0] / 2
    ),
    "256 tokens: the advantage is over 1.5 times that with 32": (
        lambda r: speed_ups(r)[7] > 1.5 * speed_ups(r)[5]
    ),
    "up to 16 tokens each touched expert takes the same time, within a half": (
        lambda r: max(per_expert(r, "mixture")[:5]) < 1.5 * min(per_expert(r, "mixture")[:5])
    ),
    "per byte of an expert, the course's small layer takes more than twice as long": (
        lambda r: (
            per_expert(r, "the course's")[0] / 96**2 > 2 * per_expert(r, "mixture")[0] / 768**2
        )
    ),
}
DENSE_OR_MIXTURE: Statements = {
    "equal tokens: the mixture does not end below the narrow dense model with every seed": (
        lambda r: not r.all_below("mixture", NARROW, "loss")
    ),
    "equal tokens: between the mixture and the wide dense model no difference is seen": (
        lambda r: not r.differ("mixture", WIDE, "loss")
    ),
    "equal FLOPs: the mixture ends below the wide dense model with every seed": (
        lambda r: r.all_below("mixture", f"{WIDE}, as many FLOPs", "loss")
    ),
    "equal time: the mixture ends below the wide dense model with every seed": (
        lambda r: r.all_below("mixture", f"{WIDE}, as long", "loss")
    ),
    "equal time: the mixture does not end below the narrow dense model with every seed": (
        lambda r: not r.all_below("mixture", f"{NARROW}, as long", "loss")
    ),
    "equal time: the narrow dense model ends below the mixture with most seeds": (
        lambda r: r.seeds_below(f"{NARROW}, as long", "mixture", "loss") > 2
    ),
    "a step of the wide dense model takes over 1.3 times as long as the mixture's": (
        lambda r: all(a > 1.3 * b for a, b in by_seed(r, WIDE, "mixture", "milliseconds"))
    ),
    "200 more steps lower the narrow model's loss with every seed": (
        lambda r: r.all_below(f"{NARROW}, as long", NARROW, "loss")
    ),
}
SHAPE_OF_MIXTURE: Statements = {
    "4 experts end below 2 with every seed; 8 and 16 end below 2, by more than twice the error": (
        lambda r: (
            r.all_below("4 experts", "2 experts", "loss")
            and all(
                r.differ(many, "2 experts", "loss")
                and r.mean(many, "loss") < r.mean("2 experts", "loss")
                for many in ("8 experts", "16 experts")
            )
        )
    ),
    "between 4 and 8, and between 8 and 16 experts no difference is seen": (
        lambda r: (
            not r.differ("4 experts", "8 experts", "loss")
            and not r.differ("8 experts", "16 experts", "loss")
        )
    ),
    "16 experts end below one, by more than twice the error; 2, 4 and 8 do not": (
        lambda r: (
            r.mean("16 experts", "loss") < r.mean("1 expert", "loss")
            and [n for n in (2, 4, 8, 16) if r.differ(f"{n} experts", "1 expert", "loss")] == [16]
        )
    ),
    "one choice ends above two with every seed (sigmoid router)": (
        lambda r: r.all_below("top 2, sigmoid", "top 1, sigmoid", "loss")
    ),
    "four choices end below two with every seed (softmax router)": (
        lambda r: r.all_below("top 4", "8 experts", "loss")
    ),
    "between a shared expert and a second choice no difference is seen": (
        lambda r: not r.differ("top 1 of 7 and a shared one", "top 2, sigmoid", "loss")
    ),
    "between 8, 16 and 32 experts of one total size no difference is seen": (
        lambda r: (
            not r.differ("16/4, width 48", "8 experts", "loss")
            and not r.differ("32/8, width 24", "8 experts", "loss")
        )
    ),
    "a step with 32 fine experts takes over 1.3 times as long as with 8": (
        lambda r: (
            r.mean("32/8, width 24", "milliseconds") > 1.3 * r.mean("8 experts", "milliseconds")
        )
    ),
}
ROUTER_SHAKESPEARE: Statements = {
    "all three mixtures end below one expert with every seed": (
        lambda r: all(
            r.all_below(f"{router}, Shakespeare", "one expert, Shakespeare", "loss")
            for router in ("learned", "hash", "frozen")
        )
    ),
    "between the hash and the learned router no difference is seen": (
        lambda r: not r.differ("hash, Shakespeare", "learned, Shakespeare", "loss")
    ),
    "between the learned and the frozen router no difference is seen": (
        lambda r: not r.differ("learned, Shakespeare", "frozen, Shakespeare", "loss")
    ),
}
TWICE = tuple(f"{router}, twice as long" for router in ("hash", "learned"))
ROUTER_LONG: Statements = {
    "after 2,000 steps no difference is seen between the hash and the learned router": (
        lambda r: not r.differ(*TWICE, "loss")
    ),
    "with every seed the hash leads after 100 steps, and by less or not at all at the end": (
        lambda r: all(
            at_100 > max(0, end) for at_100, end in zip(leads(r, 100), leads(r, 2000), strict=True)
        )
    ),
    "twice as many steps lower both losses below 1.21": (
        lambda r: max(loss for router in TWICE for loss in r.of(router, "loss")) < 1.21
    ),
}
TABLES = ("hash", "random table", "table of a trained router")
ROUTER_WHY: Statements = {
    "each of the three tables ends below the learned router with four seeds at least": (
        lambda r: all(r.seeds_below(table, "learned", "loss") >= 4 for table in TABLES)
    ),
    "between the three tables no difference is seen": (
        lambda r: not any(r.differ(a, b, "loss") for a, b in combinations(TABLES, 2))
    ),
    "the random table is uneven: its busiest expert has over 70 % more than the mean": (
        lambda r: min(r.of("random table", "violation")) > 0.7
    ),
    "without its balance loss the learned router ends higher with four seeds at least": (
        lambda r: r.seeds_below("learned", "learned, no balance", "loss") >= 4
    ),
}
