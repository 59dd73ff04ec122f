"""How many characters per second does generation write, one text at a time?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from benchmarks.contenders import VOCAB_SIZE, fastest, hugging_face, implementations, ours
from benchmarks.effort import Effort
from benchmarks.report import Table, against
from benchmarks.timing import interleave, ratio, spread
from moe_tutorial.config import ModelConfig, TrainingConfig
from moe_tutorial.corpus import load_corpus
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import generate
from moe_tutorial.speculation import CountedDraft, speculate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import start_training, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = {"S": 2.2, "M": 1.9}  # times transformers
DRAFTED = {"S": 3.5, "M": 2.5}  # the same with a draft
LENGTHS = (4, 8)  # of drafts; both are measured, the faster one is shown
PROMPT_LENGTH = 8
TEMPERATURE = 0.8


class Fables(NamedTuple):
    """A text as ids; its 61 symbols are the first of the models' 65."""

    train: Tensor  # (N_ids,)
    prompt: Tensor  # (PROMPT_LENGTH,), the beginning of the held-out text
    draft: CountedDraft


def read_fables() -> Fables:
    """The ids of the training text, and its counts."""
    corpus = load_corpus("fables")
    tokenizer = CharTokenizer.fit("".join(corpus))
    ids = tokenizer.encode(corpus.train)
    prompt = tokenizer.encode(corpus.validation[:PROMPT_LENGTH])
    return Fables(ids, prompt, CountedDraft.count(ids, VOCAB_SIZE))


def trained(config: ModelConfig, ids: Tensor, steps: int) -> MoELanguageModel:
    """`ours` after some steps of four windows: what a draft saves depends on what a model knows."""
    model = ours(config)
    seq_len = config.max_seq_len - PROMPT_LENGTH
    settings = TrainingConfig(
        seq_len=seq_len, batch_size=4, learning_rate=1e-3, warmup_steps=steps // 10,
        max_steps=steps, epochs=1e9, eval_steps=10**9,
    )  # fmt: skip
    for _ in train(start_training(model, settings), ids, ids[: 2 * seq_len], settings):
        pass
    return model.eval()


def our_text(model: MoELanguageModel, prompt: Tensor, new: int) -> Callable[[], object]:
    """One call writes `new` tokens through the library's public `generate`."""
    return lambda: list(generate(model, prompt, max_new_tokens=new, temperature=TEMPERATURE))


def drafted_text(
    model: MoELanguageModel, fables: Fables, new: int, length: int, accepted: list[float]
) -> Callable[[], object]:
    """The same through `speculate`; the share of accepted tokens is noted."""

    def call() -> None:
        text = list(speculate(
            model, fables.prompt, fables.draft, draft_length=length, max_new_tokens=new,
            temperature=TEMPERATURE,
        ))  # fmt: skip
        accepted.append(sum(token.how == "accepted" for token in text) / new)

    return call


def their_text(
    model: PreTrainedModel, prompt: Tensor, new: int, lookup: int | None = None
) -> Callable[[], object]:
    """The same with transformers' `generate` and its key-value cache.

    lookup: tokens that its prompt lookup decoding may copy from the text so far; None: it is off.
    """

    def call() -> None:
        text = model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=new,
            do_sample=True, temperature=TEMPERATURE, top_k=0, prompt_lookup_num_tokens=lookup,
        )  # fmt: skip
        assert text.shape[1] == len(prompt) + new

    return call


def measure(effort: Effort) -> Table:
    """Trained models in a window that has room for everything, and behind a full one; one core."""
    new = effort.new_tokens
    table = Table(
        f"Generation, batch 1, {new} new tokens of the fables at temperature {TEMPERATURE}, tokens "
        f"per second of CPU time, one core",
        ["model", "this library", "with a draft", "past the window", "transformers",
         "prompt lookup", "÷ transformers", "with a draft ÷ transformers", "spread"],
        notes=[
            f"Trained on the fables for {effort.draft_steps} steps. With a draft: the counts of "
            f"chapter 16, {' or '.join(map(str, LENGTHS))} guesses, whichever is faster, and the "
            f"share of new tokens that were accepted guesses. Prompt lookup: transformers' own "
            f"draft, which copies from the text so far. Past the window: the prompt fills the "
            f"context of the untrained model."
        ],
    )  # fmt: skip
    fables = read_fables()
    for name, setup in effort.setups.items():
        roomy = setup.model.model_copy(update={"max_seq_len": PROMPT_LENGTH + new})
        model = trained(roomy, fables.train, effort.draft_steps)
        theirs = hugging_face(roomy, model)
        choices = implementations(roomy, 1)
        best = fastest(theirs, choices, their_text(theirs, fables.prompt, min(new, 64)), rounds=1)
        full = torch.arange(setup.model.max_seq_len) % VOCAB_SIZE
        accepted: dict[int, list[float]] = {length: [] for length in LENGTHS}
        text = partial(their_text, theirs, fables.prompt, new)
        times = interleave(
            {
                "ours": our_text(model, fables.prompt, new),
                "past": our_text(ours(setup.model).eval(), full, new),
                "transformers": text(),
                **{f"lookup {n}": text(n) for n in LENGTHS},
                **{f"draft {n}": drafted_text(model, fables, new, n, accepted[n]) for n in LENGTHS},
            },
            effort.generation_rounds,
            0.0,
        )
        table.rows.append(row(name, new, best, times, accepted))
        table.measurements[name] = times
    return table


def row(
    name: str,
    new: int,
    best: str,
    times: dict[str, list[float]],
    accepted: dict[int, list[float]],
) -> list[str]:
    """One line of the table."""
    rates = {key: new / median(rounds) for key, rounds in times.items()}
    draft, lookup = (max(LENGTHS, key=lambda n: rates[f"{way} {n}"]) for way in ("draft", "lookup"))
    inside = ratio(times["transformers"], times["ours"])
    drafted = ratio(times["transformers"], times[f"draft {draft}"])
    shown = [f"{rates[key]:,.0f}" for key in ("ours", "past", "transformers")]
    share = sum(accepted[draft]) / len(accepted[draft])
    return [
        name, shown[0], f"{rates[f'draft {draft}']:,.0f} ({draft} guesses, {share:.0%})", shown[1],
        f"{shown[2]} ({best})", f"{rates[f'lookup {lookup}']:,.0f} ({lookup})",
        f"{inside:.2f} ({against(inside, TARGETS[name])})",
        f"{drafted:.2f} ({against(drafted, DRAFTED[name])})",
        f"{max(map(spread, times.values())):.1%}",
    ]  # fmt: skip
