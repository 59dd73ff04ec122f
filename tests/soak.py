"""The long tests: python tests/soak.py [MINUTES of training], 30 by default, and 15 for the rest.

Training is killed at 50 random moments and resumed; every chapter runs with every cell executed
twice, two chapters at a time; a line of 50 MB is trained on; one long training evaluates, saves and
samples while its memory is watched; 100,000 characters are generated. Ends with a summary, and with
exit code 1 if a promise was broken.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from chapters import NOTEBOOKS
from conftest import ROOT, TINY_RUN
from test_killing import RUN, STEPS, losses, start, steps_done, wait_for
from twice import run_twice_in_new_process

from moe_tutorial.checkpoint import load_model
from moe_tutorial.command.cli import main
from moe_tutorial.command.hocon import load_config
from moe_tutorial.command.run import open_run, train_in_folder
from moe_tutorial.sampling import generate

KILLS = 50
CHARACTERS = 100_000
LINE = "no line break " * 3_750_000  # 52,500,000 bytes


def quietly(*arguments: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return main(arguments)


def fresh_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    shutil.copy(ROOT / "config.hocon", folder)
    os.chdir(folder)
    return folder


def killing(parent: Path) -> tuple[bool, str]:
    """SIGKILL at random moments; resumed losses equal an uninterrupted run's, bit for bit."""
    whole = fresh_folder(parent, "whole")
    assert quietly("train", "--set", *RUN) == 0
    expected, chance = losses(whole), random.Random(time.time_ns())
    after_checkpoint = different = 0
    for i in range(KILLS):
        folder = fresh_folder(parent, f"kill-{i}")
        process = start(folder, "--set", *RUN)
        step = chance.randrange(0, STEPS - 5)
        wait_for(process, lambda folder=folder, step=step: steps_done(folder) >= step)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        if (folder / "model" / "checkpoints" / "latest").exists():
            load_model(folder / "model", "latest")  # raises if the kill broke it
            after_checkpoint += 1
        different += quietly("train", "--resume", "--set", *RUN) != 0 or losses(folder) != expected
        shutil.rmtree(folder)
    text = f"{KILLS} kills, {after_checkpoint} after a checkpoint, {different} with other losses"
    return different == 0, text


def chapters(parent: Path) -> tuple[bool, str]:
    """Every cell twice, two chapters at once in one folder."""

    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    with ThreadPoolExecutor(2) as pool:
        errors = pool.map(lambda path: run_twice_in_new_process(path, parent / "chapters"), paths)
        failed = [error.strip().splitlines() for error in errors if error]
    text = f"{len(paths)} chapters, every cell twice, two at once; {len(failed)} failed"
    return not failed, "; ".join([text, *(f"{lines[0]} ... {lines[-1]}" for lines in failed)])


def long_line(parent: Path) -> tuple[bool, str]:
    """A corpus that is one line of 50 MB is trained on."""
    folder, started = fresh_folder(parent, "line"), time.monotonic()
    (folder / "line.txt").write_text(LINE, encoding="utf-8")
    more = ["training.dataset=line.txt", "training.eval_steps=1000"]
    code = quietly("train", "--set", *TINY_RUN, *more)
    text = f"{len(LINE):,} bytes, exit code {code} after {time.monotonic() - started:.0f} s"
    return code == 0 and (folder / "model" / "checkpoints" / "latest").exists(), text


def memory() -> int:
    """Resident memory of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def haul(parent: Path, seconds: float) -> tuple[bool, str]:
    """Train, evaluate, save and sample; memory at the end against that after the first minute."""
    folder = fresh_folder(parent, "haul")
    endless = ["training.max_steps=null", "training.epochs=1e9", "training.eval_steps=20",
               "training.save_steps=20", "training.dataset=fables",
               f"training.max_seconds={seconds}"]  # fmt: skip
    config = load_config(folder / "config.hocon", [*TINY_RUN, *endless])
    warm_up, first, started, steps, samples = min(60.0, seconds / 3), 0, time.monotonic(), 0, 0
    with open_run(config, resume=False) as run:
        for record in train_in_folder(run):
            steps += 1
            if record.step % 100 == 0:
                run.state.model.eval()
                ids = run.train_ids[:8]
                samples += len(list(generate(run.state.model, ids, max_new_tokens=50)))
                run.state.model.train()
            if not first and time.monotonic() - started > warm_up:
                first = memory()
        last = memory()
    growth = last / first - 1
    text = (
        f"{steps:,} steps in {time.monotonic() - started:.0f} s, {samples:,} characters sampled, "
        f"{first / 2**20:.0f} MiB after {warm_up:.0f} s, {last / 2**20:.0f} MiB at the end "
        f"({growth:+.1%})"
    )
    return abs(growth) < 0.05 or last < first, text


def long_text(parent: Path) -> tuple[bool, str]:
    """After many characters, the next take no longer than those of a text just begun, in turns."""
    trained = load_model(parent / "haul" / "model")
    prompt = trained.tokenizer.encode(trained.config.inference.prompt)

    def seconds(tokens: Iterator, count: int = 1_000) -> float:
        started = time.process_time()
        assert sum(1 for _ in islice(tokens, count)) == count
        return time.process_time() - started

    old, new = (generate(trained.model, prompt, max_new_tokens=2 * CHARACTERS) for _ in range(2))
    whole = seconds(old, CHARACTERS)
    seconds(new)
    ratio = median(seconds(old) / seconds(new) for _ in range(15))
    text = (
        f"{CHARACTERS:,} characters at {CHARACTERS / whole:.0f} per CPU second; the next take "
        f"{ratio:.2f} times as long as those of a text just begun"
    )
    return ratio < 1.1, text


def soak(minutes: float) -> int:
    torch.set_num_threads(1)
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    started, results = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        tests = {
            "long haul": lambda: haul(parent, 60 * minutes),
            "long text": lambda: long_text(parent),
            "killing": lambda: killing(parent),
            "chapters": lambda: chapters(parent),
            "long line": lambda: long_line(parent),
        }
        for title, test in tests.items():
            results[title] = test()
            print(f"{title}: {results[title][1]}", flush=True)
        os.chdir(ROOT)
    print(f"\nsummary after {(time.monotonic() - started) / 60:.1f} minutes")
    for title, (held, text) in results.items():
        print(f"  {'held' if held else 'BROKEN'}: {title}: {text}")
    return int(not all(held for held, _ in results.values()))


if __name__ == "__main__":
    sys.exit(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 30))
