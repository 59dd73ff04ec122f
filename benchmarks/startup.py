"""What does an import cost, and how much memory does training take?

python -m benchmarks.startup CONTENDER CONFIGURATION [tiny]    (one process that trains)
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.effort import EFFORTS, Effort
from benchmarks.report import ROOT, Table, against

IMPORTS = {
    "Python alone": "pass",
    "moe_tutorial": "import moe_tutorial",
    "torch": "import torch",
    "moe_tutorial.model": "import moe_tutorial.model",
    "Mixtral of transformers": "from transformers import MixtralForCausalLM",
}
STEPS = 5
LONGEST_IMPORT = 0.1  # seconds


def python(*arguments: str) -> tuple[float, str]:
    """CPU seconds of a new interpreter with these arguments, and what it printed."""
    import resource  # not on Windows

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, output


def peak_memory(contender: str, name: str, mode: str) -> float:
    """MiB that a new process had resident at most while it took a few training steps."""
    return float(python("-m", "benchmarks.startup", contender, name, mode)[1].split()[-1])


def train_here(contender: str, name: str, mode: str) -> None:
    """Take a few training steps and print this process's peak."""
    from benchmarks.contenders import our_step, ours, their_config, their_step
    from benchmarks.timing import pin

    pin()
    setup = EFFORTS[mode].setups[name]
    if contender == "ours":
        step = our_step(ours(setup.model), setup)
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(their_config(setup.model))
        model.set_experts_implementation(contender)
        step = their_step(model, setup)
    for _ in range(STEPS):
        step()
    print(peak_resident())


def peak_resident() -> float:
    """MiB that this process had resident at most; Linux only.

    Not getrusage: its maximum begins with that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure(effort: Effort) -> Table:
    """Imports in new processes (CPU seconds, median), and peak resident memory of training."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(effort.starts):
        for name, code in IMPORTS.items():
            seconds[name].append(python("-c", code)[0])
    table = Table("Import time and memory", ["what", "this library", "transformers", "to reach"])
    table.measurements["import_cpu_seconds"] = seconds
    imports = {name: median(times) for name, times in seconds.items()}
    whole = imports["moe_tutorial"]
    table.rows += [
        ["`import moe_tutorial`, CPU seconds", f"{whole:.3f}", "",
         against(whole, LONGEST_IMPORT, at_most=True)],
        ["import of the model, CPU seconds", f"{imports['moe_tutorial.model']:.2f}",
         f"{imports['Mixtral of transformers']:.2f}", ""],
    ]  # fmt: skip
    for name in effort.memory:
        # The third, batched_mm, copies the weights for every token.
        choices = ("eager",) if effort.name == "tiny" else ("eager", "grouped_mm")
        mine = peak_memory("ours", name, effort.name)
        theirs = {choice: peak_memory(choice, name, effort.name) for choice in choices}
        best = min(theirs, key=theirs.__getitem__)
        table.measurements[f"{name} MiB"] = {"ours": mine, **theirs}
        table.rows.append(
            [f"training {name}, peak resident MiB", f"{mine:,.0f}", f"{theirs[best]:,.0f} ({best})",
             against(mine / theirs[best], 1, at_most=True)]
        )  # fmt: skip
    table.notes.append(
        f"Python alone takes {imports['Python alone']:.3f} s, PyTorch {imports['torch']:.2f} s."
    )
    return table


def main(arguments: Sequence[str]) -> None:
    """Train in this process, as named on the command line."""
    contender, name, *mode = arguments
    train_here(contender, name, mode[0] if mode else "full")


if __name__ == "__main__":
    main(sys.argv[1:])
