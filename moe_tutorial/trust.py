"""What is verified before a file of someone else is believed.

A run folder may come from a stranger. Its files are compared with their hashes, its tensors with
what the configuration asks for; there is no pickle, so loading runs no code, and a file of any size
is refused before it takes memory.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moe_tutorial.config import ModelConfig

Which = Literal["latest", "best"]
COUNTERS = ("step", "seconds", "validation_loss", "best_validation_loss", "best_step")
TENSOR_FILES = ("model.safetensors", "training_state.safetensors")
DRAFT = "draft.safetensors"  # counts of the text; a run folder without it lacks nothing else
STEP = r"step-\d{6,}"  # the name of a complete checkpoint's folder
LARGEST_VOCABULARY = 16 * 2**20  # bytes; room for all 1,114,112 characters
_SMALL = 2**20  # bytes; no other text file of a run folder is larger
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class CheckpointError(RuntimeError):
    """A run folder that cannot be loaded; the message names the file and the reason."""


def at_home(folder: str | Path) -> Path:
    """The folder, with ~ as the home. Raises: ValueError if no such user has one."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        user = Path(folder).parts[0]
        raise ValueError(f"{folder}: {user} is no user's home; name another folder") from None


def steps_in(folder: Path) -> list[Path]:
    """The folders of complete checkpoints, the earliest first."""
    try:
        found = [p for p in (folder / "checkpoints").iterdir() if re.fullmatch(STEP, p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name[5:]))


def last_save(folder: Path) -> tuple[object, ...]:
    """Something that is another after every save."""
    pointers = [folder / "checkpoints" / which for which in ("latest", "best")]
    return steps_in(folder), [path.exists() and path.stat().st_ino for path in pointers]


def pointed(folder: Path, which: Which) -> Path:
    """The checkpoint that a pointer names. Raises: CheckpointError if it names none beside it."""
    pointer = folder / "checkpoints" / which
    if which == "best" and not pointer.exists():  # nothing was measured yet
        return pointed(folder, "latest")
    if not pointer.exists() and (steps := steps_in(folder)):
        return steps[-1]  # the first save was killed before it could point to it
    check_small(pointer)
    try:
        name = pointer.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{pointer}: cannot be read ({error})") from None
    if not re.fullmatch(STEP, name) or not (pointer.parent / name).is_dir():
        raise CheckpointError(f"{pointer}: names {name[:40]!r}, which is no checkpoint beside it")
    return pointer.parent / name


class Verified(NamedTuple):
    """What state.json says, once all files have the hashes that it names."""

    counters: dict[str, float | None]
    model: str | None  # hash of the section model; None: saved by an early version
    text: str | None  # hash of the text, if it was known


