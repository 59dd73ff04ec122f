"""Chapter 12: what the choices tell about the text, snapshot by snapshot."""

from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial import analysis
from moe_tutorial.experiments.base import (
    MODEL,
    QUICK_STEPS,
    Json,
    Results,
    rounded,
    texts,
    train_once,
)
from moe_tutorial.model import MoELanguageModel

SNAPSHOTS = (0, 25, 50, 100, 150, 200, 300, 400, 600, 800, 1000)
STRIP = slice(0, 120)  # the characters whose experts are kept at every snapshot


def favorites(x: Tensor, y: Tensor) -> float:
    """Share of the positions at which y is the most frequent one of their x."""
    return sum(y[x == value].bincount().max().item() for value in x.unique()) / len(x)


def measure(variant: str, seed: int, quick: bool) -> Json:
    """What the choices tell about the text at the snapshots of one training."""
    ids = texts()
    text = ids.validation[:513] if quick else ids.validation
    words = ids.tokenizer.decode(text[:-1])
    features = analysis.text_features(words)
    readings: dict[int, analysis.Reading] = {}

    def watch(step: int, model: MoELanguageModel) -> None:
        if step in SNAPSHOTS or (quick and step == QUICK_STEPS):
            model.eval()
            readings[step] = analysis.read(model, text)
            model.train()

    train_once(ids, seed, quick=quick, watch=watch)
    choices = {
        step: [routing.experts[:, 0] for routing in reading.routings]
        for step, reading in readings.items()
    }
    found: Json = {
        "steps": list(readings),
        "held_out": [reading.losses.mean().item() for reading in readings.values()],
        **over_time(choices, features),
        **of_sets(readings, features.character),
    }
    if seed == 0:
        found["text"] = words[STRIP]
        found["strip"] = {
            str(step): ["".join(map(str, layer[STRIP].tolist())) for layer in layers]
            for step, layers in choices.items()
        }
    return rounded(found)


def meeting(y: Tensor, end: Tensor) -> float:
    """The share of equal values if the two had nothing to do with each other."""
    values = range(MODEL.num_experts)
    return sum(((y == e).double().mean() * (end == e).double().mean()).item() for e in values)


def of_sets(readings: dict[int, analysis.Reading], character: Tensor) -> Json:
    """The same of the set of chosen experts: its entropy, and what the character tells of it."""
    mixed = analysis.shuffled(character, torch.Generator().manual_seed(0))
    sets = [[analysis.chosen_set(routing) for routing in one.routings] for one in readings.values()]
    return {
        "set entropy": [[analysis.entropy_bits(y) for y in now] for now in sets],
        "set character": [[analysis.mutual_information(character, y) for y in now] for now in sets],
        "set shuffled": [[analysis.mutual_information(mixed, y) for y in now] for now in sets],
    }


def over_time(choices: dict[int, list[Tensor]], features: analysis.Features) -> Json:
    """Every measure per snapshot and layer; "shuffled ..." is what it says of shuffled features."""
    generator = torch.Generator().manual_seed(0)
    last = list(choices.values())[-1]
    by: dict[str, Callable[[Tensor, Tensor], float]] = {
        "agreement": lambda y, end: (y == end).double().mean().item(),
        "by chance": meeting,
        "entropy": lambda y, end: analysis.entropy_bits(y),
        "share": lambda y, end: analysis.information_share(features.character, y),
        "favorites": lambda y, end: favorites(features.character, y),
    }
    for name, x in features._asdict().items():
        mixed = analysis.shuffled(x, generator)
        by[name] = lambda y, end, x=x: analysis.mutual_information(x, y)
        by[f"shuffled {name}"] = lambda y, end, x=mixed: analysis.mutual_information(x, y)
    known = features.character
    for name in ("position", "previous", "following"):
        x = getattr(features, name)
        mixed = analysis.shuffled(x, generator, within=known)
        by[f"added {name}"] = lambda y, end, x=x: analysis.added_information(x, y, known)
        by[f"shuffled added {name}"] = lambda y, end, x=mixed: analysis.added_information(
            x, y, known
        )
    return {
        name: [[one(y, end) for y, end in zip(now, last, strict=True)] for now in choices.values()]
        for name, one in by.items()
    }


def at(results: Results, key: str, step: int, layer: int) -> list[float]:
    """One measure at one snapshot and in one layer (from 1), of every seed."""
    steps = results.of("trained", "steps")[0]
    return [run[steps.index(step)][layer - 1] for run in results.of("trained", key)]
