"""Interleaved CPU times: each contender once per round, so that all share the noise."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from statistics import median

Rounds = list[float]  # CPU seconds of one call, one number per round
# The cores this process may use, by number, before `pin`; only Linux numbers them.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def pin(core: int | None = None) -> None:
    """Compute with one thread on one core: this one, or the last of CORES."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {CORES[-1] if core is None else core})


def cpu_seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """CPU time of this process for one call, the mean of `repeats` in a row."""
    started = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - started) / repeats


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, min_seconds: float
) -> dict[str, Rounds]:
    """Call each contender in turn, `rounds` times; a measurement repeats it for min_seconds.

    Two calls of each come first and are not counted.
    """
    repeats = {}
    for name, call in contenders.items():
        call()
        repeats[name] = max(1, math.ceil(min_seconds / max(cpu_seconds(call), 1e-6)))
    times: dict[str, Rounds] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(cpu_seconds(call, repeats[name]))
    return times


def ratio(numerator: Rounds, denominator: Rounds) -> float:
    """Median over the rounds of the quotient of two contenders in the same round."""
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def spread(times: Rounds) -> float:
    """Half the distance between the quartiles as a share of the median; 0 for under four rounds."""
    if len(times) < 4:
        return 0.0
    ordered, quarter = sorted(times), len(times) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2 / median(times)
