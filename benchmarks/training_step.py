"""How many tokens per second does training take in, beside transformers and a dense model?"""

from __future__ import annotations

from statistics import median

from benchmarks.contenders import (
    fastest,
    hugging_face,
    implementations,
    make_dense,
    our_step,
    ours,
    their_step,
)
from benchmarks.effort import Effort
from benchmarks.report import Table, against
from benchmarks.timing import interleave, ratio, spread

TARGETS = {"S": (1.2, 0.90), "M": (1.2, 0.97)}  # times transformers, times the dense model


def measure(effort: Effort) -> Table:
    """Whole steps: batch, forward, backward, clipping, AdamW; one core."""
    table = Table(
        "Training step, tokens per second of CPU time, one core",
        ["model", "this library", "transformers", "dense twin", "÷ transformers", "÷ dense",
         "without dropout ÷ transformers", "spread"],
        notes=[
            "Dropout is 0.1 in this library's models; transformers' classes have none after a "
            "layer, so without it both do the same work."
        ],
    )  # fmt: skip
    for name, setup in effort.setups.items():
        tokens = setup.batch_size * setup.seq_len
        theirs = hugging_face(setup.model)
        step = their_step(theirs, setup)
        best = fastest(theirs, implementations(setup.model, tokens), step)
        still = setup.model.model_copy(update={"dropout": 0.0})
        times = interleave(
            {
                "ours": our_step(ours(setup.model), setup),
                "transformers": step,
                "without dropout": our_step(ours(still), setup),
                "dense": our_step(make_dense(ours(setup.model)), setup),
            },
            effort.rounds,
            effort.min_seconds,
        )
        rates = {key: f"{tokens / median(rounds):,.0f}" for key, rounds in times.items()}
        to_theirs = ratio(times["transformers"], times["ours"])
        to_dense = ratio(times["dense"], times["ours"])
        same_work = ratio(times["transformers"], times["without dropout"])
        targets = TARGETS[name]
        table.rows.append(
            [
                name, rates["ours"], f"{rates['transformers']} ({best})", rates["dense"],
                f"{to_theirs:.2f} ({against(to_theirs, targets[0])})",
                f"{to_dense:.2f} ({against(to_dense, targets[1])})",
                f"{same_work:.2f}",
                f"{max(map(spread, times.values())):.1%}",
            ]
        )  # fmt: skip
        table.measurements[name] = times
    return table
