"""Saving and loading, so that nothing is lost and nothing is executed. Chapter 08.

A run folder holds config.hocon (the resolved snapshot), vocab.txt, draft.safetensors (chapter 16)
and checkpoints/step-000500/ with model.safetensors (the weights), training_state.safetensors
(optimizer moments and random states) and state.json (counters and hashes). The files `latest` and
`best` in checkpoints/ name one such folder each. There is no pickle: loading a stranger's
checkpoint runs no code.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from moe_tutorial import trust
from moe_tutorial.config import Config, dump_config, load_snapshot
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import NonFiniteLoss, TrainingState
from moe_tutorial.trust import STEP, CheckpointError, Which, at_home, pointed, steps_in

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each parameter


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
    if has_checkpoint(folder) and pointed(folder, "latest").name == name:
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
        left = "the checkpoint before it is kept; mend it, then go on with --resume"
        left = left if has_checkpoint(folder) else "there is no checkpoint yet"
        raise OSError(f"{part} cannot be written ({error}); {left}") from None
    return final


def _write_checkpoint(folder: Path, part: Path, state: TrainingState) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()  # not its parents: a run folder that vanished must not come back half
    save_file(state.model.state_dict(), part / "model.safetensors")
    save_file(_training_tensors(state), part / "training_state.safetensors")
    counters = {key: getattr(state, key) for key in trust.COUNTERS}
    beside = [path for name in ("vocab.txt", trust.DRAFT) if (path := folder / name).is_file()]
    hashes = {file.name: trust.sha256(file) for file in [*part.iterdir(), *beside]}
    hashes["counters"] = trust.sha256_of(counters)
    hashes["model"] = trust.model_hash(state.model.config)
    hashes |= {} if state.text is None else {"text": state.text}
    _write_text(part / "state.json", json.dumps({**counters, "sha256": hashes}, indent=2) + "\n")
    for file in part.iterdir():
        _sync(file)
    for name in trust.TENSOR_FILES:  # safetensors lets nobody else read what it writes
        shutil.copymode(folder / "vocab.txt", part / name)


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Put the latest checkpoint into a fresh state: weights, moments, random states, counters.

    Raises: CheckpointError naming the file and the reason, also if the state knows its text and
    that is another one.
    """
    checkpoint, (counters, model_hash, text) = trust.resumable(folder)
    if None not in (text, state.text) and text != state.text:
        raise CheckpointError(
            f"{folder}: the text is not the one that the run began with; put it back, or train a "
            f"new model in another paths.output_dir"
        )
    path = checkpoint / "training_state.safetensors"
    tensors = trust.read_tensors(path, _wanted_tensors(state), optional={"dropout_cuda"})
    weights = trust.read_tensors(checkpoint / "model.safetensors", state.model.state_dict())
    trust.check_model(folder, state.model.config, model_hash)
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
    for key in trust.COUNTERS:
        setattr(state, key, counters[key])
    _finish_save(folder / "checkpoints", state)


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder holds weights of a run; loading tells whether all that belongs to them."""
    return bool(steps_in(folder))


def load_model(folder: str | Path, which: Which = "best") -> TrainedModel:
    """The model, in evaluation mode on the CPU, with its vocabulary and configuration.

    Needs nothing but the run folder, in which a training may go on and save meanwhile.
    Raises: CheckpointError naming the file and the reason; ValueError as `trust.at_home`.
    """
    folder = at_home(folder)
    for attempts_left in reversed(range(10)):
        before = trust.last_save(folder)
        try:
            return _load_model(folder, which)
        except CheckpointError:
            if not attempts_left or trust.last_save(folder) == before:
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
    checkpoint = pointed(folder, which)
    _, model_hash, _ = trust.verified(folder, checkpoint)
    trust.check_small(folder / "config.hocon")
    trust.check_small(folder / "vocab.txt", trust.LARGEST_VOCABULARY)
    try:
        config = load_snapshot(folder / "config.hocon")
        tokenizer = CharTokenizer.load(folder / "vocab.txt")
        with torch.device("meta"):  # names and shapes only: the file must fit before memory is used
            wanted = MoELanguageModel(config.model, tokenizer.vocab_size).state_dict()
    except ValueError as error:  # some of these begin with the file already
        about = "" if str(error).startswith(str(folder)) else f"{folder / 'config.hocon'}: "
        raise CheckpointError(f"{about}{error}") from None
    weights = trust.read_tensors(checkpoint / "model.safetensors", wanted)
    trust.check_model(folder, config.model, model_hash)
    model = MoELanguageModel(config.model, tokenizer.vocab_size)
    model.load_state_dict(weights)
    return TrainedModel(model.eval(), tokenizer, config)


def _finish_save(checkpoints: Path, state: TrainingState) -> None:
    # Also after loading: a session may have been killed between the two pointers.
    if state.best_step == state.step:
        _write_text(checkpoints / "best", f"step-{state.step:06d}\n")
    keep = {f"step-{step:06d}" for step in (state.step, state.best_step) if step is not None}
    for path in checkpoints.iterdir():  # what a person has copied beside them is none of ours
        if re.fullmatch(rf"{STEP}(\.part)?", path.name) and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


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


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    _sync(part)
    part.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
