"""The command line: train a model, generate text with it, hand it to transformers and back."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moe_tutorial.terminal import reason, visible

if TYPE_CHECKING:
    from moe_tutorial.config import Config, InferenceConfig
    from moe_tutorial.generation import Writer

EXIT_FAILED, EXIT_WRONG_USE = 1, 2
DEFAULT_CONFIG = "config.hocon"
COMMAND = "python -m moe_tutorial"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 1 failed run, 2 wrong use, 128 + signal stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["train", *arguments]
    args = build_parser().parse_args(arguments, argparse.Namespace(arguments=arguments))
    # Before PyTorch is imported: its threads on Linux spin so long while they wait for each other
    # that a core busy with something else makes training over 100 times slower (measured on two
    # cores); with this limit 8 times, and on a quiet machine 3 % are lost.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with it closed, as by `train >&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console may not know every character
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # one bad line must not end all others
    try:
        return args.command(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if args.debug:
            raise
        wrong_use = isinstance(error, ValueError)
        expected = wrong_use or isinstance(error, OSError | RuntimeError | ArithmeticError)
        text = reason(error)
        hint = "" if expected else f" ({type(error).__name__}; --debug shows where)"
        if "TORCHELASTIC_RUN_ID" in os.environ:  # one of several processes
            from moe_tutorial.distributed import report

            report(error, f"{text}{hint}")
        else:
            print(f"error: {text}{hint}", file=sys.stderr)
        return getattr(error, "code", EXIT_WRONG_USE if wrong_use else EXIT_FAILED)


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Train a small Mixture-of-Experts character model and generate text with it. "
        "Without a command: train with config.hocon.",
    )
    commands = parser.add_subparsers(required=True, metavar="train | generate | export | import")

    train = commands.add_parser("train", help="train a model, save it, print a sample")
    train.set_defaults(command=train_command)
    train.add_argument("--config", metavar="F", help=f"HOCON file (default: {DEFAULT_CONFIG})")
    override = {"action": "append", "nargs": "+", "default": [], "dest": "overrides"}
    override_help = "replace keys of the configuration, as in training.epochs=1"
    train.add_argument("--set", metavar="KEY=VALUE", help=override_help, **override)
    train.add_argument(
        "--resume", action="store_true", help="continue the run in the output folder"
    )

    generate = commands.add_parser("generate", help="generate text with a trained model")
    generate.set_defaults(command=generate_command)
    generate.add_argument("--model-path", metavar="DIR", help="run folder written by train")
    source = generate.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="P", nargs="+", help="text to continue, one or several")
    source.add_argument("--interactive", "-i", action="store_true", help="ask for prompts")
    source.add_argument(
        "--stdin", action="store_true", help="one prompt per line of standard input"
    )
    verbose = "each token with its probability, its rivals and its experts"
    generate.add_argument("--verbose", "-v", action="store_true", help=verbose)
    generate.add_argument("--max-new-tokens", metavar="N", type=int)
    generate.add_argument("--temperature", metavar="T", type=float, help="0 is greedy")
    generate.add_argument("--top-k", metavar="K", type=int, help="keep the K best tokens")
    generate.add_argument("--top-p", metavar="P", type=float, help="keep probability P of the best")
    generate.add_argument("--seed", metavar="S", type=_seed, help="default: that of the training")

    export = commands.add_parser(
        "export", help="write a model as Hugging Face's transformers read it"
    )
    export.set_defaults(command=export_command)
    export.add_argument("--to", metavar="DIR", required=True, help="a new folder")
    export.add_argument("--model-path", metavar="DIR", help="run folder written by train")

    import_ = commands.add_parser("import", help="the way back: write a run folder")
    import_.set_defaults(command=import_command)
    source_help = "folder written by export or by save_pretrained"
    import_.add_argument("--from", metavar="DIR", required=True, dest="source", help=source_help)
    import_.add_argument("--to", metavar="RUN_FOLDER", required=True, help="a new folder")
    for command in (train, generate, export, import_):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def train_command(args: argparse.Namespace) -> int:
    """Train as configured; save on Ctrl-C; end with losses, a picture and a sample."""
    config = _training_config(args)
    from moe_tutorial import distributed
    from moe_tutorial.device import set_threads

    if (number := distributed.processes_to_launch(config)) > 1:
        return distributed.launch(number, args.arguments)
    set_threads(config.device)
    from moe_tutorial.checkpoint import save_checkpoint
    from moe_tutorial.progress import progress_bar, stop_between_steps, tell
    from moe_tutorial.run import (
        baseline_losses,
        compare_losses,
        draw_history,
        open_run,
        train_in_folder,
    )

    with (
        distributed.process_group(config.device),
        open_run(distributed.from_first(lambda: config), resume=args.resume) as run,
    ):
        folder = shlex.quote(str(run.folder))
        first = distributed.is_first()
        began = run.state.step
        with stop_between_steps(ignore_repeated=distributed.processes() > 1) as interrupt:
            steps = train_in_folder(run)
            for _ in progress_bar(steps, run, interrupt) if first else steps:
                if (stop := distributed.agree(interrupt.signal)) is not None:
                    if not first:
                        return 128 + stop
                    save_checkpoint(run.folder, run.state)
                    config_flag = f" --config {shlex.quote(args.config)}" if args.config else ""
                    tell(
                        f"stopped and saved after step {run.state.step}; to continue:\n"
                        f"  {COMMAND} train --resume{config_flag} --set paths.output_dir={folder}"
                    )
                    return 128 + stop
        if not first:
            return 0
        if run.state.step == began:
            print("no step was left to train; --set training.epochs or max_steps raises the limit")
        counted = baseline_losses(run)
        print(compare_losses(run, counted), flush=True)
        drawn = draw_history(run, counted)
    print(f"saved in {folder}, {drawn}; a sample of it:\n")
    generate_command(build_parser().parse_args(["generate", f"--model-path={run.folder}"]))
    print(f"\nmore: {COMMAND} generate --interactive --model-path {folder}")
    return 0


def generate_command(args: argparse.Namespace) -> int:
    """Generate text with the model of a run folder, which holds all that is needed."""
    import torch

    from moe_tutorial.checkpoint import load_model
    from moe_tutorial.config import change_inference
    from moe_tutorial.device import choose_device, set_threads
    from moe_tutorial.generation import Writer

    trained = load_model(_model_path(args))
    config = trained.config
    set_threads(config.device)
    try:
        trained.model.to(choose_device(config.device))
    except ValueError as error:  # it was trained on another machine
        print(f"generating on the CPU: {visible(str(error))}", file=sys.stderr)
    flags = {key: getattr(args, key) for key in ("max_new_tokens", "temperature", "top_k", "top_p")}
    given = {key: value for key, value in flags.items() if value is not None}
    settings = change_inference(config.inference, given)
    seed = config.training.seed if args.seed is None else args.seed
    writer = Writer(trained, torch.Generator().manual_seed(seed), args.verbose)
    if args.interactive:
        writer.converse(settings)
    elif args.stdin:
        return _complete_lines(writer, settings)
    else:
        writer.complete_all(args.prompt or [settings.prompt], settings)
    return 0


def export_command(args: argparse.Namespace) -> int:
    """Write the model of a run folder as a folder that transformers loads."""
    from moe_tutorial.hugging_face import export

    architecture = export(_model_path(args), args.to)
    print(f"saved in {shlex.quote(args.to)} as {architecture}; transformers loads it with")
    print(f"  AutoModelForCausalLM.from_pretrained({args.to!r})")
    print(f"  AutoTokenizer.from_pretrained({args.to!r})")
    return 0


def import_command(args: argparse.Namespace) -> int:
    """Write a run folder for a model that export or transformers wrote."""
    from moe_tutorial.hugging_face import import_

    import_(args.source, args.to)
    folder = shlex.quote(args.to)
    print(f"saved in {folder}; to try it: {COMMAND} generate --model-path {folder}")
    return 0


def _seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2**63 - 1")
    return int(text)


def _complete_lines(writer: Writer, settings: InferenceConfig) -> int:
    """One completion per line of standard input; a bad line is reported and the others go on."""
    code = 0
    for number, line in enumerate(sys.stdin, start=1):
        try:
            writer.complete_all([line.rstrip("\r\n")], settings)
            print()
        except ValueError as error:
            print(f"error: line {number}: {error}", file=sys.stderr)
            code = EXIT_WRONG_USE
    return code


def _training_config(args: argparse.Namespace) -> Config:
    """The file and the overrides; a resumed run keeps its own snapshot below the overrides."""
    from moe_tutorial.config import ConfigError, load_config, load_snapshot

    overrides = [item for group in args.overrides for item in group]
    config = load_config(args.config or DEFAULT_CONFIG, overrides)
    snapshot = Path(config.paths.output_dir) / "config.hocon"
    if not (args.resume and snapshot.is_file()):
        return config
    saved, resumed = load_snapshot(snapshot), load_snapshot(snapshot, overrides)
    for section, key in (
        ("training", "dataset"),
        *(("model", key) for key in type(saved.model).model_fields),
    ):
        old, new = getattr(getattr(saved, section), key), getattr(getattr(resumed, section), key)
        if old != new:
            raise ConfigError(
                f"{snapshot}: the run has {section}.{key}={old!r}, which cannot become {new!r} on "
                f"the way; train a new model in another paths.output_dir"
            )
    return resumed.model_copy(update={"paths": config.paths})  # the folder may have been renamed


def _model_path(args: argparse.Namespace) -> Path:
    """--model-path, else the folder of config.hocon: model_path if it is there, else output_dir."""
    from moe_tutorial.config import PathsConfig, load_config

    if args.model_path:
        return Path(args.model_path)
    paths = load_config(DEFAULT_CONFIG).paths if Path(DEFAULT_CONFIG).exists() else PathsConfig()
    if paths.model_path and Path(paths.model_path).is_dir():
        return Path(paths.model_path)
    return Path(paths.output_dir)
