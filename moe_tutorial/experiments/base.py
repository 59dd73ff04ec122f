"""What all experiments share: one training, many side by side, and the results in a file."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from moe_tutorial import __version__
from moe_tutorial.config import ModelConfig, TrainingConfig
from moe_tutorial.corpus import load_corpus
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import load_balancing_loss
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import BalanceLoss, StepRecord, start_training, train

RESULTS = Path(__file__).resolve().parent / "results"
# The model of chapter 08; 1,000 steps take half a minute on one core.
MODEL = ModelConfig(
    dim=96, num_layers=2, num_heads=4, num_experts=8, top_k=2, hidden_dim=96, shared_expert=False,
    dropout=0.0,
)  # fmt: skip
TRAINING = TrainingConfig(
    batch_size=6, learning_rate=4e-3, weight_decay=1.0, warmup_steps=100, epochs=1e6,
    max_steps=1000, eval_steps=10**9,
)  # fmt: skip
QUICK_STEPS = 6  # of a training with --quick

Json = dict[str, object]
Measure = Callable[[str, int, bool], Json]  # variant, seed, quick -> what was measured


class Texts(NamedTuple):
    """A corpus as numbers."""

    tokenizer: CharTokenizer
    train: Tensor  # (N_ids,)
    validation: Tensor  # (N_ids,)


def texts(dataset: str = "fables") -> Texts:
    """Load a dataset and encode both of its parts."""
    corpus = load_corpus(dataset)
    tokenizer = CharTokenizer.fit(corpus.train + corpus.validation)
    return Texts(tokenizer, *(tokenizer.encode(part) for part in corpus))


class Trained(NamedTuple):
    """A finished training."""

    model: MoELanguageModel  # in evaluation mode
    records: list[StepRecord]  # of all steps
    seconds: float  # of the steps and measurements, not of what `watch` did


def train_once(
    ids: Texts,
    seed: int,
    *,
    model: ModelConfig = MODEL,
    training: TrainingConfig = TRAINING,
    quick: bool = False,
    prepare: Callable[[MoELanguageModel], None] = lambda model: None,
    balance_loss: BalanceLoss = load_balancing_loss,
    watch: Callable[[int, MoELanguageModel], None] = lambda step, model: None,
) -> Trained:
    """Train a fresh model. The seed draws its weights, and by `training.generator` the batches.

    prepare: changes the fresh model. watch: called with 0 and after every step, in training mode.
    quick: only QUICK_STEPS steps.
    """
    steps = QUICK_STEPS if quick else training.max_steps
    training = training.model_copy(update={"seed": seed, "max_steps": steps})
    torch.manual_seed(seed)
    fresh = MoELanguageModel(model, ids.tokenizer.vocab_size)
    prepare(fresh)
    state, records, away = start_training(fresh, training), [], 0.0
    watch(0, fresh)
    started = time.perf_counter()
    held_out = ids.validation[: 2 * training.seq_len] if quick else ids.validation
    for record in train(state, ids.train, held_out, training, balance_loss=balance_loss):
        records.append(record)
        left = time.perf_counter()
        watch(record.step, fresh)
        away += time.perf_counter() - left
    return Trained(fresh.eval(), records, time.perf_counter() - started - away)


@dataclass(frozen=True)
class Experiment:
    """One question: what is varied, how one run is measured, and what must come out."""

    name: str
    question: str
    variants: Sequence[str]
    measure: Measure  # a function of a module, so that another process can call it
    seeds: int  # 3, or 5 where a difference is claimed
    settings: Json  # what is the same in all runs
    statements: dict[str, Callable[["Results"], bool]]  # sentence of a chapter -> does it hold?


class Results:
    """The runs of one experiment."""

    def __init__(self, runs: Iterable[Json]) -> None:
        self.runs = list(runs)

    def of(self, variant: str, key: str) -> list:
        """One measurement of all runs of a variant, in the order of their seeds."""
        runs = sorted((r for r in self.runs if r["variant"] == variant), key=lambda r: r["seed"])
        if not runs:
            raise KeyError(f"no run of {variant!r}; there are {sorted(self.variants())}")
        return [run[key] for run in runs]

    def variants(self) -> list[str]:
        """In the order in which they were run."""
        return list(dict.fromkeys(run["variant"] for run in self.runs))

    def mean(self, variant: str, key: str) -> float:
        return mean(self.of(variant, key))

    def spread(self, variant: str, key: str) -> float:
        """Standard deviation over the seeds; 0 with one seed."""
        values = self.of(variant, key)
        return stdev(values) if len(values) > 1 else 0.0

    def all_below(self, low: str, high: str, key: str) -> bool:
        """Whether with every seed the one is below the other: the pairs share seeds and batches."""
        return self.seeds_below(low, high, key) == len(self.of(low, key))

    def seeds_below(self, low: str, high: str, key: str) -> int:
        """With how many seeds the one is below the other."""
        return sum(a < b for a, b in zip(self.of(low, key), self.of(high, key), strict=True))

    def differ(self, one: str, other: str, key: str) -> bool:
        """Whether two variants are `apart` in this measurement; else call the difference none."""
        return apart(self.of(one, key), self.of(other, key))


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the mean of the paired differences exceeds twice its standard error."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return abs(mean(differences)) > 2 * stdev(differences) / len(differences) ** 0.5


def committed(name: str) -> Results:
    """The committed results of an experiment."""
    return Results(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["runs"])


def elsewhere(name: str) -> Results:
    """Some of the committed runs, with the same seeds on another make of processor, untimed."""
    found = json.loads((RESULTS / "elsewhere.json").read_text(encoding="utf-8"))["runs"]
    return Results(found[name])


def same_settings(experiment: Experiment, data: Json) -> bool:
    """Whether the runs in a file had these settings; a key newer than they has its default."""
    found, wanted = data["settings"], json.loads(json.dumps(experiment.settings))
    if "model" in wanted:
        found, wanted = (
            {**each, "model": ModelConfig.model_validate(each["model"])} for each in (found, wanted)
        )
    return found == wanted


def run(
    experiment: Experiment, seeds: int, *, quick: bool = False, only: Sequence[str] = (),
    done: Sequence[Json] = (), keep: Callable[[Json], None] = lambda run: None,
) -> Json:  # fmt: skip
    """All variants with seeds 0 .. seeds - 1, one core each, with a progress bar.

    done: runs that need no repetition. keep: called with every run as soon as it is finished.
    """
    variants = [v for v in experiment.variants if not only or v in only]
    jobs = [(variant, seed) for seed in range(seeds) for variant in variants]
    runs = [one for one in done if (one["variant"], one["seed"]) in jobs]
    jobs = [job for job in jobs if job not in [(one["variant"], one["seed"]) for one in runs]]
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        tasks = {pool.submit(experiment.measure, *job, quick): job for job in jobs}

        def finish(task: Future[Json]) -> None:
            variant, seed = tasks.pop(task)
            runs.append({"variant": variant, "seed": seed, **task.result()})
            keep(runs[-1])

        bar = tqdm(as_completed(list(tasks)), experiment.name, len(jobs), unit="run")
        try:
            for task in bar:
                finish(task)
        except BaseException:  # Ctrl-C too: what has not begun never begins, the rest is kept
            pool.shutdown(cancel_futures=True)
            for task in [t for t in tasks if not t.cancelled() and t.exception() is None]:
                finish(task)
            raise
    return {
        **heading(experiment),
        "date": date.today().isoformat(),
        "runs": sorted(runs, key=lambda run: (variants.index(run["variant"]), run["seed"])),
    }


def heading(experiment: Experiment) -> Json:
    """What was asked, with which versions and settings."""
    return {
        "experiment": experiment.name,
        "question": experiment.question,
        "versions": {
            "moe_tutorial": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "settings": experiment.settings,
    }


def rounded(value: object, digits: int = 4) -> object:
    """Numbers to so many digits after the point, in lists and dicts too: small files."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Tensor):
        return rounded(value.tolist(), digits)
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    return [rounded(part, digits) for part in value] if isinstance(value, list | tuple) else value
