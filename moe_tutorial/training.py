"""Optimizer, schedule, evaluation and the one training loop. Chapter 08.

Shape letters: B batch, T time, L layers, E experts.
Losses are cross-entropies in nats per character.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tutorial.balance import BiasedRouter
from moe_tutorial.batching import evaluation_batches, random_batch
from moe_tutorial.config import TrainingConfig
from moe_tutorial.model import ModelOutput, MoELanguageModel
from moe_tutorial.moe import Routing, expert_load, load_balancing_loss

Forward = Callable[[Tensor], ModelOutput]  # tokens (B, T) -> logits and routings of all of them
BalanceLoss = Callable[[Sequence[Routing]], Tensor]  # 1 if balanced
Stop = Callable[[], bool]  # whether somebody asked to stop
SAMPLE = 32_768  # characters; no more held-out text than this is always measured whole
MOST_LOGITS = 2**23  # of one batch of the evaluation: 32 MiB
BETAS = (0.9, 0.99)  # the second is below AdamW's usual 0.999, because these runs are short


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient became infinite or not a number; training cannot go on."""


class StepRecord(NamedTuple):
    """What one training step did."""

    step: int  # steps done, from 1
    epoch: float  # passes through the training text, counted in windows of seq_len
    loss: float  # of this batch, nats per character, without the balance loss
    balance_loss: float  # mean over layers; 1 if balanced
    learning_rate: float  # of this step
    grad_norm: float  # before clipping
    tokens_per_second: float  # of this step, evaluation not counted
    seconds: float  # since the start, all sessions and everything between the steps counted
    progress: float  # share of the limits that is used up; the last step reaches 1
    expert_load: Tensor  # (L, E) share of assignments per expert
    validation_loss: float | None  # nats per character of held-out text, if measured


@dataclass
class TrainingState:
    """Everything that changes while training; what a checkpoint holds."""

    model: MoELanguageModel
    optimizer: torch.optim.AdamW
    generator: torch.Generator  # draws the batches; dropout uses PyTorch's global generator
    step: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None  # the last one measured
    best_validation_loss: float | None = None
    best_step: int | None = None  # where it was measured
    text: str | None = None  # hash of what it is trained on, if known


