"""Experiments of chapter 13: is the router worth it, does a mixture pay, and what does it read."""

import time
from itertools import pairwise
from statistics import mean, median

import torch

from moe_tutorial.config import ModelConfig
from moe_tutorial.experiments import ch13_statements as statements
from moe_tutorial.experiments.base import (
    MODEL,
    TRAINING,
    Experiment,
    Json,
    rounded,
    texts,
    train_once,
)
from moe_tutorial.experiments.ch13_routers import (
    EVERY,
    LONG,
    ONE_EXPERT,
    ROUTERS,
    SHAKESPEARE,
    curve,
    mean_violation,
    router_worth,
)
from moe_tutorial.moe import MoE

TOKENS = (1, 2, 4, 8, 16, 32, 64, 256)  # at once, in one layer
DENSE = {
    "mixture": ({}, 1000),
    "dense, active size": (ONE_EXPERT, 1000),
    "dense, total size": ({**ONE_EXPERT, "hidden_dim": 768}, 1000),
    "dense, active size, as long": (ONE_EXPERT, 1200),
    "dense, total size, as long": ({**ONE_EXPERT, "hidden_dim": 768}, 620),
    "dense, total size, as many FLOPs": ({**ONE_EXPERT, "hidden_dim": 768}, 400),
}


def measured(model: ModelConfig, seed: int, steps: int, quick: bool) -> Json:
    """Train on the fables: validation losses on the way, and seconds of processor time per step."""
    ids, clock = texts(), []
    trained = train_once(
        ids,
        seed,
        model=model,
        training=TRAINING.model_copy(update={"max_steps": steps, "eval_steps": EVERY}),
        quick=quick,
        watch=lambda step, model: clock.append(time.process_time()),
    )
    return rounded(
        {
            "loss": trained.records[-1].validation_loss,
            "curve": curve(trained),
            # The median leaves the steps out that were followed by a measurement.
            "milliseconds": 1e3 * median(b - a for a, b in pairwise(clock)),
            "violation": mean_violation(trained),
        }
    )


def dense_or_mixture(variant: str, seed: int, quick: bool) -> Json:
    """A mixture and its dense rivals."""
    changes, steps = DENSE[variant]
    return measured(MODEL.model_copy(update=changes), seed, steps, quick)


SHAPES: dict[str, Json] = {
    "1 expert": ONE_EXPERT,
    "2 experts": {"num_experts": 2},
    "4 experts": {"num_experts": 4},
    "8 experts": {},
    "16 experts": {"num_experts": 16},
    "top 1, sigmoid": {"top_k": 1, "router": "sigmoid"},
    "top 2, sigmoid": {"router": "sigmoid"},
    "top 4": {"top_k": 4},
    "top 1 of 7 and a shared one": {
        "num_experts": 7,
        "top_k": 1,
        "router": "sigmoid",
        "shared_expert": True,
    },
    "16/4, width 48": {"num_experts": 16, "top_k": 4, "hidden_dim": 48},
    "32/8, width 24": {"num_experts": 32, "top_k": 8, "hidden_dim": 24},
}


def shape_of_mixture(variant: str, seed: int, quick: bool) -> Json:
    """How many experts, how many of them per token, how large."""
    return measured(MODEL.model_copy(update=SHAPES[variant]), seed, 1000, quick)


LAYERS = {  # E, K, D, F; the first three are too large for a cache, with the same matrices
    "mixture": (32, 2, 768, 768),
    "dense, active size": (1, 1, 768, 2 * 768),
    "dense, total size": (1, 1, 768, 32 * 768),
    "the course's": (8, 2, 96, 96),
}


def time_layers(variant: str, seed: int, quick: bool) -> Json:
    """Milliseconds of processor time of one layer for B tokens at once, the least of all rounds."""
    num_experts, top_k, dim, hidden_dim = LAYERS[variant]
    dim, hidden_dim = (32, 32) if quick else (dim, hidden_dim)
    torch.manual_seed(seed)
    layer = MoE(dim=dim, hidden_dim=hidden_dim, num_experts=num_experts, top_k=top_k)
    found: Json = {"milliseconds": [], "touched": []}
    for batch in TOKENS:
        counts, times = [], []
        for _ in range(3 if quick else 40 if batch < 64 else 10):
            x = torch.randn(1, batch, dim)
            started = time.process_time()
            with torch.no_grad():
                _, routing = layer(x)
            times.append(1e3 * (time.process_time() - started))
            counts.append(routing.experts.unique().numel())
        found["milliseconds"].append(min(times))
        found["touched"].append(mean(counts))
    return rounded(found)


SETTINGS: Json = {"model": MODEL.model_dump(), "training": TRAINING.model_dump()}
SETTINGS = SETTINGS | {"validation loss every": EVERY}

EXPERIMENTS = [
    Experiment(
        "router_worth",
        "is a learned router better than one that learns nothing?",
        ["learned", "hash", "frozen", "one expert"],
        router_worth,
        5,
        SETTINGS | {"changes": ROUTERS},
        statements.ROUTER_WORTH,
    ),
    Experiment(
        "router_why",
        "what is it that a hash has and a learned router has not?",
        [name for name in ROUTERS if name not in ("frozen", "one expert")],
        router_worth,
        5,
        SETTINGS | {"changes": ROUTERS},
        statements.ROUTER_WHY,
    ),
    Experiment(
        "router_shakespeare",
        "does the answer hold on another text?",
        list(SHAKESPEARE),
        router_worth,
        5,
        SETTINGS | {"changes": ROUTERS, "router, text and steps": SHAKESPEARE},
        statements.ROUTER_SHAKESPEARE,
    ),
    Experiment(
        "router_long",
        "does the answer hold for a longer training?",
        list(LONG),
        router_worth,
        5,
        SETTINGS | {"changes": ROUTERS, "router, text and steps": LONG},
        statements.ROUTER_LONG,
    ),
    Experiment(
        "dense_or_mixture",
        "is a mixture better than a dense network of equal active size, total size or time?",
        list(DENSE),
        dense_or_mixture,
        5,
        SETTINGS | {"changes and steps": DENSE},
        statements.DENSE_OR_MIXTURE,
    ),
    Experiment(
        "shape_of_mixture",
        "how many experts, how many per token, how large, and a shared one?",
        list(SHAPES),
        shape_of_mixture,
        5,
        SETTINGS | {"changes": SHAPES},
        statements.SHAPE_OF_MIXTURE,
    ),
    Experiment(
        "touched",
        "what does a batch of tokens read, and how long does it take?",
        list(LAYERS),
        time_layers,
        3,
        {"layers (E, K, D, F)": LAYERS, "batches": TOKENS},
        statements.TOUCHED,
    ),
]
