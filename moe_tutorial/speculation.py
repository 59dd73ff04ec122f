"""Faster text of the same distribution: a draft from counts, checked by the model. Chapter 16.

A draft guesses several tokens, one pass of the model gives its own probabilities for all of them,
and rejection sampling keeps of the guesses what leaves the model's distribution as it is.
Source: Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.

Shape letters: T time, V vocabulary, L layers, K experts per token, G guesses checked in one pass.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import Reader, check_prompt, check_sampling, next_token_probs

MOST_SEQUENCES = 2**20  # that a draft counts; in its file they take 8 to 12 bytes each
MOST_KNOWN = 2**22  # probabilities that a draft remembers, 4 bytes each

How = Literal["accepted", "corrected", "drawn"]
Rule = Callable[[Tensor], Tensor]  # logits (V,) -> probabilities (V,): temperature, top-k, top-p


class Draft(Protocol):
    """Whatever guesses the next token: probabilities (V,) after the ids of a text."""

    def probs(self, context: Sequence[int]) -> Tensor: ...


class SpeculatedToken(NamedTuple):
    """One new token, as `GeneratedToken`, and how it came about."""

    token: int
    probs: Tensor  # (V,) the model's probabilities, from which it comes
    experts: Tensor  # (L, K) experts that processed it when it was read
    how: How  # a guess that was accepted, the correction of a rejected one, or drawn without one


def accept_probability(p: Tensor, q: Tensor) -> Tensor:
    """How probably each token is kept if the draft guesses it: min(1, p / q).

    p are the model's probabilities, q those the guess is drawn from. Shapes: (V,), (V,) -> (V,).
    """
    return torch.where(p < q, p / q, 1.0)


def rest(p: Tensor, q: Tensor) -> Tensor:
    """What to draw from after a rejection: max(p - q, 0), divided by its sum.

    Where p = q nothing is rejected, but for rounding; then p. Shapes: (V,), (V,) -> (V,).
    """
    left = (p - q).clamp(min=0)
    total = left.sum()
    return left / total if total > 0 else p


def overlap(p: Tensor, q: Tensor) -> float:
    """The share of guesses from q that is accepted: the sum of min(p, q). Shapes: (V,), (V,)."""
    return float(torch.minimum(p, q).sum())


def draw_token(probs: Tensor, generator: torch.Generator | None = None) -> int:
    """One token of a distribution. Shapes: probs (V,)."""
    return int(torch.multinomial(probs, 1, generator=generator))


def happens(chance: float, generator: torch.Generator | None = None) -> bool:
    """True with probability `chance`."""
    return torch.rand((), generator=generator).item() < chance


class CountedDraft:
    """Guesses from what followed the last order - 1 tokens in a text, as chapter 01 counts.

    p_n(c | h) = (count(h c) + kinds(h) * p_(n-1)(c | h')) / (count(h) + kinds(h)), where h' is h
    without its oldest token, kinds(h) the number of different tokens seen after h, p_0 uniform.
    keys[n - 1] holds every sequence of n tokens of the text once, ascending, as one number: its
    tokens are the digits to base V. counts[n - 1] says how often each occurs.
    Source: Witten & Bell 1991, IEEE Trans. Inf. Theory 37(4).
    """

    def __init__(self, keys: Sequence[Tensor], counts: Sequence[Tensor], vocab_size: int) -> None:
        self.keys, self.counts = list(keys), list(counts)
        self.vocab_size = vocab_size
        self._known: dict[tuple[int, ...], Tensor] = {}

    @property
    def order(self) -> int:
        """How many tokens the longest counted sequences have."""
        return len(self.keys)

    @classmethod
    def count(cls, ids: Tensor, vocab_size: int, order: int = 5) -> Self:
        """Count the sequences of 1 .. order tokens of a text; fewer, if the table grows too large.

        Shapes: ids (T,) int64. Raises: ValueError if there is no token, or order is below 1.
        """
        if len(ids) == 0 or order < 1:
            raise ValueError(f"{len(ids)} tokens and order={order}: both must be at least 1")
        keys, counts, sequences = [], [], ids.cpu()
        for n in range(1, min(order, len(ids)) + 1):
            if vocab_size**n >= 2**62:
                break
            if n > 1:
                sequences = sequences[:-1] * vocab_size + ids[n - 1 :].cpu()  # (T - n + 1,)
            key, count = sequences.unique(return_counts=True)
            if n > 1 and len(key) + sum(map(len, keys)) > MOST_SEQUENCES:
                break
            keys.append(key)
            counts.append(count)
        return cls(keys, counts, vocab_size)

    def probs(self, context: Sequence[int]) -> Tensor:
        """Probabilities (V,) of the token that comes next."""
        if len(self._known) * self.vocab_size > MOST_KNOWN:
            self._known.clear()
        return self._after(tuple(context[max(0, len(context) - self.order + 1) :]))

    def _after(self, history: tuple[int, ...]) -> Tensor:
        if history not in self._known:
            uniform = torch.full((self.vocab_size,), 1 / self.vocab_size)  # (V,)
            lower = self._after(history[1:]) if history else uniform  # (V,)
            tokens, counts = self._followers(history)
            kinds = len(tokens)
            mixed = (kinds * lower).index_add_(0, tokens, counts.float())  # (V,)
            self._known[history] = mixed / (counts.sum() + kinds) if kinds else lower
        return self._known[history]

    def _followers(self, history: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Which tokens followed a history, and how often. Shapes: -> (kinds,), (kinds,)."""
        keys, first = self.keys[len(history)], 0
        for token in (*history, 0):
            first = first * self.vocab_size + token
        span = torch.tensor([first, first + self.vocab_size])
        start, end = torch.searchsorted(keys, span).tolist()
        return keys[start:end] - first, self.counts[len(history)][start:end]


class CheckingReader(Reader):
    """A `Reader` that reads guesses behind the text, and forgets those that were rejected."""

    @property
    def room(self) -> int:
        """How many more tokens fit before the window slides."""
        return self.model.config.max_seq_len - len(self.window)

    @torch.inference_mode()
    def check(self, tokens: list[int], guesses: list[int]) -> tuple[Tensor, Tensor]:
        """Logits (1 + G, V) after the last of the tokens and after each guess, and their experts.

        The tokens are what `slide` gave. Shapes: -> (1 + G, V), (1 + G, L, K).
        """
        ids = torch.tensor([tokens + guesses], device=self.model.head.weight.device)
        self.window += guesses
        logits, routings = self.model(ids, self.caches)
        new = 1 + len(guesses)
        return logits[0, -new:], torch.stack([r.experts[-new:] for r in routings], dim=1)

    def forget(self, number: int) -> None:
        """Cut the last tokens off the window and the caches, as if they had not been read."""
        del self.window[len(self.window) - number :]
        for cache in self.caches:
            cache.length -= number


def propose(
    draft: Draft, text: Sequence[int], number: int, rule: Rule, generator: torch.Generator | None
) -> tuple[list[int], list[Tensor]]:
    """Guesses G, each drawn behind the one before it, and the probabilities (V,) of each draw."""
    guesses, q = [], []
    for _ in range(number):
        q.append(rule(draft.probs([*text, *guesses]).log()))
        guesses.append(draw_token(q[-1], generator))
    return guesses, q


def decide(
    guesses: Sequence[int],
    p: Sequence[Tensor],
    q: Sequence[Tensor],
    generator: torch.Generator | None,
) -> tuple[int, int, How]:
    """How many guesses are accepted, the token that comes behind them, and how it came about.

    p has one distribution (V,) for each guess and one for the token behind the last, q only those
    of the guesses.
    """
    for i, token in enumerate(guesses):
        if not happens(accept_probability(p[i], q[i])[token].item(), generator):
            return i, draw_token(rest(p[i], q[i]), generator), "corrected"
    return len(guesses), draw_token(p[len(guesses)], generator), "drawn"


def speculate(
    model: MoELanguageModel,
    prompt: Tensor,
    draft: Draft,
    *,
    draft_length: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[SpeculatedToken]:
    """`generate`, but each pass of the model checks up to draft_length guesses of a draft.

    Every token has the distribution from which `generate` draws it; the same seed gives another
    text. A token is yielded once it has been read: a corrected or drawn one with the next pass.
    Shapes: prompt (T,) int64. Raises: as `generate`; ValueError if draft_length is below 0.
    """
    check_sampling(temperature, top_k, top_p)
    check_prompt(prompt)
    if draft_length < 0:
        raise ValueError(f"draft_length={draft_length} must be 0 (no draft) or more")
    rule = partial(next_token_probs, temperature=temperature, top_k=top_k, top_p=top_p)
    reader, text, left = CheckingReader(model), prompt.tolist(), max_new_tokens
    unread, unread_record = list(text), None
    while left or unread_record:
        tokens = reader.slide(unread)
        number = max(0, min(draft_length, left - 1, reader.room))
        guesses, q = propose(draft, text, number, rule, generator)
        logits, experts = reader.check(tokens, guesses)
        if unread_record:
            yield unread_record._replace(experts=experts[0])
        if not left:
            return
        p = [rule(row) for row in logits.float().cpu()]
        accepted, token, how = decide(guesses, p, q, generator)
        for i in range(accepted):
            yield SpeculatedToken(guesses[i], p[i], experts[i + 1], "accepted")
        reader.forget(len(guesses) - accepted)
        text += [*guesses[:accepted], token]
        unread, unread_record = [token], SpeculatedToken(token, p[accepted], experts[0], how)
        left -= accepted + 1
