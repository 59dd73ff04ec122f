"""What is each choice of chapter 08 worth? Its training of 2,000 steps, with one thing changed.

python -m benchmarks.choices                      (all, about 20 minutes on one quiet core)
python -m benchmarks.choices "no warm-up" --seeds 2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from benchmarks.report import RESULTS, cpu_name
from moe_tutorial.config import Config, ModelConfig, TrainingConfig
from moe_tutorial.corpus import load_corpus
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import start_training, train

# The settings of the chapter; a test compares them.
CHAPTER = Config(
    model=ModelConfig(
        dim=96, num_layers=2, num_heads=4, num_experts=8, top_k=2, hidden_dim=96,
        shared_expert=False, dropout=0.0,
    ),
    training=TrainingConfig(
        batch_size=6, learning_rate=4e-3, weight_decay=1.0, warmup_steps=100, epochs=12,
        max_steps=2000, eval_steps=500, save_steps=650,
    ),
)  # fmt: skip
DROPOUT, STAYS = {"dropout": 0.1}, "dropout 0.1, lost after the first measurement"
CHOICES = {  # name -> changed settings of the model and of the training
    "as in the chapter": ({}, {}),
    "no warm-up": ({}, {"warmup_steps": 0}),
    "gains decay too": ({}, {}),
    "weight decay 0.1": ({}, {"weight_decay": 0.1}),
    "no balance loss": ({"load_balancing_loss_coef": 0.0}, {}),
    "dense": ({"num_experts": 1, "top_k": 1, "hidden_dim": 192}, {}),
    "dropout 0.1": (DROPOUT, {}),
    STAYS: (DROPOUT, {}),
}
RESULT = RESULTS / "chapters" / "08.json"


class Outcome(NamedTuple):
    """One finished training."""

    choice: str
    seed: int
    held_out: list[float]  # nats per character, at every measurement
    busiest: float  # largest share over the mean share of a layer, mean load of the last 50 steps
    idle: int  # experts without an assignment in any of the last 50 steps
    gains: list[float]  # the smallest and the largest gain of all norms
    cpu: str


def outcome(choice: str, seed: int, steps: int | None = None) -> Outcome:
    """Train once; with `steps`, only so many (for the tests)."""
    text = load_corpus(CHAPTER.training.dataset)
    tokenizer = CharTokenizer.fit(text.train + text.validation)
    ids = [tokenizer.encode(part) for part in text]
    of_model, of_training = CHOICES[choice]
    limit = {"max_steps": steps or CHAPTER.training.max_steps, "seed": seed}
    config = CHAPTER.training.model_copy(update={**of_training, **limit})
    torch.manual_seed(seed)
    model = MoELanguageModel(CHAPTER.model.model_copy(update=of_model), tokenizer.vocab_size)
    state = start_training(model, config)
    if choice == "gains decay too":
        for group in state.optimizer.param_groups:
            group["weight_decay"] = config.weight_decay
    held_out, loads = [], []
    for record in train(state, *ids, config):
        loads.append(record.expert_load)
        if record.validation_loss is not None:
            held_out.append(record.validation_loss)
            if choice == STAYS:
                model.eval()
    load = torch.stack(loads[-50:]).mean(dim=0)  # (L, E)
    gains = torch.cat([p.detach() for p in model.parameters() if p.ndim == 1])
    busiest, idle = load.max().item() * load.shape[-1], int((load == 0).sum())
    around = [gains.min().item(), gains.max().item()]
    return Outcome(choice, seed, held_out, busiest, idle, around, cpu_name())


def table(found: list[Outcome]) -> list[str]:
    """The held-out loss at the end, one row per choice and one column per seed, in Markdown."""
    seeds = sorted({one.seed for one in found})
    lines = [
        "| training | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "|" + "---|" * (len(seeds) + 2),
    ]
    for choice in CHOICES:
        losses = {one.seed: one.held_out[-1] for one in found if one.choice == choice}
        if losses:
            cells = [f" {losses[seed]:.3f} |" if seed in losses else " |" for seed in seeds]
            lines.append(f"| {choice} |{''.join(cells)} {mean(losses.values()):.3f} |")
    return lines


def saved(path: Path) -> list[Outcome]:
    """What has been measured so far."""
    if not path.is_file():
        return []
    return [Outcome(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def main(arguments: list[str] | None = None) -> None:
    """Train what is named, keep each result in a file, print the table of all results in it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("choices", nargs="*", help=f"of: {'; '.join(CHOICES)}; all if left out")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each")
    parser.add_argument("--steps", type=int, help="fewer steps than the chapter, for a look")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file of the results")
    options = parser.parse_args(arguments)
    if unknown := set(options.choices) - set(CHOICES):
        parser.error(f"unknown: {', '.join(unknown)}")
    torch.set_num_threads(1)
    for choice in options.choices or CHOICES:
        for seed in range(options.seeds):
            one = outcome(choice, seed, options.steps)
            kept = [two for two in saved(options.out) if (two.choice, two.seed) != one[:2]]
            kept = sorted([*kept, one], key=lambda two: (list(CHOICES).index(two.choice), two.seed))
            text = json.dumps([two._asdict() for two in kept], indent=1) + "\n"
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text, encoding="utf-8", newline="\n")
    print("\n".join(table(saved(options.out))))


if __name__ == "__main__":
    main()
