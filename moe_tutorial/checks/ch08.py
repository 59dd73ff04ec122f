"""Checks of the exercises of chapter 08."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.batching import evaluation_batches
from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare, refuse
from moe_tutorial.config import ModelConfig, TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.training import evaluate, next_character_loss


def _small_model() -> MoELanguageModel:
    config = ModelConfig(
        dim=8, num_layers=1, num_heads=2, num_experts=3, top_k=2, hidden_dim=8, max_seq_len=16,
        shared_expert=False, dropout=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = MoELanguageModel(config, vocab_size=7)
        model.head.weight *= 50  # losses that differ from window to window
    return model


@check
def check_cosine_rate(answer: object) -> str:
    """Exercise 8.1: cosine_rate(step, done, config), warm-up times half a cosine."""
    config = TrainingConfig(learning_rate=0.25, warmup_steps=4)
    places = [(0, 0.0), (1, 0.1), (3, 0.25), (4, 0.3), (50, 0.5), (80, 0.75), (99, 1.0)]
    result = torch.tensor([float(call(answer, step, done, config)) for step, done in places])
    steps, done = torch.tensor(places, dtype=torch.float64).T
    warm = 0.25 * ((steps + 1) / 5).clamp(max=1)
    late, early = (0.25 * (first / 4).clamp(max=1) for first in (steps, steps + 1))
    cosine, half = (math.pi * done).cos(), (1 + (math.pi * done).cos()) / 2
    mistakes = {
        "the warm-up is missing": 0.25 * half,
        "this is the line; replace 1 - done by half a cosine": warm * (1 - done),
        "it falls below 0: add 1 to the cosine, and divide by 2": warm * cosine,
        "it begins at twice the learning rate: divide by 2": warm * 2 * half,
        "it comes up again: the cosine takes pi times done, half a turn": warm * cosine**2,
        "it does not reach 0: the cosine takes pi times done": warm * (1 + done.cos()) / 2,
        "it rises: this is 1 minus the cosine": warm * (1 - half),
        "config.learning_rate is missing as a factor": 4 * warm * half,
        "it ends halfway, after a quarter of a turn: the cosine takes pi times done": (
            warm * (math.pi / 2 * done).cos()
        ),
        "the first step does not learn: the warm-up is (step + 1) / (warmup_steps + 1)": (
            late * half
        ),
        "the warm-up ends too soon: it is (step + 1) / (warmup_steps + 1)": early * half,
        "the cosine begins after the warm-up; multiply both at every step": (
            torch.where(steps < 4, warm, 0.25 * half)
        ),
    }
    compare(result, (warm * half).float(), mistakes)
    longer = TrainingConfig(learning_rate=0.75, warmup_steps=9)
    if not close(float(call(answer, 4, 0.3, longer)), 0.375 * half[3]):
        raise NotYet(
            "with another learning_rate and warmup_steps it is wrong; take both from config"
        )
    return "warm-up, then half a cosine down to 0"


@check
def check_accumulate(answer: object) -> str:
    """Exercise 8.2: accumulate(model, x, y, most), the gradient of a batch in parts."""
    ids = torch.randint(7, (7, 9), generator=torch.Generator().manual_seed(1))
    x, y = ids[:, :-1], ids[:, 1:]
    right = next_character_loss(_small_model().eval()(x).logits, y)
    sizes = {}
    for most in (3, 2):
        parts = _in_parts(answer, x, y, most)
        sizes[most] = parts.sizes
        _judge_sizes(parts, x, most)
        mistakes = _gradient_mistakes(x, y, parts.sizes, most)
        compare(parts.gradient, _gradients(x, y, [7])[0], mistakes)
        at_end = "all parts are in memory until the one backward; call it in the loop"
        refuse(all(parts.untouched), at_end)
        if isinstance(parts.loss, Tensor):
            raise NotYet(
                "the gradient is right, but the loss is a tensor; return a number, .item()"
            )
        if not close(parts.loss, right, 1e-5):
            values = f"it returns {float(parts.loss):.4f}, and the batch has the loss {right:.4f}"
            raise NotYet(f"the gradient is right, but {values}")
    cut = "three parts of 3, 3 and 1 windows" if sizes[3] == [3, 3, 1] else f"parts of {sizes[3]}"
    return f"{cut}, and the gradient of the whole batch"


class _Parts(NamedTuple):
    loss: object
    gradient: Tensor | None
    sizes: list[int]  # windows that went through the model at once
    untouched: list[bool]  # before each part: no gradient yet


def _in_parts(answer: Callable, x: Tensor, y: Tensor, most: int) -> _Parts:
    model, sizes, untouched = _small_model().eval(), [], []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    model.register_forward_hook(lambda *_: untouched.append(model.head.weight.grad is None))
    loss = call(answer, model, x.clone(), y.clone(), most)
    return _Parts(loss, model.head.weight.grad, sizes, untouched)


def _judge_sizes(parts: _Parts, x: Tensor, most: int) -> None:
    sizes = parts.sizes
    refuse(parts.gradient is None, "there is no gradient; call backward on the loss of each part")
    if max(sizes) > most and sizes == [len(part) for part in x.chunk(most)]:
        raise NotYet(f"chunk({most}) makes {most} parts; split({most}) makes parts of {most}")
    at_once = f"{max(sizes)} windows went through the model at once; at most {most} may"
    refuse(max(sizes) > most, at_once)
    refuse(sum(sizes) != 7, f"{sum(sizes)} windows went through the model; the batch has 7")


def _gradients(x: Tensor, y: Tensor, sizes: list[int]) -> list[Tensor]:
    """The gradient of the head for the mean loss of each part."""
    model = _small_model().eval()
    parts = zip(x.split(sizes), y.split(sizes), strict=True)
    losses = [next_character_loss(model(inputs).logits, targets) for inputs, targets in parts]
    return [torch.autograd.grad(loss, model.head.weight)[0] for loss in losses]


def _gradient_mistakes(x: Tensor, y: Tensor, sizes: list[int], most: int) -> dict[str, Tensor]:
    of_parts = _gradients(x, y, sizes)
    (right,), added, last = _gradients(x, y, [7]), sum(of_parts), of_parts[-1]
    return {
        "the means of the parts are added; weight each by its share, len(part) / len(x)": added,
        "the last part is smaller and counts as much as the others; weight by len(part) / len(x)": (
            added / len(sizes)
        ),
        "`most` is not the size of the last part; weight by len(part) / len(x)": added * most / 7,
        "only the last part's gradient is left; is there a zero_grad in the loop?": (
            last * sizes[-1] / 7
        ),
        "each part counts by its windows, but is not divided by the windows of the batch": (
            7 * right
        ),
        "these are sums over all targets; divide by their number, y.numel()": y.numel() * right,
        "a window has several targets; divide the sum by y.numel(), not by len(x)": (
            y.shape[1] * right
        ),
    }


@check
def check_repaired_evaluate(answer: object) -> str:
    """Exercise 8.3: repaired_evaluate(model, ids, seq_len), find the bug."""
    ids = torch.randint(7, (90,), generator=torch.Generator().manual_seed(2))
    model = _small_model()
    right = evaluate(model, ids, 8)
    loss = float(call(answer, model.train(), ids.clone(), 8))
    modes = {module.training for module in model.modules()}
    if not close(loss, right, 1e-4):
        model.eval()
        batches = evaluation_batches(ids, 64, 8)
        means = [next_character_loss(model(x).logits, y).item() for x, y in batches]
        mean, targets = sum(means) / len(means), len(ids) - 1
        mistakes = {
            "the last window is shorter and must not count as much as the others": mean,
            "divide by the number of targets, len(ids) - 1": right * targets / len(ids),
            "this is the sum of all losses; divide by len(ids) - 1": right * targets,
        }
        again = float(answer(model.train(), ids.clone(), 8))
        otherwise = "two measurements differ: dropout was on while it measured"
        if close(loss, again):
            otherwise = f"the loss is {loss:.4f} instead of {right:.4f}"
        compare(loss, right, mistakes, 1e-4, otherwise)
    if modes == {False}:
        raise StillBuggy("a model in training mode came back in evaluation mode, without dropout")
    if len(modes) > 1:
        flag = "model.training is the flag of the model alone"
        raise NotYet(f"{flag}: its parts came back in the other mode; call model.train(...)")
    call(answer, model.eval(), ids.clone(), 8)
    if any(module.training for module in model.modules()):
        raise NotYet("a model in evaluation mode came back in training mode; remember the mode")
    return f"{loss:.4f}, and the model comes back in the mode it was in"
