"""Checks of the exercises of chapter 07."""

from collections.abc import Callable

import torch
from torch import Tensor

from moe_tutorial.checks.base import (
    NotYet,
    StillBuggy,
    call,
    check,
    close,
    compare,
    gradient,
    refuse,
)


@check
def check_mix(answer: object) -> str:
    """Exercise 7.1: mix(logits, outputs, top_k), the output of a mixture for one token."""
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0, 1.5])
    outputs = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [-3.0, 1.0], [4.0, -2.0]])
    for top_k in (2, 3, 1):
        result = call(answer, logits.clone(), outputs.clone(), top_k)
        if not isinstance(result, Tensor):
            raise NotYet(f"return one tensor of shape (D,), not a {type(result).__name__}")
        chosen, experts = logits.topk(top_k)
        weights, picked, shares = chosen.softmax(-1), outputs[experts], logits.softmax(-1)
        two = logits.topk(2).values.softmax(-1) @ outputs[logits.topk(2).indices]
        mistakes = {
            f"wrong for top_k = {top_k}; is a 2 written in the function?": two,
            "all experts take part; choose top_k of them first": shares @ outputs,
            "the weights do not add up to 1: softmax over the chosen logits, not over all": (
                shares[experts] @ picked
            ),
            "these are sigmoid weights; use the softmax over the chosen": chosen.sigmoid() @ picked,
            "the first experts are taken, not the chosen ones": weights @ outputs[:top_k],
            "the logits themselves are the weights; take their softmax": chosen @ picked,
            "the chosen outputs are added without weights": picked.sum(dim=0),
            "the chosen outputs are averaged without weights": picked.mean(dim=0),
        }
        compare(result, weights @ picked, mistakes)
    _compare_gradients(answer, logits, outputs)
    return "the weighted sum for top_k = 2, 3 and 1"


def _compare_gradients(answer: Callable, logits: Tensor, outputs: Tensor) -> None:
    """Refuse a mixture through which the router or the experts cannot learn."""
    logits, outputs = logits.clone().requires_grad_(), outputs.clone().requires_grad_()
    chosen, experts = logits.topk(2)
    right = chosen.softmax(-1) @ outputs[experts]
    result = call(answer, logits, outputs, 2)
    for name, x, learner in (("logits", logits, "router"), ("outputs", outputs, "experts")):
        ours = gradient(result, x)
        why = f"so the {learner} could not learn; keep them as tensors, without detach"
        refuse(ours is None, f"the value is right, but no gradient reaches the {name}, {why}")
        if not close(ours, gradient(right, x), 1e-4):
            raise NotYet(f"the value is right, but the gradient of the {name} is not")


@check
def check_biased_routing(answer: object) -> str:
    """Exercise 7.2: biased_routing(logits, bias, top_k) -> weights, experts."""
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([2.0, 0.0, -2.0, 0.5, 0.0])
    for top_k in (2, 3):
        inputs = logits.clone().requires_grad_()
        weights, experts = _routing(call(answer, inputs, bias.clone(), top_k), top_k)
        scores = (logits, logits - bias, logits + bias)
        chosen = (each.topk(top_k, dim=-1).indices.sort(dim=-1).values for each in scores)
        ours = experts.sort(dim=-1).values
        unbiased, repelled, right = (torch.equal(ours, each) for each in chosen)
        refuse(unbiased, "the bias does not change which experts are chosen")
        refuse(repelled, "the bias is subtracted; a positive bias must attract tokens")
        refuse(not right, f"the chosen are not the {top_k} largest of logits + bias in each row")
        picked, best = inputs.gather(1, experts), logits.topk(top_k, dim=-1).values
        leaked = (logits + bias).gather(1, experts).softmax(-1)
        mistakes = {
            "the bias leaks into the weights; take the weights from the logits alone": leaked,
            "the weights are the bare logits; take their softmax": picked,
            "the softmax goes over all experts; take it over the chosen": (
                logits.softmax(-1).gather(1, experts)
            ),
            "the softmax goes over the tokens; take it over the chosen, dim=-1": picked.softmax(0),
            "these are the best logits, not those of the chosen experts": best.softmax(-1),
            "these are sigmoids; take the softmax over the chosen": picked.sigmoid(),
        }
        compare(weights, picked.softmax(-1), mistakes)
        arrives = gradient(weights, inputs)
        cut = "the weights are right, but cut from the logits, so the router could not learn"
        refuse(arrives is None, f"{cut}; compute them without detach")
        if not close(arrives, gradient(picked.softmax(-1), inputs), 1e-4):
            raise NotYet("the weights are right, but their gradient is not")
    return "the bias decides who is chosen, and no weight knows it"


def _routing(pair: object, top_k: int) -> tuple[Tensor, Tensor]:
    refuse(not isinstance(pair, tuple) or len(pair) != 2, "return two tensors: weights, experts")
    weights, experts = pair
    if weights.shape != (9, top_k) or experts.shape != (9, top_k):
        shapes = f"{tuple(weights.shape)} and {tuple(experts.shape)}"
        raise NotYet(f"for top_k = {top_k} both must be (9, {top_k}): {shapes}")
    if experts.is_floating_point():
        raise NotYet("experts are indices; the order of the results is weights, experts")
    return weights, experts


@check
def check_repaired_loss(answer: object) -> str:
    """Exercise 7.3: repaired_loss(logits, top_k), find the bug."""
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    logits[:, 3] -= 9  # never chosen
    inputs = logits.clone().requires_grad_()
    loss = call(answer, inputs, 2)
    if not isinstance(loss, Tensor) or loss.shape:
        raise NotYet("the loss is one number, a tensor without axes")
    refuse(not loss.requires_grad, "the loss has no gradient; the probabilities must keep theirs")
    (arrives,) = torch.autograd.grad(loss, inputs, allow_unused=True)
    refuse(arrives is None, "no gradient reaches the logits")
    chosen, experts = logits.topk(2, dim=-1)
    load = experts.flatten().bincount(minlength=5) / experts.numel()
    probs = logits.softmax(-1)
    renormalized = torch.zeros_like(logits).scatter(1, experts, chosen.softmax(-1))

    def loss_of(probs: Tensor, load: Tensor = load) -> Tensor:
        return 5 * (load * probs.mean(dim=0)).sum()

    if close(loss, loss_of(renormalized), 1e-5):
        raise StillBuggy("expert 3 is never chosen, and its gradient is exactly 0")
    right, mean, cut = loss_of(probs), probs.mean(dim=0), loss_of(probs * (renormalized > 0))
    over_tokens = loss_of(logits.softmax(0))
    mistakes = {
        "these are sigmoids; take the softmax over all experts": loss_of(logits.sigmoid()),
        "the softmax goes over the tokens; take it over the experts, dim=-1": over_tokens,
        "the chosen are all that is left: the others' probabilities are set to 0": cut,
        "the load is replaced as well; it stays the share of assignments": loss_of(probs, mean),
        "the scale has changed: the factor is the number of experts": right / 5,
        "the load adds up to top_k now; balanced should stay 1": 2 * right,
    }
    compare(loss, right, mistakes)
    refuse(not arrives[:, 3].any(), "the value is right, but expert 3 still has no gradient")
    first = logits[:, :3].argmax(dim=-1).bincount(minlength=3) / 12
    of_three = 3 * (first * logits[:, :3].softmax(-1).mean(dim=0)).sum()
    if not close(call(answer, logits[:, :3], 1), of_three, 1e-5):
        raise NotYet("right for 5 experts and top_k = 2, wrong for 3 experts and top_k = 1")
    return f"{loss.item():.4f}, and the expert that is never chosen gets a gradient"
