"""One training run in its folder: from a configuration to a trained model, logs and a picture."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from moe_tutorial.batching import check_length
from moe_tutorial.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    start_run_folder,
    write_snapshot,
)
from moe_tutorial.config import Config, ConfigError, InferenceConfig, dump_config, load_snapshot
from moe_tutorial.corpus import Corpus, load_corpus, ngram_losses
from moe_tutorial.device import choose_device
from moe_tutorial.distributed import from_first, is_first, processes, share
from moe_tutorial.model import MoELanguageModel, count_parameters
from moe_tutorial.moe import load_summary
from moe_tutorial.sampling import check_sampling
from moe_tutorial.terminal import visible
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import NonFiniteLoss, StepRecord, TrainingState, start_training, train

IDLE_STEPS = 500  # an expert that got no token for so long is reported
FIRST_FILES = {"training.lock", "training.pid", "checkpoints", "config.hocon.part"}
LATER_FILES = {"config.hocon", "vocab.txt", "corpus.sha256", "metrics.jsonl", "metrics.part",
               "train.log", "history.png"}  # fmt: skip
DRAWN = {"step", "loss", "validation_loss", "expert_load"}  # what history.png shows of a record
BASELINE_ORDERS = {"unigram": 1, "bigram": 2, "interpolated 5-gram": 5}


@dataclass
class Run:
    """A run that is ready to train."""

    folder: Path
    config: Config
    corpus: Corpus
    state: TrainingState
    train_ids: Tensor  # (N_ids,) on the model's device
    validation_ids: Tensor  # (N_ids,)
    notice: str = ""  # what a person at the terminal should read once


@contextmanager
def open_run(config: Config, *, resume: bool) -> Iterator[Run]:
    """Load the corpus, build the model, and take the run folder: new, or with its last checkpoint.

    While the run is open, no other process can train in its folder. A run that is already there is
    never overwritten: without resume it is moved aside. Files of others stop it.
    Raises: ValueError, OSError or CheckpointError, one line, saying what to do.
    """
    device = choose_device(config.device)
    training = config.training
    corpus = from_first(
        lambda: load_corpus(training.dataset, training.data_dir, training.num_workers)
    )
    # The list of symbols is all that is taken from the validation text.
    tokenizer = CharTokenizer.fit(corpus.train + corpus.validation)
    train_ids, validation_ids = tokenizer.encode(corpus.train), tokenizer.encode(corpus.validation)
    check_length(train_ids, config.training.seq_len)
    check_length(validation_ids, 1)
    _check_inference(config.inference, tokenizer)
    torch.manual_seed(config.training.seed)
    model = MoELanguageModel(config.model, tokenizer.vocab_size).to(device)
    state = start_training(model, config.training)
    folder = Path(config.paths.output_dir)
    train_ids, validation_ids = train_ids.to(device), validation_ids.to(device)
    if not is_first():  # the first process alone touches the folder
        yield Run(folder, config, corpus, share(state, config), train_ids, validation_ids)
        return
    if resume and not folder.exists():
        raise ValueError(f"{folder} is no folder that could be resumed; train without --resume")
    if has_checkpoint(folder) and not resume:
        _move_aside(folder)
    prompt = config.inference.prompt or _first_words(corpus.validation)
    inference = config.inference.model_copy(update={"prompt": prompt})
    config = config.model_copy(update={"inference": inference})
    with _alone_in(folder):
        if has_checkpoint(folder):
            _check_same_vocabulary(folder, tokenizer)
            _check_same_text(folder, corpus)
            load_checkpoint(folder, state)
            write_snapshot(folder, config)  # some of its limits may have been changed
        else:
            _check_free(folder)
            start_run_folder(folder, config, tokenizer)
        (folder / "corpus.sha256").write_text(_hash(corpus) + "\n", encoding="ascii")
        _cut_metrics(folder, state.step)
        yield Run(folder, config, corpus, share(state, config), train_ids, validation_ids)


def train_in_folder(run: Run) -> Iterator[StepRecord]:
    """Train, write metrics.jsonl, train.log and checkpoints on the way, and yield every record.

    Of several processes, the first one writes.
    """
    steps = train(run.state, run.train_ids, run.validation_ids, run.config.training)
    if not is_first():
        yield from steps
        return
    idle: Tensor | int = 0  # (L, E), steps since each expert's last token
    since_last_line: list[StepRecord] = []
    with (
        (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as metrics,
        (run.folder / "train.log").open("a", encoding="utf-8") as log,
    ):
        _write_line(log, describe(run))
        for record in _keeping_the_last_checkpoint(steps, run):
            _write_line(metrics, json.dumps(_as_json(record)))
            idle = torch.where(record.expert_load == 0, idle + 1, 0)
            if (idle == IDLE_STEPS).any():
                line = _idle_line(record.step, idle == IDLE_STEPS)
                _write_line(log, line)
                run.notice = run.notice or line
            since_last_line.append(record)
            if record.validation_loss is not None:
                _write_line(log, log_line(since_last_line))
                since_last_line.clear()
            if (
                record.step % run.config.training.save_steps == 0
                or run.state.best_step == record.step
                or record.progress == 1
            ):
                os.fsync(metrics.fileno())  # no checkpoint may survive a power cut without it
                save_checkpoint(run.folder, run.state)
            yield record


def _idle_line(step: int, idle: Tensor) -> str:
    names = (f"expert {expert} of layer {layer + 1}" for layer, expert in idle.nonzero().tolist())
    return (
        f"step {step}: {', '.join(names)} got no token for {IDLE_STEPS} steps; a larger "
        f"model.load_balancing_loss_coef spreads the tokens"
    )


def _keeping_the_last_checkpoint(steps: Iterator[StepRecord], run: Run) -> Iterator[StepRecord]:
    try:
        yield from steps
    except NonFiniteLoss as error:
        kept = "the last" if has_checkpoint(run.folder) else "no"
        raise NonFiniteLoss(f"{error}; {kept} good checkpoint is in {run.folder}") from None


def describe(run: Run) -> str:
    """One line on what is trained, on what, with how much."""
    total, active = count_parameters(run.state.model)
    device = run.train_ids.device
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    together = f" in each of {processes()} processes" if processes() > 1 else ""
    return (
        f"{visible(run.config.training.dataset)}: {len(run.train_ids):,} characters to train on, "
        f"{len(run.validation_ids):,} held out, {run.state.model.head.out_features} symbols; "
        f"{total:,} parameters, {active:,} active per character; {device}{threads}{together}; "
        f"{'from the start' if run.state.step == 0 else f'resumed after step {run.state.step}'}"
    )


def short_line(records: Sequence[StepRecord]) -> str:
    """Means over the steps since the last line, ending with a measured validation loss."""
    last, count = records[-1], len(records)
    load = _mean_load(records)
    uneven = max(load_summary(layer).max_over_mean for layer in load)
    dead = sum(load_summary(layer).dead for layer in load)
    return (
        f"epoch {last.epoch:.2f} step {last.step} "
        f"train {sum(r.loss for r in records) / count:.4f} validation {last.validation_loss:.4f} "
        f"{sum(r.tokens_per_second for r in records) / count:,.0f} tokens/s "
        f"load max/mean {uneven:.2f} dead {dead}"
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


def baseline_losses(run: Run) -> dict[str, float]:
    """Of predicting the held-out text by counting, in nats per character."""
    losses = ngram_losses(*run.corpus, max(BASELINE_ORDERS.values()))
    return {name: losses[order - 1] for name, order in BASELINE_ORDERS.items()}


def compare_losses(run: Run, counted: Mapping[str, float]) -> str:
    """A table of the model's losses, in nats per character, beside counted ones."""
    state, records = run.state, read_metrics(run.folder)[-100:]
    table = {}
    if records:
        what = f"this model, training text, last {len(records)} steps"
        table[what] = sum(record["loss"] for record in records) / len(records)
    if state.validation_loss is not None:
        table["this model, held-out text"] = state.validation_loss
        best = f"this model, held-out text, best step {state.best_step}"
        table[best] = state.best_validation_loss
    for name, loss in counted.items():
        table[f"{name} counts, held-out text"] = loss
    return "\n".join(f"{loss:8.3f}  {what}" for what, loss in table.items())


