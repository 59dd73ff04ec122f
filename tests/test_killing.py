"""Training is killed like a user's laptop kills it, and resumes as if nothing had happened."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY_RUN, environment

from moe_tutorial.command.cli import main

STEPS = 120
RUN = [*TINY_RUN, f"training.max_steps={STEPS}", "training.epochs=1000", "training.save_steps=2"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send"),
]


def start(folder: Path, *arguments: str, first: str | None = None) -> subprocess.Popen[str]:
    """Start training; `first` is Python run in the process before it."""
    command = [sys.executable, "-m", "moe_tutorial", "train", *arguments]
    if first is not None:
        main = f"{first}; from moe_tutorial.command.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", main, "train", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def steps_done(folder: Path) -> int:
    path = folder / "model" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen[str], condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


def losses(folder: Path) -> list[tuple[float, ...]]:
    lines = (folder / "model" / "metrics.jsonl").read_text().splitlines()
    keys = ("step", "loss", "balance_loss", "grad_norm", "learning_rate", "validation_loss")
    return [tuple(json.loads(line)[key] for key in keys) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copy(ROOT / "config.hocon", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(ROOT / "config.hocon", folder)
    process = start(folder, "--set", *RUN)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return losses(folder)


def resume_to_the_end(*changes: str) -> None:
    """In this process, which has imported everything already."""
    assert main(["train", "--resume", "--set", *RUN, *changes]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_at_random_moments_then_resume_gives_the_same_losses(folder, uninterrupted, seed):
    """Before the first checkpoint or after it, within a step or within a save."""
    moments = random.Random(seed)
    process = start(folder, "--set", *RUN)
    step = moments.randrange(0, STEPS - 20)
    wait_for(process, lambda: steps_done(folder) >= step)
    time.sleep(moments.random() * 0.02)
    process.kill()
    process.communicate()
    assert steps_done(folder) < STEPS
    resume_to_the_end()
    assert losses(folder) == uninterrupted


@pytest.mark.parametrize(("call", "count"), [
    ("os.fsync", 6), ("os.fsync", 31), ("os.rename", 2), ("os.replace", 9), ("os.replace", 12),
    ("shutil.rmtree", 8),
])  # fmt: skip
def test_kill_9_inside_a_save_then_resume_gives_the_same_losses(folder, uninterrupted, call, count):
    """The process kills itself just before the count-th call of a function that saving uses."""
    module = call.split(".")[0]
    dying = (
        f"import itertools, os, signal, {module}\n"
        f"real, calls = {call}, itertools.count(1)\n"
        "def dying(*args, **kwargs):\n"
        f"    if next(calls) == {count}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*args, **kwargs)\n"
        f"{call} = dying\n"
        "import moe_tutorial.command.cli"
    )
    process = start(folder, "--set", *RUN, first=f"exec({dying!r})")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert 0 < steps_done(folder) < STEPS
    resume_to_the_end()
    assert losses(folder) == uninterrupted


@pytest.mark.parametrize(
    ("number", "code", "config"),
    [("SIGINT", 130, "config.hocon"), ("SIGTERM", 143, "my own.hocon"), ("SIGHUP", 129, "a.hocon")],
)
@pytest.mark.usefixtures("no_nohup")
def test_signals_save_and_say_how_to_resume(folder, uninterrupted, number, code, config):
    (folder / "config.hocon").rename(folder / config)
    process = start(
        folder, *([] if config == "config.hocon" else ["--config", config]), "--set", *RUN
    )
    wait_for(process, lambda: steps_done(folder) >= 7)
    process.send_signal(signal.Signals[number])
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert err == ""
    saved = int(re.search(r"stopped and saved after step (\d+); to continue:", out)[1])
    assert f"step-{saved:06d}\n" == (folder / "model" / "checkpoints" / "latest").read_text()
    said = shlex.split(out.splitlines()[-1])
    assert said[:3] == ["python", "-m", "moe_tutorial"]
    assert main(said[3:]) == 0
    assert losses(folder) == uninterrupted


@pytest.mark.usefixtures("no_nohup")
def test_a_closed_terminal_saves(folder, uninterrupted):
    """The shell's part: a session of its own, whose terminal is a pseudo-terminal that goes."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:  # the child
        command = [sys.executable, "-m", "moe_tutorial", "train", "--set", *RUN]
        os.execve(sys.executable, command, environment())
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 60
    while steps_done(folder) < 7 and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)  # or the child would wait for the terminal to be read
        time.sleep(0.001)
    os.close(terminal)
    os.waitpid(pid, 0)  # its exit code tells of the words that it could not write
    assert 7 <= steps_done(folder) < STEPS
    latest = (folder / "model" / "checkpoints" / "latest").read_text()
    assert latest == f"step-{steps_done(folder):06d}\n"
    resume_to_the_end()
    assert losses(folder) == uninterrupted


@pytest.mark.parametrize(("number", "code"), [(None, 141), (signal.SIGINT, 130)])
def test_when_nobody_reads_the_output_any_more_it_saves(folder, uninterrupted, number, code):
    """As after `train | head -2`, or after Ctrl-C in `train 2>&1 | tee log`, which ends both."""
    process = start(folder, "--set", *RUN, "training.eval_steps=1")
    process.stdout.readline()
    wait_for(process, lambda: steps_done(folder) >= 7)
    process.stdout.close()
    if number is None:
        said = process.stderr.read().splitlines()
    process.stderr.close()
    if number is not None:
        process.send_signal(number)
    else:
        assert re.fullmatch(r"stopped and saved after step \d+; to continue:", said[0])
        assert said[1].startswith("  python -m moe_tutorial train --resume")
        assert len(said) == 2
    assert process.wait(timeout=60) == code
    assert 7 <= steps_done(folder) < STEPS
    latest = (folder / "model" / "checkpoints" / "latest").read_text()
    assert latest == f"step-{steps_done(folder):06d}\n"
    resume_to_the_end("training.eval_steps=10")
    assert [row[:5] for row in losses(folder)] == [row[:5] for row in uninterrupted]


def test_under_nohup_a_closed_terminal_ends_nothing(folder):
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start(folder, "--set", *RUN, first=ignoring)
    wait_for(process, lambda: steps_done(folder) >= 7)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert steps_done(folder) == STEPS


def test_a_second_training_in_the_same_folder_is_refused(folder):
    first = start(folder, "--set", *RUN, "training.max_steps=100000")
    try:
        wait_for(first, lambda: steps_done(folder) >= 3)
        second = start(folder, "--set", *RUN)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 1
        assert re.fullmatch(
            r"error: another training is running in model \(process \d+\); .*\n", err
        )
        before = steps_done(folder)
        wait_for(first, lambda: steps_done(folder) > before)
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_a_run_limited_by_time_resumes_with_the_time_it_has_left(folder):
    limited = [*RUN, "training.max_steps=null", "training.max_seconds=2"]
    process = start(folder, "--set", *limited)
    wait_for(process, lambda: steps_done(folder) >= 20)
    process.kill()
    process.communicate()
    resume_to_the_end("training.max_steps=null", "training.max_seconds=2")
    last = json.loads((folder / "model" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 2 <= last["seconds"] < 6
