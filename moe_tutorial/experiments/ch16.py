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
from moe_tutorial.experiments.ask import ASKED
from moe_tutorial.experiments.base import MODEL, Experiment, Json, rounded, texts, train_once
from moe_tutorial.experiments.ch16_drafts import ModelDraft, first_layers
from moe_tutorial.model import ModelOutput, MoELanguageModel
from moe_tutorial.sampling import generate, next_token_probs
from moe_tutorial.speculation import (
    CountedDraft,
    Draft,
    SpeculatedToken,
    overlap,
    propose,
    speculate,
)

SMALL = {"dim": 48, "num_layers": 1, "num_experts": 1, "top_k": 1, "hidden_dim": 96}
ORDERS = (2, 3, 4, 5, 6)
USUAL = "counts of 5"
TEMPERATURE = 0.8
LENGTHS = (1, 2, 3, 4, 6, 8, 12)  # of the draft
CHARACTERS = 900  # of each text
HELD_OUT = 1920  # characters on which the overlap is measured
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
    """Milliseconds per pass, with all that belongs to it: plain, and with drafts of each length."""
    options = {"max_new_tokens": number, "temperature": TEMPERATURE}

    def plain() -> None:
        list(generate(model, prompt, generator=torch.Generator().manual_seed(0), **options))

    def drafted(length: int) -> list[SpeculatedToken]:
        generator = torch.Generator().manual_seed(0)
        told = {"draft_length": length, "generator": generator}
        return list(speculate(model, prompt, draft, **told, **options))

    return {
        "plain": least(plain, 3) / number,
        "drafted": [least(partial(drafted, n), 3) / len(runs(drafted(n))) for n in LENGTHS],
    }


def guess_time(draft: Draft, ids: Tensor) -> float:
    """Milliseconds of a guess and its drawing, mean along a text: some guesses are remembered."""
    generator, started = torch.Generator().manual_seed(0), time.process_time()
    for window in ids.split(128):
        text = window.tolist()
        for end in range(1, len(text)):
            propose(draft, text[:end], 1, RULE, generator)
    return 1e3 * (time.process_time() - started) / len(ids)


def drafts(variant: str, seed: int, quick: bool) -> Json:
    """Train a model and a smaller one, then let every draft guess for the model."""
    ids = texts()
    V, changes = ids.tokenizer.vocab_size, MODEL.model_copy(update=SMALL)
    model = train_once(ids, seed, training=ASKED, quick=quick).model
    small = train_once(ids, seed, model=changes, training=ASKED, quick=quick).model
    by_name: dict[str, Draft] = {
        f"counts of {order}": CountedDraft.count(ids.train, V, order) for order in ORDERS
    }
    by_name |= {"smaller model": ModelDraft(small), "one layer": ModelDraft(first_layers(model, 1))}
    text = ids.validation[: 66 if quick else HELD_OUT]
    number, rounds = (40, 2) if quick else (CHARACTERS, 40)
    found: Json = {
        name: {
            "acceptance": acceptance(model, draft, text),
            "written": {
                str(length): written(model, draft, text[:20], length, number) for length in LENGTHS
            },
        }
        for name, draft in by_name.items()
    }
    other = ids.validation[4000 : 4000 + len(text)]
    found["guess"] = {name: guess_time(draft, other) for name, draft in by_name.items()}
    with torch.inference_mode():
        found["pass"] = pass_times(model, rounds)
    return rounded(found | speeds(model, by_name[USUAL], text[:20], 20 if quick else 300))


LARGE = {"dim": 512, "num_layers": 4, "num_heads": 8, "num_experts": 32, "hidden_dim": 512}
DENSE = {"num_experts": 1, "top_k": 1}
SIZES: dict[str, Json] = {
    "small, mixture": {},
    "small, dense, active size": {**DENSE, "hidden_dim": 192},
    "small, dense, total size": {**DENSE, "hidden_dim": 768},
    "large, mixture": LARGE,
    "large, dense, active size": {**LARGE, **DENSE, "hidden_dim": 1024},
    "large, dense, total size": {**LARGE, **DENSE, "hidden_dim": 16384},
}


def pass_time(variant: str, seed: int, quick: bool) -> Json:
    """What a pass costs for several tokens at once: a fresh mixture and its dense twins."""
    changes = SIZES[variant] | ({"dim": 32, "hidden_dim": 32} if quick else {})
    torch.manual_seed(seed)
    model = MoELanguageModel(MODEL.model_copy(update=changes), 61).eval()
    with torch.inference_mode():
        found: Json = {"milliseconds": pass_times(model, 3 if quick else 40)}
        with watched(model) as passes:
            pass_times(model, 3)
    touched = {n: [e for one in passes if one.tokens == n for e in one.touched] for n in TOKENS}
    return rounded(found | {"touched": [mean(touched[n]) for n in TOKENS]})


EXPERIMENTS = [
    Experiment(
        "drafts",
        "how many guesses of which draft are accepted, and how long should a draft be?",
        ["trained"],
        drafts,
        5,
        {
            "model": MODEL.model_dump(),
            "training": ASKED.model_dump(),
            "smaller model": SMALL,
            "temperature": TEMPERATURE,
            "lengths": LENGTHS,
            "characters": CHARACTERS,
            "held out": HELD_OUT,
            "tokens of a timed pass": TOKENS,
        },
        statements.DRAFTS,
    ),
    Experiment(
        "pass_time",
        "what does a pass for several tokens cost a mixture and its dense twins?",
        list(SIZES),
        pass_time,
        3,
        {"sizes": SIZES, "tokens": TOKENS, "tokens before them": READ},
        statements.PASS_TIME,
    ),
]
