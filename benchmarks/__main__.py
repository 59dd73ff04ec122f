"""Measure everything, or the questions that are named.

python -m benchmarks [--quick | --tiny] [training_step moe_layer generation ...]
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from benchmarks.effort import EFFORTS
from benchmarks.report import ORDER, RESULTS, ROOT, write_json
from benchmarks.timing import pin


def main(arguments: list[str] | None = None) -> None:
    """Print one table per question; write JSON beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(ORDER)}; all if left out")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_const", const="quick", dest="mode")
    mode.add_argument("--tiny", action="store_const", const="tiny", dest="mode")
    parser.add_argument("--out", type=Path, help="folder of the JSON files")
    parser.add_argument("--budgets", nargs="+", type=float, help="CPU seconds of each training")
    parser.add_argument("--seeds", type=int, help="trainings per budget")
    options = parser.parse_args(arguments)
    if unknown := set(options.questions) - set(ORDER):
        parser.error(f"unknown: {', '.join(unknown)}; choose of {', '.join(ORDER)}")
    effort = EFFORTS[options.mode or "full"]
    effort = effort._replace(
        budgets=options.budgets or effort.budgets, seeds=options.seeds or effort.seeds
    )
    # Only a full run replaces the results that are committed.
    folder = options.out or (RESULTS if effort.name == "full" else ROOT / "build" / "bench")
    for question in options.questions or ORDER:
        pin()
        table = import_module(f"benchmarks.{question}").measure(effort)
        print(f"\n{table.markdown()}\n", flush=True)
        trains = question == "loss_against_time" and (options.budgets or options.seeds)
        seconds = " and ".join(f"{budget:g}" for budget in effort.budgets)
        shortened = f", but only {seconds} s with {effort.seeds} seed(s)" if trains else ""
        write_json(folder, question, effort.name + shortened, table)


if __name__ == "__main__":
    main()
