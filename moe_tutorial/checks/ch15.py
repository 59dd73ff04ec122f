"""Checks of the exercises of chapter 15."""

import torch
from torch import Tensor

from moe_tutorial.cards import Card
from moe_tutorial.checks.base import NotYet, StillBuggy, call, check, close, compare, refuse
from moe_tutorial.routers import Switches, route_by

# Settings in the words of DeepSeek's configuration files, and what they mean.
SETTINGS = (
    ({"scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4,
      "norm_topk_prob": True, "routed_scaling_factor": 2.5},
     Switches("sigmoid", True, 8, 4, 2, True, 2.5)),
    ({"scoring_func": "softmax", "topk_method": "group_limited_greedy", "n_group": 8,
      "topk_group": 3, "norm_topk_prob": False, "routed_scaling_factor": 16.0},
     Switches("softmax", False, 8, 3, 1, False, 16.0)),
    ({"scoring_func": "softmax", "topk_method": "greedy", "n_group": 4, "topk_group": 2,
      "norm_topk_prob": False, "routed_scaling_factor": 1.0}, Switches()),
    ({"scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1,
      "norm_topk_prob": True, "routed_scaling_factor": 2.827},
     Switches("sigmoid", True, 1, 1, 2, True, 2.827)),
)  # fmt: skip
MEANS = {
    "score": "scoring_func names the score",
    "bias": 'only topk_method="noaux_tc" chooses with a bias',
    "groups": 'n_group counts unless topk_method="greedy", which knows no groups',
    "kept_groups": 'topk_group counts unless topk_method="greedy", which knows no groups',
    "group_best": 'a group counts as much as its two best with "noaux_tc", else as its best',
    "normalize": "norm_topk_prob says whether the weights are divided by their sum",
    "scale": "routed_scaling_factor is the scale",
}


@check
def check_switches_from(answer: object) -> str:
    """Exercise 15.1: switches_from(settings) -> the Switches that settings of a file describe."""
    for settings, right in SETTINGS:
        given = dict(settings)
        found = call(answer, given)
        refuse(not isinstance(found, Switches), f"return Switches, not {type(found).__name__}")
        refuse(given != settings, "the settings that were given are changed")
        for field, value in right._asdict().items():
            mine = getattr(found, field)
            unused = field == "group_best" and right.groups == 1
            if mine != value and not unused:
                where = f"topk_method={settings['topk_method']!r} gives {field}={mine!r}"
                raise NotYet(f"{MEANS[field]}; {where}")
    return "four files are read, with and without groups and bias"


@check
def check_repaired_choice(answer: object) -> str:
    """Exercise 15.2: repaired_choice(logits, bias, top_k) -> weights (N, K), experts (N, K)."""
    generator = torch.Generator().manual_seed(15)
    logits = torch.randn(30, 6, generator=generator).requires_grad_()
    bias = torch.linspace(0.4, -0.4, 6)
    found = call(answer, logits, bias.clone(), 2)
    pair = isinstance(found, tuple) and len(found) == 2
    refuse(not pair or not all(isinstance(x, Tensor) for x in found), "return weights and experts")
    weights, experts = found
    right = route_by(logits, 2, Switches("sigmoid", bias=True, normalize=True), bias)
    scores = logits.sigmoid()
    free = route_by(logits, 2, Switches("sigmoid", normalize=True))
    refuse(experts.shape != right.experts.shape, f"experts has the shape {tuple(experts.shape)}")
    refuse(experts.equal(free.experts), "the bias no longer chooses")
    refuse(experts.equal((logits + bias).topk(2).indices), "the bias is added after the sigmoid")
    refuse(not experts.equal(right.experts), "the experts are not the best by score plus bias")
    chosen = scores.gather(1, experts)
    leaky = (scores + bias).gather(1, experts)
    if close(weights, leaky / leaky.sum(-1, keepdim=True)):
        raise StillBuggy("the weights contain the bias")
    mistakes = {
        "the weights are no longer divided by their sum": chosen,
        "they are divided by the sum over all experts": chosen / scores.sum(-1, keepdim=True),
        "they are divided by a sum that contains the bias": chosen / leaky.sum(-1, keepdim=True),
        "these are the weights of the experts that the scores alone would choose": free.weights,
        "this is a softmax of the scores": chosen.softmax(-1),
        "this is a softmax of the logits": logits.gather(1, experts).softmax(-1),
    }
    compare(weights, right.weights, mistakes)
    refuse(not weights.requires_grad, "no gradient reaches the logits; do not detach them")
    return "the bias chooses, and the weights are those of the scores without it"


def _cards() -> tuple[Card, ...]:
    """Cards that differ in what matters and in what does not; the names say nothing."""
    kinds = (
        Switches(), Switches(normalize=True), Switches("sigmoid"),
        Switches("sigmoid", True, normalize=True, scale=2.5), Switches("sqrtsoftplus", True),
        Switches(bias=True, scale=6.0), Switches("sqrtsoftplus", normalize=True),
        Switches(normalize=True, scale=2.0), Switches("sigmoid", True, normalize=True),
    )  # fmt: skip
    top_k = (2, 1, 1, 8, 8, 4, 2, 4, 1)
    return tuple(
        Card(name, 2026, switches, 16, k, 0, 64, 64, 0)
        for name, switches, k in zip("ABCDEFGHI", kinds, top_k, strict=True)
    )


@check
def check_needs_more_than_one(answer: object) -> str:
    """Exercise 15.3: needs_more_than_one(cards) -> names whose router learns nothing if K = 1."""
    cards = _cards()
    found = call(answer, cards)
    refuse(not isinstance(found, list | tuple | set), "return the names, as a list")
    refuse(any(isinstance(one, Card) for one in found), "return names, not cards")

    def names(condition) -> set[str]:
        return {card.name for card in cards if condition(card)}

    right = names(lambda card: card.switches.normalize)
    mistakes = {
        "these are the ones that can be trained": names(lambda c: not c.switches.normalize),
        "a softmax over all experts has a gradient with K = 1; look at what it is divided by":
            names(lambda c: c.switches.score == "softmax"),
        "a sigmoid divided by itself is 1 as well":
            names(lambda c: c.switches.normalize and c.switches.score == "softmax"),
        "the question is what would happen if K were 1, whatever it is now":
            names(lambda c: c.switches.normalize and c.top_k == 1),
        "these are all that have K = 1 now": names(lambda c: c.top_k == 1),
        "a bias has no part in the weight": names(lambda c: c.switches.bias),
        "a bias does not help: it has no part in the weight":
            names(lambda c: c.switches.normalize and not c.switches.bias),
        "a scale multiplies a gradient of 0":
            names(lambda c: c.switches.normalize and c.switches.scale == 1),
        "some can be trained with K = 1": names(lambda c: True),
        "some cannot be trained with K = 1": set(),
    }  # fmt: skip
    for mistake, wrong in mistakes.items():
        refuse(set(found) == wrong, mistake)
    if set(found) != right:
        raise NotYet(f"of nine cards named A to I, {', '.join(sorted(map(str, found)))} are found")
    return "exactly those that divide by the sum: a weight divided by itself is always 1"
