"""Chapter 11: what balances a router, over which span, and what it costs in loss."""

import torch
from torch import Tensor

from moe_tutorial.balance import (
    BiasedRouter,
    WindowBalanceLoss,
    router_health,
    sequence_balance_loss,
)
from moe_tutorial.batching import evaluation_batches
from moe_tutorial.experiments.base import (
    MODEL,
    TRAINING,
    Experiment,
    Json,
    Results,
    Trained,
    apart,
    rounded,
    texts,
    train_once,
)
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import Routing, load_balancing_loss

EVERY = 20  # steps whose loads are averaged into one point of the history
VARIANTS = (
    "none", "loss 0.001", "loss 0.01", "loss 0.1", "loss 1", "sequence 0.01", "sequence 0.1",
    "sequence 1", "window 0.01", "window 0.1", "bias 0.001", "bias 0.01", "bias 0.05", "quantile",
    "z-loss 0.001", "z-loss 0.1",
)  # fmt: skip


def measure(variant: str, seed: int, quick: bool) -> Json:
    """Train once; loads and entropies on the held-out text, and the load on the way."""
    kind, _, number = variant.partition(" ")
    value = float(number or 0)
    changes: Json = {"balance": kind if kind in ("none", "bias", "quantile") else "loss"}
    if kind == "bias":
        changes["bias_update_rate"] = value
    elif kind not in ("none", "quantile", "z-loss"):
        changes["load_balancing_loss_coef"] = value
    model = MODEL.model_copy(update=changes)
    loud: list[Tensor] = []

    def with_z_loss(routings: list[Routing]) -> Tensor:
        squares = [logits.logsumexp(dim=-1).square().mean() for logits in loud]
        loud.clear()
        ratio = value / model.load_balancing_loss_coef
        return load_balancing_loss(routings) + ratio * torch.stack(squares).mean()

    losses = {
        "sequence": lambda routings: sequence_balance_loss(routings, TRAINING.batch_size),
        "window": WindowBalanceLoss(100),
        "z-loss": with_z_loss,
    }
    trained = train_once(
        texts(), seed, model=model, quick=quick,
        balance_loss=losses.get(kind, load_balancing_loss),
        prepare=(lambda fresh: listen(fresh, loud)) if kind == "z-loss" else (lambda fresh: None),
    )  # fmt: skip
    return rounded({**held_out(trained, quick), "seconds": trained.seconds})


def listen(model: MoELanguageModel, loud: list[Tensor]) -> None:
    """Let every router leave the logits of a training step in `loud`, for the z-loss."""
    for block in model.blocks:
        router = block.moe.router

        def heard(module: torch.nn.Module, inputs: tuple[Tensor], output: Routing) -> None:
            if torch.is_grad_enabled():
                loud.append(inputs[0] @ module.scores.weight.mT)

        router.register_forward_hook(heard)


@torch.no_grad()
def held_out(trained: Trained, quick: bool) -> Json:
    """The loss, and what each layer's router does with the held-out text."""
    model, ids = trained.model, texts().validation
    parts: list[list[Routing]] = [[] for _ in model.blocks]
    in_sequence = []
    for x, _ in evaluation_batches(ids[:2000] if quick else ids, 32, TRAINING.seq_len):
        routings = model(x).routings
        in_sequence.append(sequence_violation(routings, len(x)))
        for part, routing in zip(parts, routings, strict=True):
            part.append(routing)
    routings = [Routing(*map(torch.cat, zip(*part, strict=True))) for part in parts]
    health = [router_health(routing) for routing in routings]
    blind = [without_bias(routing) for routing in routings]
    largest = max(log_range(routing.probs) for routing in routings)
    return {
        "held_out": trained.records[-1].validation_loss,
        "load": [layer.load for layer in health],
        "max_violation": [layer.max_violation for layer in health],
        "idle": sum(layer.idle for layer in health),
        "token_entropy": [layer.token_entropy for layer in health],
        "mean_entropy": [layer.mean_entropy for layer in health],
        "sequence_violation": sum(in_sequence) / len(in_sequence),
        "balance_loss": load_balancing_loss(routings).item(),
        "stock_loss": load_balancing_loss(blind).item(),
        "logit_range": largest,
        "history": history(trained),
        "bias": [bias_of(block.moe.router) for block in model.blocks],
    }


def bias_of(router: torch.nn.Module) -> list[float]:
    return router.bias.tolist() if isinstance(router, BiasedRouter) else []


def sequence_violation(routings: list[Routing], batch_size: int) -> float:
    """The max violation inside single sequences, averaged over them and the layers."""
    found = []
    for routing in routings:
        chosen = routing.experts.view(batch_size, -1)  # (B, T*K)
        counts = torch.stack([row.bincount(minlength=routing.probs.shape[1]) for row in chosen])
        found.append((counts.amax(dim=1) / counts.float().mean(dim=1) - 1).mean())
    return torch.stack(found).mean().item()


def without_bias(routing: Routing) -> Routing:
    """The choice that a loss sees which knows nothing of the bias."""
    best = routing.probs.topk(routing.experts.shape[1], dim=-1)
    return Routing(best.values, best.indices, routing.probs)


