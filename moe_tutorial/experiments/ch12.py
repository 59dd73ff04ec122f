"""Experiments of chapter 12: what the experts know, how early, and what if asked otherwise."""

from operator import lt
from statistics import correlation, mean

from moe_tutorial.experiments import ask, early, languages
from moe_tutorial.experiments.base import MODEL, TRAINING, Experiment, Results
from moe_tutorial.experiments.early import at

END = early.SNAPSHOTS[-1]
KS = (1, 2, 3, 4, 6, 8)


def added(results: Results, key: str) -> list[float]:
    """What a change adds to the held-out loss, of every seed."""
    own, changed = results.of("trained", "as trained"), results.of("trained", key)
    return [loss - base for loss, base in zip(changed, own, strict=True)]


def against(results: Results, variant: str, base: str, key: str) -> list[float]:
    """What a variant has more of than another one, seed by seed."""
    pairs = zip(results.of(variant, key), results.of(base, key), strict=True)
    return [one - other for one, other in pairs]


def language_bits(results: Results, variant: str) -> list[float]:
    """What the choice tells about the language: the larger of both layers, of every seed."""
    layers = (results.of(variant, f"bits {layer}") for layer in (1, 2))
    return [max(two) for two in zip(*layers, strict=True)]


def removals(results: Results, layer: int, seed: int | None = None) -> tuple[list, list]:
    """Loads of a layer's experts, and what their removal adds; of one or all seeds."""
    loads, costs = [], []
    for run in results.runs if seed is None else [results.runs[seed]]:
        loads += run["load"][layer - 1]
        costs += [loss - run["as trained"] for loss in run["without"][layer - 1]]
    return loads, costs


def per_asked(results: Results, layer: int) -> list[float]:
    """What a removal adds for each character that had chosen the expert."""
    pairs = zip(*removals(results, layer), strict=True)
    return [cost / (MODEL.top_k * load) for load, cost in pairs]


def each_removal(results: Results) -> list[tuple[list, list]]:
    """`removals` of every layer of every training by itself."""
    return [removals(results, layer, i) for layer in (1, 2) for i in range(len(results.runs))]


def ratios(results: Results, name: str) -> list[float]:
    """The farthest probability ratios of a text, of all seeds."""
    return results.of("trained", f"{name} lowest") + results.of("trained", f"{name} highest")


