"""From logits to text: temperature, top-k, top-p, generation with a cache. Chapter 09.

Shape letters: T time, V vocabulary, L layers, K experts per token.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.model import MoELanguageModel


def next_token_probs(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Probabilities to draw the next token from: temperature, then top-k, then top-p, renormalized.

    softmax(logits / temperature); temperature 0 gives the best token probability 1 (greedy).
    top_k keeps the k most probable tokens. top_p keeps the smallest set of most probable tokens
    whose probability reaches p, at least one. Shapes: logits (V,) -> (V,).
    A logit of -inf forbids a token.
    Raises: ValueError if temperature < 0, top_k is no whole number from 1, top_p is not in (0, 1],
    a logit is NaN or +inf, or all are -inf.
    Source: top-k: Fan et al. 2018, arXiv:1805.04833; top-p: Holtzman et al. 2019, arXiv:1904.09751.
    Chapter 09.
    """
    check_sampling(temperature, top_k, top_p)
    if not logits.max().isfinite():
        raise ValueError(f"the largest of the logits is {logits.max()}; the model is damaged")
    if temperature == 0:
        return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
    # Subtracting the largest logit first changes nothing but keeps tiny temperatures finite.
    probs = ((logits - logits.max()) / temperature).softmax(dim=-1)
    probs, order = probs.sort(descending=True, stable=True)
    if top_k is not None:
        probs[top_k:] = 0
        probs = probs / probs.sum()
    if top_p is not None and top_p < 1:
        before = probs.cumsum(dim=-1) - probs  # probability of all better tokens
        probs = torch.where(before < top_p, probs, 0)
        probs = probs / probs.sum()
    return torch.empty_like(probs).index_copy_(0, order, probs)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError unless the three sampling parameters are in their ranges."""
    if temperature != 0 and not 1e-30 <= temperature <= 1e30:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or from 1e-30 to 1e30")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k={top_k} must be a whole number from 1; leave it out to keep all")
    if top_p is not None and not 1e-30 <= top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1; leave it out to keep all")


class GeneratedToken(NamedTuple):
    """One new token, why it was drawn, and where it went."""

    token: int
    probs: Tensor  # (V,) probabilities it was drawn from
    experts: Tensor  # (L, K) experts that processed it when it was read in turn


class Reader:
    """Feeds tokens to a model through its caches and returns what it predicts next.

    Every token is computed once, until the context is full. Then the window slides: the oldest
    quarter is forgotten and the rest read again from position 0, so that the logits are those of
    the kept text alone. Between two slides the context is therefore 3/4 to 4/4 of max_seq_len; of
    more tokens at once only the last 3/4 are read.
    """

    def __init__(self, model: MoELanguageModel) -> None:
        self.model = model
        self.window: list[int] = []
        self.caches = model.new_caches()

    def slide(self, tokens: list[int]) -> list[int]:
        """Add tokens to the window; return those to be read: all of it, where it had to slide."""
        max_seq_len = self.model.config.max_seq_len
        self.window += tokens
        if len(self.window) <= max_seq_len:
            return tokens
        self.window = self.window[-max(1, 3 * max_seq_len // 4) :]
        self.caches = self.model.new_caches()
        return self.window

    @torch.inference_mode()
    def read(self, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """Logits (V,) after the last token, and its experts (L, K)."""
        ids = torch.tensor([self.slide(tokens)], device=self.model.head.weight.device)
        logits, routings = self.model(ids, self.caches)
        return logits[0, -1], torch.stack([routing.experts[-1] for routing in routings])


def check_prompt(prompt: Tensor) -> None:
    """Raise ValueError or TypeError unless the prompt is one row (T,) of at least one token."""
    if not isinstance(prompt, torch.Tensor):
        raise TypeError(f"the prompt is a {type(prompt).__name__}; CharTokenizer.encode gives ids")
    if prompt.ndim != 1:
        raise ValueError(f"the prompt {tuple(prompt.shape)} is not one row (T,); give one text")
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give the model at least one character to continue")


def generate(
    model: MoELanguageModel,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[GeneratedToken]:
    """Continue a prompt, one token at a time; each is yielded as soon as it is known.

    Tokens are drawn on the CPU, so that a seed means the same on every device, but for rounding. In
    model.train() dropout stays on: call model.eval() first, unless that is what you want.
    Shapes: prompt (T,) int64.
    Raises: ValueError if the prompt is empty or has two axes, or a sampling parameter is out of
    range; TypeError if the prompt is not a tensor.
    """
    check_sampling(temperature, top_k, top_p)
    check_prompt(prompt)
    reader = Reader(model)
    logits, _ = reader.read(prompt.tolist())
    for _ in range(max_new_tokens):
        probs = next_token_probs(logits.float().cpu(), temperature, top_k, top_p)
        token = int(torch.multinomial(probs, 1, generator=generator))
        logits, experts = reader.read([token])
        yield GeneratedToken(token, probs, experts)
