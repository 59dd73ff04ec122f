"""The start and the end of several processes, with torch's own launcher, and why one failed."""

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch
import torch.distributed as dist

from moe_tutorial.config import Config
from moe_tutorial.device import available_cores, choose_device
from moe_tutorial.processes.distributed import check_divisible

LOST = "another process of this training ended; --resume continues from the last checkpoint"
RUN_ID = "moe_tutorial"  # of the launches that `launch` makes, as opposed to the user's torchrun


class LaunchFailed(RuntimeError):
    """A process of the training failed; the message is the reason, the code is for the shell."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def processes_to_launch(config: Config) -> int:
    """How many processes the plain `train` command starts; 1: it trains in its own process.

    Raises: ValueError if the devices or the batch size do not fit.
    """
    device = config.device
    if dist.is_available() and dist.is_torchelastic_launched():
        return 1  # this is one of them already
    if not device.use_data_parallel:
        if device.num_processes not in (None, 1):
            raise ValueError(
                f"device.num_processes={device.num_processes} needs device.use_data_parallel=true"
            )
        return 1
    kind, gpus = choose_device(device).type, torch.cuda.device_count()
    number = len(device.gpu_ids) if kind == "cuda" else device.num_processes or 1
    if kind == "mps" and number > 1:
        raise ValueError(
            f"device.num_processes={number} cannot share Apple's GPU; set device.type=cpu"
        )
    if kind == "cuda" and device.num_processes is not None:
        raise ValueError(
            f"device.num_processes={device.num_processes} is for the CPU; on GPUs there is one "
            f"process for each of device.gpu_ids={device.gpu_ids}: set it to null, or type to cpu"
        )
    if kind == "cuda" and (max(device.gpu_ids) >= gpus or len(set(device.gpu_ids)) < number):
        raise ValueError(
            f"device.gpu_ids={device.gpu_ids} must name each GPU once, and PyTorch sees {gpus}; "
            f"change gpu_ids, or set device.type=cpu"
        )
    check_divisible(config.training.batch_size, number)
    return number


def launch(number: int, arguments: Sequence[str]) -> int:
    """Run `python -m moe_tutorial ARGUMENTS` in so many processes, through torch's launcher.

    Each gets an equal share of the cores, unless OMP_NUM_THREADS is set. When one fails, the
    others are stopped. Returns the exit code. Raises: LaunchFailed with the reason in one line.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("", ".agent.server.api", ".multiprocessing.api"):  # `_explain` says it in one line
        logging.getLogger(f"torch.distributed.elastic{name}").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // number)))
    with TemporaryDirectory() as folder:  # where the processes leave the reasons of their failures
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=number, run_id=RUN_ID, max_restarts=0,
            rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1",
            monitor_interval=0.1, logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle="SIGTERM,SIGINT,SIGQUIT" + ("" if hangup_ignored() else ",SIGHUP"),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)("-m", "moe_tutorial", *arguments)
        except SignalException as stop:
            return 128 + stop.sigval
        except ChildFailedError as error:
            return _explain(error.failures, number)
    return 0


def report(error: Exception, text: str) -> None:
    """Tell about the error that ends this process: to `launch`, or on stderr under torchrun.

    Wrong use is the same in all processes: the first one says it.
    """
    if re.search("gloo|NCCL", text):  # a message could not be sent or received
        text = LOST
    if os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(RuntimeError(text))
    elif os.environ.get("RANK") == "0" or not isinstance(error, ValueError):
        print(f"error: process {os.environ.get('RANK')}: {text}", file=sys.stderr)


def leave(code: int) -> NoReturn:
    """End this process, one of several, with its output written but without Python's finalization.

    gloo's threads outlive the destroyed group as long as anything refers to it, as a model wrapped
    in DistributedDataParallel does. Python's finalization does not wait for them, and on a busy
    machine it now and then aborted a process whose work was done ("terminate called without an
    active exception"). The launcher took that for a failure of the training, and the launcher of
    another machine then waits five minutes for this one.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader is gone
            stream.flush()
    os._exit(code)


def hangup_ignored() -> bool:
    """Whether a closed terminal ends nothing: so it is under nohup, and on Windows."""
    return not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _explain(failures: dict[int, object], number: int) -> int:
    """The exit code of a training that was stopped; raises LaunchFailed for the first cause."""
    killed = [f for f in failures.values() if f.exitcode < 0 and -f.exitcode != signal.SIGTERM]
    if killed:
        name = signal.Signals(-killed[0].exitcode).name
        raise LaunchFailed(
            f"process {killed[0].local_rank} of 0 to {number - 1} was ended by {name}, and the "
            f"others with it; the same command with --resume continues from the last checkpoint",
            1,
        )
    causes = [f for f in failures.values() if LOST not in str(f.message)] or failures.values()
    first = min(causes, key=lambda failure: failure.local_rank)
    if first.exitcode >= 128 or first.exitcode < 0:
        return first.exitcode % 256 if first.exitcode > 0 else 128 - first.exitcode
    if isinstance(first.message, str):  # torch's own words: the process left no message
        raise LaunchFailed(f"process {first.local_rank} ended with code {first.exitcode}", 1)
    _, _, text = first.message["message"].partition(": ")  # after the name of the exception
    raise LaunchFailed(text, first.exitcode)
