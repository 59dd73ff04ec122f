"""Saving and loading, so that nothing is lost and nothing is executed. Chapter 08.

A run folder holds config.hocon (the resolved snapshot), vocab.txt and checkpoints/step-000500/
with model.safetensors (the weights), training_state.safetensors (optimizer moments and random
states) and state.json (counters and hashes). The files `latest` and `best` in checkpoints/ name one
such folder each. There is no pickle: loading a stranger's checkpoint runs no code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_tutorial.config import Config, ModelConfig, dump_config, load_snapshot
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import NonFiniteLoss, TrainingState

Which = Literal["latest", "best"]


class CheckpointError(RuntimeError):
    """A run folder that cannot be loaded; the message names the file and the reason."""


class TrainedModel(NamedTuple):
    """A run folder, loaded."""

    model: MoELanguageModel
    tokenizer: CharTokenizer
    config: Config


def start_run_folder(folder: Path, config: Config, tokenizer: CharTokenizer) -> None:
    """Write the vocabulary and the snapshot that every later load relies on."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_snapshot(folder, config)
    tokenizer.save(folder / "vocab.txt")


def write_snapshot(folder: Path, config: Config) -> None:
    """Write config.hocon, the resolved configuration, in one move."""
    _write_text(folder / "config.hocon", dump_config(config))


