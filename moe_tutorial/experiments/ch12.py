"""Experiments of chapter 12: what the experts know, how early, and what if asked otherwise."""

from moe_tutorial.experiments import ask, early, languages
from moe_tutorial.experiments.base import MODEL, TRAINING, Experiment
from moe_tutorial.experiments.early import at

END = early.SNAPSHOTS[-1]

EARLY = {
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
    "Layer 1 stays nearly a hash: its character tells more than 90 % after training, too.": (
        lambda r: min(at(r, "share", END, 1)) > 0.9
    ),
    "In layer 2 the previous character adds at most 0.02 bits before, above 0.25 after.": (
        lambda r: max(at(r, "added previous", 0, 2)) <= 0.02
        and min(at(r, "added previous", END, 2)) > 0.25
    ),
    "Shuffled within each character, the previous one adds less than a tenth of that.": lambda r: (
        all(
            bias < real / 10
            for bias, real in zip(
                at(r, "shuffled added previous", END, 2), at(r, "added previous", END, 2),
                strict=True,
            )
        )
    ),
    "After 100 of 1,000 steps more than half of the choices are the final ones.": lambda r: (
        min(at(r, "agreement", 100, 1) + at(r, "agreement", 100, 2)) > 0.5
    ),
    "After 400 steps more than 85 % are, while the loss still falls by more than 0.25.": (
        lambda r: min(at(r, "agreement", 400, 1) + at(r, "agreement", 400, 2)) > 0.85
        and min(
            losses[early.SNAPSHOTS.index(400)] - losses[-1]
            for losses in r.of("trained", "held_out")
        ) > 0.25
    ),
}  # fmt: skip
ASK: dict = {}
LANGUAGES: dict = {}

EXPERIMENTS: list[Experiment] = [
    Experiment(
        "early",
        "what do the choices tell about the text, and how early are they fixed?",
        ["trained"],
        early.measure,
        5,
        {"model": MODEL.model_dump(), "training": TRAINING.model_dump()},
        EARLY,
    ),
    Experiment(
        "ask",
        "what happens to a trained model if its routers are asked otherwise?",
        ["trained"],
        ask.measure,
        5,
        {"model": MODEL.model_dump(), "training": ask.ASKED.model_dump()},
        ASK,
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
