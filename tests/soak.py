"""The long tests, bounded by a number of minutes: python tests/soak.py [MINUTES], 30 by default.

Training is killed at random moments and resumed; every chapter runs with every cell executed twice;
one long training evaluates, saves and samples while its memory is watched; 100,000 characters are
generated. Ends with a summary, and with exit code 1 if a promise was broken.
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
from itertools import islice
from pathlib import Path

import torch
from chapters import NOTEBOOKS
from conftest import ROOT, TINY_RUN
from test_killing import RUN, STEPS, losses, start, steps_done, wait_for
from twice import run_twice

from moe_tutorial.checkpoint import load_model
from moe_tutorial.cli import main
from moe_tutorial.config import load_config
from moe_tutorial.run import open_run, train_in_folder
from moe_tutorial.sampling import generate

KILLS = 50
CHARACTERS = 100_000
SHARE_KILLS, SHARE_HAUL = 0.35, 0.3  # of the minutes; the rest is for chapters and characters


def quietly(*arguments: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return main(arguments)


def fresh_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    shutil.copy(ROOT / "config.hocon", folder)
    os.chdir(folder)
    return folder


def killing(parent: Path, seconds: float) -> tuple[bool | None, str]:
    """SIGKILL at random moments; resumed losses equal an uninterrupted run's, bit for bit."""
    end = time.monotonic() + seconds
    whole = fresh_folder(parent, "whole")
    assert quietly("train", "--set", *RUN) == 0
    expected, chance = losses(whole), random.Random(time.time_ns())
    kills = resumed = different = 0
    while kills < KILLS and time.monotonic() < end:
        folder = fresh_folder(parent, f"kill-{kills}")
        process = start(folder, "--set", *RUN)
        step = chance.randrange(0, STEPS - 5)
        wait_for(process, lambda folder=folder, step=step: steps_done(folder) >= step)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        if (folder / "model" / "checkpoints" / "latest").exists():
            load_model(folder / "model", "latest")  # raises if the kill broke it
            resumed += 1
        kills += 1
        different += quietly("train", "--resume", "--set", *RUN) != 0 or losses(folder) != expected
        shutil.rmtree(folder)
    text = f"{kills} of {KILLS} kills, {resumed} after a checkpoint, {different} with other losses"
    return (None if kills < KILLS and not different else different == 0), text


def chapters(parent: Path, seconds: float) -> tuple[bool | None, str]:
    """Every cell twice; those that fit into the time."""
    end, done, failed, left_out = time.monotonic() + seconds, [], [], []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if time.monotonic() + (360 if path.name.startswith("08") else 30) > end:
            left_out.append(path.stem[:2])
            continue
        try:
            run_twice(path, parent / "chapters")
            done.append(path.stem[:2])
        except Exception as error:
            failed.append(f"{path.stem}: {str(error).strip().splitlines()[-1]}")
    text = f"twice every cell: {' '.join(done) or 'none'}"
    text += f"; left out for lack of time: {' '.join(left_out)}" if left_out else ""
    held = None if left_out and not failed else not failed  # None: not all of it was tried
    return held, text + "".join(f"; FAILED {line}" for line in failed)


def memory() -> int:
    """Resident memory of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def haul(parent: Path, seconds: float) -> tuple[bool | None, str]:
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


def long_text(parent: Path, count: int) -> tuple[bool | None, str]:
    """Generate many characters; the last tenth takes no longer than the first."""
    trained = load_model(parent / "haul" / "model")
    prompt = trained.tokenizer.encode(trained.config.inference.prompt)
    tokens = generate(trained.model, prompt, max_new_tokens=count)
    rates = []
    for _ in range(10):
        started = time.perf_counter()
        made = sum(1 for _ in islice(tokens, count // 10))
        rates.append(made / (time.perf_counter() - started))
    first, last = sum(rates[:3]) / 3, sum(rates[-3:]) / 3
    text = f"{count:,} characters, {first:.0f} a second at first, {last:.0f} at the end"
    return (None if count < CHARACTERS and last > 0.8 * first else last > 0.8 * first), text


def soak(minutes: float) -> int:
    torch.set_num_threads(1)
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    started, seconds = time.monotonic(), 60 * minutes
    count = min(CHARACTERS, 10 * int(CHARACTERS * minutes / 150))
    results = {}
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        tests = (
            ("killing", lambda: killing(parent, SHARE_KILLS * seconds)),
            ("long haul", lambda: haul(parent, SHARE_HAUL * seconds)),
            ("long text", lambda: long_text(parent, count)),
            ("chapters", lambda: chapters(parent, seconds - (time.monotonic() - started))),
        )
        for title, test in tests:
            results[title] = test()
            print(f"{title}: {results[title][1]}", flush=True)
        os.chdir(ROOT)
    print(f"\nsummary after {(time.monotonic() - started) / 60:.1f} minutes")
    for title, (held, text) in results.items():
        word = {True: "held", False: "BROKEN", None: "held in part (too short a run)"}[held]
        print(f"  {word}: {title}: {text}")
    return int(any(held is False for held, _ in results.values()))


if __name__ == "__main__":
    sys.exit(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 30))
