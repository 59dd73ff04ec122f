"""What loss on held-out Tiny Shakespeare does a core reach in a given time?

python -m benchmarks.loss_against_time CONTENDER STEPS SEED CORE MODE    (one training)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from statistics import mean, median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.effort import Effort
from benchmarks.report import ROOT, Table, against
from benchmarks.timing import CORES, interleave, pin

if TYPE_CHECKING:
    from moe_tutorial.corpus import Corpus
    from moe_tutorial.training import StepRecord

CONTENDERS = ("mixture", "dense")

COUNTED = 5  # order of the interpolated counts
HALF_OF_NANOGPT = (110, 1.88)  # CPU seconds and loss
TINY = [
    "model.dim=16", "model.num_layers=1", "model.num_heads=2", "model.hidden_dim=8",
    "training.seq_len=16",
]  # fmt: skip


class Trained(NamedTuple):
    """One finished training."""

    contender: str  # mixture or dense
    budget: float  # CPU seconds that its steps were planned for
    seed: int
    loss: float  # nats per character of the whole held-out text
    seconds: float  # CPU time of the steps; the final evaluation is not counted
    steps: int


def load(tiny: bool) -> Corpus:
    """Tiny Shakespeare, or for the tests one paragraph."""
    from moe_tutorial.corpus import load_corpus

    return load_corpus("passage" if tiny else "tiny_shakespeare", ROOT / "data")


def training(contender: str, seed: int, tiny: bool, *more: str) -> Iterator[StepRecord]:
    """The training of config.hocon, with the settings `more`."""
    import torch

    from benchmarks.contenders import make_dense
    from moe_tutorial.command.hocon import load_config
    from moe_tutorial.model import MoELanguageModel
    from moe_tutorial.tokenizer import CharTokenizer
    from moe_tutorial.training import start_training, train

    endless = ["training.epochs=1e6", "training.eval_steps=1000000000", f"training.seed={seed}"]
    config = load_config(ROOT / "config.hocon", [*endless, *(TINY if tiny else []), *more])
    corpus = load(tiny)
    tokenizer = CharTokenizer.fit(corpus.train + corpus.validation)
    ids = [tokenizer.encode(part) for part in corpus]
    torch.manual_seed(seed)
    model = MoELanguageModel(config.model, tokenizer.vocab_size)
    if contender == "dense":
        make_dense(model)
    return train(start_training(model, config.training), *ids, config.training)


def seconds_per_step(effort: Effort) -> dict[str, float]:
    """CPU time of one step of each contender, in turns on one core while nothing else runs."""
    tiny = effort.name == "tiny"
    steps = {name: training(name, 0, tiny).__next__ for name in CONTENDERS}
    times = interleave(steps, effort.rounds, effort.min_seconds)
    return {name: median(rounds) for name, rounds in times.items()}


def train_here(contender: str, steps: int, seed: int, tiny: bool) -> tuple[float, float]:
    """Train so many steps: the held-out loss, and the CPU time without the final evaluation."""
    records = training(contender, seed, tiny, f"training.max_steps={steps}")
    next(records)
    started = time.process_time()
    for record in records:
        if record.step == steps - 1:
            used = (time.process_time() - started) * steps / max(1, steps - 2)
    return record.validation_loss, used


def train_all(effort: Effort) -> list[Trained]:
    """Every training in its own process, as many at once as there are cores, each on one.

    The steps are those that fit into the budget according to `seconds_per_step`: the same for every
    seed, whatever else the machine does meanwhile.
    """
    each = seconds_per_step(effort)
    jobs = [
        (contender, budget, seed)
        for budget in sorted(effort.budgets, reverse=True)  # the long ones first
        for seed in range(effort.seeds)
        for contender in CONTENDERS
    ]
    free: SimpleQueue[int] = SimpleQueue()
    for core in CORES:
        free.put(core)

    def train_one(job: tuple[str, float, int]) -> Trained:
        contender, budget, seed = job
        steps = max(3, round(budget / each[contender]))
        core = free.get()
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.loss_against_time",
             *map(str, (contender, steps, seed, core, effort.name))],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
        free.put(core)
        trained = Trained(contender, budget, seed, *json.loads(output), steps)
        print(trained, file=sys.stderr, flush=True)
        return trained

    with ThreadPoolExecutor(len(CORES)) as pool:
        return list(pool.map(train_one, jobs))


def counted(tiny: bool) -> tuple[float, float]:
    """Held-out loss of the interpolated counts, and the CPU seconds they take."""
    from moe_tutorial.corpus import ngram_losses

    corpus = load(tiny)
    started = time.process_time()
    loss = ngram_losses(corpus.train, corpus.validation, COUNTED)[-1]
    return loss, time.process_time() - started


def measure(effort: Effort) -> Table:
    """The mixture of config.hocon, its dense twin, and counting, on the same held-out text."""
    return tabulate(train_all(effort), *counted(effort.name == "tiny"))


def tabulate(found: list[Trained], counts: float, counting: float) -> Table:
    """One row per budget and contender; the seeds one by one."""
    table = Table(
        "Held-out loss of Tiny Shakespeare against training time, one core, nats per character",
        ["CPU seconds planned", "contender", "steps", "CPU seconds used", "loss of each seed",
         "mean", f"{COUNTED}-gram counts", "to reach"],
        notes=[
            f"Counting takes {counting:.1f} s.",
            "Each loss is a run of its own, because the learning rate falls to 0 at its end. The "
            "steps are planned from the time of a step while nothing else runs; then one training "
            "per core runs at once, so that the time used differs a little.",
        ],
        measurements={"counts": counts, "trained": [one._asdict() for one in found]},
    )  # fmt: skip
    for budget in sorted({one.budget for one in found}):
        for contender in CONTENDERS:
            runs = [one for one in found if (one.budget, one.contender) == (budget, contender)]
            loss = mean(one.loss for one in runs)
            limit = HALF_OF_NANOGPT[1] if budget <= HALF_OF_NANOGPT[0] else counts
            verdict = against(loss, limit, at_most=True) if contender == "mixture" else ""
            table.rows.append(
                [f"{budget:g}", contender, f"{runs[0].steps:,}",
                 f"{mean(one.seconds for one in runs):.0f}",
                 ", ".join(f"{one.loss:.3f}" for one in runs), f"{loss:.3f}", f"{counts:.3f}",
                 verdict]
            )  # fmt: skip
    return table


def main(arguments: Sequence[str]) -> None:
    """Train in this process, as named on the command line; print the result as JSON."""
    contender, steps, seed, core, mode = arguments
    pin(int(core))
    print(json.dumps(train_here(contender, int(steps), int(seed), mode == "tiny")))


if __name__ == "__main__":
    main(sys.argv[1:])
