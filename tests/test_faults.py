"""Disks fill up, folders vanish, two trainings meet, numbers explode: one line, nothing lost."""

import contextlib
import os
import re
import subprocess

import pytest
import torch
from conftest import TINY_RUN
from test_killing import (  # noqa: F401
    RUN,
    folder,
    losses,
    resume_to_the_end,
    start,
    steps_done,
    uninterrupted,
    wait_for,
)

from moe_tutorial import training
from moe_tutorial.checkpoint import load_model
from moe_tutorial.command.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send"),
]


def one_line(process) -> str:
    """The one line on stderr of a process that ended with exit code 1."""
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


def test_the_second_training_names_the_process_of_the_first(folder):  # noqa: F811
    first = start(folder, "--set", *RUN, "training.max_steps=100000")
    try:
        wait_for(first, lambda: steps_done(folder) >= 3)
        assert main(["train", "--set", *RUN]) == 1
        with pytest.raises(OSError, match=rf"running in model \(process {first.pid}\); wait"):
            main(["train", "--debug", "--resume", "--set", *RUN])
    finally:
        first.kill()
        first.communicate()
    trained_before = steps_done(folder)
    assert (folder / "model" / "training.pid").read_text() == f"{first.pid}\n"
    assert main(["train", "--resume", "--set", *RUN, f"training.max_steps={trained_before}"]) == 0
    assert (folder / "model" / "training.pid").read_text() == f"{os.getpid()}\n"


def test_a_second_ctrl_c_inside_a_save_ends_at_once_without_damage(folder, uninterrupted):  # noqa: F811
    impatient = (
        "import itertools, os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # else ignored in background
        "real, calls = os.fsync, itertools.count(1)\n"
        "def fsync(number):\n"
        "    if next(calls) == 31:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.5)  # signals of one kind do not queue\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.5)\n"
        "    return real(number)\n"
        "os.fsync = fsync\n"
        "import moe_tutorial.command.cli"
    )
    process = start(folder, "--set", *RUN, first=f"exec({impatient!r})")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "stopped and saved" not in out
    assert list((folder / "model" / "checkpoints").glob("*.part"))  # it was inside a save
    assert load_model(folder / "model", "latest").config
    resume_to_the_end()
    assert losses(folder) == uninterrupted


def test_a_file_that_may_not_grow_is_one_line_and_nothing_is_lost(folder, uninterrupted):  # noqa: F811
    """As with a quota: after the fifth save, no file may be larger than 20 KB."""
    limited = (
        "import itertools, os, resource\n"
        "real, calls = os.fsync, itertools.count(1)\n"
        "def fsync(number):\n"
        "    if next(calls) == 31: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "    return real(number)\n"
        "os.fsync = fsync\n"
        "import moe_tutorial.command.cli"
    )
    line = one_line(start(folder, "--set", *RUN, first=f"exec({limited!r})"))
    assert re.search(r"model/checkpoints/step-0000\d\d\.part cannot be written .*too large", line)
    assert "the checkpoint before it is kept; mend it, then go on with --resume" in line
    assert list((folder / "model" / "checkpoints").glob("*.part")) == []
    resume_to_the_end()
    assert losses(folder) == uninterrupted


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own in memory."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False

    if not mount("size=1m"):
        pytest.skip("mounting a small disk needs root on Linux")
    yield place, mount
    subprocess.run(["umount", "--lazy", str(place)], check=False)


def test_a_full_disk_is_one_line_and_nothing_is_lost(folder, uninterrupted, disk):  # noqa: F811
    place, _ = disk
    (folder / "model").symlink_to(place / "model")
    (place / "model").mkdir()
    process = start(folder, "--set", *RUN)
    wait_for(process, lambda: steps_done(folder) >= 20)
    with (place / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:  # somebody else fills the disk
            filler.write(b"x" * 4096)
    line = one_line(process)
    assert re.search(r"model/.* cannot be written .*(No space left|os error 28)", line)
    assert "--resume" in line
    assert load_model(folder / "model", "latest").config
    (place / "filler").unlink()
    resume_to_the_end()
    assert losses(folder) == uninterrupted


def test_a_read_only_folder_is_one_line(folder, disk):  # noqa: F811
    place, mount = disk
    (place / "model").mkdir()
    assert mount("remount", "ro")
    for way in ([], ["--resume"]):
        line = one_line(start(folder, *way, "--set", *RUN, f"paths.output_dir={place}/model"))
        assert re.search(
            r"disk/model\S*: read-only file system; name a place that can be written", line
        )


def test_a_folder_that_vanishes_is_one_line_and_does_not_come_back_half(folder):  # noqa: F811
    process = start(folder, "--set", *RUN, "training.max_steps=100000")
    wait_for(process, lambda: steps_done(folder) >= 10)
    (folder / "model").rename(folder / "elsewhere")
    line = one_line(process)
    assert re.search(r"error: model/checkpoints/\S+", line)  # whichever file is missed first
    assert not (folder / "model").exists()
    assert load_model(folder / "elsewhere", "latest").config


def test_a_learning_rate_of_a_million_stops_and_the_kept_checkpoint_is_good(folder, capsys):  # noqa: F811
    wild = ["training.learning_rate=1e6", "training.warmup_steps=0", "training.save_steps=1"]
    assert main(["train", "--set", *RUN, *wild]) == 1
    line = capsys.readouterr().err
    assert re.fullmatch(r"error: step \d+: .*lower training\.learning_rate.*\n", line)
    assert "the last good checkpoint is in model" in line
    kept = load_model(folder / "model", "latest").model
    assert all(tensor.isfinite().all() for tensor in kept.state_dict().values())


def test_an_expert_without_a_token_for_500_steps_is_reported(folder, capsys, monkeypatch):  # noqa: F811
    """The steps are real ones; the load of two experts is replaced, of one from step 101 on."""
    real = training.train

    def train(*arguments):
        for record in real(*arguments):
            record.expert_load[:] = torch.tensor([0.5, 0.25, 0.25, 0])
            record.expert_load[0, 2] = 0.25 if record.step == 100 else 0
            record.expert_load[1, 3] = 0.1
            yield record

    monkeypatch.setattr(training, "train", train)
    tiny = ["model.dim=6", "model.hidden_dim=2", "training.max_steps=610", "training.epochs=1000",
            "training.save_steps=1000", "training.eval_steps=1000"]  # fmt: skip
    assert main(["train", "--set", *TINY_RUN, *tiny, "training.batch_size=1"]) == 0
    log = (folder / "model" / "train.log").read_text()
    found = re.findall(r"step (\d+): (.*) got no token for 500 steps", log)
    assert found == [("500", "expert 3 of layer 1"), ("600", "expert 2 of layer 1")]
    assert capsys.readouterr().out.count("got no token for 500 steps") == 1
