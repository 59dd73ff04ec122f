"""A function run on ranks: one error that names the rank, and no process is left."""

import multiprocessing
import os
import signal
import threading

import pytest
import torch
import torch.distributed as dist

from moe_tutorial.processes.ranks import in_turn, run

pytestmark = pytest.mark.slow

SECONDS = 300.0  # a deadline for a busy machine, not an expectation


def fails_on_one(rank):
    if rank == 1:
        raise KeyError("no such thing")
    dist.barrier()


def dies_on_one(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def summed(rank, number, times):
    total = torch.tensor([float(number + rank)])
    dist.all_reduce(total)
    return times * total.item(), os.getpid()


def waits_for_ever(rank):
    threading.Event().wait()


@pytest.mark.parametrize(
    ("function", "error", "message", "seconds"),
    [
        (fails_on_one, RuntimeError, r"rank 1 failed: KeyError: 'no such thing'", SECONDS),
        pytest.param(
            dies_on_one, RuntimeError, r"rank 1 ended without a result, exit code -9", SECONDS,
            marks=pytest.mark.skipif(os.name != "posix", reason="signals"),
        ),
        (waits_for_ever, TimeoutError, r"no result after 0.5 s from rank 0, 1", 0.5),
    ],
)  # fmt: skip
def test_a_failure_is_raised_here_and_no_process_is_left(function, error, message, seconds):
    before = set(multiprocessing.active_children())
    with pytest.raises(error, match=message):
        run(function, 2, seconds=seconds)
    assert set(multiprocessing.active_children()) <= before


def test_several_calls_share_their_processes():
    results = run(in_turn, 2, summed, [(10, 1), (20, 3)], seconds=SECONDS)
    assert [[number for number, _ in calls] for calls in results] == [[21, 123]] * 2
    assert all(first == second for (_, first), (_, second) in results)  # the process
    assert results[0][0][1] != results[1][0][1]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_no_process():
    before = set(multiprocessing.active_children())
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run(waits_for_ever, 2, seconds=SECONDS)
    assert set(multiprocessing.active_children()) <= before


def test_a_function_of_a_notebook_is_refused(monkeypatch):
    before = set(multiprocessing.active_children())
    monkeypatch.setattr(waits_for_ever, "__module__", "__main__")
    with pytest.raises(ValueError, match="waits_for_ever is defined in a notebook or script"):
        run(waits_for_ever, 2)
    assert set(multiprocessing.active_children()) <= before
