"""Checks of the exercises of chapter 08."""

import math

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
    }
    compare(result, (warm * half).float(), mistakes)
    return "warm-up, then half a cosine down to 0"


@check
def check_accumulate(answer: object) -> str:
    """Exercise 8.2: accumulate(model, x, y, most), the gradient of a batch in parts."""
    ids = torch.randint(7, (7, 9), generator=torch.Generator().manual_seed(1))
    x, y = ids[:, :-1], ids[:, 1:]
    model, seen = _small_model().eval(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    untouched = []  # before each part: no gradient yet
    model.register_forward_hook(lambda *_: untouched.append(model.head.weight.grad is None))
    loss = call(answer, model, x.clone(), y.clone(), 3)
    gradient = model.head.weight.grad
    refuse(gradient is None, "there is no gradient; call backward on the loss of each part")
    refuse(max(seen) > 3, f"{max(seen)} windows went through the model at once; at most 3 may")
    refuse(sum(seen) != 7, f"{sum(seen)} windows went through the model; the batch has 7")
    (right,), (first, second, last) = _gradients(x, y, 7), _gradients(x, y, 3)
    added, total = first + second + last, 3 * (first + second) + last
    mistakes = {
        "the means of the parts are added; weight each by its share, len(part) / len(x)": added,
        "the last part is smaller and counts as much as the others; weight by len(part) / len(x)": (
            added / 3
        ),
        "only the last part's gradient is left; is there a zero_grad in the loop?": last / 7,
        "each part counts by its windows, but is not divided by the windows of the batch": total,
    }
    compare(gradient, right, mistakes)
    refuse(all(untouched), "all parts are in memory until the one backward; call it in the loop")
    right = next_character_loss(_small_model().eval()(x).logits, y)
    if not close(loss, right, 1e-5):
        values = f"it returns {float(loss):.4f}, and the batch has the loss {right:.4f}"
        raise NotYet(f"the gradient is right, but {values}")
    return "three parts of 3, 3 and 1 windows, and the gradient of the whole batch"


def _gradients(x: Tensor, y: Tensor, most: int) -> list[Tensor]:
    """The gradient of the head for the mean loss of each part of at most `most` windows."""
    model = _small_model().eval()
    parts = zip(x.split(most), y.split(most), strict=True)
    losses = [next_character_loss(model(inputs).logits, targets) for inputs, targets in parts]
    return [torch.autograd.grad(loss, model.head.weight)[0] for loss in losses]


@check
def check_repaired_evaluate(answer: object) -> str:
    """Exercise 8.3: repaired_evaluate(model, ids, seq_len), find the bug."""
    ids = torch.randint(7, (90,), generator=torch.Generator().manual_seed(2))
    model = _small_model()
    right = evaluate(model, ids, 8)
    loss = float(call(answer, model.train(), ids.clone(), 8))
    came_back_in_training = model.training
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
    if not came_back_in_training:
        raise StillBuggy("a model in training mode came back in evaluation mode, without dropout")
    call(answer, model.eval(), ids.clone(), 8)
    if model.training:
        raise NotYet("a model in evaluation mode came back in training mode; remember the mode")
    return f"{loss:.4f}, and the model comes back in the mode it was in"
