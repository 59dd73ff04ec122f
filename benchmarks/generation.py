"""How many characters per second does generation write, one text at a time?"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.contenders import VOCAB_SIZE, fastest, hugging_face, implementations, ours
from benchmarks.effort import Effort
from benchmarks.report import Table, against
from benchmarks.timing import interleave, ratio, spread
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = {"S": 5.0, "M": 2.3}  # times transformers; past the window half of it
PROMPT_LENGTH = 8
TEMPERATURE = 0.8


def our_text(model: MoELanguageModel, prompt: Tensor, new: int) -> Callable[[], object]:
    """One call writes `new` tokens through the library's public `generate`."""
    return lambda: list(generate(model, prompt, max_new_tokens=new, temperature=TEMPERATURE))


def their_text(model: PreTrainedModel, prompt: Tensor, new: int) -> Callable[[], object]:
    """The same with transformers' `generate` and its key-value cache."""

    def call() -> None:
        text = model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=new,
            do_sample=True, temperature=TEMPERATURE, top_k=0,
        )  # fmt: skip
        assert text.shape[1] == len(prompt) + new

    return call


def measure(effort: Effort) -> Table:
    """Inside a window that has room for everything, and behind a full one; one core."""
    new = effort.new_tokens
    table = Table(
        f"Generation, batch 1, {new} new tokens, tokens per second of CPU time, one core",
        ["model", "this library", "past the window", "transformers", "÷ transformers",
         "past the window ÷ transformers", "spread"],
        notes=["Past the window: the prompt already fills the context."],
    )  # fmt: skip
    for name, setup in effort.setups.items():
        roomy = setup.model.model_copy(update={"max_seq_len": PROMPT_LENGTH + new})
        prompt = torch.arange(PROMPT_LENGTH)
        full = torch.arange(setup.model.max_seq_len) % VOCAB_SIZE
        theirs = hugging_face(roomy)
        best = fastest(
            theirs, implementations(roomy, 1), their_text(theirs, prompt, min(new, 64)), rounds=1
        )
        times = interleave(
            {
                "ours": our_text(ours(roomy).eval(), prompt, new),
                "past": our_text(ours(setup.model).eval(), full, new),
                "transformers": their_text(theirs, prompt, new),
            },
            effort.generation_rounds,
            0.0,
        )
        rates = {key: f"{new / median(rounds):,.0f}" for key, rounds in times.items()}
        inside = ratio(times["transformers"], times["ours"])
        past = ratio(times["transformers"], times["past"])
        table.rows.append(
            [
                name, rates["ours"], rates["past"], f"{rates['transformers']} ({best})",
                f"{inside:.2f} ({against(inside, TARGETS[name])})",
                f"{past:.2f} ({against(past, TARGETS[name] / 2)})",
                f"{max(map(spread, times.values())):.1%}",
            ]
        )  # fmt: skip
        table.measurements[name] = times
    return table