def log_range(probs: Tensor) -> float:
    """How far the best logit lies above the worst, mean over the tokens."""
    logs = probs.clamp_min(1e-38).log()
    return (logs.amax(dim=-1) - logs.amin(dim=-1)).mean().item()


def history(trained: Trained) -> list[list[float]]:
    """Per layer the max violation of the mean load of every EVERY steps."""
    loads = torch.stack([record.expert_load for record in trained.records])  # (S, L, E)
    means = torch.stack([part.mean(dim=0) for part in loads.split(EVERY)])  # (S / EVERY, L, E)
    return (means.amax(dim=-1) * loads.shape[-1] - 1).T.tolist()


def violations(found: Results, way: str) -> list[float]:
    """The max violation of every layer and seed."""
    return [layer for seed in found.of(way, "max_violation") for layer in seed]


def mean_violation(found: Results, way: str) -> list[float]:
    """The mean over the layers, one per seed."""
    return [sum(layers) / len(layers) for layers in found.of(way, "max_violation")]


def told_apart(found: Results, way: str, layer: int) -> float:
    """What the router's probabilities tell about the token, in nats, mean over the seeds."""
    pairs = zip(found.of(way, "mean_entropy"), found.of(way, "token_entropy"), strict=True)
    return sum(mean[layer] - token[layer] for mean, token in pairs) / len(found.of(way, "seed"))


def ways(found: Results) -> list[str]:
    """All ways to balance; the runs with a z-loss balance as "loss 0.01" does."""
    return [way for way in found.variants() if not way.startswith("z-loss")]


STATEMENTS = {
    "no expert is idle, however it is balanced": lambda found: (
        not any(sum(found.of(way, "idle")) for way in found.variants())
    ),
    "without balance the busiest expert of a layer does 1.5 to 4 times its share": lambda found: (
        0.5 < min(violations(found, "none")) < max(violations(found, "none")) < 3
    ),
    "a coefficient of 0.1 keeps every layer below 0.2; one of 0.01 does not": lambda found: (
        max(violations(found, "loss 0.1")) < 0.2 < max(violations(found, "loss 0.01"))
    ),
    "the bias of rate 0.001 and the quantile keep every layer below 0.2": lambda found: (
        max(violations(found, "bias 0.001") + violations(found, "quantile")) < 0.2
    ),
    "the bias of rate 0.05 swings: the layers' mean is above 0.6 with every seed": lambda found: (
        min(mean_violation(found, "bias 0.05")) > 0.6
    ),
    "the mean losses of all ways lie within 0.025 nats": lambda found: (
        max(found.mean(way, "held_out") for way in ways(found))
        - min(found.mean(way, "held_out") for way in ways(found))
        < 0.025
    ),
    "no way is below a coefficient of 0.01 with every seed": lambda found: (
        not any(found.all_below(way, "loss 0.01", "held_out") for way in ways(found))
    ),
    "without balance the loss ends above a coefficient of 0.01 with four seeds at least": (
        lambda found: found.seeds_below("loss 0.01", "none", "held_out") >= 4
    ),
    "between coefficients of 1 and 0.01 no difference in loss is seen": lambda found: (
        not found.differ("loss 1", "loss 0.01", "held_out")
    ),
    "a coefficient of 1 ends above one of 0.1 with four seeds at least": lambda found: (
        found.seeds_below("loss 0.1", "loss 1", "held_out") >= 4
    ),
    "demanded of every sequence with 1, sequences are the most even, on average": lambda found: (
        min(ways(found), key=lambda way: found.mean(way, "sequence_violation")) == "sequence 1"
    ),
    "a window of about 100 batches is looser than the batch, both with 0.1, on average": (
        lambda found: (
            apart(mean_violation(found, "window 0.1"), mean_violation(found, "loss 0.1"))
            and sum(mean_violation(found, "window 0.1")) > sum(mean_violation(found, "loss 0.1"))
        )
    ),
    "a loss that chooses again without the bias reads more than that of the choice": lambda found: (
        all(
            blind > seen
            for way in ("bias 0.001", "quantile")
            for blind, seen in zip(
                found.of(way, "stock_loss"), found.of(way, "balance_loss"), strict=True
            )
        )
    ),
    "the second layer tells more apart than the first, and less with a coefficient of 1": (
        lambda found: (
            all(told_apart(found, way, 0) < told_apart(found, way, 1) for way in ways(found))
            and told_apart(found, "loss 1", 1) < 0.7 * told_apart(found, "loss 0.01", 1)
        )
    ),
    "the second layer tells no less apart with the quantile than without balance": lambda found: (
        told_apart(found, "quantile", 1) >= told_apart(found, "none", 1)
    ),
    "a z-loss of 0.1 narrows the logits and leaves the loss where it was": lambda found: (
        found.all_below("z-loss 0.1", "loss 0.01", "logit_range")
        and not found.differ("z-loss 0.1", "loss 0.01", "held_out")
    ),
}

EXPERIMENTS = [
    Experiment(
        name="balance",
        question="what balances a router, over which span, and what does it cost in loss?",
        variants=VARIANTS,
        measure=measure,
        seeds=5,
        settings={"model": MODEL.model_dump(), "training": TRAINING.model_dump(), "every": EVERY},
        statements=STATEMENTS,
    )
]