def verified(folder: Path, checkpoint: Path) -> Verified:
    """Compare all files with their hashes. Raises: CheckpointError naming file and reason."""
    path = checkpoint / "state.json"
    check_small(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        counters = {key: content[key] for key in COUNTERS}
        hashes = {name: str(content["sha256"][name]) for name in (*TENSOR_FILES, "vocab.txt")}
        more = ("counters", "model", "text", DRAFT)
        optional = {name: content["sha256"].get(name) for name in more}
        if content["sha256"].keys() - hashes.keys() - optional.keys():
            raise ValueError("a hash of something unknown")
        _check_counters(counters, checkpoint.name)
        if optional["counters"] not in (None, sha256_of(counters)):
            raise ValueError("a counter has changed since it was saved")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: missing or damaged ({error})") from None
    for name in TENSOR_FILES:
        if _hash_of_strangers(checkpoint / name) != hashes[name]:
            raise CheckpointError(
                f"{checkpoint / name}: missing, truncated or changed since it was saved"
            )
    if _hash_of_strangers(folder / "vocab.txt") != hashes["vocab.txt"]:
        raise CheckpointError(
            f"{folder / 'vocab.txt'} is not the vocabulary that {checkpoint.name} was trained "
            f"with; put back the vocab.txt that was saved with it"
        )
    if optional[DRAFT] and _hash_of_strangers(folder / DRAFT) not in (optional[DRAFT], "missing"):
        raise CheckpointError(
            f"{folder / DRAFT}: changed since it was saved; remove it (train --resume counts it "
            f"again)"
        )
    return Verified(counters, optional["model"], optional["text"])


def resumable(folder: Path) -> tuple[Path, Verified]:
    """The latest checkpoint. Raises: CheckpointError, also if it is an imported model's."""
    checkpoint = pointed(folder, "latest")
    found = verified(folder, checkpoint)
    if found.counters["step"] == 0:
        raise CheckpointError(
            f"{folder} was imported and has no training state to resume; generate with it, or "
            f"train a new model in another paths.output_dir"
        )
    return checkpoint, found


def model_hash(model: ModelConfig) -> str:
    """Of the section model; a key that is newer than some checkpoints counts once it is used."""
    newer = {"balance", "bias_update_rate", "router_score", "router_normalize", "router_scale"}
    return sha256_of(model.model_dump(exclude={key for key in newer if _default(model, key)}))


def _default(model: ModelConfig, key: str) -> bool:
    return getattr(model, key) == type(model).model_fields[key].default


def check_model(folder: Path, model: ModelConfig, saved: str | None) -> None:
    """Raise CheckpointError if the weights were trained with another section model.

    Their shapes say nothing of top_k, router, rope_theta, norm_eps and num_heads.
    """
    if saved not in (None, model_hash(model)):  # None: saved by an earlier version
        raise CheckpointError(
            f"{folder / 'config.hocon'}: the section model is not the one that the weights were "
            f"trained with; put back the config.hocon that was saved with them"
        )


def _check_counters(counters: Mapping[str, float | None], name: str) -> None:
    for key, value in counters.items():
        kind = int if key in ("step", "best_step") else float
        if value is None and key not in ("step", "seconds"):
            continue  # nothing was measured yet
        if type(value) is not kind or value < 0:
            raise TypeError(f"{key} is {_plain(str(value))}")
    if f"step-{counters['step']:06d}" != name or (counters["best_step"] or 0) > counters["step"]:
        raise ValueError(f"its steps do not belong to {name}")
    if not math.isfinite(counters["seconds"]):
        raise ValueError("seconds is not finite")


def read_tensors(
    path: Path, wanted: Mapping[str, Tensor], optional: Set[str] = frozenset()
) -> dict[str, Tensor]:
    """All tensors of a file, after comparing their names, shapes and types with the wanted ones.

    Raises: CheckpointError naming the file and the first tensor that differs, or that holds
    infinite numbers or NaN.
    """
    _check_file(path)
    try:
        tensors = load_file(path)  # maps the file: nothing is copied yet
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    _split_stacks(tensors, wanted)
    for name in sorted((tensors.keys() ^ wanted.keys()) - optional):
        fault = "is missing" if name in wanted else "belongs to another architecture"
        raise CheckpointError(f"{path}: tensor {_plain(name)} {fault}")
    for name in sorted(tensors.keys() & wanted.keys()):
        _check_tensor(f"{path}: tensor {_plain(name)}", tensors[name], wanted[name])
    return tensors


def _split_stacks(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Version 0.1 stacked the experts of a layer as (E, D, F), and counted their steps once."""
    stacks: dict[str, list[str]] = {}
    for name in wanted:
        stacks.setdefault(re.sub(r"\.moe\.experts\.\d+\.", ".moe.", name), []).append(name)
    for stack in tensors.keys() & (stacks.keys() - wanted.keys()):
        names, whole = stacks[stack], tensors[stack]
        whole = whole if whole.ndim else whole.expand(len(names))
        if len(whole) == len(names):  # else its name tells that it is of another architecture
            del tensors[stack]
            tensors.update(zip(names, (part.clone() for part in whole), strict=True))


def _check_tensor(what: str, tensor: Tensor, wanted: Tensor) -> None:
    if tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{what} is {tuple(tensor.shape)}, but configuration and vocabulary ask for "
            f"{tuple(wanted.shape)}"
        )
    if tensor.dtype not in (_FLOATS if wanted.is_floating_point() else (wanted.dtype,)):
        raise CheckpointError(f"{what} holds {tensor.dtype}, but {wanted.dtype} is needed")
    if not torch.stack(tensor.aminmax()).isfinite().all():
        raise CheckpointError(f"{what} holds numbers that are infinite or NaN")


def sha256(path: Path) -> str:
    """The hash of a file's content, as it is written into state.json."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_strangers(path: Path) -> str:
    _check_file(path)
    try:
        return sha256(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def sha256_of(values: Mapping[str, object]) -> str:
    """The hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"{path}: cannot be read (it is no file)")


def check_small(path: Path, most: int = _SMALL) -> None:
    """Before a text file is read: reading takes a multiple of its size."""
    _check_file(path)
    if path.is_file() and path.stat().st_size > most:
        raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes are too many for this file")


def _plain(name: str) -> str:
    """A stranger's name may hold anything, even what a terminal obeys."""
    return repr(name[:80])[1:-1]
