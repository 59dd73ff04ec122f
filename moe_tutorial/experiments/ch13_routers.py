"""How the routers of chapter 13 are made, trained and watched."""

from collections.abc import Callable
from itertools import pairwise
from statistics import mean

import torch
from torch import Tensor

from moe_tutorial.batching import evaluation_batches
from moe_tutorial.cost import balanced_table, count_touched, route_by_id
from moe_tutorial.experiments.base import (
    MODEL,
    TRAINING,
    Json,
    Texts,
    Trained,
    rounded,
    texts,
    train_once,
)
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import load_summary
from moe_tutorial.training import evaluate

EVERY = 100  # steps between two measurements of the validation loss
PROBE = 1024  # characters of the validation text, on which choices are watched
BATCHES = (1, 2, 4, 8, 16, 32)  # tokens at once, for a trained router
Prepare = Callable[[MoELanguageModel], None]

NO_BALANCE = {"balance": "none"}  # a table needs no balance loss, frozen rows cannot follow it
ONE_EXPERT = {"num_experts": 1, "top_k": 1, "hidden_dim": 192}
ROUTERS: dict[str, Json] = {
    "learned": {},
    "hash": NO_BALANCE,
    "frozen": NO_BALANCE,
    "one expert": ONE_EXPERT,
    "learned, no balance": NO_BALANCE,
    "random table": NO_BALANCE,
    "table of a trained router": NO_BALANCE,
}
SHAKESPEARE = {
    f"{router}, Shakespeare": (router, "tiny_shakespeare", 1000)
    for router in ("learned", "hash", "frozen", "one expert")
}

LONG = {f"{router}, twice as long": (router, "fables", 2000) for router in ("learned", "hash")}


def chosen(model: MoELanguageModel, tokens: Tensor) -> list[Tensor]:
    """The experts of every layer, as in evaluation. Shapes: tokens (B, T) -> each (N, K)."""
    was_training = model.training
    with torch.no_grad():
        routings = model.eval()(tokens).routings
    model.train(was_training)
    return [routing.experts for routing in routings]


def favorites(model: MoELanguageModel, ids: Tensor) -> list[Tensor]:
    """Per layer and character, the top_k experts that it was sent to most. Shapes: each (V, K)."""
    config, found = model.config, []
    batches = [x for x, _ in evaluation_batches(ids, 64, TRAINING.seq_len)]
    for layer in range(config.num_layers):
        counts = torch.zeros(model.head.out_features, config.num_experts)  # (V, E)
        for x in batches:
            experts = chosen(model, x)[layer]  # (N, K)
            pairs = x.flatten()[:, None].expand_as(experts), experts
            counts.index_put_(pairs, torch.ones(experts.shape), accumulate=True)
        found.append(counts.topk(config.top_k, dim=-1).indices)
    return found


def tables(router: str, ids: Texts, seed: int, quick: bool) -> list[Tensor]:
    """The fixed choice of a router that has one, a table per layer. Shapes: each (V, K)."""
    layers, num_experts, top_k = MODEL.num_layers, MODEL.num_experts, MODEL.top_k
    vocab_size, generator = ids.tokenizer.vocab_size, torch.Generator().manual_seed(seed)
    if router == "table of a trained router":
        learned = train_once(ids, seed, quick=quick).model
        return favorites(learned, ids.train[: PROBE if quick else 20 * PROBE])
    if router == "random table":
        scores = torch.rand(layers, vocab_size, num_experts, generator=generator)
        return list(scores.topk(top_k, dim=-1).indices)
    counts = ids.train.bincount(minlength=vocab_size)
    return [balanced_table(counts, num_experts, top_k, generator) for _ in range(layers)]


def prepared(router: str, ids: Texts, seed: int, quick: bool) -> Prepare:
    """What makes a fresh model one with this router."""

    def prepare(model: MoELanguageModel) -> None:
        if router == "frozen":
            for block in model.blocks:
                block.moe.router.scores.weight.requires_grad_(False)
        elif found:
            route_by_id(model, found)

    found = tables(router, ids, seed, quick) if "hash" in router or "table" in router else []
    return prepare


def curve(trained: Trained) -> list[tuple[int, float]]:
    """Step and validation loss, where it was measured."""
    return [(r.step, r.validation_loss) for r in trained.records if r.validation_loss is not None]


def mean_violation(trained: Trained) -> float:
    """Busiest over mean, minus 1: mean over the layers and the last 100 steps."""
    loads = [load for record in trained.records[-100:] for load in record.expert_load]
    return mean(load_summary(load).max_over_mean - 1 for load in loads)


def same_choices(one: list[Tensor], other: list[Tensor]) -> float:
    """Share of the assignments that both have. Shapes: lists of (N, K), a layer each."""
    pairs = zip(one, other, strict=True)
    both = [(a[:, :, None] == b[:, None, :]).any(-1).float().mean() for a, b in pairs]
    return torch.stack(both).mean().item()


def touched_counts(model: MoELanguageModel, ids: Tensor) -> Json:
    """Different experts among B tokens, mean of both layers: following each other, or far apart."""
    tokens = ids[: len(ids) // 128 * 128].view(-1, 128)[:64]  # (64, 128)
    found: Json = {"consecutive": [], "independent": []}
    for size in BATCHES:
        near, far = [], []
        for experts in chosen(model, tokens):
            by_text = experts.view(64, 128, -1)[:, ::4]  # (64, 32, K)
            near.append(count_touched(experts, size))
            far.append(count_touched(by_text.transpose(0, 1).flatten(0, 1), size))
        found["consecutive"].append(mean(near))
        found["independent"].append(mean(far))
    return found


def router_worth(variant: str, seed: int, quick: bool) -> Json:
    """Train with one router, and watch how its choices change."""
    router, dataset, steps = (SHAKESPEARE | LONG).get(variant, (variant, "fables", 1000))
    ids = texts(dataset)
    training = TRAINING.model_copy(update={"max_steps": steps, "eval_steps": EVERY})
    held_out = ids.validation[: PROBE if quick else None]
    probe = held_out[:PROBE].view(-1, 128)  # (8, 128)
    watched: list[list[Tensor]] = []

    def watch(step: int, model: MoELanguageModel) -> None:
        if step % EVERY == 0:
            watched.append(chosen(model, probe))

    trained = train_once(
        ids,
        seed,
        model=MODEL.model_copy(update=ROUTERS[router]),
        training=training,
        quick=quick,
        prepare=prepared(router, ids, seed, quick),
        watch=watch,
    )
    found: Json = {
        "loss": evaluate(trained.model, held_out, training.seq_len),
        "curve": curve(trained),
        "violation": mean_violation(trained),
        "kept": [same_choices(a, b) for a, b in pairwise(watched)],
    }
    if router in ("learned", "learned, no balance", "frozen", "hash"):
        by_character = [table[held_out[:PROBE]] for table in favorites(trained.model, held_out)]
        found["by character"] = same_choices(chosen(trained.model, probe), by_character)
    if router == "learned":
        found["touched"] = touched_counts(trained.model, ids.validation[:8192])
    return rounded(found)
