"""What the tests share: one thread each, a tiny model, a finished tiny run, the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from pyhocon import ConfigFactory

from moe_tutorial.config import Config, ModelConfig
from moe_tutorial.model import MoELanguageModel

ROOT = Path(__file__).resolve().parent.parent
TINY_SHAKESPEARE = ROOT / "data" / "tiny_shakespeare.txt"

torch.set_num_threads(1)  # several test processes run at once
settings.register_profile("course", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("course")

TINY = ModelConfig(
    dim=24, num_layers=2, num_heads=3, num_experts=5, top_k=2, hidden_dim=16, max_seq_len=16,
    shared_expert=False, dropout=0.0,
)  # fmt: skip
TINY_RUN: list[str] = [
    "model.dim=24",
    "model.num_layers=2",
    "model.num_heads=3",
    "model.num_experts=4",
    "model.hidden_dim=16",
    "model.max_seq_len=32",
    "model.dropout=0.1",
    "training.seq_len=32",
    "training.batch_size=4",
    "training.eval_steps=10",
    "training.save_steps=5",
    "training.max_steps=20",
    "training.warmup_steps=5",
    "training.epochs=1",
    "training.dataset=passage",
]


@pytest.fixture(scope="session", autouse=True)
def _parsed_once() -> Iterator[None]:
    """pyhocon needs 0.1 s for config.hocon, and the tests read it 500 times: keep what it read.

    Texts that take something from other files or from the environment are read each time.
    """
    trees = {}

    def parse_string(cls, content: str, basedir=None, resolve=True, *more: object) -> object:
        arguments = (content, basedir, resolve, *more)
        if re.search(r"^\s*include\b", content, re.MULTILINE) or ("${" in content and resolve):
            return plain(*arguments)
        key = (content, resolve, *more)
        if key not in trees:
            trees[key] = plain(*arguments)
        return deepcopy(trees[key])

    plain = ConfigFactory.parse_string
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigFactory, "parse_string", classmethod(parse_string))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """What is started now ends on SIGHUP, even if the tests were started with nohup."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def tiny_model() -> MoELanguageModel:
    """Two layers, odd sizes, no dropout, 13 symbols."""
    return MoELanguageModel(TINY, vocab_size=13)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m moe_tutorial` in a folder, as a user does."""

    def run(
        *arguments: str, cwd: Path, more: Mapping[str, str] | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """`more` is added to the environment."""
        return subprocess.run(
            [sys.executable, "-m", "moe_tutorial", *map(str, arguments)],
            cwd=cwd, env={**environment(), **(more or {})}, capture_output=True, text=True,
            encoding="utf-8", errors="surrogateescape", timeout=120, check=False, **options,
        )  # fmt: skip

    return run


def environment() -> dict[str, str]:
    """The environment of a test process: one thread, UTF-8."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory) -> Path:
    """A folder with config.hocon in it and a finished tiny run in its subfolder `model`."""
    from moe_tutorial.command.cli import main

    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.hocon").write_text((ROOT / "config.hocon").read_text(), newline="\n")
    with chdir(folder), redirect_stdout(StringIO()) as printed:
        assert main(["train", "--set", *TINY_RUN]) == 0
    (folder / "train.stdout").write_text(printed.getvalue())
    return folder


@pytest.fixture
def tiny_config() -> Config:
    """The configuration of TINY_RUN, read through the same path as the command line's."""
    from moe_tutorial.command.hocon import load_config

    return load_config(ROOT / "config.hocon", TINY_RUN)
