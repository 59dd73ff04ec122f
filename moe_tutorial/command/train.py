"""The train command: from settings to a trained model, a table, a picture and a sample."""

import argparse
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from moe_tutorial import FILES
from moe_tutorial.checkpoint import save_checkpoint
from moe_tutorial.command.generation import open_writer
from moe_tutorial.command.hocon import change_config, default_config, load_config
from moe_tutorial.command.log import read_metrics
from moe_tutorial.command.progress import progress_bar, stop_between_steps, tell
from moe_tutorial.command.run import Run, open_run, train_in_folder
from moe_tutorial.command.terminal import COMMAND, reason, visible
from moe_tutorial.config import Config, ConfigError, load_snapshot
from moe_tutorial.corpus import ngram_losses
from moe_tutorial.device import set_threads
from moe_tutorial.processes import distributed
from moe_tutorial.processes.launch import launch, processes_to_launch
from moe_tutorial.training import evaluate, sample_every

LONG_TO_COUNT = 3_000_000  # characters, which take some seconds
BASELINE_ORDERS = {"unigram": 1, "bigram": 2, "interpolated 5-gram": 5}


def train_command(args: argparse.Namespace) -> int:
    """Train as configured; save on Ctrl-C; end with losses, a picture and a sample."""
    config, source = _read_config(args)
    if (number := processes_to_launch(config)) > 1:
        return launch(number, args.arguments)
    set_threads(config.device)
    with distributed.process_group(config.device), ExitStack() as stack:
        if distributed.is_first():
            print(f"settings: {source}", flush=True)
        config = distributed.from_first(lambda: config)
        run = stack.enter_context(open_run(config, resume=args.resume))
        began, folder = run.state.step, shlex.quote(str(run.folder))
        if (stop := _train(run, args.config)) is not None:
            return 128 + stop
        if not distributed.is_first():
            return 0
        if run.state.step == began:
            print("no step was left to train; --set training.epochs or max_steps raises the limit")
        try:
            drawn = _finish(run)
        except KeyboardInterrupt:
            tell(f"the model is saved in {folder}; it was not compared with counting to the end")
            return 130
    print(f"saved in {folder}, {drawn}; a sample of it:\n")
    writer, settings = open_writer(run.folder)
    writer.complete(settings.prompt, settings)
    print(f"\nmore: {COMMAND} generate --interactive --model-path {folder}")
    return 0


def _train(run: Run, config_file: str | None) -> int | None:
    """Train until the end, or until a signal: then save, say how to go on, and return it."""
    first = distributed.is_first()
    with stop_between_steps(ignore_repeated=distributed.processes() > 1) as interrupt:
        steps = train_in_folder(run, lambda: interrupt.signal is not None)
        for _ in progress_bar(steps, run, interrupt) if first else steps:
            if (stop := distributed.agree(interrupt.signal)) is None:
                continue
            if first:
                save_checkpoint(run.folder, run.state)
                config_flag = f" --config {shlex.quote(config_file)}" if config_file else ""
                tell(
                    f"stopped and saved after step {run.state.step}; to continue:\n  {COMMAND} "
                    f"train --resume{config_flag} --set paths.output_dir="
                    f"{shlex.quote(str(run.folder))}"
                )
            return stop
    return None


def _finish(run: Run) -> str:
    """Print the table of losses, draw the picture and say whether; announce what takes longer."""
    whole, settings = run.state.validation_loss, run.config.training
    if sample_every(len(run.validation_ids), settings) > 1:
        print(f"measuring all {len(run.validation_ids):,} held-out characters ...", flush=True)
        whole = evaluate(run.state.model, run.validation_ids, settings.seq_len)
    if (total := sum(map(len, run.corpus))) > LONG_TO_COUNT:
        print(f"counting {total:,} characters, for comparison ...", flush=True)
    counted = baseline_losses(run)
    print(compare_losses(run, whole, counted), flush=True)
    return draw_history(run, counted)


def baseline_losses(run: Run) -> dict[str, float]:
    """Of predicting the held-out text by counting, in nats per character."""
    losses = ngram_losses(*run.corpus, max(BASELINE_ORDERS.values()))
    return {name: losses[order - 1] for name, order in BASELINE_ORDERS.items()}


def compare_losses(run: Run, whole: float | None, counted: Mapping[str, float]) -> str:
    """A table of the model's losses, in nats per character, beside counted ones.

    whole: of the model as it is now, on all of the held-out text.
    """
    state, records = run.state, read_metrics(run.folder)[-100:]
    table = {}
    if records:
        what = f"this model, training text, last {len(records)} steps"
        table[what] = sum(record["loss"] for record in records) / len(records)
    if whole is not None:
        table["this model, held-out text"] = whole
        sample = ", a sample" if whole != state.validation_loss else ""
        best = f"this model, held-out text{sample}, best step {state.best_step}"
        table[best] = state.best_validation_loss
    for name, loss in counted.items():
        table[f"{name} counts, held-out text"] = loss
    return "\n".join(f"{loss:8.3f}  {what}" for what, loss in table.items())


def draw_history(run: Run, counted: Mapping[str, float]) -> str:
    """Draw history.png from metrics.jsonl, and say so; a picture that fails costs the picture."""
    path, records = run.folder / "history.png", read_metrics(run.folder)
    if not records:
        return "without a history, because no step is recorded in metrics.jsonl"
    try:
        from moe_tutorial.plots import history_figure  # matplotlib is slow to import

        history_figure(records, counted).savefig(path, dpi=100)
    except Exception as error:  # the user's own settings of matplotlib may be at fault
        return f"but {path.name} could not be drawn ({reason(error)})"
    return f"with its history drawn in {path.name}"


def _read_config(args: argparse.Namespace) -> tuple[Config, str]:
    """The settings and where they are from: a file below the overrides.

    A resumed run keeps its own snapshot in the place of the file.
    """
    overrides = [item for group in args.overrides for item in group]
    path = Path(args.config) if args.config else default_config()
    config = load_config(path, overrides)
    snapshot = Path(config.paths.output_dir) / "config.hocon"
    if not (args.resume and snapshot.is_file()):
        built_in = "those of the package; a config.hocon here would be used instead"
        source = built_in if path == FILES / "config.hocon" else visible(str(path))
        return config, source + _unset_keys(config)
    saved = load_snapshot(snapshot)
    resumed = change_config(saved, overrides, str(snapshot))
    for key in type(saved.model).model_fields:
        old, new = getattr(saved.model, key), getattr(resumed.model, key)
        if old != new:
            raise ConfigError(
                f"{snapshot}: the run has model.{key}={old!r}, which cannot become {new!r} on the "
                f"way; train a new model in another paths.output_dir"
            )
    resumed = resumed.model_copy(update={"paths": config.paths})  # the folder may have been renamed
    return resumed, f"{visible(str(snapshot))}, the run's own"


def _unset_keys(config: Config) -> str:
    """What a file leaves to the original project's defaults, if that is most of the model."""
    keys = type(config.model).model_fields
    unset = [key for key in keys if key not in config.model.model_fields_set]
    if 2 * len(unset) <= len(keys):
        return ""
    return (
        f"; the defaults of the original project for model.{', '.join(unset)}\n  (for those of the "
        f'course, begin it with: include required("{default_config().as_posix()}"))'
    )
