"""What loss on held-out Tiny Shakespeare does a core reach in a given time?

python -m benchmarks.loss_against_time CONTENDER SECONDS SEED CORE MODE    (one training)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.effort import Effort
from benchmarks.report import ROOT, Table, against
from benchmarks.timing import cores, pin

if TYPE_CHECKING:
    from moe_tutorial.corpus import Corpus

COUNTED = 5  # order of the interpolated counts
HALF_OF_NANOGPT = (110, 1.88)  # CPU seconds and loss
TINY = [
    "model.dim=16", "model.num_layers=1", "model.num_heads=2", "model.hidden_dim=8",
    "training.seq_len=16",
]  # fmt: skip


class Trained(NamedTuple):
    """One finished training."""

    contender: str  # mixture or dense
    budget: float  # CPU seconds it was planned for
    seed: int
    loss: float  # nats per character of the whole held-out text
    seconds: float  # CPU time of all steps; the final evaluation is not counted
    steps: int


def load(tiny: bool) -> Corpus:
    """Tiny Shakespeare, or for the tests one paragraph."""
    from moe_tutorial.corpus import load_corpus

    return load_corpus("passage" if tiny else "tiny_shakespeare", ROOT / "data")


def train_here(contender: str, budget: float, seed: int, tiny: bool) -> Trained:
    """Time a few steps, plan as many as fit into the budget, and train them."""
    import torch

    from benchmarks.contenders import make_dense
    from moe_tutorial.config import load_config
    from moe_tutorial.model import MoELanguageModel
    from moe_tutorial.tokenizer import CharTokenizer
    from moe_tutorial.training import start_training, train

    changes = ["training.epochs=1e6", "training.eval_steps=1000000000", f"training.seed={seed}"]
    changes += TINY if tiny else []

    def begin(*more: str):
        config = load_config(ROOT / "config.hocon", [*changes, *more])
        torch.manual_seed(seed)
        model = MoELanguageModel(config.model, tokenizer.vocab_size)
        if contender == "dense":
            make_dense(model)
        return train(start_training(model, config.training), *ids, config.training)

    corpus = load(tiny)
    tokenizer = CharTokenizer.fit(corpus.train + corpus.validation)
    ids = [tokenizer.encode(part) for part in corpus]
    records = begin()
    next(records)
    started, tried = time.process_time(), 0
    while (used := time.process_time() - started) < budget / 20:
        next(records)
        tried += 1
    steps = max(2, round(tried / used * budget))
    started = time.process_time()
    for record in begin(f"training.max_steps={steps}"):
        if record.step == steps - 1:
            used = (time.process_time() - started) * steps / (steps - 1)
    return Trained(contender, budget, seed, record.validation_loss, used, steps)


def train_all(effort: Effort) -> list[Trained]:
    """Every training in its own process, as many at once as there are cores, each on one."""
    jobs = [
        (contender, budget, seed)
        for budget in sorted(effort.budgets, reverse=True)  # the long ones first
        for contender, seeds in (("mixture", effort.seeds), ("dense", 1))
        for seed in range(seeds)
    ]
    free: SimpleQueue[int] = SimpleQueue()
    for core in cores():
        free.put(core)

    def train_one(job: tuple[str, float, int]) -> Trained:
        core = free.get()
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.loss_against_time",
             *map(str, (*job, core, effort.name))],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
        free.put(core)
        trained = Trained(*json.loads(output))
        print(trained, file=sys.stderr, flush=True)
        return trained

    with ThreadPoolExecutor(len(cores())) as pool:
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
    """One row per budget; the seeds of the mixture one by one, each with the time it took."""
    table = Table(
        "Held-out loss of Tiny Shakespeare against training time, one core, nats per character",
        ["CPU seconds planned", "mixture: loss (CPU seconds used), each seed", "mean",
         "dense twin", f"{COUNTED}-gram counts", "to reach"],
        notes=[
            f"Counting takes {counting:.1f} s.",
            "Each entry is a run of its own, because the learning rate falls to 0 at its end; the "
            "steps are planned from a short trial, so that the time used differs a little.",
        ],
        measurements={"counts": counts, "trained": [one._asdict() for one in found]},
    )  # fmt: skip
    for budget in sorted({one.budget for one in found}):
        runs = [one for one in found if one.budget == budget]
        mixture = [one for one in runs if one.contender == "mixture"]
        loss = mean(one.loss for one in mixture)
        limit = HALF_OF_NANOGPT[1] if budget <= HALF_OF_NANOGPT[0] else counts
        table.rows.append(
            [f"{budget:g}", _listed(mixture), f"{loss:.3f}",
             _listed([one for one in runs if one.contender == "dense"]), f"{counts:.3f}",
             against(loss, limit, at_most=True)]
        )  # fmt: skip
    return table


def _listed(runs: list[Trained]) -> str:
    return ", ".join(f"{one.loss:.3f} ({one.seconds:.0f})" for one in runs)


def main(arguments: Sequence[str]) -> None:
    """Train in this process, as named on the command line; print the result as JSON."""
    contender, budget, seed, core, mode = arguments
    pin(int(core))
    print(json.dumps(train_here(contender, float(budget), int(seed), mode == "tiny")))


if __name__ == "__main__":
    main(sys.argv[1:])
