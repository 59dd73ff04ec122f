"""Measure training speed with threads and with processes; write the table of the README.

    python tools/processes.py    (about three minutes; on a machine with nothing else to do)

Trains config.hocon on the CPU, three rounds of every arrangement in turn, so that a slower minute
of the machine meets all of them. A speed is the median over the steps of a round, without the first
ones, and the table has the median of the three rounds and their range.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from moe_tutorial.device import available_cores

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed of processes: begin -->", "<!-- speed of processes: end -->"
ROUNDS, WARM_UP = 3, 5
STEPS = {6: 60, 48: 25}  # by windows in a batch: the default, and a larger one
ARRANGEMENTS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each


def tokens_per_second(processes: int, threads: int, batch_size: int) -> float:
    """Median over the steps of one short training of the default model."""
    settings = [
        f"device.use_data_parallel={str(processes > 1).lower()}",
        f"device.num_processes={processes}", f"device.num_cpu_threads={threads}",
        "device.type=cpu", f"training.batch_size={batch_size}",
        f"training.max_steps={STEPS[batch_size]}", "training.eval_steps=1000000",
        "inference.max_new_tokens=1",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "moe_tutorial", "train", "--set", *settings]
        command.append(f"paths.output_dir={name}/model")
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(name) / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines[WARM_UP:]]
    return statistics.median(speeds)


def processor() -> str:
    """The name that Linux gives the processor, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def table() -> str:
    """Measure everything; return the lines for the README."""
    speeds: dict[tuple[int, int, int], list[float]] = {}
    for number in range(1, ROUNDS + 1):
        for batch_size in STEPS:
            for processes, threads in ARRANGEMENTS:
                speed = tokens_per_second(processes, threads, batch_size)
                speeds.setdefault((batch_size, processes, threads), []).append(speed)
                print(f"round {number}: {processes=} {threads=} {batch_size=} {speed:,.0f}")
    heads = " | ".join(f"tokens/s, batch of {batch_size} windows" for batch_size in STEPS)
    lines = [f"| processes | threads of each | {heads} |", "|---" * (2 + len(STEPS)) + "|"]
    for processes, threads in ARRANGEMENTS:
        cells = []
        for batch_size in STEPS:
            rounds = speeds[batch_size, processes, threads]
            middle = statistics.median(rounds)
            cells.append(f"{middle:,.0f} ({min(rounds):,.0f} to {max(rounds):,.0f})")
        lines.append(f"| {processes} | {threads} | {' | '.join(cells)} |")
    load = f"; load average when it began: {LOAD[0]:.1f}" if LOAD else ""
    lines += [
        "",
        f"*Measured by `make processes` on {available_cores()} cores ({processor()}), PyTorch "
        f"{torch.__version__}; medians of {ROUNDS} rounds, with their range{load}.*",
    ]
    return "\n".join(lines)


LOAD = os.getloadavg() if hasattr(os, "getloadavg") else ()


def main() -> None:
    """Rewrite the table in README.md."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"error: {readme} has no lines {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