def start_training(model: MoELanguageModel, config: TrainingConfig) -> TrainingState:
    """A fresh state: AdamW with weight decay on matrices only, and a seeded batch generator."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True)
    return TrainingState(model, optimizer, torch.Generator().manual_seed(config.seed))


def steps_per_epoch(num_characters: int, config: TrainingConfig) -> int:
    """Steps after which as many characters were drawn as the text has; at least one."""
    return max(1, num_characters // (config.batch_size * config.seq_len))


def progress(step: int, seconds: float, epoch_steps: int, config: TrainingConfig) -> float:
    """Share of the first limit reached (epochs, max_steps or max_seconds), from 0 to 1."""
    total_steps = math.ceil(config.epochs * epoch_steps)
    if config.max_steps is not None:
        total_steps = min(total_steps, config.max_steps)
    done = step / total_steps
    if config.max_seconds is not None:
        done = max(done, seconds / config.max_seconds)
    return min(done, 1.0)


def learning_rate(step: int, done: float, config: TrainingConfig) -> float:
    """Linear warm-up over warmup_steps, times a line from 1 to 0 over the whole training.

    step counts from 0; done is `progress`. With max_seconds the rate follows the clock, so that it
    ends at 0 on a fast and on a slow machine; without, it depends on the step alone.
    Differs from the usual cosine: a line to 0 was better in short runs; see config.hocon.
    """
    warm_up = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.learning_rate * warm_up * (1 - done)


def next_character_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats per character. Shapes: logits (B, T, V), targets (B, T) -> scalar."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


@torch.no_grad()
def evaluate(
    model: MoELanguageModel, ids: Tensor, seq_len: int, every: int = 1, stop: Stop = lambda: False
) -> float | None:
    """Mean loss over each every-th window of a text, cross-entropy alone, in nats per character.

    Dropout is off meanwhile; the model comes back in the mode it was in. None if stop() became
    true before the end. Memory is bounded by MOST_LOGITS, whatever the vocabulary.
    Shapes: ids (N_ids,).
    """
    was_training = model.training
    model.eval()
    batch_size = max(1, min(64, MOST_LOGITS // (seq_len * model.head.out_features)))
    total, count = 0.0, 0
    for x, y in evaluation_batches(ids, batch_size, seq_len, every):
        total += next_character_loss(model(x).logits, y, reduction="sum").item()
        count += y.numel()
        if stop():
            break
    model.train(was_training)
    return None if stop() else total / count


def sample_every(num_characters: int, config: TrainingConfig) -> int:
    """Of how many held-out windows one is measured on the way; 1: all of them.

    At most a quarter of the characters trained between two measurements: reading without learning
    takes a third of the time, so measuring stays below a tenth (of a long text; with a few steps
    between two measurements, SAMPLE characters may take more).
    """
    trained = config.eval_steps * config.batch_size * config.seq_len
    return math.ceil(num_characters / max(SAMPLE, trained // 4))


def measure(
    state: TrainingState, validation_ids: Tensor, config: TrainingConfig, stop: Stop
) -> float | None:
    """Evaluate on the sample, and remember whether this is the best step so far."""
    every = sample_every(len(validation_ids), config)
    loss = evaluate(state.model, validation_ids, config.seq_len, every, stop)
    if loss is not None:
        state.validation_loss, best = loss, state.best_validation_loss
        if best is None or loss < best:
            state.best_validation_loss, state.best_step = loss, state.step
    return loss


class Update(NamedTuple):
    """What one batch did to the weights."""

    loss: float  # nats per character, without the balance loss
    balance_loss: float  # mean over layers; 1 if balanced
    grad_norm: float  # before clipping
    expert_load: Tensor  # (L, E) share of assignments per expert


def update(
    state: TrainingState, x: Tensor, y: Tensor, rate: float, grad_clip: float, forward: Forward,
    balance_loss: BalanceLoss = load_balancing_loss,
) -> Update:  # fmt: skip
    """One optimizer step on one batch: forward, backward, clip, move the weights.

    The balance loss counts with its coefficient if the configuration balances by the loss.
    Shapes: x, y (B, T) int64. Raises: NonFiniteLoss before the step that would spoil the weights.
    """
    model, optimizer = state.model, state.optimizer
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits, routings = forward(x)
    loss = next_character_loss(logits, y)
    balance = balance_loss(routings)
    by_loss = model.config.balance == "loss"
    coefficient = model.config.load_balancing_loss_coef if by_loss else 0.0
    (loss + coefficient * balance).backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    if not math.isfinite(loss.item() + grad_norm.item()):
        raise NonFiniteLoss(
            f"step {state.step + 1}: the loss is {loss.item():g} and the gradient norm "
            f"{grad_norm.item():g}; lower training.learning_rate (it is {rate:g} in this step)"
        )
    optimizer.step()
    optimizer.zero_grad()
    for block, routing in zip(model.blocks, routings, strict=True):
        if isinstance(block.moe.router, BiasedRouter):  # chapter 11
            block.moe.router.rebalance(routing)
    torch.clear_autocast_cache()  # it holds rounded copies of the weights before this step
    state.step += 1
    load = torch.stack([expert_load(routing) for routing in routings]).cpu()  # (L, E)
    return Update(loss.item(), balance.item(), grad_norm.item(), load)


def train(
    state: TrainingState, train_ids: Tensor, validation_ids: Tensor, config: TrainingConfig,
    forward: Forward | None = None, stop: Stop = lambda: False,
    balance_loss: BalanceLoss = load_balancing_loss,
) -> Iterator[StepRecord]:  # fmt: skip
    """Train step by step, yielding a record after each, until the first limit is reached.

    The state is complete at every yield: saved there and loaded later, training goes on as if it
    had not stopped (bit for bit on one machine and thread count, unless max_seconds steers it).
    forward: what computes the outputs of a batch (None: the model). stop: ends a measurement early.
    balance_loss: what the coefficient of the configuration weighs.
    Shapes: both texts (N_ids,) int64 on the model's device. Raises: as `update`, `random_batch`.
    """
    epoch_steps = steps_per_epoch(len(train_ids), config)
    done = progress(state.step, state.seconds, epoch_steps, config)
    started = time.perf_counter() - state.seconds
    state.model.train()
    while done < 1:
        step_started = time.perf_counter()
        rate = learning_rate(state.step, done, config)
        x, y = random_batch(train_ids, config.batch_size, config.seq_len, state.generator)
        updated = update(state, x, y, rate, config.grad_clip, forward or state.model, balance_loss)
        step_ended = time.perf_counter()
        state.seconds = step_ended - started
        done = progress(state.step, state.seconds, epoch_steps, config)
        due = state.step % config.eval_steps == 0 or done == 1
        loss = measure(state, validation_ids, config, stop) if due else None
        state.seconds = time.perf_counter() - started if due else state.seconds
        yield StepRecord(
            step=state.step,
            epoch=state.step / epoch_steps,
            learning_rate=rate,
            tokens_per_second=x.numel() / (step_ended - step_started),
            seconds=state.seconds,
            progress=done,
            validation_loss=loss,
            **updated._asdict(),
        )
