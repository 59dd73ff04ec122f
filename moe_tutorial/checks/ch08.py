"""Checks of the exercises of chapter 08."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial.batching import evaluation_batches
from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare
from moe_tutorial.config import ModelConfig, TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.training import evaluate, next_character_loss

SMALL = ModelConfig(
    dim=8, num_layers=1, num_heads=2, num_experts=3, top_k=2, hidden_dim=8, max_seq_len=16,
    shared_expert=False, dropout=0.5,
)  # fmt: skip


def _small_model(vocab_size: int) -> MoELanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MoELanguageModel(SMALL, vocab_size)
    with torch.no_grad():
        model.head.weight *= 50  # losses that differ from window to window
    return model


@check
def check_cosine_rate(answer: Callable) -> str:
    """Exercise 8.1: cosine_rate(step, done, config), warm-up times half a cosine."""
    config = TrainingConfig(learning_rate=0.25, warmup_steps=4)
    places = [(0, 0.0), (1, 0.1), (3, 0.25), (4, 0.3), (50, 0.5), (80, 0.75), (99, 1.0)]

    def rates(curve: Callable[[float], float], warm: bool = True) -> Tensor:
        return torch.tensor(
            [
                0.25 * (min(1.0, (step + 1) / 5) if warm else 1) * curve(done)
                for step, done in places
            ]
        )

    def half(done: float) -> float:
        return (1 + math.cos(math.pi * done)) / 2

    result = torch.tensor([float(call(answer, step, done, config)) for step, done in places])
    mistakes = {
        "the warm-up is missing": rates(half, warm=False),
        "this is the line; replace 1 - done by half a cosine": rates(lambda done: 1 - done),
        "it falls below 0: add 1 to the cosine, and divide by 2": rates(
            lambda done: math.cos(math.pi * done)
        ),
        "it begins at twice the learning rate: divide by 2": rates(lambda done: 2 * half(done)),
        "it comes up again: the cosine takes pi times done, half a turn": rates(
            lambda done: (1 + math.cos(2 * math.pi * done)) / 2
        ),
        "it does not reach 0: the cosine takes pi times done": rates(
            lambda done: (1 + math.cos(done)) / 2
        ),
        "it rises: this is 1 minus the cosine": rates(lambda done: 1 - half(done)),
        "config.learning_rate is missing as a factor": 4 * rates(half),
    }
    compare(result, rates(half), mistakes)
    return "warm-up, then half a cosine down to 0"


@check
def check_accumulate(answer: Callable) -> str:
    """Exercise 8.2: accumulate(model, x, y, most), the gradient of a batch in parts."""
    ids = torch.randint(7, (7, 9), generator=torch.Generator().manual_seed(1))
    x, y = ids[:, :-1], ids[:, 1:]

    def part_losses(model: MoELanguageModel, most: int = 3) -> list[Tensor]:
        pairs = zip(x.split(most), y.split(most), strict=True)
        return [next_character_loss(model(part).logits, target) for part, target in pairs]

    def gradient_of(loss_of: Callable[[list[Tensor]], Tensor], most: int = 3) -> Tensor:
        model = _small_model(7).eval()
        return torch.autograd.grad(loss_of(part_losses(model, most)), model.head.weight)[0]

    model, seen = _small_model(7).eval(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    untouched = []  # before each part: no gradient yet
    model.register_forward_hook(lambda *_: untouched.append(model.head.weight.grad is None))
    loss = call(answer, model, x.clone(), y.clone(), 3)
    gradient = model.head.weight.grad
    if gradient is None:
        raise NotYet("there is no gradient; call backward on the loss of each part")
    if max(seen) > 3:
        raise NotYet(f"{max(seen)} windows went through the model at once; at most 3 may")
    if sum(seen) != 7:
        raise NotYet(f"{sum(seen)} windows went through the model; the batch has 7")
    mistakes = {
        "the means of the parts are added; weight each by its share, len(part) / len(x)": (
            gradient_of(sum)
        ),
        "the last part is smaller and counts as much as the others; weight by len(part) / len(x)": (
            gradient_of(lambda losses: sum(losses) / 3)
        ),
        "only the last part's gradient is left; is there a zero_grad in the loop?": (
            gradient_of(lambda losses: losses[-1] / 7)
        ),
        "each part counts by its windows, but is not divided by the windows of the batch": (
            gradient_of(lambda losses: 3 * losses[0] + 3 * losses[1] + losses[2])
        ),
    }
    compare(gradient, gradient_of(sum, most=7), mistakes)
    if all(untouched):
        raise NotYet("all parts are in memory until the one backward; call it in the loop")
    with torch.no_grad():
        expected = next_character_loss(_small_model(7).eval()(x).logits, y)
    if not close(loss, expected, 1e-5):
        raise NotYet(f"the gradient is right, but it returns {float(loss):.4f}, "
                     f"and the batch has the loss {expected:.4f}")  # fmt: skip
    return "three parts of 3, 3 and 1 windows, and the gradient of the whole batch"


@check
def check_repaired_evaluate(answer: Callable) -> str:
    """Exercise 8.3: repaired_evaluate(model, ids, seq_len), find the bug."""
    ids = torch.randint(7, (90,), generator=torch.Generator().manual_seed(2))
    model = _small_model(7)
    expected = evaluate(model, ids, 8)
    loss = float(call(answer, model.train(), ids.clone(), 8))
    came_back_in_training = model.training
    if not close(loss, expected, 1e-4):
        model.eval()
        with torch.no_grad():
            means = [
                next_character_loss(model(x).logits, y).item()
                for x, y in evaluation_batches(ids, 64, 8)
            ]
        mistakes = {
            "the last window is shorter and must not count as much as the others": (
                sum(means) / len(means)
            ),
            "divide by the number of targets, len(ids) - 1": expected * (len(ids) - 1) / len(ids),
            "this is the sum of all losses; divide by len(ids) - 1": expected * (len(ids) - 1),
        }
        for mistake, wrong in mistakes.items():
            if close(loss, wrong, 1e-4):
                raise NotYet(mistake)
        if not close(loss, float(answer(model.train(), ids.clone(), 8)), 1e-6):
            raise NotYet("two measurements differ: dropout was on while it measured")
        raise NotYet(f"the loss is {loss:.4f} instead of {expected:.4f}")
    if not came_back_in_training:
        raise StillBuggy("a model in training mode came back in evaluation mode, without dropout")
    call(answer, model.eval(), ids.clone(), 8)
    if model.training:
        raise NotYet("a model in evaluation mode came back in training mode; remember the mode")
    return f"{loss:.4f}, and the model comes back in the mode it was in"
