"""The command line: train a model, generate text with it, hand it to transformers and back."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from os.path import expanduser

from moe_tutorial.command.terminal import COMMAND, EXIT_FAILED, EXIT_WRONG_USE, reason

COMMANDS = "train | generate | inspect | doctor | export | import"

# The commands import what they need when they are called: `--help` does not wait for PyTorch.


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
    _set_encodings()
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
            from moe_tutorial.processes.launch import report

            report(error, f"{text}{hint}")
        else:
            print(f"error: {text}{hint}", file=sys.stderr)
        return getattr(error, "code", EXIT_WRONG_USE if wrong_use else EXIT_FAILED)


def _set_encodings() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A file or a pipe gets every character; a console may not know some.
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    if hasattr(sys.stdin, "reconfigure"):  # one bad line must not end all others
        encoding = None if sys.stdin.isatty() else "utf-8-sig"
        sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape")


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Train a small Mixture-of-Experts character model and generate text with it. "
        "Without a command: train.",
    )
    commands = parser.add_subparsers(required=True, metavar=COMMANDS)
    _add_train(commands.add_parser("train", help="train a model, save it, print a sample"))
    _add_generate(commands.add_parser("generate", help="generate text with a trained model"))
    inspect = commands.add_parser("inspect", help="is the router alive? loads and a picture")
    inspect.set_defaults(command=_inspect)
    inspect.add_argument(
        "--model-path", metavar="DIR", type=expanduser, help="run folder written by train"
    )
    inspect.add_argument("--dataset", metavar="D", help="text to route; default: the training's")
    inspect.add_argument("--to", metavar="PNG", type=expanduser, help="default: DIR/router.png")
    doctor = commands.add_parser("doctor", help="can this machine run the course? takes seconds")
    doctor.set_defaults(command=_doctor)
    export = commands.add_parser(
        "export", help="write a model as Hugging Face's transformers read it"
    )
    export.set_defaults(command=_export)
    export.add_argument("--to", metavar="DIR", type=expanduser, required=True, help="a new folder")
    export.add_argument(
        "--model-path", metavar="DIR", type=expanduser, help="run folder written by train"
    )
    import_ = commands.add_parser("import", help="the way back: write a run folder")
    import_.set_defaults(command=_import)
    source_help = "folder written by export or by save_pretrained"
    import_.add_argument(
        "--from", metavar="DIR", type=expanduser, required=True, dest="source", help=source_help
    )
    import_.add_argument(
        "--to", metavar="RUN_FOLDER", type=expanduser, required=True, help="a new folder"
    )
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.set_defaults(command=_train)
    train.add_argument(
        "--config", metavar="F", type=expanduser, help="HOCON file; default: config.hocon"
    )
    override = {"action": "append", "nargs": "+", "default": [], "dest": "overrides"}
    override_help = "replace keys of the configuration, as in training.epochs=1"
    train.add_argument("--set", metavar="KEY=VALUE", help=override_help, **override)
    train.add_argument(
        "--resume", action="store_true", help="continue the run in the output folder"
    )


def _add_generate(generate: argparse.ArgumentParser) -> None:
    generate.set_defaults(command=_generate)
    generate.add_argument(
        "--model-path", metavar="DIR", type=expanduser, help="run folder written by train"
    )
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
    draft = "guess N characters by counting, check them at once; 0: off"
    generate.add_argument("--draft", metavar="N", type=int, dest="draft_length", help=draft)
    generate.add_argument("--seed", metavar="S", type=_seed, help="default: that of the training")


def _seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2**63 - 1")
    return int(text)


def _train(args: argparse.Namespace) -> int:
    from moe_tutorial.command.train import train_command

    return train_command(args)


def _generate(args: argparse.Namespace) -> int:
    from moe_tutorial.command.generation import generate_command

    return generate_command(args)


def _inspect(args: argparse.Namespace) -> int:
    from moe_tutorial.command.inspect import inspect_command

    return inspect_command(args)


def _doctor(args: argparse.Namespace) -> int:
    from moe_tutorial.command.doctor import doctor_command

    return doctor_command(args)


def _export(args: argparse.Namespace) -> int:
    from moe_tutorial.command.hocon import model_path
    from moe_tutorial.hugging_face import export

    architecture = export(model_path(args.model_path), args.to)
    print(f"saved in {shlex.quote(args.to)} as {architecture}; transformers loads it with")
    print(f"  AutoModelForCausalLM.from_pretrained({args.to!r})")
    print(f"  AutoTokenizer.from_pretrained({args.to!r})")
    print("to pad a batch: tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)")
    print("                tokenizer.padding_side = 'left'")
    return 0


def _import(args: argparse.Namespace) -> int:
    from moe_tutorial.hugging_face import import_

    import_(args.source, args.to)
    folder = shlex.quote(args.to)
    print(f"saved in {folder}; to try it: {COMMAND} generate --model-path {folder}")
    return 0
