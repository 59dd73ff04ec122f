"""One training on several processes, each with its share of every batch.

The engine is torch.distributed with DistributedDataParallel: gloo between CPU processes, nccl
between GPUs, and torch's own launcher. Each of P processes runs the same loop on the same model:

1. All draw the same B windows, because all hold the same batch generator.
2. The model reads only the B / P windows of its own process.
3. Its outputs are gathered: every process has the logits and routings of all B windows, so that the
   loss and the balance loss, a product of two means over the batch, are those of the whole batch.
4. DistributedDataParallel averages the gradients during the backward pass. What flows back into the
   outputs of the own windows is multiplied by P beforehand, so the average is the sum: the gradient
   of the whole batch, before it is clipped.

The training loop and the checkpoints see the plain model, on one process and on many; the price is
logits on the wire, B * T * V numbers (3 % of the gradient for the default configuration; too much
for a vocabulary of 100,000). An expert that got no token on one process needs no care: the experts
of a layer are one parameter, whose gradient is then zero in that expert's part.

Shape letters: B batch, T time, V vocabulary, E experts, K top_k, N = B*T, P processes.
Source: Li et al. 2020, arXiv:2006.15704.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from tempfile import TemporaryDirectory
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moe_tutorial.attention import KVCache
from moe_tutorial.config import Config, DeviceConfig
from moe_tutorial.device import available_cores, choose_device
from moe_tutorial.model import ModelOutput, MoELanguageModel
from moe_tutorial.moe import Routing
from moe_tutorial.training import TrainingState

T = TypeVar("T")
LOST = "another process of this training ended; --resume continues from the last checkpoint"
RUN_ID = "moe_tutorial"  # of the launches that `launch` makes, as opposed to the user's torchrun
PARENT = os.getppid()  # in one of several processes: the launcher


class LaunchFailed(RuntimeError):
    """A process of the training failed; the message is the reason, the code is for the shell."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class FirstFailed(ValueError):
    """What the other processes raise when the first one failed: the same message and code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def processes() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes the run folder, the logs and the progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


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
    kind = choose_device(device).type
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
    if kind == "cuda" and (max(device.gpu_ids) >= _gpus() or len(set(device.gpu_ids)) < number):
        raise ValueError(
            f"device.gpu_ids={device.gpu_ids} must name each GPU once, and PyTorch sees {_gpus()}; "
            f"change gpu_ids, or set device.type=cpu"
        )
    _check_divisible(config.training.batch_size, number)
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


@contextmanager
def process_group(config: DeviceConfig) -> Iterator[None]:
    """Meet the other processes if a launcher started this one; without one, do nothing."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    device = choose_device(config)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Tensors in main memory always travel by gloo, so that no GPU has to wait for a small message.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # nobody leaves while another still sends
    finally:
        dist.destroy_process_group()


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, on all of them; an error there is one here."""
    if processes() == 1:
        return make()
    message: list[object] = [None, None]
    failure = None
    if is_first():
        try:
            message = [make(), None]
        except Exception as error:
            code = 2 if isinstance(error, ValueError) else 1
            failure, message = error, [None, (str(error), code)]
    dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))
    if failure is not None:
        raise failure
    if message[1] is not None:
        raise FirstFailed(*message[1])
    return message[0]


def share(state: TrainingState, config: Config) -> TrainingState:
    """Make a fresh or loaded state, that of the first process, the state of all, and connect them.

    With one process, this is the state itself. Raises: ValueError if the batch cannot be divided.
    """
    number = processes()
    if number == 1:
        return state
    _check_divisible(config.training.batch_size, number)
    moments, batches, counters = from_first(lambda: _contents(state))
    if not is_first():
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        state.generator.set_state(batches)
    shared = SharedState(state.model, state.optimizer, state.generator, **counters)
    connect(shared, config.training.seed)
    return shared


class SharedState(TrainingState):
    """A training state whose clock is the first process's.

    max_seconds steers the learning rate and ends the training, so all must read one clock.
    """

    @property
    def seconds(self) -> float:
        return self._seconds

    @seconds.setter
    def seconds(self, value: float) -> None:
        clock = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(clock, src=0)
        self._seconds = clock.item()


class OwnForward(nn.Module):
    """A model's forward pass as it was made, for DistributedDataParallel to wrap.

    Shapes: tokens (B / P, T) -> ModelOutput of these windows.
    """

    def __init__(self, model: MoELanguageModel) -> None:
        super().__init__()
        self.model = model
        self.own_forward = model.forward

    def forward(self, tokens: Tensor) -> ModelOutput:
        return self.own_forward(tokens)


def connect(state: TrainingState, seed: int) -> None:
    """Put steps 2 to 4 of this module's docstring into the model; evaluation stays as it is.

    All processes take over the weights of the first.
    Dropout: with several processes, the masks of a step are drawn from (seed, step, process). So
    no two processes drop the same numbers, and a run that is resumed on as many processes repeats
    itself; a run on another number of processes has other masks.
    """
    model, rank, number = state.model, dist.get_rank(), dist.get_world_size()
    own = OwnForward(model)
    parallel = DistributedDataParallel(
        own, forward_sync_buffers=False, gradient_as_bucket_view=True
    )

    def forward(tokens: Tensor, caches: list[KVCache] | None = None) -> ModelOutput:
        if not model.training:
            return own.own_forward(tokens, caches)
        torch.manual_seed(random.Random(f"{seed} {state.step} {rank}").getrandbits(63))
        return gather_output(parallel(tokens.chunk(number)[rank]))

    model.forward = forward  # the model keeps its type, the names of its weights, and its methods


def gather_output(output: ModelOutput) -> ModelOutput:
    """The outputs for all windows, in the order of the processes.

    Shapes: logits (B / P, T, V), routings of N / P tokens -> logits (B, T, V), routings of N.
    """
    logits, routings = output
    return ModelOutput(
        gather(logits), [Routing(*(gather(part) for part in routing)) for routing in routings]
    )


def gather(own: Tensor) -> Tensor:
    """The rows of all processes. Shapes: (n, ...) -> (P * n, ...).

    Every process computes the whole loss from these rows, so the gradient of its own rows is whole
    already and nothing has to be sent on the way back; it is multiplied by P.
    """
    parts = [torch.empty_like(own, requires_grad=False) for _ in range(processes())]
    dist.all_gather(parts, own.detach().contiguous())
    mine = own.view_as(own)  # a node of its own: what flows back to it does not come from the model
    if mine.requires_grad:
        mine.register_hook(lambda gradient: processes() * gradient)
    parts[dist.get_rank()] = mine
    return torch.cat(parts)


def agree(stop: int | None) -> int | None:
    """The signal that asked any of the processes to stop, on all of them; None if none did.

    A process whose launcher is gone, killed with SIGKILL, is asked to stop as by SIGTERM: nobody
    else would end it.
    """
    if processes() == 1:
        return stop
    if stop is None and os.getppid() != PARENT:
        stop = signal.SIGTERM
    highest = torch.tensor(stop or 0)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest.item() or None


def hangup_ignored() -> bool:
    """Whether a closed terminal ends nothing: so it is under nohup, and on Windows."""
    return not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _contents(state: TrainingState) -> tuple[object, ...]:
    names = [field.name for field in fields(TrainingState)]
    counters = {n: getattr(state, n) for n in names if n not in ("model", "optimizer", "generator")}
    moments = {
        number: {name: tensor.cpu() for name, tensor in moment.items()}
        for number, moment in state.optimizer.state_dict()["state"].items()
    }
    return moments, state.generator.get_state(), counters


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


def _check_divisible(batch_size: int, number: int) -> None:
    if batch_size % number:
        raise ValueError(
            f"training.batch_size={batch_size} is not divisible by {number} processes; "
            f"try {max(1, batch_size // number) * number}"
        )


def _gpus() -> int:
    return torch.cuda.device_count()
