"""Measure training speed with threads and with processes; write the table of the README.

    python tools/processes.py            (about three minutes; with nothing else to do meanwhile)
    python tools/processes.py --quick    (one round of few steps; prints the table, writes nothing)

Trains config.hocon on the CPU, three rounds of every arrangement in turn, so that a slower minute
of the machine meets all of them. A speed is the median over the steps of a round, without the first
ones, and the table has the median of the three rounds and their range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed of processes: begin -->", "<!-- speed of processes: end -->"
ROUNDS, WARM_UP = 3, 3
STEPS = {6: 40, 48: 10}  # after the warm-up, by windows in a batch: the default, and a larger one
ARRANGEMENTS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

Speeds = dict[int, float]  # tokens per second, by windows in a batch


def main() -> None:
    """Measure and write the table; or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps; print the table only")
    parser.add_argument("--measure", nargs=3, metavar=("THREADS", "FOLDER", "QUICK"))
    args = parser.parse_args()
    if args.measure:
        threads, folder, quick = args.measure
        measure(int(threads), Path(folder), quick=quick == "True")
    elif args.quick:
        print(table(quick=True))
    else:
        before, begin, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise SystemExit(f"error: README.md has no lines {BEGIN} and {END}")
        text = f"{before}{BEGIN}\n{table(quick=False)}\n{END}{after}"
        (ROOT / "README.md").write_text(text, encoding="utf-8")


def table(*, quick: bool) -> str:
    """Measure everything; return the lines for the README."""
    import torch

    from moe_tutorial.device import available_cores

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    found: dict[tuple[int, int], list[Speeds]] = {arrangement: [] for arrangement in ARRANGEMENTS}
    for number in range(1, 2 if quick else ROUNDS + 1):
        for processes, threads in ARRANGEMENTS:
            speeds = start(processes, threads, quick=quick)
            found[processes, threads].append(speeds)
            print(f"round {number}: {processes=} {threads=} {speeds}", file=sys.stderr)
    heads = " | ".join(f"tokens/s, batch of {batch_size} windows" for batch_size in STEPS)
    lines = [f"| processes | threads of each | {heads} |", "|---" * (2 + len(STEPS)) + "|"]
    for (processes, threads), rounds in found.items():
        cells = [cell([speeds[batch_size] for speeds in rounds]) for batch_size in STEPS]
        lines.append(f"| {processes} | {threads} | {' | '.join(cells)} |")
    lines += [
        "",
        f"*Measured by `make processes` on {available_cores()} cores ({processor()}), PyTorch "
        f"{torch.__version__}; medians of {len(rounds)} rounds, with their range; load average "
        f"when it began: {load:.1f}.*",
    ]
    return "\n".join(lines)


def cell(speeds: list[float]) -> str:
    """The median of the rounds, and their range."""
    return f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"


def start(processes: int, threads: int, *, quick: bool) -> Speeds:
    """One short training of the default model for each size of the batch."""
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *launcher, __file__, "--measure", str(threads), folder]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": "10000"}
        environment |= {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([*command, str(quick)], cwd=ROOT, env=environment, check=True)
        text = (Path(folder) / "speeds.json").read_text(encoding="utf-8")
    return {int(batch_size): speed for batch_size, speed in json.loads(text).items()}


def measure(threads: int, folder: Path, *, quick: bool) -> None:
    """Train here, alone or with the other processes; the first one writes speeds.json."""
    from moe_tutorial.command.hocon import load_config
    from moe_tutorial.command.run import open_run, train_in_folder
    from moe_tutorial.device import set_threads
    from moe_tutorial.processes.distributed import is_first, process_group
    from moe_tutorial.processes.launch import leave

    settings = ["device.type=cpu", f"device.num_cpu_threads={threads}"]
    set_threads(load_config(ROOT / "config.hocon", settings).device)
    speeds = {}
    with process_group(load_config(ROOT / "config.hocon", settings).device):
        for batch_size, steps in STEPS.items():
            sizes = [f"training.batch_size={batch_size}", f"paths.output_dir={folder / 'run'}"]
            config = load_config(ROOT / "config.hocon", [*settings, *sizes])
            with open_run(config, resume=False) as run, closing(train_in_folder(run)) as records:
                count = WARM_UP + (2 if quick else steps)
                found = [record.tokens_per_second for record in islice(records, count)]
            speeds[batch_size] = statistics.median(found[WARM_UP:])
        if is_first():
            (folder / "speeds.json").write_text(json.dumps(speeds), encoding="utf-8")
    leave(0)


def processor() -> str:
    """The name that Linux gives the processor, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