def save_checkpoint(folder: Path, state: TrainingState) -> Path:
    """Write a complete checkpoint beside the others, move it into place, then point to it.

    Whatever kills the process, `latest` names a complete checkpoint. Only the latest and the best
    (lowest validation loss) are kept.
    Raises: OSError if the folder cannot be written, NonFiniteLoss if a weight is infinite or NaN;
    what was there before is still complete.
    """
    checkpoints = folder / "checkpoints"
    name = f"step-{state.step:06d}"
    if has_checkpoint(folder) and _pointed(folder, "latest").name == name:
        return checkpoints / name  # nothing has changed since; it must not be touched
    if not all(tensor.isfinite().all() for tensor in state.model.state_dict().values()):
        raise NonFiniteLoss(
            f"step {state.step}: weights became infinite or NaN and are not saved; lower "
            f"training.learning_rate"
        )
    part = checkpoints / f"{name}.part"
    try:
        _write_checkpoint(folder, part, state)
        final = checkpoints / name
        if final.exists():  # complete, but its session was killed before it could point to it
            shutil.rmtree(final)
        part.rename(final)
        _write_text(checkpoints / "latest", name + "\n")
        _finish_save(checkpoints, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(f"{part} cannot be written ({error}); {_what_is_left(folder)}") from None
    return final


def _write_checkpoint(folder: Path, part: Path, state: TrainingState) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()  # not its parents: a run folder that vanished must not come back half
    save_file(state.model.state_dict(), part / "model.safetensors")
    save_file(_training_tensors(state), part / "training_state.safetensors")
    counters = {key: getattr(state, key) for key in COUNTERS}
    hashes = {file.name: _sha256(file) for file in [*part.iterdir(), folder / "vocab.txt"]}
    hashes["counters"] = _sha256_of(counters)
    hashes["model"] = _sha256_of(state.model.config.model_dump())
    _write_text(part / "state.json", json.dumps({**counters, "sha256": hashes}, indent=2) + "\n")
    for file in part.iterdir():
        _sync(file)
    for name in TENSOR_FILES:  # safetensors lets nobody else read what it writes
        shutil.copymode(folder / "vocab.txt", part / name)


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Put the latest checkpoint into a fresh state: weights, moments, random states, counters.

    Raises: CheckpointError naming the file and the reason.
    """
    checkpoint = _pointed(folder, "latest")
    counters, model_hash = _verified_counters(folder, checkpoint)
    if counters["step"] == 0:
        raise CheckpointError(
            f"{folder} was imported and has no training state to resume; generate with it, or "
            f"train a new model in another paths.output_dir"
        )
    path = checkpoint / "training_state.safetensors"
    tensors = _read_tensors(path, _wanted_tensors(state), optional={"dropout_cuda"})
    weights = read_weights(checkpoint / "model.safetensors", state.model.state_dict())
    _check_model(folder, state.model.config, model_hash)
    state.model.load_state_dict(weights)
    moments = {
        i: {key: tensors[f"{key}.{name}"] for key in _MOMENTS}
        for i, (name, _) in enumerate(_optimized(state))
    }
    state.optimizer.load_state_dict(
        {"state": moments, "param_groups": state.optimizer.state_dict()["param_groups"]}
    )
    try:
        state.generator.set_state(tensors["batches"])
        torch.set_rng_state(tensors["dropout"])
        if "dropout_cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["dropout_cuda"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: a random state is damaged ({error})") from None
    for key in COUNTERS:
        setattr(state, key, counters[key])
    _finish_save(folder / "checkpoints", state)


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder holds weights of a run; loading tells whether all that belongs to them."""
    return bool(_steps(folder))


def load_model(folder: str | Path, which: Which = "best") -> TrainedModel:
    """The model, in evaluation mode on the CPU, with its vocabulary and configuration.

    Needs nothing but the run folder, in which a training may go on and save meanwhile.
    Raises: CheckpointError naming the file and the reason.
    """
    folder = Path(folder)
    for attempts_left in reversed(range(10)):
        before = _last_save(folder)
        try:
            return _load_model(folder, which)
        except CheckpointError:
            if not attempts_left or _last_save(folder) == before:
                raise


def _load_model(folder: Path, which: Which) -> TrainedModel:
    if not has_checkpoint(folder):
        if (folder / "tokenizer.json").exists():
            raise CheckpointError(
                f"{folder} holds an exported model; make it a run folder with python -m "
                f"moe_tutorial import"
            )
        raise CheckpointError(
            f"{folder} holds no trained model; train one (python -m moe_tutorial train) "
            f"or name another folder with --model-path"
        )
    checkpoint = _pointed(folder, which)
    _, model_hash = _verified_counters(folder, checkpoint)
    _check_small(folder / "config.hocon")
    _check_small(folder / "vocab.txt", _LARGEST_VOCABULARY)
    try:
        config = load_snapshot(folder / "config.hocon")
        tokenizer = CharTokenizer.load(folder / "vocab.txt")
        with torch.device("meta"):  # names and shapes only: the file must fit before memory is used
            wanted = MoELanguageModel(config.model, tokenizer.vocab_size).state_dict()
    except ValueError as error:
        raise CheckpointError(_naming(folder / "config.hocon", error)) from None
    weights = read_weights(checkpoint / "model.safetensors", wanted)
    _check_model(folder, config.model, model_hash)
    model = MoELanguageModel(config.model, tokenizer.vocab_size)
    model.load_state_dict(weights)
    return TrainedModel(model.eval(), tokenizer, config)


def read_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a file, after comparing their names and shapes with the wanted ones.

    Raises: CheckpointError naming the file and the first tensor that differs, or that holds
    anything but finite floating-point numbers.
    """
    return _read_tensors(path, wanted)


COUNTERS = ("step", "seconds", "validation_loss", "best_validation_loss", "best_step")
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each parameter
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_STEP = r"step-\d{6,}"  # the name of a complete checkpoint's folder
_SMALL = 2**20  # bytes; no other text file of a run folder is larger
_LARGEST_VOCABULARY = 16 * 2**20  # bytes; room for all 1,114,112 characters


def _finish_save(checkpoints: Path, state: TrainingState) -> None:
    # Also after loading: a session may have been killed between the two pointers.
    if state.best_step == state.step:
        _write_text(checkpoints / "best", f"step-{state.step:06d}\n")
    keep = {f"step-{step:06d}" for step in (state.step, state.best_step) if step is not None}
    for path in checkpoints.iterdir():  # what a person has copied beside them is none of ours
        if re.fullmatch(rf"{_STEP}(\.part)?", path.name) and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _what_is_left(folder: Path) -> str:
    if has_checkpoint(folder):
        return "the checkpoint before it is kept; mend it, then go on with --resume"
    return "there is no checkpoint yet"


def _optimized(state: TrainingState) -> list[tuple[str, Tensor]]:
    """Name and parameter in the order in which the optimizer numbers them."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    groups = state.optimizer.param_groups
    return [(names[id(p)], p) for group in groups for p in group["params"]]


def _training_tensors(state: TrainingState) -> dict[str, Tensor]:
    tensors = {"batches": state.generator.get_state(), "dropout": torch.get_rng_state()}
    if state.model.head.weight.is_cuda:
        tensors["dropout_cuda"] = torch.cuda.get_rng_state()
    for name, parameter in _optimized(state):
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    return tensors


def _wanted_tensors(state: TrainingState) -> dict[str, Tensor]:
    """What `_training_tensors` gives once the optimizer has made a step; shapes and types count."""
    wanted = {"batches": state.generator.get_state(), "dropout": torch.get_rng_state()}
    for name, parameter in _optimized(state):
        for key in _MOMENTS:
            wanted[f"{key}.{name}"] = torch.empty((), device="meta") if key == "step" else parameter
    return wanted


def _steps(folder: Path) -> list[Path]:
    """The folders of complete checkpoints, the earliest first."""
    try:
        found = [p for p in (folder / "checkpoints").iterdir() if re.fullmatch(_STEP, p.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name[5:]))


def _last_save(folder: Path) -> tuple[object, ...]:
    """Something that is another after every save."""
    pointers = [folder / "checkpoints" / which for which in ("latest", "best")]
    return _steps(folder), [path.exists() and path.stat().st_ino for path in pointers]


def _pointed(folder: Path, which: Which) -> Path:
    pointer = folder / "checkpoints" / which
    if which == "best" and not pointer.exists():  # nothing was measured yet
        return _pointed(folder, "latest")
    if not pointer.exists() and (steps := _steps(folder)):
        return steps[-1]  # the first save was killed before it could point to it
    _check_small(pointer)
    try:
        name = pointer.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{pointer}: cannot be read ({error})") from None
    if not re.fullmatch(_STEP, name) or not (pointer.parent / name).is_dir():
        raise CheckpointError(f"{pointer}: names {name[:40]!r}, which is no checkpoint beside it")
    return pointer.parent / name


def _verified_counters(
    folder: Path, checkpoint: Path
) -> tuple[dict[str, float | None], str | None]:
    """Counters and the hash of the model section, after comparing all files with their hashes."""
    path = checkpoint / "state.json"
    _check_small(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        counters = {key: content[key] for key in COUNTERS}
        hashes = {name: str(content["sha256"][name]) for name in (*TENSOR_FILES, "vocab.txt")}
        optional = {name: content["sha256"].get(name) for name in ("counters", "model")}
        if content["sha256"].keys() - hashes.keys() - optional.keys():
            raise ValueError("a hash of something unknown")
        _check_counters(counters, checkpoint.name)
        if optional["counters"] not in (None, _sha256_of(counters)):
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
    return counters, optional["model"]


def _check_model(folder: Path, model: ModelConfig, saved: str | None) -> None:
    # The shapes of the weights say nothing of top_k, router, rope_theta, norm_eps and num_heads.
    if saved not in (None, _sha256_of(model.model_dump())):  # None: saved by an earlier version
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


TENSOR_FILES = ("model.safetensors", "training_state.safetensors")


def _read_tensors(
    path: Path, wanted: Mapping[str, Tensor], optional: Set[str] = frozenset()
) -> dict[str, Tensor]:
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


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    _sync(part)
    part.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_strangers(path: Path) -> str:
    _check_file(path)
    try:
        return _sha256(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _sha256_of(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"{path}: cannot be read (it is no file)")


def _check_small(path: Path, most: int = _SMALL) -> None:
    """Before a text file is read: reading takes a multiple of its size."""
    _check_file(path)
    if path.is_file() and path.stat().st_size > most:
        raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes are too many for this file")


def _plain(name: str) -> str:
    """A stranger's name may hold anything, even what a terminal obeys."""
    return repr(name[:80])[1:-1]


def _naming(path: Path, error: ValueError) -> str:
    """The message, beginning with the file that it is about."""
    return str(error) if str(error).startswith(str(path.parent)) else f"{path}: {error}"
