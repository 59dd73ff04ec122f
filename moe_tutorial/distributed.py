"""One training on several processes, each with its share of every batch.

The engine is torch.distributed: gloo between CPU processes, nccl between GPUs, and torch's own
launcher. With several processes, P of them, each one runs the same loop on the same model:

1. All draw the same B windows, because all hold the same batch generator.
2. The model reads only the B / P windows of its own process (hook before the forward pass).
3. Its outputs are gathered (hook after it): every process has the logits and routings of all B
   windows and computes the loss and the balance loss of the whole batch, as one process would.
4. Each gradient holds what flowed back through the process's own windows. Their sum over the
   processes is the gradient of the whole batch, before it is clipped.

Differs from DistributedDataParallel; because that averages the gradients of P separate losses, and
the balance loss is a product of two means over the batch, so that its mean over the processes is
not its value on the whole batch; and because the training loop, its chapter and the checkpoints
see the same plain model on one process and on many. The price: one message after the backward pass
where DistributedDataParallel sends many during it, and logits on the wire, B * T * V numbers
(3 % of the gradient for the default configuration; too much for a vocabulary of 100,000).
An expert that got no token on one process needs no care: the experts of a layer are one parameter,
whose gradient is then zero in that expert's part.

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
from contextlib import contextmanager
from dataclasses import fields
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe_tutorial.config import Config, DeviceConfig
from moe_tutorial.device import available_cores, choose_device
from moe_tutorial.model import ModelOutput
from moe_tutorial.moe import Routing
from moe_tutorial.training import TrainingState

T = TypeVar("T")
LOST = "another process of this training ended; --resume continues from the last checkpoint"
RUN_ID = "moe_tutorial"  # of the launches that `launch` makes, as opposed to the user's torchrun


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
    number = device.num_processes or (len(device.gpu_ids) if kind == "cuda" else 1)
    if kind == "mps" and number > 1:
        raise ValueError("several processes cannot share Apple's GPU; set device.type=cpu")
    if kind == "cuda" and (number > len(device.gpu_ids) or max(device.gpu_ids) >= _gpus()):
        raise ValueError(
            f"{number} processes with device.gpu_ids={device.gpu_ids} need a GPU each, but PyTorch "
            f"sees {_gpus()}; change gpu_ids and num_processes, or set device.type=cpu"
        )
    _check_divisible(config.training.batch_size, number)
    return number


def launch(number: int, arguments: Sequence[str]) -> int:
    """Run `python -m moe_tutorial ARGUMENTS` in so many processes, through torch's launcher.

    Each gets an equal share of the cores, unless OMP_NUM_THREADS is set. When one fails, the
    others are stopped. Returns the exit code. Raises: LaunchFailed with the reason in one line.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("", ".agent.server.api", ".multiprocessing.api"):  # `_explain` says it in one line
        logging.getLogger(f"torch.distributed.elastic{name}").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // number)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=number, run_id=RUN_ID, max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1",
        monitor_interval=0.1,
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
    weights, moments, batches, counters = from_first(lambda: _contents(state))
    state.model.load_state_dict(weights)
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


def connect(state: TrainingState, seed: int) -> None:
    """Hook steps 2 to 4 of this module's docstring into the model; evaluation stays as it is.

    Dropout: with several processes, the masks of a step are drawn from (seed, step, process). So
    no two processes drop the same numbers, and a run that is resumed on as many processes repeats
    itself; a run on another number of processes has other masks.
    """
    rank, number = dist.get_rank(), dist.get_world_size()
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    waiting = len(parameters)

    def own_windows(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        nonlocal waiting
        if not model.training:
            return None
        if waiting not in (0, len(parameters)):
            raise RuntimeError(f"{waiting} parameters got no gradient: the processes disagree")
        waiting = len(parameters)
        torch.manual_seed(random.Random(f"{seed} {state.step} {rank}").getrandbits(63))
        tokens, *rest = inputs
        return tokens.chunk(number)[rank], *rest  # (B / P, T)

    def all_windows(model: nn.Module, inputs: object, output: ModelOutput) -> ModelOutput | None:
        return gather_output(output) if model.training else None

    def count(parameter: Tensor) -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:  # the backward pass is at its end
            sum_gradients(parameters)

    state.model.register_forward_pre_hook(own_windows)
    state.model.register_forward_hook(all_windows)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(count)


def gather_output(output: ModelOutput) -> ModelOutput:
    """The outputs for all windows, in the order of the processes.

    Shapes: logits (B / P, T, V), routings of N / P tokens -> logits (B, T, V), routings of N.
    """
    logits, routings = output
    return ModelOutput(
        gather(logits), [Routing(*(gather(part) for part in routing)) for routing in routings]
    )


def gather(own: Tensor) -> Tensor:
    """The rows of all processes; gradients reach the own ones. Shapes: (n, ...) -> (P * n, ...).

    Every process computes the whole loss from these rows, so the gradient of its own rows is whole
    already, and nothing has to be sent on the way back.
    """
    parts = [torch.empty_like(own, requires_grad=False) for _ in range(processes())]
    dist.all_gather(parts, own.detach().contiguous())
    parts[dist.get_rank()] = own
    return torch.cat(parts)


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its sum over the processes, in one message."""
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    dist.all_reduce(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, total in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad.copy_(total.view_as(parameter))


def agree(stop: int | None) -> int | None:
    """The signal that asked any of the processes to stop, on all of them; None if none did."""
    if processes() == 1:
        return stop
    highest = torch.tensor(stop or 0)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest.item() or None


def ignore_repeated_signals() -> None:
    """In one of several processes, let `stop_between_steps` see one signal and ignore all others.

    Ctrl-C reaches every process twice, from the terminal and from the launcher, which kills what
    has not ended after half a minute.
    """
    if processes() > 1:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _contents(state: TrainingState) -> tuple[object, ...]:
    names = [field.name for field in fields(TrainingState)]
    counters = {n: getattr(state, n) for n in names if n not in ("model", "optimizer", "generator")}
    weights = {name: tensor.cpu() for name, tensor in state.model.state_dict().items()}
    moments = {
        number: {name: tensor.cpu() for name, tensor in moment.items()}
        for number, moment in state.optimizer.state_dict()["state"].items()
    }
    return weights, moments, state.generator.get_state(), counters


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
