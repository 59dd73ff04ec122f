"""The counts of a run folder, with which generate guesses several characters at once."""

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_tutorial.speculation import MOST_SEQUENCES, CountedDraft
from moe_tutorial.trust import DRAFT, CheckpointError, check_small

MOST_COUNTED = 3_000_000  # characters; the last ones of a longer text, which take a second or two
LARGEST = 16 * MOST_SEQUENCES  # bytes, header included


def write_draft(folder: Path, ids: Tensor, vocab_size: int) -> None:
    """Count a text into a run folder, with 8 to 12 bytes for each different sequence.

    Shapes: ids (N_ids,). Raises: OSError if the folder cannot be written.
    """
    draft = CountedDraft.count(ids[-MOST_COUNTED:], vocab_size)
    tensors = {}
    for n, (keys, counts) in enumerate(zip(draft.keys, draft.counts, strict=True), start=1):
        tensors[f"keys.{n}"] = keys.int() if vocab_size**n < 2**31 else keys
        tensors[f"counts.{n}"] = counts.int()
    part = folder / f"{DRAFT}.part"
    try:
        save_file(tensors, part)
        shutil.copymode(folder / "vocab.txt", part)  # safetensors lets nobody else read it
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(folder / DRAFT)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise OSError(f"{part} cannot be written ({error}); mend it, then train again") from None


def read_draft(folder: Path, vocab_size: int) -> CountedDraft | None:
    """What `write_draft` wrote, None if the folder has none.

    That its hash is right is checked when the model is loaded. Wrong counts could make generating
    slower, and never change what it writes.
    Raises: CheckpointError naming the file and the reason.
    """
    path = folder / DRAFT
    check_small(path, LARGEST)
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        order = len(tensors) // 2
        keys = [tensors[f"keys.{n}"] for n in range(1, order + 1)]
        counts = [tensors[f"counts.{n}"] for n in range(1, order + 1)]
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    fit = [_fits(*both, n, vocab_size) for n, both in enumerate(zip(keys, counts, strict=True), 1)]
    if not order or len(tensors) % 2 or not all(fit):
        raise CheckpointError(f"{path}: these are not counts over {vocab_size} symbols; remove it")
    return CountedDraft([key.long() for key in keys], [c.long() for c in counts], vocab_size)


def _fits(keys: Tensor, counts: Tensor, order: int, vocab_size: int) -> bool:
    """Whether these are sequences of `order` tokens, each once and ascending, and how often."""
    if {keys.dtype, counts.dtype} - {torch.int32, torch.int64} or keys.shape != counts.shape:
        return False
    if keys.ndim != 1 or len(keys) == 0 or counts.min() < 1 or vocab_size**order >= 2**62:
        return False
    ascending = bool((keys.long().diff() > 0).all())
    return ascending and int(keys[0]) >= 0 and int(keys[-1]) < vocab_size**order
