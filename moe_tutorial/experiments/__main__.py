"""Run an experiment from nothing, and check every sentence that a chapter rests on it."""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from moe_tutorial.experiments.base import (
    RESULTS,
    Experiment,
    Json,
    Results,
    committed,
    heading,
    run,
)

MODULES = ("ch11", "ch12", "ch13")


def experiments() -> dict[str, Experiment]:
    """All of them, by name."""
    modules = [import_module(f"moe_tutorial.experiments.{name}") for name in MODULES]
    return {one.name: one for module in modules for one in module.EXPERIMENTS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or only check; return 1 if a sentence does not hold."""
    found = experiments()
    parser = argparse.ArgumentParser(
        prog="python -m moe_tutorial.experiments",
        description="Train what the chapters 11 to 13 show, from nothing, and check what they say.",
        epilog="; ".join(f"{one.name}: {one.question}" for one in found.values()),
    )
    parser.add_argument("name", choices=[*found, "all"], help="which; all takes hours")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each variant")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", default=[], help="some variants")
    parser.add_argument("--quick", action="store_true", help="a few steps: does the code run?")
    parser.add_argument("--check", action="store_true", help="only check the committed results")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("experiments"))
    options = parser.parse_args(arguments)
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: at least 1")
    chosen = list(found.values()) if options.name == "all" else [found[options.name]]
    for one in chosen:
        if unknown := set(options.only) - set(one.variants):
            parser.error(f"--only {', '.join(sorted(unknown))}: {one.name} has {one.variants}")
    try:
        return max([_do(one, options) for one in chosen])
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on after the finished runs", file=sys.stderr)
        return 130


def _do(one: Experiment, options: argparse.Namespace) -> int:
    if options.check:
        return _check(one, committed(one.name))
    seeds = options.seeds or (1 if options.quick else one.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{one.name}.json"
    part = options.out / f"{one.name}{'.quick' * options.quick}.part.jsonl"
    done = begin(part, one)

    def keep(finished: Json) -> None:
        with part.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finished) + "\n")

    data = run(one, seeds, quick=options.quick, only=options.only, done=done, keep=keep)
    path.write_text(as_text(data), encoding="utf-8", newline="\n")
    part.unlink()
    print(f"{len(data['runs'])} runs in {path}; the committed ones are in {RESULTS}")
    if options.quick or options.only or seeds < one.seeds:
        print("too little to check what the chapter says")
        return 0
    return _check(one, Results(data["runs"]))


def begin(part: Path, one: Experiment) -> list[Json]:
    """The finished runs of an experiment that was interrupted; else a new file for them."""
    head = json.loads(json.dumps(heading(one)))
    lines = part.read_text(encoding="utf-8").split("\n")[:-1] if part.is_file() else []
    if lines and json.loads(lines[0]) == head:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")  # without half a line at the end
        done = [json.loads(line) for line in lines[1:]]
        print(f"goes on after {len(done)} runs in {part}; remove it to begin anew")
        return done
    part.write_text(json.dumps(head) + "\n", encoding="utf-8")
    return []


def as_text(data: Json) -> str:
    """JSON with one run per line: small, and a change shows which run it is."""
    runs = ",\n".join(json.dumps(run) for run in data["runs"])
    head = json.dumps({**data, "runs": []}, indent=1)
    return head.replace('"runs": []', f'"runs": [\n{runs}\n]') + "\n"


def _check(one: Experiment, results: Results) -> int:
    broken = 0
    for sentence, holds in one.statements.items():
        held = holds(results)
        broken += not held
        print(f"{'holds ' if held else 'BROKEN'} {one.name}: {sentence}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
