"""Run one learner's answer in a process of its own, with limits, through the course's check.

The process is a copy of one that has imported PyTorch and the checks and computed nothing, so that
it starts in milliseconds (on Windows it starts anew). It works in an empty folder, prints nowhere,
and is ended with all that it started. That protects against accidents, not against malice: it has
the rights of whoever runs it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple
from unittest import mock

import psutil
from returned import Job

START = 120.0  # seconds in which a process must have started, on a busy machine too
ANSWER = 10_000  # bytes that an answer may have
LARGEST_FILE = 100_000_000  # bytes that a learner's code may write
LONG, FAILED = 300, 10  # characters of a hint; parts that are told to have raised
PREFIXES = {"correct: ": "solved", "not yet: ": "wrong", "the bug is still there: ": "wrong",
            "not attempted yet": "untouched"}  # fmt: skip
FORKS = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if FORKS else "spawn")
if FORKS:
    CONTEXT.set_forkserver_preload(["moe_tutorial.checks"])


class Limits(NamedTuple):
    """What one answer may take."""

    seconds: float = 20.0
    memory: float = 1.0  # GB


class Outcome(NamedTuple):
    """What came of one answer."""

    verdict: str  # solved, untouched, wrong, time, memory or ended
    hint: str
    failed: Sequence[tuple[int, str]] = ()  # which parts of the job raised what


def judge(job: Job, limits: Limits) -> Outcome:
    """Run the job in a new process and wait until it answers, ends, or exceeds a limit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        reader, writer = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=run, args=(writer, tuple(job), folder, limits.memory))
        process.start()
        writer.close()
        try:
            return wait_for(reader, process, limits)
        finally:
            end(process)
            reader.close()


def wait_for(reader: Connection, process: BaseProcess, limits: Limits) -> Outcome:
    """The answer, which comes as JSON: unpickling a stranger's bytes would run them here."""
    try:
        if not reader.poll(START):
            return Outcome("ended", f"it did not start in {START:g} seconds")
        reader.recv_bytes(ANSWER)  # it is ready; from here on the time counts
        deadline = time.monotonic() + limits.seconds
        while not reader.poll(0.02):
            if time.monotonic() > deadline:
                return Outcome("time", f"no answer in {limits.seconds:g} seconds; an endless loop?")
            if resident(process.pid) > limits.memory * 1e9:
                return Outcome("memory", f"it took more than {limits.memory:g} GB of memory")
        return outcome(*json.loads(reader.recv_bytes(ANSWER)), limits)
    except (EOFError, OSError, ValueError, TypeError):  # it ended, or spoke for itself
        process.join(1)
        return Outcome("ended", f"its process ended without an answer (exit {process.exitcode})")


def outcome(line: str, failed: Sequence[tuple[int, str]], limits: Limits) -> Outcome:
    """The verdict in the line of a check."""
    if re.search(r"MemoryError|can't allocate memory", line):
        return Outcome("memory", f"it took more than {limits.memory:g} GB of memory", failed)
    for prefix, verdict in PREFIXES.items():
        if line.startswith(prefix):
            return Outcome(verdict, "" if verdict == "solved" else line, failed)
    return Outcome("ended", line, failed)


def run(writer: Connection, job: tuple, folder: str, memory: float) -> None:
    """In the new process: lock in, answer, and leave at once."""
    from moe_tutorial import checks  # noqa: F401 - before addresses are limited

    lock_in(folder, memory)
    writer.send_bytes(b"ready")
    writer.send_bytes(json.dumps(line_of(*job)).encode())
    os._exit(0)  # nothing that the answer left behind is waited for


def line_of(parts: tuple[str, ...], name: str, check: str) -> tuple[str, list[tuple[int, str]]]:
    """Run the parts, then the check: the line that it prints, and which parts raised what."""
    from moe_tutorial import checks

    lines, failed, namespace = [], [], {"__name__": "__main__"}
    try:
        for i, part in enumerate(parts):
            try:
                exec(compile(part, "<returned>", "exec"), namespace)
            except Exception as error:  # the others may still be enough
                failed.append((i, f"{type(error).__name__}: {error}"[:LONG]))
        if name in namespace:
            # What checks print, and not what the answer prints.
            with mock.patch.object(checks.base, "print", lines.append, create=True):
                getattr(checks, check)(namespace[name])
        else:
            lines.append(f"not yet: its definition raised {failed[-1][1]}")
    except SystemExit:
        lines.append("it calls sys.exit")
    except BaseException as error:
        lines.append(f"it raised {type(error).__name__}: {error}")
    return " ".join(lines[-1].split())[:LONG], failed[:FAILED]


def lock_in(folder: str, memory: float) -> None:
    """Work in an empty folder, print nowhere, read nothing, and stay below the limits."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.chdir(folder)
    os.environ.update(HOME=folder, USERPROFILE=folder, TMPDIR=folder)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    if os.name == "nt":
        return
    import resource

    os.setsid()  # what it starts can be ended with it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    space = psutil.Process().memory_info().vms + int(memory * 1e9)
    for kind, limit in ((resource.RLIMIT_AS, space), (resource.RLIMIT_FSIZE, LARGEST_FILE),
                        (resource.RLIMIT_CORE, 0)):  # fmt: skip
        with suppress(ValueError, OSError):  # macOS refuses a limit on addresses
            resource.setrlimit(kind, (limit, limit))


def resident(pid: int) -> int:
    """Bytes in memory of a process and those that it started."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def end(process: BaseProcess) -> None:
    """Kill the process and all that it started."""
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        started = psutil.Process(process.pid).children(recursive=True)
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with suppress(psutil.Error):
            child.kill()
    process.kill()
    process.join()
    process.close()
