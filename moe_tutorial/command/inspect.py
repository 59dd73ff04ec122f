"""The inspect command: is the router of a run folder alive? Text, and a picture."""

import argparse
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.balance import RouterHealth, router_health
from moe_tutorial.batching import evaluation_batches
from moe_tutorial.checkpoint import TrainedModel, load_model
from moe_tutorial.command.hocon import model_path
from moe_tutorial.command.log import ENTROPIES, read_metrics
from moe_tutorial.command.terminal import reason, visible
from moe_tutorial.corpus import load_corpus
from moe_tutorial.moe import Routing

CHARACTERS = 65_536  # of held-out text, at most
UNEVEN = 1.0  # a max violation above it is named: one expert does twice its share
ALIKE = 0.05  # nats; a router that tells less than this about a token is named
PARTS = 5  # of the training, in the table over time


def inspect_command(args: argparse.Namespace) -> int:
    """Print the health of every layer now and over the training, and draw it."""
    folder = model_path(args.model_path)
    trained = load_model(folder)
    dataset = args.dataset or trained.config.training.dataset
    routings, length = routings_of(trained, held_out(trained, dataset))
    health = [router_health(routing) for routing in routings]
    settings = trained.config.model
    print(
        f"{visible(str(folder))}: {settings.num_layers} layers of {settings.num_experts} experts, "
        f"top {settings.top_k}, balance = {settings.balance}; the best checkpoint on {length:,} "
        f"held-out characters of {visible(dataset)}"
    )
    print("\n".join(table(health, settings.num_experts)))
    past = history(folder)
    print("\n".join(over_time(past)))
    print("\n".join(findings(health)))
    print(draw(Path(args.to) if args.to else folder / "router.png", health, past))
    return 0


def held_out(trained: TrainedModel, dataset: str) -> Tensor:
    """The held-out text as numbers. Raises: ValueError or OSError saying what to do."""
    try:
        text = load_corpus(dataset, trained.config.training.data_dir).validation[:CHARACTERS]
        return trained.tokenizer.encode(text)
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(
            f"the text to route, {dataset!r}: {reason(error)}; or name another with --dataset"
        ) from None


@torch.no_grad()
def routings_of(trained: TrainedModel, ids: Tensor) -> tuple[list[Routing], int]:
    """The routing of all layers for a text. Shapes: ids (N_ids,) -> per layer, of N characters."""
    length = min(len(ids) - 1, trained.config.model.max_seq_len)
    if length < 1:
        raise ValueError("the held-out text has no two characters; name another with --dataset")
    parts = [trained.model(x).routings for x, _ in evaluation_batches(ids, 16, length)]
    layers = zip(*parts, strict=True)
    joined = [Routing(*map(torch.cat, zip(*layer, strict=True))) for layer in layers]
    return joined, len(joined[0].experts)


def table(health: Sequence[RouterHealth], num_experts: int) -> list[str]:
    """One line per layer."""
    most = math.log(num_experts)
    lines = [
        f"layer  max violation  idle  entropy per token  of the mean (at most {most:.2f})  "
        f"percent per expert"
    ]
    for number, layer in enumerate(health, start=1):
        shares = " ".join(f"{100 * share:.0f}" for share in layer.load.tolist())
        lines.append(
            f"{number:5}  {layer.max_violation:13.2f}  {layer.idle:4}  {layer.token_entropy:17.2f}"
            f"  {layer.mean_entropy:26.2f}  {shares}"
        )
    return lines


class History(NamedTuple):
    """What metrics.jsonl tells about the routers."""

    steps: list[int]
    loads: Tensor  # (S, L, E)
    entropies: Tensor | None  # (S, L, 2): per token, of the mean; None if not all steps have them


def history(folder: Path) -> History | None:
    """Loads and entropies of the training; None if there is no record.

    Raises: ValueError if metrics.jsonl is damaged.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    try:
        records = read_metrics(folder)
        loads = torch.tensor([record["expert_load"] for record in records], dtype=torch.float32)
        steps = [int(record["step"]) for record in records]
        known = all(name in record for record in records for name in ENTROPIES)
        pairs = [[record[name] for name in ENTROPIES] for record in records] if known else []
        entropies = torch.tensor(pairs, dtype=torch.float32).mT if pairs else None
        if entropies is not None and entropies.shape[:2] != loads.shape[:2]:
            raise ValueError("a number of each layer")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: damaged; remove it to inspect the model without it") from None
    return History(steps, loads, entropies) if len(steps) and loads.ndim == 3 else None


def over_time(past: History | None) -> list[str]:
    """The max violation and the entropies per layer in some parts of the training, as lines."""
    if past is None:
        return ["no record of a training (metrics.jsonl)"]
    size = math.ceil(len(past.steps) / PARTS)
    load = _means(past.loads, size)  # (PARTS, L, E)
    lines = [f"max violation of the mean load of {size} steps, from step {past.steps[0]} on:"]
    lines += _rows(load.amax(dim=-1) * load.shape[-1] - 1)
    if past.entropies is not None:
        of_parts = _means(past.entropies, size)  # (PARTS, L, 2)
        lines += ["entropy per token of a batch, mean of the same steps:", *_rows(of_parts[..., 0])]
        lines += ["entropy of a batch's mean, mean of the same steps:", *_rows(of_parts[..., 1])]
    return lines


def _means(values: Tensor, size: int) -> Tensor:
    """Means over every `size` steps. Shapes: (S, L, n) -> (PARTS, L, n)."""
    return torch.stack([part.mean(dim=0) for part in values.split(size)])


def _rows(values: Tensor) -> list[str]:
    """One line per layer. Shapes: (PARTS, L)."""
    return [
        f"{number:5}  " + "  ".join(f"{value:.2f}" for value in row)
        for number, row in enumerate(values.T.tolist(), start=1)
    ]


def findings(health: Sequence[RouterHealth]) -> list[str]:
    """What is odd, layer by layer, in words; one line if nothing is."""
    lines = []
    for number, layer in enumerate(health, start=1):
        if layer.idle:
            idle = islice((e for e, share in enumerate(layer.load.tolist()) if share == 0), 8)
            lines.append(f"layer {number}: no token for expert {', '.join(map(str, idle))}")
        if layer.max_violation > UNEVEN:
            busiest = int(layer.load.argmax())
            times = layer.max_violation + 1
            lines.append(f"layer {number}: expert {busiest} does {times:.1f} times its share")
        if layer.told_apart < ALIKE and len(layer.load) > 1:
            lines.append(
                f"layer {number}: the router tells tokens apart by {layer.told_apart:.3f} nats only"
            )
    return lines or [
        "no expert is idle or does twice its share, and every router tells tokens apart"
    ]


def draw(path: Path, health: Sequence[RouterHealth], past: History | None) -> str:
    """Draw the dashboard, and say where, or why not: a picture that fails costs the picture."""
    try:
        from moe_tutorial.plots import health_figure  # matplotlib is slow to import

        now = torch.stack([layer.load for layer in health])
        health_figure(now, *(past or ())).savefig(path, dpi=100)
    except Exception as error:  # the user's own settings of matplotlib may be at fault
        return f"{visible(str(path))} could not be drawn ({reason(error)})"
    return f"drawn in {visible(str(path))}"
