"""Checks of the exercises of chapter 07."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare


@check
def check_mix(answer: Callable) -> str:
    """Exercise 7.1: mix(logits, outputs, top_k), the output of a mixture for one token."""
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0, 1.5])
    outputs = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [-3.0, 1.0], [4.0, -2.0]])
    for top_k in (2, 3, 1):
        result = torch.as_tensor(call(answer, logits.clone(), outputs.clone(), top_k))
        chosen, experts = logits.topk(top_k)
        expected = chosen.softmax(-1) @ outputs[experts]
        two, first_two = logits.topk(2)
        mistakes = {
            f"wrong for top_k = {top_k}; is a 2 written in the function?": (
                two.softmax(-1) @ outputs[first_two]
            ),
            "all experts take part; choose top_k of them first": logits.softmax(-1) @ outputs,
            "the weights do not add up to 1: softmax over the chosen logits, not over all": (
                logits.softmax(-1)[experts] @ outputs[experts]
            ),
            "these are sigmoid weights; use the softmax over the chosen": chosen.sigmoid()
            @ outputs[experts],
            "the first experts are taken, not the chosen ones": chosen.softmax(-1)
            @ outputs[:top_k],
            "the logits themselves are the weights; take their softmax": chosen @ outputs[experts],
            "the chosen outputs are added without weights": outputs[experts].sum(dim=0),
            "the chosen outputs are averaged without weights": outputs[experts].mean(dim=0),
        }
        compare(result, expected, mistakes)
    return "the weighted sum for top_k = 2, 3 and 1"


@check
def check_biased_routing(answer: Callable) -> str:
    """Exercise 7.2: biased_routing(logits, bias, top_k) -> weights, experts."""
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([2.0, 0.0, -2.0, 0.5, 0.0])
    result = call(answer, logits.clone(), bias.clone(), 2)
    if not isinstance(result, tuple) or len(result) != 2:
        raise NotYet("return two tensors: weights, experts")
    weights, experts = result
    if weights.shape != (9, 2) or experts.shape != (9, 2):
        raise NotYet(f"both must be (9, 2): {tuple(weights.shape)} and {tuple(experts.shape)}")
    if experts.is_floating_point():
        raise NotYet("experts are indices; the order of the results is weights, experts")

    def chosen_by(scores: Tensor) -> Tensor:
        return scores.topk(2, dim=-1).indices.sort(dim=-1).values

    ours = experts.sort(dim=-1).values
    if torch.equal(ours, chosen_by(logits)):
        raise NotYet("the bias does not change which experts are chosen")
    if torch.equal(ours, chosen_by(logits - bias)):
        raise NotYet("the bias is subtracted; a positive bias must attract tokens")
    if not torch.equal(ours, chosen_by(logits + bias)):
        raise NotYet("the chosen are not the two largest of logits + bias in each row")
    picked = logits.gather(1, experts)
    mistakes = {
        "the bias leaks into the weights; take the weights from the logits alone": (
            (logits + bias).gather(1, experts).softmax(-1)
        ),
        "the weights are the bare logits; take their softmax": picked,
        "the softmax goes over all experts; take it over the chosen": logits.softmax(-1).gather(
            1, experts
        ),
        "the softmax goes over the tokens; take it over the chosen, dim=-1": picked.softmax(0),
        "these are the best logits, not those of the chosen experts": logits.topk(
            2, dim=-1
        ).values.softmax(-1),
    }
    compare(weights, picked.softmax(-1), mistakes)
    return "the bias decides who is chosen, and no weight knows it"


@check
def check_repaired_loss(answer: Callable) -> str:
    """Exercise 7.3: repaired_loss(logits, top_k), find the bug."""
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    logits[:, 3] -= 9  # never chosen
    inputs = logits.clone().requires_grad_()
    loss = call(answer, inputs, 2)
    if not isinstance(loss, Tensor) or loss.shape:
        raise NotYet("the loss is one number, a tensor without axes")
    if not loss.requires_grad:
        raise NotYet("the loss has no gradient; the probabilities must keep theirs")
    (gradient,) = torch.autograd.grad(loss, inputs, allow_unused=True)
    if gradient is None:
        raise NotYet("no gradient reaches the logits")
    chosen, experts = logits.topk(2, dim=-1)
    load = experts.flatten().bincount(minlength=5) / experts.numel()
    mean = logits.softmax(-1).mean(dim=0)
    renormalized = torch.zeros_like(logits).scatter(1, experts, chosen.softmax(-1))
    if close(loss, 5 * (load * renormalized.mean(dim=0)).sum(), 1e-5):
        raise StillBuggy("expert 3 is never chosen, and its gradient is exactly 0")
    mistakes = {
        "these are sigmoids; take the softmax over all experts": 5
        * (load * logits.sigmoid().mean(dim=0)).sum(),
        "the softmax goes over the tokens; take it over the experts, dim=-1": 5
        * (load * logits.softmax(0).mean(dim=0)).sum(),
        "the chosen are all that is left: the others' probabilities are set to 0": 5
        * (load * (logits.softmax(-1) * (renormalized > 0)).mean(dim=0)).sum(),
        "the load is replaced as well; it stays the share of assignments": 5 * (mean * mean).sum(),
        "the scale has changed: the factor is the number of experts": (load * mean).sum(),
        "the load adds up to top_k now; balanced should stay 1": 10 * (load * mean).sum(),
    }
    compare(loss, 5 * (load * mean).sum(), mistakes)
    if not gradient[:, 3].any():
        raise NotYet("the value is right, but expert 3 still has no gradient")
    return f"{loss.item():.4f}, and the expert that is never chosen gets a gradient"
