"""Chapter 16: how many guesses a model accepts, and what a pass for several characters costs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.experiments import ch16_statements as statements
from moe_tutorial.experiments.ask import specialists
from moe_tutorial.experiments.base import MODEL, TRAINING, Experiment, Json, rounded, train_once
from moe_tutorial.experiments.ch16_drafts import ModelDraft, first_layers
from moe_tutorial.model import ModelOutput, MoELanguageModel
from moe_tutorial.sampling import generate, next_token_probs
from moe_tutorial.speculation import CountedDraft, Draft, SpeculatedToken, overlap, speculate

SMALL = {"dim": 48, "num_layers": 1, "num_experts": 1, "top_k": 1, "hidden_dim": 96}
ORDERS = (2, 3, 4, 5, 6)
USUAL = "counts of 5"
SHORT = TRAINING.model_copy(update={"max_steps": 300})  # training of the smaller model
TEMPERATURE = 0.8
LENGTHS = (1, 2, 3, 4, 6, 8, 12)  # of the draft
SOME = (2, 4, 8)  # of drafts that are only compared
CHARACTERS = 240  # of each text
HELD_OUT = 256  # characters on which the overlap is measured
TOKENS = (1, 2, 3, 4, 5, 7, 9, 13)  # of one pass
READ = 64  # tokens in the cache before a timed pass
RULE = partial(next_token_probs, temperature=TEMPERATURE)


def acceptance(model: MoELanguageModel, draft: Draft, ids: Tensor) -> float:
    """Mean overlap on a text."""
    found = []
    for window in ids.split(model.config.max_seq_len):
        with torch.inference_mode():
            rows = model(window[None]).logits[0]
        for i, row in enumerate(rows):
            guess = draft.probs(window[: i + 1].tolist()).log()
            found.append(overlap(RULE(row), RULE(guess)))
    return mean(found)


class Pass(NamedTuple):
    """One pass of a model."""

    tokens: int
    touched: list[int]  # experts, of each layer


@contextmanager
def watched(model: MoELanguageModel) -> Iterator[list[Pass]]:
    """Collects the passes of a model."""
    passes: list[Pass] = []

    def note(model: MoELanguageModel, inputs: tuple[Tensor, ...], output: ModelOutput) -> None:
        touched = [routing.experts.unique().numel() for routing in output.routings]
        passes.append(Pass(inputs[0].shape[1], touched))

    handle = model.register_forward_hook(note)
    yield passes
    handle.remove()


def runs(tokens: Sequence[SpeculatedToken]) -> list[int]:
    """How many guesses each pass accepted."""
    found, now = [], 0
    for token in tokens:
        now += token.how == "accepted"
        if token.how != "accepted":
            found.append(now)
            now = 0
    return found


def least(act: Callable[[], object], rounds: int) -> float:
    """Milliseconds of processor time, the least of all rounds."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        act()
        times.append(1e3 * (time.process_time() - started))
    return min(times)


def pass_times(model: MoELanguageModel, rounds: int) -> list[float]:
    """Milliseconds of one pass for each number of TOKENS, behind READ others."""
    caches, generator = model.new_caches(), torch.Generator().manual_seed(0)

    def one(ids: Tensor) -> None:
        for cache in caches:
            cache.length = READ
        model(ids, caches)

    def least_of(number: int) -> float:
        size = (rounds + 1, 1, number)
        rows = iter(torch.randint(model.head.weight.shape[0], size, generator=generator))
        one(next(rows))
        return least(lambda: one(next(rows)), rounds)

    model(torch.zeros(1, READ, dtype=torch.long), caches)
    return [least_of(number) for number in TOKENS]


def written(
    model: MoELanguageModel, draft: Draft, prompt: Tensor, length: int, number: int
) -> Json:
    """A text with a draft of one length.

    per pass: characters. accepted[i]: of the passes that had room for all guesses, how many
    accepted i or more. touched: experts per layer in such a pass.
    """
    generator = torch.Generator().manual_seed(length)
    options = {"max_new_tokens": number, "temperature": TEMPERATURE, "generator": generator}
    with watched(model) as passes:
        tokens = list(speculate(model, prompt, draft, draft_length=length, **options))
    accepted = runs(tokens)
    full = [n for n, one in zip(accepted, passes, strict=False) if one.tokens > length]
    return {
        "per pass": len(tokens) / len(accepted),
        "accepted": [sum(n >= i for n in full) for i in range(length + 1)],
        "touched": mean(n for one in passes if one.tokens == length + 1 for n in one.touched),
    }


def speeds(model: MoELanguageModel, draft: Draft, prompt: Tensor, number: int) -> Json:
    """Milliseconds per character, without a draft and with drafts of each length."""
    options = {"max_new_tokens": number, "temperature": TEMPERATURE}

    def plain() -> None:
        list(generate(model, prompt, generator=torch.Generator().manual_seed(0), **options))

    def drafted(length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        list(speculate(model, prompt, draft, draft_length=length, generator=generator, **options))

    return {
        "plain": least(plain, 1) / number,
        "drafted": [least(partial(drafted, length), 1) / number for length in LENGTHS],
    }


def drafts(variant: str, seed: int, quick: bool) -> Json:
    """Let every draft guess for the model of chapter 12; the seed draws texts and a small model."""
    model, ids = specialists()
    V, changes = ids.tokenizer.vocab_size, MODEL.model_copy(update=SMALL)
    small = train_once(ids, seed, model=changes, training=SHORT, quick=quick).model
    by_name: dict[str, Draft] = {
        f"counts of {order}": CountedDraft.count(ids.train, V, order) for order in ORDERS
    }
    by_name |= {"smaller model": ModelDraft(small), "one layer": ModelDraft(first_layers(model, 1))}
    text = ids.validation[5000 * seed : 5000 * seed + (64 if quick else HELD_OUT)]
    number, rounds = (40, 2) if quick else (CHARACTERS, 40)
    found: Json = {
        name: {
            "acceptance": acceptance(model, draft, text),
            "written": {
                str(length): written(model, draft, text[:20], length, number)
                for length in (LENGTHS if name == USUAL else SOME)
            },
        }
        for name, draft in by_name.items()
    }
    context = text[: READ + 1].tolist()
    found["guess"] = {
        name: least(partial(guess, unused(draft), context), rounds)
        for name, draft in by_name.items()
    }
    with torch.inference_mode():
        found["pass"] = pass_times(model, rounds)
    return rounded(found | speeds(model, by_name[USUAL], text[:20], 20 if quick else 120))


def unused(draft: Draft) -> Draft:
    """The same counts, of which no probability is remembered yet."""
    if isinstance(draft, CountedDraft):
        return CountedDraft(draft.keys, draft.counts, draft.vocab_size)
    return draft


def guess(draft: Draft, context: list[int]) -> None:
    """One guess behind a text whose last token is another in every call."""
    context[-1] = (context[-1] + 1) % 61
    draft.probs(context)


EXPERIMENTS = [
    Experiment(
        "drafts",
        "how many guesses of which draft are accepted, and how long should a draft be?",
        ["chapter 12"],
        drafts,
        3,
        {
            "smaller model": SMALL,
            "its training": SHORT.model_dump(),
            "temperature": TEMPERATURE,
            "lengths": LENGTHS,
            "characters": CHARACTERS,
            "held out": HELD_OUT,
            "tokens of a timed pass": TOKENS,
        },
        statements.DRAFTS,
    ),
]
