"""What a training tells: lines for people, and one JSON object per step in metrics.jsonl."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from moe_tutorial.balance import RouterHealth
from moe_tutorial.moe import load_summary
from moe_tutorial.training import StepRecord

IDLE_STEPS = 500  # an expert that got no token for so long is reported
ENTROPIES = ("token_entropy", "mean_entropy")  # nats, one number per layer; not in old folders
DRAWN = {"step", "loss", "validation_loss", "expert_load"}  # what history.png shows of a record


def short_line(records: Sequence[StepRecord]) -> str:
    """Means over the steps since the last line, ending with a measured validation loss."""
    last, count = records[-1], len(records)
    load = _mean_load(records)
    uneven = max(load_summary(layer).max_over_mean for layer in load)
    idle = sum(load_summary(layer).idle for layer in load)
    return (
        f"epoch {last.epoch:.2f} step {last.step} "
        f"train {sum(r.loss for r in records) / count:.4f} validation {last.validation_loss:.4f} "
        f"{sum(r.tokens_per_second for r in records) / count:,.0f} tokens/s "
        f"load max/mean {uneven:.2f} idle {idle}"
    )


def log_line(records: Sequence[StepRecord]) -> str:
    """The short line, and what one looks up when something is odd; for train.log."""
    shares = " | ".join(
        f"layer {i}: " + " ".join(f"{100 * share:.0f}" for share in layer)
        for i, layer in enumerate(_mean_load(records).tolist(), start=1)
    )
    balance = sum(r.balance_loss for r in records) / len(records)
    return (
        f"{short_line(records)} balance {balance:.3f} lr {records[-1].learning_rate:.2e} "
        f"peak memory {_peak_memory()} percent per expert: {shares}"
    )


def _mean_load(records: Sequence[StepRecord]) -> Tensor:
    return torch.stack([record.expert_load for record in records]).mean(dim=0)


def idle_line(step: int, idle: Tensor) -> str:
    """Which experts got no token for IDLE_STEPS steps. Shapes: idle (L, E) bool."""
    names = (f"expert {expert} of layer {layer + 1}" for layer, expert in idle.nonzero().tolist())
    return (
        f"step {step}: {', '.join(names)} got no token for {IDLE_STEPS} steps; a larger "
        f"model.load_balancing_loss_coef spreads the tokens"
    )


def read_metrics(folder: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl, one dict per step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines of steps that no checkpoint holds: they are about to be done again.

    Raises: ValueError if a line before them is none of ours: the training would end with that.
    """
    path = folder / "metrics.jsonl"
    kept, last = [], 0
    try:
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if last >= step or not line.endswith(b"\n"):  # half a line was written last
                break
            record = json.loads(line)
            last = int(record["step"])
            if not record.keys() >= DRAWN:
                raise KeyError(line)
            kept += [line] * (last <= step)
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError(
            f"{path}: damaged; mend it, or remove it to go on without the history so far"
        ) from None
    part = path.with_suffix(".part")
    part.write_bytes(b"".join(kept))
    part.replace(path)


def as_json(record: StepRecord, health: Sequence[RouterHealth] = ()) -> dict[str, object]:
    """A record as a line of metrics.jsonl has it, with the entropies of the routers, if known."""
    load = [[round(share, 4) for share in layer] for layer in record.expert_load.tolist()]
    found = {**record._asdict(), "expert_load": load}
    for name in ENTROPIES if health else ():
        found[name] = [round(getattr(layer, name), 4) for layer in health]
    return found


def write_line(file: TextIO, line: str) -> None:
    """Write and flush. Raises: OSError saying that the last checkpoint is kept."""
    try:
        file.write(line + "\n")
        file.flush()  # so that `tail -f` shows it, and a killed process loses nothing
    except OSError as error:
        raise OSError(
            f"{file.name} cannot be written ({error}); the last checkpoint is kept: mend it, then "
            f"go on with --resume"
        ) from None


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "unknown"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return f"{peak / (2**20 if sys.platform == 'darwin' else 2**10):.0f} MiB"
