"""The doctor command: can this machine run the course? Every line says what to do, if anything.

It answers where packages are missing, too, and therefore imports them late.
"""

import argparse
import math
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moe_tutorial import FILES, __version__
from moe_tutorial.command.terminal import EXIT_FAILED, reason, visible

if TYPE_CHECKING:
    import torch

    from moe_tutorial.config import Config
    from moe_tutorial.corpus import Corpus

OLDEST_PYTHON = (3, 11)
PORT = 8888  # JupyterLab's own choice; it takes the next one if that is in use
SECONDS, WARM_UP = 2.0, 3  # of training; steps that are not counted
LITTLE_DISK, LITTLE_MEMORY = 1.0, 2.0  # GB below which a line is a note
GB = 1e9


class Finding(NamedTuple):
    """One line of the report."""

    level: str  # fine, note: works but know it, mend: the course does not run so
    text: str  # what was found, and what to do if it is not fine
    short: str = ""  # for the instructor's line; "": nothing


class Pace(NamedTuple):
    """How fast this machine trains."""

    device: str
    threads: int
    rate: float  # characters per second
    step: float  # seconds for one step
    measurement: float  # seconds for one measurement of the held-out text


def doctor_command(args: argparse.Namespace) -> int:
    """Print what was found, and one line for the instructor; 1 if something is to be mended."""
    findings = {}
    for name, examine in EXAMINATIONS.items():
        findings[name] = finding = examined(name, examine)
        print(f"{finding.level}  {visible(finding.text)}", flush=True)
    print(f"\nfor the instructor: {visible(instructors_line(findings))}")
    return EXIT_FAILED if any(f.level == "mend" for f in findings.values()) else 0


def examined(name: str, examine: Callable[[], Finding]) -> Finding:
    """What an examination finds; one that fails is a finding as well."""
    try:
        return examine()
    except Exception as error:  # whatever is broken here is what people came to learn
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        return Finding("mend", f"{name}: {kind}{reason(error)}")


def instructors_line(findings: Mapping[str, Finding]) -> str:
    """Versions, the machine, the pace and what is to be mended; no names and no paths."""
    parts = [f"moe_tutorial {__version__}", f"{platform.system()} {platform.machine()}"]
    parts += [finding.short for finding in findings.values() if finding.short]
    broken = [name for name, finding in findings.items() if finding.level == "mend"]
    parts.append(f"to mend: {', '.join(broken)}" if broken else "ready")
    return " | ".join(parts)