def draw_history(run: Run, counted: Mapping[str, float]) -> str:
    """Draw history.png from metrics.jsonl, and say so.

    Raises: OSError, saying that the model is saved, whatever the reason.
    """
    path, records = run.folder / "history.png", read_metrics(run.folder)
    if not records:
        return "without a history, because no step is recorded in metrics.jsonl"
    try:
        from moe_tutorial.plots import history_figure  # matplotlib is slow to import

        history_figure(records, counted).savefig(path, dpi=100)
    except Exception as error:  # matplotlib's own configuration may be at fault
        raise OSError(f"{path} cannot be written ({error}); the model is saved") from None
    return f"with its history drawn in {path.name}"


def read_metrics(folder: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl, one dict per step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    _check_no_links(folder)
    try:
        with FileLock(folder / "training.lock", timeout=0):  # a killed process holds it no more
            (folder / "training.pid").write_text(f"{os.getpid()}\n", encoding="ascii")
            yield
    except Timeout:
        raise OSError(
            f"another training is running in {folder} (process {_read_pid(folder)}); wait for it, "
            f"or choose another folder with --set paths.output_dir=DIR"
        ) from None


def _read_pid(folder: Path) -> str:
    try:
        return (folder / "training.pid").read_text(encoding="ascii").strip()[:20] or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _check_no_links(folder: Path) -> None:
    """A stranger's run folder could send what a training writes to the user's own files."""
    for path in chain(folder.iterdir(), (folder / "checkpoints").rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise OSError(
                f"{path} is a link or no file, and a training may write to it; remove it, or "
                f"choose another folder with --set paths.output_dir=DIR"
            )


def _check_free(folder: Path) -> None:
    """A new run may replace what a run without a checkpoint has left, and nothing else."""
    others = {path.name for path in folder.iterdir() if path.name[0] != "."} - FIRST_FILES
    if _is_snapshot(folder / "config.hocon"):
        others -= LATER_FILES
    if others:
        raise ValueError(
            f"{folder} holds {min(others)!r}, which is not of a run, and a new run there could "
            f"replace it; choose an empty or new folder with --set paths.output_dir=DIR"
        )


def _is_snapshot(path: Path) -> bool:
    """Whether the configuration is one that a run wrote, and not one that a person wrote."""
    try:
        return path.read_bytes() == dump_config(load_snapshot(path)).encode()
    except (OSError, ConfigError):
        return False


def _move_aside(folder: Path) -> None:
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{folder} holds a run and cannot be moved aside, because it is the current folder; "
            f"go on with --resume, or choose another folder with --set paths.output_dir=DIR"
        )
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with _alone_in(folder):
        pass  # nobody is training in it
    folder.rename(aside)
    print(f"the earlier run in {folder} is now in {aside}", flush=True)


def _check_same_vocabulary(folder: Path, tokenizer: CharTokenizer) -> None:
    saved = CharTokenizer.load(folder / "vocab.txt")
    if saved.int_to_char != tokenizer.int_to_char:
        raise ValueError(
            f"{folder / 'vocab.txt'} has {saved.vocab_size} symbols, but the corpus has "
            f"{tokenizer.vocab_size}, not the same ones: a run resumes on the text it began with"
        )


def _check_same_text(folder: Path, corpus: Corpus) -> None:
    """Losses on another held-out text cannot be compared; it may have been trained on, besides."""
    path = folder / "corpus.sha256"  # runs of an earlier version have none
    if not path.exists():
        return
    with path.open("rb") as file:
        saved = file.read(100).strip()
    if saved not in (b"", _hash(corpus).encode()):  # empty: a power cut came before its content
        raise ValueError(
            f"{path}: the text is not the one that the run began with; put it back, train a new "
            f"model in another paths.output_dir, or remove this file to go on with the new text"
        )


def _hash(corpus: Corpus) -> str:
    return hashlib.sha256("\0".join(corpus).encode("utf-8", "surrogatepass")).hexdigest()


def _check_inference(settings: InferenceConfig, tokenizer: CharTokenizer) -> None:
    """Before the training, whose last act is a sample."""
    try:
        check_sampling(settings.temperature, settings.top_k, settings.top_p)
        tokenizer.encode(settings.prompt or "")
    except ValueError as error:
        raise ValueError(f"section inference of the configuration: {error}") from None


def _first_words(text: str, length: int = 24) -> str:
    """A default prompt: how a paragraph begins that the model has not seen."""
    paragraphs = (part.strip() for part in text.split("\n\n")[1:])
    paragraph = next((part for part in paragraphs if len(part) > 4 * length), text.strip())
    words = paragraph.partition("\n")[0][:length]
    return words.rpartition(" ")[0] or words or text[:1]


def _cut_metrics(folder: Path, step: int) -> None:
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


def _as_json(record: StepRecord) -> dict[str, object]:
    load = [[round(share, 4) for share in layer] for layer in record.expert_load.tolist()]
    return {**record._asdict(), "expert_load": load}


def _write_line(file: TextIO, line: str) -> None:
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
