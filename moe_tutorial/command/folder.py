"""The run folder: taken by one training alone, and free of other people's files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from moe_tutorial.config import ConfigError, dump_config, load_snapshot
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.trust import DRAFT

FIRST_FILES = {"training.lock", "training.pid", "checkpoints", "config.hocon.part"}
LATER_FILES = {"config.hocon", "vocab.txt", "metrics.jsonl", "metrics.part", "train.log",
               "history.png", DRAFT, f"{DRAFT}.part"}  # fmt: skip


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there; meanwhile no other process can train in it.

    Raises: OSError if one does, or if a link in it could lead the training to other files.
    """
    place = folder.resolve() if folder.is_symlink() else folder  # it may lead to nothing yet
    place.mkdir(parents=True, exist_ok=True)
    _check_no_links(folder)
    try:
        with FileLock(folder / "training.lock", timeout=0):  # a killed process holds it no more
            (folder / "training.pid").write_text(f"{os.getpid()}\n", encoding="ascii")
            yield
    except Timeout:
        raise OSError(
            f"another training is running in {folder} (process {_read_pid(folder)}); wait for it, "
            f"or choose another folder with --set paths.output_dir=DIR"
        ) from None


def _read_pid(folder: Path) -> str:
    try:
        return (folder / "training.pid").read_text(encoding="ascii").strip()[:20] or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _check_no_links(folder: Path) -> None:
    """A stranger's run folder could send what a training writes to the user's own files."""
    for path in chain(folder.iterdir(), (folder / "checkpoints").rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise OSError(
                f"{path} is a link or no file, and a training may write to it; remove it, or "
                f"choose another folder with --set paths.output_dir=DIR"
            )


def check_free(folder: Path) -> None:
    """Raise ValueError if the folder holds a person's files.

    A new run may replace what a run without a checkpoint has left, and nothing else.
    """
    others = {path.name for path in folder.iterdir() if path.name[0] != "."} - FIRST_FILES
    if _is_snapshot(folder / "config.hocon"):
        others -= LATER_FILES
    if others:
        raise ValueError(
            f"{folder} holds {min(others)!r}, which is not of a run, and a new run there could "
            f"replace it; choose an empty or new folder with --set paths.output_dir=DIR"
        )


def _is_snapshot(path: Path) -> bool:
    """Whether the configuration is one that a run wrote, and not one that a person wrote."""
    try:
        return path.read_bytes() == dump_config(load_snapshot(path)).encode()
    except (OSError, ConfigError):
        return False


def move_aside(folder: Path) -> None:
    """Give the folder of an earlier run another name, and say so. Raises: ValueError, OSError."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{folder} holds a run and cannot be moved aside, because it is the current folder; "
            f"go on with --resume, or choose another folder with --set paths.output_dir=DIR"
        )
    number, real = 1, folder.resolve()  # a link stays, and goes on to lead to the same disk
    while (aside := real.with_name(f"{real.name}.old-{number}")).exists():
        number += 1
    with alone_in(folder):
        pass  # nobody is training in it
    real.rename(aside)
    aside = aside if folder.is_symlink() else folder.with_name(aside.name)
    print(f"the earlier run in {folder} is now in {aside}", flush=True)


def check_same_vocabulary(folder: Path, tokenizer: CharTokenizer) -> None:
    """Raise ValueError if the run was begun with other symbols."""
    saved = CharTokenizer.load(folder / "vocab.txt")
    if saved.int_to_char != tokenizer.int_to_char:
        raise ValueError(
            f"{folder / 'vocab.txt'} has {saved.vocab_size} symbols, but the corpus has "
            f"{tokenizer.vocab_size}, not the same ones: a run resumes on the text it began with"
        )
