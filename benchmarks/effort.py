"""How long to measure: tiny for the tests, quick for a look, full for the record."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.contenders import SETUPS, TINY_SETUPS, Setup


class Effort(NamedTuple):
    """The sizes of one mode."""

    name: str
    setups: dict[str, Setup]
    rounds: int  # interleaved measurements per contender
    min_seconds: float  # CPU time of one measurement at least
    layer_tokens: tuple[int, ...]  # N of the layer benchmark
    new_tokens: int  # characters to generate
    generation_rounds: int
    draft_steps: int  # of training, before a draft is of use
    budgets: tuple[float, ...]  # CPU seconds of training
    seeds: int  # trainings of each contender per budget
    starts: int  # new processes per import
    memory: tuple[str, ...]  # configurations whose training memory is measured


EFFORTS = {
    "tiny": Effort("tiny", TINY_SETUPS, 1, 0.0, (6, 12), 6, 1, 3, (0.3,), 1, 1, ("S",)),
    "quick": Effort(
        "quick", SETUPS, 5, 0.1, (64, 1024, 2048, 16384), 256, 2, 100, (20,), 1, 3, ("S", "M")
    ),
    "full": Effort(
        "full", SETUPS, 15, 0.3, (64, 1024, 2048, 16384), 256, 7, 600,
        (60, 180, 600), 3, 9, ("S", "M"),
    ),
}  # fmt: skip
