"""What experts know, and what changes if a trained router is asked otherwise. Chapter 12.

Shape letters: N characters of a text, E experts, K experts per token. Information is in bits.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.batching import evaluation_batches
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import Routing

CLASSES = ("vowel", "consonant", "space", "punctuation", "other")
READ_AT_ONCE = 16  # windows

Change = Callable[[Routing], Routing]  # what the router decided -> what the experts are told


def entropy_bits(x: Tensor) -> float:
    """-sum p log2 p over the values of x, with p their shares: bits. Shapes: x (N,)."""
    shares = x.unique(return_counts=True)[1].double() / len(x)
    return -(shares * shares.log2()).sum().item()


def pairs(x: Tensor, y: Tensor) -> Tensor:
    """One number for each pair of values. Shapes: x, y (N,) -> (N,)."""
    first, second = (values.unique(return_inverse=True)[1] for values in (x, y))  # (N,) each
    return first * (second.max() + 1) + second


def mutual_information(x: Tensor, y: Tensor) -> float:
    """How many bits about y the value of x tells: H(x) + H(y) - H(x, y).

    Counted, so too high on little text: compare with `shuffled`. Shapes: x, y (N,).
    Source: Shannon 1948, A mathematical theory of communication.
    """
    return entropy_bits(x) + entropy_bits(y) - entropy_bits(pairs(x, y))


def information_share(x: Tensor, y: Tensor) -> float:
    """`mutual_information` over the entropy of y: 0 if x tells nothing, 1 if it tells all."""
    return mutual_information(x, y) / entropy_bits(y) if entropy_bits(y) > 0 else 0.0


def added_information(x: Tensor, y: Tensor, known: Tensor) -> float:
    """The bits about y that x tells in addition to `known`: I(x, known; y) - I(known; y)."""
    return mutual_information(pairs(x, known), y) - mutual_information(known, y)


def shuffled(x: Tensor, generator: torch.Generator, within: Tensor | None = None) -> Tensor:
    """x in another order, which tells nothing any more: what an estimate says of it is its bias.

    within: only values at the positions of one value of it change places; for `added_information`
    shuffle within what is known. Shapes: x, within (N,) -> (N,).
    """
    order = torch.randperm(len(x), generator=generator)
    if within is None:
        return x[order]
    places, drawn = within.argsort(stable=True), order[within[order].argsort(stable=True)]
    return torch.empty_like(x).index_copy_(0, places, x[drawn])


class Features(NamedTuple):
    """What a choice could depend on, as numbers, of the N characters of a text."""

    character: Tensor  # (N,) its code point
    char_class: Tensor  # (N,) index into CLASSES
    position: Tensor  # (N,) in the word, from 1; 0 outside of words
    previous: Tensor  # (N,) code point of the character before; -1 at the beginning
    following: Tensor  # (N,) code point of the character after; -1 at the end


def char_class(char: str) -> str:
    """Which of CLASSES a character belongs to; a line break is a space."""
    if char.isalpha():
        return "vowel" if char.lower() in "aeiou" else "consonant"
    if char.isspace():
        return "space"
    return "punctuation" if unicodedata.category(char).startswith("P") else "other"


def text_features(text: str) -> Features:
    """The features of every character of a text."""
    codes = [ord(char) for char in text]
    classes = [CLASSES.index(char_class(char)) for char in text]
    positions = [0]
    for char in text:
        positions.append(positions[-1] + 1 if char.isalpha() else 0)
    columns = (codes, classes, positions[1:], [-1, *codes][:-1], [*codes, -1][1:])
    return Features(*(torch.tensor(column) for column in columns))


class Reading(NamedTuple):
    """What a model did with the first N characters of N + 1."""

    losses: Tensor  # (N,) nats, of the character that follows
    routings: list[Routing]  # one per layer, each of these N characters


@torch.no_grad()
def read(model: MoELanguageModel, ids: Tensor) -> Reading:
    """Read a text in windows of max_seq_len, in the mode the model is in: call model.eval() first.

    Shapes: ids (N + 1,).
    """
    losses, layers = [], [[] for _ in model.blocks]
    for x, y in evaluation_batches(ids, READ_AT_ONCE, model.config.max_seq_len):
        logits, routings = model(x)
        losses.append(F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none"))
        for layer, routing in zip(layers, routings, strict=True):
            layer.append(routing)
    joined = [Routing(*map(torch.cat, zip(*layer, strict=True))) for layer in layers]
    return Reading(torch.cat(losses), joined)


def chosen_set(routing: Routing) -> Tensor:
    """One number for the set of experts of each token, whatever their order. Shapes: -> (N,)."""
    num_experts = routing.probs.shape[1]
    places = num_experts ** torch.arange(routing.experts.shape[1])  # (K,)
    return (routing.experts.sort(dim=-1).values * places).sum(dim=-1)


def choose(probs: Tensor, experts: Tensor) -> Routing:
    """The routing with these experts, and the weights the softmax router gives them.

    Shapes: probs (N, E), experts (N, K) -> Routing.
    """
    chosen = probs.gather(1, experts)  # (N, K)
    return Routing(chosen / chosen.sum(dim=-1, keepdim=True), experts, probs)


def unchanged(routing: Routing) -> Routing:
    """The router's own decision."""
    return routing