EARLY_KNOWS = {
    "Before training the character tells more than 90 % of each layer's first choice.": (
        lambda r: min(at(r, "share", 0, 1) + at(r, "share", 0, 2)) > 0.9
    ),
    "Before training a character's favorite expert has more than 94 % of its positions.": (
        lambda r: min(at(r, "favorites", 0, 1) + at(r, "favorites", 0, 2)) > 0.94
    ),
    "Training lowers both numbers in layer 2, with every seed.": lambda r: all(
        after < before - 0.05
        for key in ("share", "favorites")
        for before, after in zip(at(r, key, 0, 2), at(r, key, END, 2), strict=True)
    ),
    "In bits, too, the character tells less in layer 2 after training, with four of five seeds.": (
        lambda r: sum(map(lt, at(r, "character", END, 2), at(r, "character", 0, 2))) == 4
    ),
    "Class, position and both neighbors tell more in layer 2, with every seed.": lambda r: all(
        after > before + 0.02
        for key in ("char_class", "position", "previous", "following")
        for before, after in zip(at(r, key, 0, 2), at(r, key, END, 2), strict=True)
    ),
    "Layer 1 stays nearly a hash: its character tells more than 90 % after training, too.": (
        lambda r: min(at(r, "share", END, 1)) > 0.9
    ),
}  # fmt: skip
EARLY_ADDS = {
    "In layer 2 the previous character adds at most 0.02 bits before, above 0.25 after.": (
        lambda r: (
            max(at(r, "added previous", 0, 2)) <= 0.02
            and min(at(r, "added previous", END, 2)) > 0.25
        )
    ),
    "Shuffled within each character, the previous one adds less than a tenth of that.": lambda r: (
        all(
            bias < real / 10
            for bias, real in zip(
                at(r, "shuffled added previous", END, 2),
                at(r, "added previous", END, 2),
                strict=True,
            )
        )
    ),
}
EARLY_FIXED = {
    "The untrained router agrees with its end 1.5 times as often as chance, with every seed.": (
        lambda r: all(
            agree > 1.5 * chance
            for layer in (1, 2)
            for agree, chance in zip(
                at(r, "agreement", 0, layer), at(r, "by chance", 0, layer), strict=True
            )
        )
    ),
    "After 100 of 1,000 steps more than half of the choices are the final ones.": lambda r: (
        min(at(r, "agreement", 100, 1) + at(r, "agreement", 100, 2)) > 0.5
    ),
    "After 400 steps more than 80 % are, while the loss still falls by more than 0.25.": (
        lambda r: min(at(r, "agreement", 400, 1) + at(r, "agreement", 400, 2)) > 0.8
        and min(
            losses[early.SNAPSHOTS.index(400)] - losses[-1]
            for losses in r.of("trained", "held_out")
        ) > 0.25
    ),
}  # fmt: skip
ASK_CHOICE = {
    "The loss is lowest with the two experts of the training, and from two on every further one "
    "makes it worse.": lambda r: all(
        min(one, three) > 0 and three < four < six < eight
        for one, _, three, four, six, eight in zip(*(added(r, f"k {k}") for k in KS), strict=True)
    ),
    "All eight experts are worse than one.": lambda r: all(
        one < eight for one, eight in zip(added(r, "k 1"), added(r, "k 8"), strict=True)
    ),
    "Equal weights cost less than a tenth of what a random choice costs.": lambda r: (
        max(added(r, "equal weights")) < min(added(r, "random choice")) / 10
    ),
    "A random choice in layer 2 alone costs more than twice as much as in layer 1.": lambda r: all(
        two > 2 * one
        for one, two in zip(
            added(r, "random choice in layer 1"), added(r, "random choice in layer 2"), strict=True
        )
    ),
}
ASK_EXPERTS = {
    "Load and cost of removal correlate by less than 0.4 in both layers.": lambda r: all(
        abs(correlation(*removals(r, layer))) < 0.4 for layer in (1, 2)
    ),
    "In most layers the busiest expert is not the one that is missed most.": lambda r: (
        mean(loads.index(max(loads)) != costs.index(max(costs)) for loads, costs in each_removal(r))
        > 0.5
    ),
    "For the characters that had chosen it a removal costs less than half of a random choice in "
    "layer 2 on average, and the most costly one more.": lambda r: (
        mean(per_asked(r, 2)) < mean(added(r, "random choice in layer 2")) / 2
        and max(per_asked(r, 2)) > mean(added(r, "random choice in layer 2"))
    ),
    "No expert can do the work of layer 2: forcing any one costs more than 1 nat.": lambda r: (
        min(loss - run["as trained"] for run in r.runs for loss in run["forced"][1]) > 1
    ),
    "In layer 1 the next character goes to the same expert less often than by chance.": lambda r: (
        all(run["repeats"][0] < run["repeats by chance"][0] for run in r.runs)
    ),
}
ASK_ROUNDING = {
    "A router in bfloat16 changes fewer than 5 in 1,000 choices, and the mean loss by less than "
    "0.001.": lambda r: (
        max(share for run in r.runs for share in run["rounded flips"]) < 0.005
        and max(map(abs, added(r, "rounded"))) < 0.001
    ),
    "It changes the probability of more than one text in ten by more than 5 %.": lambda r: (
        min(r.of("trained", "rounded off")) > 0.1
    ),
    "With replayed choices no text changes by more than 5 %.": lambda r: (
        max(abs(ratio - 1) for ratio in ratios(r, "replayed")) < 0.05
    ),
}  # fmt: skip
LANGUAGES = {
    "Balance 0.1 inside every sequence: less than 0.05 bits about the language in both layers.": (
        lambda r: max(language_bits(r, "sequence 0.1")) < 0.05
    ),
    "With every other variant the choice tells more, with every seed.": lambda r: all(
        low < high
        for name in r.variants()
        if name != "sequence 0.1"
        for low, high in zip(language_bits(r, "sequence 0.1"), language_bits(r, name), strict=True)
    ),
    "On average every other variant tells more than four times as much.": lambda r: all(
        mean(language_bits(r, name)) > 4 * mean(language_bits(r, "sequence 0.1"))
        for name in r.variants()
        if name != "sequence 0.1"
    ),
    "A trace is left: given the letter, layer 2 tells more than 0.04 bits, with every seed.": (
        lambda r: min(r.of("sequence 0.1", "beyond 2")) > 0.04
    ),
    "No balance loss changes the held-out loss by more than its spread.": lambda r: (
        not any(r.differ(name, "none", "loss") for name in r.variants()[1:] if name != "bias")
    ),
    "The bias has a lower loss than no balance, with every seed.": lambda r: (
        r.differ("bias", "none", "loss") and r.all_below("bias", "none", "loss")
    ),
}

EXPERIMENTS: list[Experiment] = [
    Experiment(
        "early",
        "what do the choices tell about the text, and how early are they fixed?",
        ["trained"],
        early.measure,
        5,
        {"model": MODEL.model_dump(), "training": TRAINING.model_dump()},
        EARLY_KNOWS | EARLY_ADDS | EARLY_FIXED,
    ),
    Experiment(
        "ask",
        "what happens to a trained model if its routers are asked otherwise?",
        ["trained"],
        ask.measure,
        5,
        {"model": MODEL.model_dump(), "training": ask.ASKED.model_dump()},
        ASK_CHOICE | ASK_EXPERTS | ASK_ROUNDING,
    ),
    Experiment(
        "languages",
        "does the span over which balance is demanded forbid specialists?",
        languages.VARIANTS,
        languages.measure,
        5,
        {"model": MODEL.model_dump(), "training": languages.SHORT.model_dump()},
        LANGUAGES,
    ),
]
