"""Checks of the exercises of chapter 07."""

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
def check_served(answer: object) -> str:
    """Exercise 7.1: served(experts, num_experts, capacity) -> which assignments find a place."""
    for num_experts, top_k, capacity in ((4, 2, 3), (3, 1, 2), (6, 3, 2)):
        scores = torch.rand(9, num_experts, generator=torch.Generator().manual_seed(0))
        experts = scores.topk(top_k, dim=-1).indices
        mask = call(answer, experts.clone(), num_experts, capacity)
        if not isinstance(mask, Tensor) or mask.shape != experts.shape:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise NotYet(f"return one tensor of shape {tuple(experts.shape)}, not {shape}")
        refuse(mask.dtype != torch.bool, f"the result holds True and False, not {mask.dtype}")
        place = _places(experts.flatten()).view_as(experts)  # from 1
        right = place <= capacity
        firsts = capacity >= _places(experts.T.flatten()).view(top_k, 9).T
        columns = torch.stack([_places(column) for column in experts.T], dim=1)
        last = _places(experts.flatten().flip(0)).flip(0).view_as(experts)
        together = (torch.arange(experts.numel()) < capacity).view_as(experts)
        mistakes = {
            "one place of every expert stays empty": place < capacity,
            "every expert gets one assignment too many": place <= capacity + 1,
            "this is who finds no place; return the others": ~right,
            "places are counted over all experts together": together,
            "a token with one lost choice loses both": right.all(dim=1, keepdim=True) & right,
            "each choice has places of its own; they share them": columns <= capacity,
            "the last are served, not the first": last <= capacity,
            "all first choices are served before the second ones, so a later token takes an "
            "earlier one's place, and the future leaks": firsts,
        }
        numbers = {mistake: wrong.int() for mistake, wrong in mistakes.items()}
        otherwise = ""
        if not mask.equal(right):
            token, choice = (mask != right).nonzero()[0].tolist()
            found = "finds" if mask[token, choice] else "does not find"
            setting = f"{num_experts} experts of capacity {capacity}"
            otherwise = f"with {setting}, choice {choice} of token {token} {found} a place"
        compare(mask.int(), right.int(), numbers, otherwise=otherwise)
    return "no later token takes an earlier one's place"


def _places(assigned: Tensor) -> Tensor:
    """The place of each assignment in the row before its expert, from 1."""
    same = assigned[:, None] == assigned
    return same.tril().sum(dim=-1)


@check
def check_biased_routing(answer: object) -> str:
    """Exercise 7.2: biased_routing(logits, bias, top_k) -> weights, experts."""
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)) * 2
    bias = torch.tensor([0.4, 0.0, -0.4, 0.1, 0.0])
    for top_k in (2, 3):
        inputs = logits.clone().requires_grad_()
        weights, experts = _routing(call(answer, inputs, bias.clone(), top_k), top_k)
        affinities = logits.sigmoid()
        right = affinities + bias
        scores = (affinities, affinities - bias, logits + bias, right)
        chosen = (each.topk(top_k, dim=-1).indices.sort(dim=-1).values for each in scores)
        ours = experts.sort(dim=-1).values
        unbiased, repelled, early, fine = (torch.equal(ours, each) for each in chosen)
        refuse(unbiased, "the bias does not change which experts are chosen")
        refuse(repelled, "the bias is subtracted; a positive bias must attract tokens")
        refuse(early, "the bias is added to the logits; it belongs to their sigmoids")
        refuse(not fine, f"the chosen are not the {top_k} largest of sigmoid + bias in each row")
        picked = inputs.sigmoid().gather(1, experts)
        expected = picked / picked.sum(dim=-1, keepdim=True)
        compare(weights, expected, _weight_mistakes(logits, bias, experts))
        arrives = gradient(weights, inputs)
        cut = "the weights are right, but cut from the logits, so the router could not learn"
        refuse(arrives is None, f"{cut}; compute them without detach")
        if not close(arrives, gradient(expected, inputs), 1e-4):
            raise NotYet("the weights are right, but their gradient is not")
    return "the bias decides who is chosen, and no weight knows it"


def _weight_mistakes(logits: Tensor, bias: Tensor, experts: Tensor) -> dict[str, Tensor]:
    affinities = logits.sigmoid()
    picked, leaked = affinities.gather(1, experts), (affinities + bias).gather(1, experts)
    best = affinities.topk(experts.shape[1], dim=-1).values
    return {
        "the bias leaks into the weights; take the weights from the sigmoids alone": (
            leaked / leaked.sum(dim=-1, keepdim=True)
        ),
        "the weights do not add up to 1; divide them by the sum of the chosen": picked,
        "the weights are divided by the sum over all experts; take the chosen": (
            picked / affinities.sum(dim=-1, keepdim=True)
        ),
        "the weights are divided by a sum over the tokens; take the chosen, dim=-1": (
            picked / picked.sum(dim=0)
        ),
        "these are the best sigmoids, not those of the chosen experts": (
            best / best.sum(dim=-1, keepdim=True)
        ),
        "this is the softmax of the chosen logits; divide the sigmoids by their sum": (
            logits.gather(1, experts).softmax(-1)
        ),
        "this is a softmax of the sigmoids; divide them by their sum": picked.softmax(-1),
    }


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
