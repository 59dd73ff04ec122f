"""One training run in its folder: from a configuration to a trained model with its logs."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_tutorial import checkpoint, training
from moe_tutorial.balance import RouterHealth, router_health
from moe_tutorial.batching import check_length
from moe_tutorial.command import folder as run_folder
from moe_tutorial.command import log
from moe_tutorial.command.draft import write_draft
from moe_tutorial.command.terminal import visible
from moe_tutorial.config import Config, InferenceConfig
from moe_tutorial.corpus import Corpus, load_corpus
from moe_tutorial.device import choose_device
from moe_tutorial.model import ModelOutput, MoELanguageModel, count_parameters
from moe_tutorial.processes.distributed import from_first, is_first, processes, share
from moe_tutorial.sampling import check_sampling
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import NonFiniteLoss, StepRecord
from moe_tutorial.trust import DRAFT, resumable


@dataclass
class Run:
    """A run that is ready to train."""

    folder: Path
    config: Config
    corpus: Corpus
    state: training.TrainingState
    forward: training.Forward  # the model, or what shares a batch among several processes
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
    device, settings = choose_device(config.device), config.training
    corpus = from_first(
        lambda: load_corpus(settings.dataset, settings.data_dir, settings.num_workers)
    )
    # The list of symbols is all that is taken from the validation text.
    tokenizer = CharTokenizer.fit(corpus.train + corpus.validation)
    folder = Path(config.paths.output_dir)
    if resume and is_first() and checkpoint.has_checkpoint(folder):
        resumable(folder)
        run_folder.check_same_vocabulary(folder, tokenizer)
    run = _fresh_run(config, corpus, tokenizer, device)
    # The first of several processes alone touches the folder.
    with _take_folder(run, tokenizer, resume) if is_first() else nullcontext():
        run.state, run.forward = share(run.state, settings.batch_size, settings.seed)
        yield run


def _fresh_run(
    config: Config, corpus: Corpus, tokenizer: CharTokenizer, device: torch.device
) -> Run:
    train_ids, validation_ids = (tokenizer.encode(text) for text in corpus)
    check_length(train_ids, config.training.seq_len)
    check_length(validation_ids, 1)
    _check_inference(config.inference, tokenizer)
    prompt = config.inference.prompt or _first_words(corpus.validation)
    inference = config.inference.model_copy(update={"prompt": prompt})
    torch.manual_seed(config.training.seed)
    model = MoELanguageModel(config.model, tokenizer.vocab_size).to(device)
    state = training.start_training(model, config.training)
    # The content decides, and the split: the same text at another path is the same.
    state.text = hashlib.sha256("\0".join(corpus).encode("utf-8", "surrogatepass")).hexdigest()
    return Run(
        folder=Path(config.paths.output_dir),
        config=config.model_copy(update={"inference": inference}),
        corpus=corpus,
        state=state,
        forward=model,
        train_ids=train_ids.to(device),
        validation_ids=validation_ids.to(device),
    )


@contextmanager
def _take_folder(run: Run, tokenizer: CharTokenizer, resume: bool) -> Iterator[None]:
    folder = run.folder
    if resume and not folder.exists():
        raise ValueError(f"{folder} is no folder that could be resumed; train without --resume")
    if checkpoint.has_checkpoint(folder) and not resume:
        run_folder.move_aside(folder)
    with run_folder.alone_in(folder):
        if checkpoint.has_checkpoint(folder):
            checkpoint.load_checkpoint(folder, run.state)
            checkpoint.write_snapshot(folder, run.config)  # its limits may have changed
            if not (folder / DRAFT).exists():  # begun with an earlier version
                write_draft(folder, run.train_ids, tokenizer.vocab_size)
        else:
            run_folder.check_free(folder)
            checkpoint.start_run_folder(folder, run.config, tokenizer)
            write_draft(folder, run.train_ids, tokenizer.vocab_size)
        log.cut_metrics(folder, run.state.step)
        yield


def describe(run: Run) -> str:
    """One line on what is trained, on what, with how much."""
    total, active = count_parameters(run.state.model)
    device = run.train_ids.device
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    together = f" in each of {processes()} processes" if processes() > 1 else ""
    every = training.sample_every(len(run.validation_ids), run.config.training)
    sample = f" (one window of {every} on the way, all at the end)" if every > 1 else ""
    return (
        f"{visible(run.config.training.dataset)}: {len(run.train_ids):,} characters to train on, "
        f"{len(run.validation_ids):,} held out{sample}, "
        f"{run.state.model.head.out_features} symbols; "
        f"{total:,} parameters, {active:,} active per character; {device}{threads}{together}; "
        f"{'from the start' if run.state.step == 0 else f'resumed after step {run.state.step}'}"
    )


def train_in_folder(run: Run, stop: training.Stop = lambda: False) -> Iterator[StepRecord]:
    """Train, write metrics.jsonl, train.log and checkpoints on the way, and yield every record.

    Of several processes, the first one writes. stop: asked while it measures.
    """
    settings = run.config.training
    texts = run.train_ids, run.validation_ids
    if not is_first():
        yield from training.train(run.state, *texts, settings, run.forward, stop)
        return
    health: list[RouterHealth] = []  # of the routers in the last step
    steps = training.train(run.state, *texts, settings, _watched(run.forward, health), stop)
    idle: Tensor | int = 0  # (L, E), steps since each expert's last token
    since_last_line: list[StepRecord] = []
    with (
        (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as metrics,
        (run.folder / "train.log").open("a", encoding="utf-8") as lines,
    ):
        log.write_line(lines, describe(run))
        for record in _keeping_the_last_checkpoint(steps, run):
            log.write_line(metrics, json.dumps(log.as_json(record, health)))
            idle = torch.where(record.expert_load == 0, idle + 1, 0)
            if (idle == log.IDLE_STEPS).any():
                line = log.idle_line(record.step, idle == log.IDLE_STEPS)
                log.write_line(lines, line)
                run.notice = run.notice or line
            since_last_line.append(record)
            if record.validation_loss is not None:
                log.write_line(lines, log.log_line(since_last_line))
                since_last_line.clear()
            if (
                record.step % settings.save_steps == 0
                or run.state.best_step == record.step
                or record.progress == 1
            ):
                os.fsync(metrics.fileno())  # no checkpoint may survive a power cut without it
                checkpoint.save_checkpoint(run.folder, run.state)
            yield record


def _watched(forward: training.Forward, health: list[RouterHealth]) -> training.Forward:
    """The same outputs; what the routers did with the batch is left in `health`."""

    def watched(tokens: Tensor) -> ModelOutput:
        output = forward(tokens)
        with torch.no_grad():
            health[:] = [router_health(routing) for routing in output.routings]
        return output

    return watched


def _keeping_the_last_checkpoint(steps: Iterator[StepRecord], run: Run) -> Iterator[StepRecord]:
    try:
        yield from steps
    except NonFiniteLoss as error:
        kept = "the last" if checkpoint.has_checkpoint(run.folder) else "no"
        raise NonFiniteLoss(f"{error}; {kept} good checkpoint is in {run.folder}") from None


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