def examine_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Is Python new enough?"""
    found, oldest = (".".join(map(str, v)) for v in (version, OLDEST_PYTHON))
    if version < OLDEST_PYTHON:
        text = f"Python {found} is too old; install {oldest} or newer and make .venv anew"
        return Finding("mend", text, f"Python {found}")
    return Finding("fine", f"Python {found}", f"Python {found}")


def examine_packages() -> Finding:
    """Do the installed packages have the versions that the course was checked with?"""
    lines = (FILES / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    return compared(pins, {name: _installed(name) for name in pins}, _needed() or set(pins))


def compared(
    pins: Mapping[str, str], installed: Mapping[str, str | None], needed: set[str]
) -> Finding:
    """Pins against what is installed (None: nothing); needed: without these no chapter runs."""
    torch_version = f"torch {installed.get('torch') or 'missing'}"
    missing = [name for name in pins if installed[name] is None]
    others = {
        name: version
        for name, version in installed.items()
        if version is not None and version.partition("+")[0] != pins[name]
    }
    gone = [f"{name}=={pins[name]}" for name in missing if name in needed]
    if gone:
        text = f"missing: {', '.join(gone)}; python -m pip install {' '.join(gone)}"
        return Finding("mend", text, torch_version)
    notes = [f"{name} {version} (checked with {pins[name]})" for name, version in others.items()]
    if missing:
        notes.append(f"not here, needed by the tests only: {', '.join(missing)}")
    if notes:
        return Finding("note", f"packages: {'; '.join(notes)}", torch_version)
    return Finding("fine", f"{len(pins)} packages, all as checked", torch_version)


def examine_folder(here: Path | None = None) -> Finding:
    """May training and notebooks write to the current folder, and is there room?"""
    here = here or Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(b"x")
    except OSError as error:
        return Finding("mend", f"{here} cannot be written to ({reason(error)}); work in another")
    free = shutil.disk_usage(here).free / GB
    if free < LITTLE_DISK:
        text = f"this folder's disk has {free:.1f} GB left; make room"
        return Finding("note", text, f"disk {free:.1f} GB")
    return Finding("fine", f"this folder can be written to, {free:.0f} GB left")


def examine_port(number: int = PORT) -> Finding:
    """Can JupyterLab answer the browser on this machine?"""
    for candidate in (number, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        if candidate:
            return Finding("fine", f"port {number} is free for JupyterLab")
        return Finding("note", f"port {number} is in use; JupyterLab says which one it takes")
    return Finding("mend", "no port of 127.0.0.1 can be opened; allow it in the firewall")


def examine_machine() -> Finding:
    """How many cores and how much memory?"""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    total, free = memory.total / GB, memory.available / GB
    short = f"{cores} cores, {total:.0f} GB"
    text = f"{cores} cores, {total:.1f} GB of memory, {free:.1f} of them free"
    if free < LITTLE_MEMORY:
        return Finding("note", f"{text}: close other programs", short)
    return Finding("fine", text, short)


def examine_training(seconds: float = SECONDS) -> Finding:
    """Train for some seconds as `make train` does; how long would all of it take?"""
    from moe_tutorial.command.hocon import load_config
    from moe_tutorial.corpus import load_corpus
    from moe_tutorial.device import choose_device, set_threads
    from moe_tutorial.training import progress, steps_per_epoch

    config = load_config(FILES / "config.hocon")
    settings = config.training
    set_threads(config.device)
    corpus = load_corpus(settings.dataset, settings.data_dir)
    pace = measured(config, corpus, choose_device(config.device), seconds)
    steps = round(1 / progress(1, 0.0, steps_per_epoch(len(corpus.train), settings), settings))
    whole = steps * pace.step + math.ceil(steps / settings.eval_steps) * pace.measurement
    minutes = min(whole, settings.max_seconds or math.inf) / 60
    takes = f"make train takes about {minutes:.1f} minutes"
    where = f"{pace.device}, {pace.threads} thread{'s' * (pace.threads != 1)}"
    return Finding(
        "fine",
        f"trained for {seconds:g} seconds: {pace.rate:,.0f} characters/s ({where}); {takes} here, "
        f"if nothing else runs",
        f"{where}, {pace.rate:,.0f} characters/s, {takes}",
    )


def measured(config: "Config", corpus: "Corpus", device: "torch.device", seconds: float) -> Pace:
    """Train the configured model for some seconds and keep nothing of it."""
    import torch

    from moe_tutorial.model import MoELanguageModel
    from moe_tutorial.tokenizer import CharTokenizer
    from moe_tutorial.training import measure, start_training, train

    settings = config.training
    tokenizer = CharTokenizer.fit(corpus.train + corpus.validation)
    texts = [tokenizer.encode(text).to(device) for text in corpus]
    torch.manual_seed(settings.seed)
    model = MoELanguageModel(config.model, tokenizer.vocab_size).to(device)
    state = start_training(model, settings)
    times = [0.0]  # after each step
    for record in train(state, *texts, settings.model_copy(update={"eval_steps": sys.maxsize})):
        times.append(record.seconds)
        if len(times) > WARM_UP + 1 and record.seconds >= seconds:
            break
    first = min(WARM_UP, len(times) - 2)  # a training of one step has no warm-up
    step = (times[-1] - times[first]) / (len(times) - 1 - first)
    start = time.perf_counter()
    measure(state, texts[1], settings, lambda: False)
    took = time.perf_counter() - start
    rate = settings.batch_size * settings.seq_len / step
    return Pace(str(device), torch.get_num_threads(), rate, step, took)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _needed() -> set[str]:
    """What the package asks for, without extras; nothing if it is not installed."""
    try:
        lines = metadata.requires("moe-tutorial") or []
    except metadata.PackageNotFoundError:
        return set()
    return {line.partition(">")[0].partition("<")[0] for line in lines if "extra ==" not in line}


EXAMINATIONS = {
    "python": examine_python,
    "packages": examine_packages,
    "folder": examine_folder,
    "port": examine_port,
    "machine": examine_machine,
    "training": examine_training,
}
