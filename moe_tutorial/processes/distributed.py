"""One training on several processes, each with its share of every batch.

The engine is torch.distributed with DistributedDataParallel: gloo between CPU processes, nccl
between GPUs. Each of P processes runs the same loop on the same model:

1. All draw the same B windows, because all hold the same batch generator.
2. The model reads only the B / P windows of its own process.
3. Its outputs are gathered: every process has the logits and routings of all B windows, so that the
   loss and the balance loss, a product of two means over the batch, are those of the whole batch.
4. DistributedDataParallel averages the gradients during the backward pass. What flows back into the
   outputs of the own windows is multiplied by P beforehand, so the average is the sum: the gradient
   of the whole batch, before it is clipped.

The training loop is handed what computes the outputs (`share`); it, evaluation and checkpoints see
the plain model, on one process and on many. The price is logits on the wire, B * T * V numbers (3 %
of the gradient for the default configuration; too much for a vocabulary of 100,000). An expert that
got no token on one process needs no care: `moe.dispatch` leaves it a gradient of zero.

Shape letters: B batch, T time, V vocabulary, E experts, K top_k, N = B*T, P processes.
Source: Li et al. 2020, arXiv:2006.15704.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from moe_tutorial.config import DeviceConfig
from moe_tutorial.device import choose_device
from moe_tutorial.model import ModelOutput
from moe_tutorial.moe import Routing
from moe_tutorial.training import Forward, TrainingState

T = TypeVar("T")
PARENT = os.getppid()  # in one of several processes: the launcher


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


def share(state: TrainingState, batch_size: int, seed: int) -> tuple[TrainingState, Forward]:
    """Make a fresh or loaded state, that of the first process, the state of all.

    Returns it, and what computes the outputs of a batch: the model, if there is one process.
    Raises: ValueError if the batch cannot be divided.
    """
    if processes() == 1:
        return state, state.model
    check_divisible(batch_size, processes())
    moments, batches, counters = from_first(lambda: _contents(state))
    if not is_first():
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        state.generator.set_state(batches)
    shared = SharedState(state.model, state.optimizer, state.generator, **counters)
    return shared, shared_forward(shared, seed)


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


def shared_forward(state: TrainingState, seed: int) -> Forward:
    """Steps 2 to 4 of this module's docstring.

    All processes take over the weights of the first.
    Dropout: with several processes, the masks of a step are drawn from (seed, step, process). So
    no two processes drop the same numbers, and a run that is resumed on as many processes repeats
    itself; a run on another number of processes has other masks.
    """
    rank, number = dist.get_rank(), dist.get_world_size()
    parallel = DistributedDataParallel(
        state.model, forward_sync_buffers=False, gradient_as_bucket_view=True
    )

    def forward(tokens: Tensor) -> ModelOutput:
        torch.manual_seed(random.Random(f"{seed} {state.step} {rank}").getrandbits(63))
        return gather_output(parallel(tokens.chunk(number)[rank]))

    return forward


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


def _contents(state: TrainingState) -> tuple[object, ...]:
    parts = ("model", "optimizer", "generator")
    counters = {name: value for name, value in vars(state).items() if name not in parts}
    moments = {
        number: {name: tensor.cpu() for name, tensor in moment.items()}
        for number, moment in state.optimizer.state_dict()["state"].items()
    }
    return moments, state.generator.get_state(), counters


def check_divisible(batch_size: int, number: int) -> None:
    """Raise ValueError unless each process gets as many windows as the others."""
    if batch_size % number:
        raise ValueError(
            f"training.batch_size={batch_size} is not divisible by {number} processes; "
            f"try {max(1, batch_size // number) * number}"
        )
