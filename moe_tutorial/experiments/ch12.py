"""Experiments of chapter 12: what the experts know, how early, and what if asked otherwise."""

from moe_tutorial.experiments import ask, early, languages
from moe_tutorial.experiments.base import MODEL, TRAINING, Experiment

EXPERIMENTS: list[Experiment] = [
    Experiment(
        "early",
        "what do the choices tell about the text, and how early are they fixed?",
        ["trained"],
        early.measure,
        5,
        {"model": MODEL.model_dump(), "training": TRAINING.model_dump()},
        {},
    ),
    Experiment(
        "ask",
        "what happens to a trained model if its routers are asked otherwise?",
        ["trained"],
        ask.measure,
        5,
        {"model": MODEL.model_dump(), "training": ask.ASKED.model_dump()},
        {},
    ),
    Experiment(
        "languages",
        "does the span over which balance is demanded forbid specialists?",
        languages.VARIANTS,
        languages.measure,
        5,
        {"model": MODEL.model_dump(), "training": languages.SHORT.model_dump()},
        {},
    ),
]
