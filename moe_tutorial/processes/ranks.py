"""A function run on several new processes that form one group: for notebooks and tests."""

import contextlib
import copy
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist


def run(function: Callable, num_processes: int, *arguments: object, seconds: float = 240.0) -> list:
    """Call function(rank, *arguments) in new processes that form one gloo group; results by rank.

    The processes get copies of the arguments, and have ended when this returns or raises.
    function must be importable: one that a notebook defines does not exist in a new process.
    Raises: RuntimeError with the rank if one fails or dies, TimeoutError after `seconds`,
    ValueError for a function of a notebook or script.
    """
    if function.__module__ == "__main__":
        raise ValueError(
            f"{function.__name__} is defined in a notebook or script, which new processes cannot "
            f"import; put it into a module"
        )
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        workers: list[tuple[BaseProcess, Connection]] = []
        stack.callback(_end, workers)
        for rank in range(num_processes):
            workers.append(_start(rank, num_processes, folder, seconds, function, arguments))
        return _collect(workers, deadline, seconds)


def in_turn(rank: int, function: Callable, calls: Sequence[tuple]) -> list:
    """For `run`: several calls of one function, in processes that are started once."""
    return [function(rank, *arguments) for arguments in calls]


def _start(
    rank: int, size: int, folder: str, seconds: float, function: Callable, arguments: tuple
) -> tuple[BaseProcess, Connection]:
    spawn = multiprocessing.get_context("spawn")  # a forked copy of running threads may hang
    here, there = spawn.Pipe()
    # Copies: tensors travel in shared memory, and no process may change those of another.
    mine = copy.deepcopy(arguments)
    work = (there, rank, size, folder, seconds, function, mine)
    process = spawn.Process(target=_work, args=work, daemon=True)
    with there:
        process.start()
    return process, here


def _work(
    connection: Connection, rank: int, size: int, folder: str, seconds: float,
    function: Callable, arguments: tuple,
) -> None:  # fmt: skip
    """The life of one process: join the group, work, report, wait until the others have."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if os.name == "posix":  # all processes are on this machine: no other network is touched
            names = (name for _, name in socket.if_nameindex() if name.startswith("lo"))
            os.environ["GLOO_SOCKET_IFNAME"] = next(names)
        store = dist.FileStore(str(Path(folder) / "store"), size)  # no port that could be taken
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
        )
        torch.set_num_threads(1)
        connection.send((function(rank, *arguments), None, ""))
    except BaseException as error:
        connection.send((None, f"{type(error).__name__}: {error}", traceback.format_exc()))
    threading.Event().wait()  # tensors in flight need this process, and so may other ranks


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _collect(
    workers: list[tuple[BaseProcess, Connection]], deadline: float, seconds: float
) -> list:
    """One result per rank; the first failure is raised, because the others only follow from it."""
    results, waiting = {}, {connection: rank for rank, (_, connection) in enumerate(workers)}
    while waiting:
        ready = wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            ranks = ", ".join(map(str, waiting.values()))
            raise TimeoutError(f"no result after {seconds:g} s from rank {ranks}")
        for connection in ready:
            rank = waiting.pop(connection)
            try:
                result, error, trace = connection.recv()
            except (EOFError, OSError):
                raise _died(rank, workers) from None
            if error is not None:
                # A killed rank makes the others fail: give it a second to be seen, and name it.
                ended = wait([process.sentinel for process, _ in workers], timeout=1.0)
                for other, (process, _) in enumerate(workers):
                    if process.sentinel in ended:
                        raise _died(other, workers)
                failure = RuntimeError(f"rank {rank} failed: {error}")
                failure.add_note(trace)
                raise failure
            results[rank] = copy.deepcopy(result)  # out of shared memory
    return [results[rank] for rank in range(len(workers))]


def _died(rank: int, workers: list[tuple[BaseProcess, Connection]]) -> RuntimeError:
    process, _ = workers[rank]
    process.join(5)
    return RuntimeError(f"rank {rank} ended without a result, exit code {process.exitcode}")


def _end(workers: list[tuple[BaseProcess, Connection]]) -> None:
    for process, connection in workers:
        process.kill()
        connection.close()
    for process, _ in workers:
        process.join()
        process.close()