def top(k: int) -> Change:
    """Another number of experts than in training."""
    return lambda routing: choose(routing.probs, routing.probs.topk(k, dim=-1).indices)


def equal_weights(routing: Routing) -> Routing:
    """The chosen experts, each with the weight 1 / K."""
    return routing._replace(weights=torch.full_like(routing.weights, 1 / routing.weights.shape[1]))


def random_choice(generator: torch.Generator) -> Change:
    """Different experts drawn evenly, with the weights of those that the router chose."""

    def change(routing: Routing) -> Routing:
        draws = torch.rand(routing.probs.shape, generator=generator)  # (N, E)
        return routing._replace(experts=draws.topk(routing.experts.shape[1], dim=-1).indices)

    return change


def without(*experts: int) -> Change:
    """Some experts removed: the next best takes the place, and the weights add up to 1 again.

    The change raises ValueError if fewer than K are left.
    """

    def change(routing: Routing) -> Routing:
        num_experts, top_k = routing.probs.shape[1], routing.experts.shape[1]
        if (left := num_experts - len(set(experts))) < top_k:
            raise ValueError(f"{left} of {num_experts} experts are left; a token needs {top_k}")
        allowed = routing.probs.index_fill(1, torch.tensor(experts, dtype=torch.long), -1.0)
        best = allowed.topk(top_k, dim=-1).indices  # (N, K)
        return choose(routing.probs, best)

    return change


def forced(expert: int) -> Change:
    """Every token to this expert alone: it is all of the K choices."""

    def change(routing: Routing) -> Routing:
        return choose(routing.probs, torch.full_like(routing.experts, expert))

    return change


def replayed(experts: Tensor) -> Change:
    """The choices of another reading, in the order in which the tokens come; weights as now.

    Shapes: experts (N, K), for N tokens in one or more calls.
    """
    done = 0

    def change(routing: Routing) -> Routing:
        nonlocal done
        start, done = done, done + len(routing.probs)
        if done > len(experts):
            raise ValueError(f"{len(experts)} choices were recorded, but {done} tokens came")
        return choose(routing.probs, experts[start:done])

    return change


class ChangedRouter(nn.Module):
    """A trained router whose decision is changed on its way to the experts.

    dtype: the logits are computed and rounded in it (None: as the router does).
    Shapes: x (N, D) -> Routing. Raises: ValueError for a sigmoid router.
    """

    def __init__(self, trained: nn.Module, change: Change, dtype: torch.dtype | None) -> None:
        super().__init__()
        if trained.router != "softmax":
            raise ValueError(f"router={trained.router!r}: only weights that add up to 1 are known")
        self.trained, self.change, self.dtype = trained, change, dtype
        self.router = trained.router

    def forward(self, x: Tensor) -> Routing:
        if self.dtype is None:
            return self.change(self.trained(x))
        weight = self.trained.scores.weight
        logits = F.linear(x.to(self.dtype), weight.to(self.dtype)).float()  # (N, E)
        best = logits.topk(self.trained.top_k, dim=-1).indices  # (N, K)
        return self.change(choose(logits.softmax(-1), best))


@contextmanager
def rerouted(
    model: MoELanguageModel,
    change: Change | Mapping[int, Change] = unchanged,
    *,
    dtype: torch.dtype | None = None,
) -> Iterator[None]:
    """Ask the routers otherwise in a `with` block; afterwards the model is as it was.

    change: of all layers, or layer (from 0) -> its change. dtype: as in `ChangedRouter`.
    """
    everywhere = dict.fromkeys(range(len(model.blocks)), change)
    changes = change if isinstance(change, Mapping) else everywhere
    trained = {layer: model.blocks[layer].moe.router for layer in changes}
    new = {layer: ChangedRouter(trained[layer], one, dtype) for layer, one in changes.items()}
    try:
        for layer, router in new.items():
            model.blocks[layer].moe.router = router
        yield
    finally:
        for layer, router in trained.items():
            model.blocks[layer].moe.router = router
