"""The command line, in-process: what each flag reaches, what each end of a command returns."""

import io
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, TINY_RUN

from moe_tutorial import hugging_face
from moe_tutorial.checkpoint import load_model
from moe_tutorial.command import cli, generation, hocon, inspect, progress, train
from moe_tutorial.command.cli import main
from moe_tutorial.command.progress import stop_between_steps
from moe_tutorial.config import Config, ConfigError, load_snapshot
from moe_tutorial.processes import launch


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What the three commands are called with, as dicts; they return 7, 8 and 9."""
    calls = []
    commands = (train, "train_command", 7), (generation, "generate_command", 8)
    for module, name, code in (*commands, (inspect, "inspect_command", 9)):
        monkeypatch.setattr(
            module, name, lambda args, code=code: (calls.append(dict(vars(args))), code)[1]
        )
    return calls


TRAIN = {"config": None, "overrides": [], "resume": False, "debug": False}
GENERATE = {"model_path": None, "prompt": None, "interactive": False, "stdin": False,
            "verbose": False, "max_new_tokens": None, "temperature": None, "top_k": None,
            "top_p": None, "draft_length": None, "seed": None, "debug": False}  # fmt: skip

INSPECT = {"model_path": None, "dataset": None, "to": None, "debug": False}


@pytest.mark.parametrize(
    ("arguments", "defaults", "changes", "code"),
    [
        ([], TRAIN, {}, 7),
        (["train"], TRAIN, {}, 7),
        (["--resume"], TRAIN, {"resume": True}, 7),
        (["--debug", "--config", "a b"], TRAIN, {"debug": True, "config": "a b"}, 7),
        (["train", "--set", "a=1", "b=2", "--set", "c=3"], TRAIN,
         {"overrides": [["a=1", "b=2"], ["c=3"]]}, 7),
        (["train", "--config", "~/c.hocon"], TRAIN, {"config": "HOME/c.hocon"}, 7),
        (["inspect"], INSPECT, {}, 9),
        (["inspect", "--model-path", "~/m", "--to", "~/a.png", "--dataset", "~/t"], INSPECT,
         {"model_path": "HOME/m", "to": "HOME/a.png", "dataset": "~/t"}, 9),
        (["generate"], GENERATE, {}, 8),
        (["generate", "--model-path", "~/m"], GENERATE, {"model_path": "HOME/m"}, 8),
        (["generate", "--prompt", "a", "b c"], GENERATE, {"prompt": ["a", "b c"]}, 8),
        (["generate", "--interactive"], GENERATE, {"interactive": True}, 8),
        (["generate", "-i", "-v"], GENERATE, {"interactive": True, "verbose": True}, 8),
        (["generate", "--stdin", "--verbose"], GENERATE, {"stdin": True, "verbose": True}, 8),
        (["generate", "--max-new-tokens", "3"], GENERATE, {"max_new_tokens": 3}, 8),
        (["generate", "--temperature", "0.5"], GENERATE, {"temperature": 0.5}, 8),
        (["generate", "--top-k", "3"], GENERATE, {"top_k": 3}, 8),
        (["generate", "--top-p", "0.5"], GENERATE, {"top_p": 0.5}, 8),
        (["generate", "--draft", "4"], GENERATE, {"draft_length": 4}, 8),
        (["generate", "--seed", "0"], GENERATE, {"seed": 0}, 8),
        (["generate", "--seed", str(2**63 - 1)], GENERATE, {"seed": 2**63 - 1}, 8),
        (["generate", "--debug"], GENERATE, {"debug": True}, 8),
    ],
)  # fmt: skip
def test_flags_are_read_as_what_they_say(here, asked, arguments, defaults, changes, code):
    assert main(arguments) == code
    (found,) = asked
    found.pop("command")
    whole = (
        arguments
        if arguments[:1] in (["train"], ["generate"], ["inspect"])
        else ["train", *arguments]
    )
    assert found.pop("arguments") == whole  # for the processes that it may start
    wanted = {**defaults, **changes}
    home = {k: v.replace("HOME", str(here)) if isinstance(v, str) else v for k, v in wanted.items()}
    assert found == home


def test_without_arguments_those_of_the_process_count(asked, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "generate", "--top-k", "4"])
    assert main() == 8
    assert asked[0]["top_k"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "--stdin", "--prompt", "a"], "not allowed with argument"),
        (["generate", "--stdin", "-i"], "not allowed with argument"),
        (["generate", "--seed", str(2**63)], f"'{2**63}' is no whole number from 0 to 2**63 - 1"),
        (["generate", "--seed", "1.5"], "'1.5' is no whole number"),
        (["generate", "--seed=-1"], "'-1' is no whole number from 0"),
        (["generate", "--seed", "9" * 30], "is no whole number from 0 to 2**63 - 1"),
        (["generate", "--top-k", "x"], "invalid int value: 'x'"),
        (["generate", "--top-p", "x"], "invalid float value: 'x'"),
        (["generate", "--temperature", "x"], "invalid float value: 'x'"),
        (["generate", "--max-new-tokens", "1.5"], "invalid int value: '1.5'"),
        (["generate", "--prompt"], "expected at least one argument"),
        (["train", "--set"], "expected at least one argument"),
        (["export"], "the following arguments are required: --to"),
        (["import"], "the following arguments are required: --from, --to"),
        (["export", "--to"], "expected one argument"),
        (["dance"], "invalid choice: 'dance'"),
        (["--dance"], "unrecognized arguments: --dance"),
    ],
)
def test_wrong_flags_are_wrong_use(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.startswith("usage: python -m moe_tutorial")


DEBUG = "--debug show the traceback of an error"
HELP = {
    (): [
        "usage: python -m moe_tutorial [-h] train | generate | inspect | doctor | export | import "
        "...",
        "Train a small Mixture-of-Experts character model and generate text with it. Without a "
        "command: train.",
        "train train a model, save it, print a sample",
        "generate generate text with a trained model",
        "inspect is the router alive? loads and a picture",
        "doctor can this machine run the course? takes seconds",
        "export write a model as Hugging Face's transformers read it",
        "import the way back: write a run folder",
    ],
    ("inspect",): [
        "--model-path DIR run folder written by train",
        "--dataset D text to route; default: the training's",
        "--to PNG default: DIR/router.png",
    ],
    ("train",): [
        "usage: python -m moe_tutorial train",
        "--config F HOCON file; default: config.hocon",
        "--set KEY=VALUE [KEY=VALUE ...] replace keys of the configuration, as in "
        "training.epochs=1",
        "--resume continue the run in the output folder",
        DEBUG,
    ],
    ("generate",): [
        "--model-path DIR run folder written by train",
        "--prompt P [P ...] text to continue, one or several",
        "--interactive, -i ask for prompts",
        "--stdin one prompt per line of standard input",
        "--verbose, -v each token with its probability, its rivals and its experts",
        "--max-new-tokens N --temperature T 0 is greedy",
        "--top-k K keep the K best tokens",
        "--top-p P keep probability P of the best",
        "--draft N guess N characters by counting, check them at once; 0: off",
        "--seed S default: that of the training",
        DEBUG,
    ],
    ("export",): ["--to DIR a new folder", "--model-path DIR run folder written by train", DEBUG],
    ("import",): [
        "--from DIR folder written by export or by save_pretrained",
        "--to RUN_FOLDER a new folder",
        DEBUG,
    ],
}


@pytest.mark.parametrize("command", HELP)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_says_what_each_flag_does(monkeypatch, capsys, command, flag):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([*command, flag])
    assert stop.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in HELP[command]:
        assert words in out


# How a command ends


class Coded(ValueError):
    code = 9


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (ValueError("a b"), 2, "error: a b\n"),
        (ConfigError("a\nb"), 2, "error: a b\n"),
        (RuntimeError("a"), 1, "error: a\n"),
        (OSError("a"), 1, "error: a\n"),
        (ArithmeticError("a"), 1, "error: a\n"),
        (KeyError("a"), 1, "error: 'a' (KeyError; --debug shows where)\n"),
        (TypeError(), 1, "error: TypeError (TypeError; --debug shows where)\n"),
        (Coded("a"), 9, "error: a\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(monkeypatch, capsys, error, code, line):
    def fails(args):
        raise error

    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(train, "train_command", fails)
    assert main(["train"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)
    if isinstance(error, Exception):
        with pytest.raises(type(error)):
            main(["train", "--debug"])


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("a"), "a"), (KeyError("a"), "'a' (KeyError; --debug shows where)")],
)
def test_one_of_several_processes_reports_its_error(monkeypatch, capsys, error, text):
    def fails(args):
        raise error

    reported = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(train, "train_command", fails)
    monkeypatch.setattr(launch, "report", lambda *a: reported.append(a))
    assert main(["train"]) in (1, 2)
    assert reported == [(error, text)]
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys):
    def fails(args):
        raise BrokenPipeError

    redirected = []
    monkeypatch.setattr(train, "train_command", fails)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(fileno=lambda: 77))
    monkeypatch.setattr(os, "open", lambda *a: a)
    monkeypatch.setattr(os, "dup2", lambda *a: redirected.append(a))
    assert main(["train"]) == 0
    assert redirected == [((os.devnull, os.O_WRONLY), 77)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("before", "after"), [(None, "10000"), ("5", "5")])
def test_threads_of_pytorch_wait_briefly_unless_the_user_says_otherwise(
    asked, monkeypatch, before, after
):
    monkeypatch.setenv("GOMP_SPINCOUNT", before or "")
    if before is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    main(["train"])
    assert os.environ["GOMP_SPINCOUNT"] == after


def test_streams_that_were_closed_are_replaced(asked, monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    main(["train"])
    streams = [(stream.name, stream.mode) for stream in (sys.stdin, sys.stdout, sys.stderr)]
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
    assert streams == [(os.devnull, "r"), (os.devnull, "w"), (os.devnull, "w")]


class Stream:
    def __init__(self, terminal):
        self.terminal, self.set = terminal, None

    def isatty(self):
        return self.terminal

    def reconfigure(self, **options):
        self.set = options


@pytest.mark.parametrize("terminal", [False, True])
def test_files_and_pipes_are_utf_8_and_a_terminal_keeps_its_encoding(monkeypatch, terminal):
    streams = {name: Stream(terminal) for name in ("stdin", "stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    cli._set_encodings()
    written = {"encoding": None if terminal else "utf-8", "errors": "replace"}
    read = {"encoding": None if terminal else "utf-8-sig", "errors": "surrogateescape"}
    found = {name: stream.set for name, stream in streams.items()}
    assert found == {"stdin": read, "stdout": written, "stderr": written}


def test_streams_of_notebooks_are_left_as_they_are(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, object())
    cli._set_encodings()


# export and import


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--prompt", "a", "--model-path", "~no-such-user/m"],
        ["export", "--to", "x", "--model-path", "~no-such-user/m"],
        ["import", "--from", "~no-such-user/m", "--to", "x"],
    ],
)
def test_the_home_of_an_unknown_user_is_one_line(here, capsys, arguments):
    assert main(arguments) == 2
    error = "error: ~no-such-user/m: ~no-such-user is no user's home; name another folder\n"
    assert capsys.readouterr().err == error


def test_export_says_how_to_load_what_it_wrote(here, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(hugging_face, "export", lambda *a: (calls.append(a), "Architecture")[1])
    assert main(["export", "--to", "~/a b", "--model-path", "~/m"]) == 0
    assert main(["export", "--to", "x"]) == 0
    place = str(here / "a b")
    assert calls == [(here / "m", place), (Path("model"), "x")]
    out = capsys.readouterr().out
    assert out.startswith(
        f"saved in '{place}' as Architecture; transformers loads it with\n"
        f"  AutoModelForCausalLM.from_pretrained({place!r})\n"
        f"  AutoTokenizer.from_pretrained({place!r})\n"
        f"to pad a batch: tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)\n"
        f"                tokenizer.padding_side = 'left'\n"
        f"saved in x as"
    )


def test_import_says_how_to_try_it(here, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(hugging_face, "import_", lambda *a: calls.append(a))
    assert main(["import", "--from", "~/hf", "--to", "~/a b"]) == 0
    assert calls == [(str(here / "hf"), str(here / "a b"))]
    folder = f"'{here / 'a b'}'"
    assert capsys.readouterr().out == (
        f"saved in {folder}; to try it: python -m moe_tutorial generate --model-path {folder}\n"
    )


# generate


@pytest.mark.parametrize(
    ("flags", "changes", "seed", "verbose", "done"),
    [
        ({}, {}, None, False, ("all", ["default"])),
        ({"prompt": ["a", "b"]}, {}, None, False, ("all", ["a", "b"])),
        ({"interactive": True, "seed": 0}, {}, 0, False, ("converse",)),
        ({"stdin": True, "verbose": True}, {}, None, True, ("lines",)),
        ({"temperature": 0.0, "top_k": 3}, {"temperature": 0.0, "top_k": 3}, None, False,
         ("all", ["default"])),
        ({"max_new_tokens": 5, "top_p": 0.5}, {"max_new_tokens": 5, "top_p": 0.5}, None, False,
         ("all", ["default"])),
        ({"draft_length": 0, "stdin": True}, {"draft_length": 0}, None, False, ("lines",)),
    ],
)  # fmt: skip
def test_generate_does_what_the_flags_say(monkeypatch, flags, changes, seed, verbose, done):
    did, opened = [], []
    settings = SimpleNamespace(prompt="default")
    writer = SimpleNamespace(
        converse=lambda s: did.append(("converse",)),
        complete_lines=lambda lines, s: (did.append(("lines",)), 2)[1],
        complete_all=lambda prompts, s: did.append(("all", prompts)),
    )
    monkeypatch.setattr(
        generation, "open_writer", lambda *a: (opened.append(a), (writer, settings))[1]
    )
    args = Namespace(**{**GENERATE, "model_path": "m", **flags})
    assert generation.generate_command(args) == (2 if done == ("lines",) else 0)
    assert opened == [(Path("m"), changes, seed, verbose)]
    assert did == [done]


# train


def run_tiny(*changes, resume=False):
    flags = ["--resume"] if resume else []
    return main(["train", *flags, "--set", *TINY_RUN, "training.max_steps=4", *changes])


def test_a_training_ends_with_its_table_its_picture_its_sample_and_what_to_do_next(here, capsys):
    (here / "config.hocon").write_text((ROOT / "config.hocon").read_text())
    assert run_tiny("inference.max_new_tokens=6", "paths.output_dir=my run") == 0
    out = capsys.readouterr().out
    settings, described, *_ = out.splitlines()
    assert settings == "settings: config.hocon"
    assert described.startswith("passage: 542 characters to train on, 60 held out, 31 symbols; ")
    end = out[out.index("saved in") :]
    assert end.startswith("saved in 'my run', with its history drawn in history.png; a sample of ")
    trained = load_model("my run")
    sample = end.split("it:\n\n")[1].split("\n\nmore: ")[0]
    assert sample.startswith(trained.config.inference.prompt)
    assert len(sample) == len(trained.config.inference.prompt) + 6
    more = "\n\nmore: python -m moe_tutorial generate --interactive --model-path 'my run'\n"
    assert out.endswith(more)
    assert "no step was left" not in out


@pytest.fixture
def brief(monkeypatch):
    """Trainings end without comparing, drawing and writing a sample."""
    writer = SimpleNamespace(complete=lambda *_: None), SimpleNamespace(prompt="")
    monkeypatch.setattr(train, "_finish", lambda run: "drawn")
    monkeypatch.setattr(train, "open_writer", lambda folder: writer)


def test_a_finished_run_says_how_to_raise_its_limit(here, brief, capsys):
    words = "no step was left to train; --set training.epochs or max_steps raises the limit"
    for resume in (False, True):
        assert run_tiny(resume=resume) == 0
        assert (words in capsys.readouterr().out) == resume


def test_a_run_that_was_renamed_resumes_in_its_new_folder_with_its_own_settings(
    here, brief, capsys
):
    assert run_tiny("training.seed=3") == 0
    (here / "model").rename(here / "renamed")
    capsys.readouterr()
    (here / "config.hocon").write_text("paths { output_dir = renamed }, training.seed = 9")
    assert main(["train", "--resume", "--set", "training.max_steps=5"]) == 0
    assert not (here / "model").exists()
    saved = load_snapshot(here / "renamed" / "config.hocon")
    assert (saved.paths.output_dir, saved.training.seed) == ("renamed", 3)
    assert saved.training.max_steps == 5
    source = str(Path("renamed") / "config.hocon")
    assert capsys.readouterr().out.startswith(f"settings: {source}, the run's own\n")


def read(**changes):
    given = {"config": None, "overrides": [], "resume": False, **changes}
    return train._read_config(Namespace(**given))


def test_the_settings_say_where_they_are_from(here):
    assert read() == (
        hocon.load_config(ROOT / "config.hocon"),
        "those of the package; a config.hocon here would be used instead",
    )
    (here / "config.hocon").write_text(f'include required("{ROOT.as_posix()}/config.hocon")')
    assert read()[1] == "config.hocon"
    (here / "a\x1b.hocon").write_text("model.dim = 64")
    config, source = read(config="a\x1b.hocon", overrides=[["training.seed=1"], ["model.dim=32"]])
    assert (config.training.seed, config.model.dim) == (1, 32)
    assert source.startswith("a\\x1b.hocon; the defaults of the original project for model.num_la")
    assert source.endswith('begin it with: include required("config.hocon"))')
    assert "model.dim," not in source
    assert read(resume=True)[1] == "config.hocon"  # there is no run


@pytest.mark.parametrize(("number", "said"), [(8, True), (9, False), (18, False)])
def test_defaults_of_most_of_the_model_are_said(number, said):
    """It has 18 keys: with 8 of them set, 10 are left."""
    values = Config().model.model_dump()
    assert len(values) == 18
    config = Config.model_validate({"model": dict(list(values.items())[:number])})
    unset = train._unset_keys(config)
    assert bool(unset) == said
    if said:
        assert f"for model.{', '.join(list(values)[number:])}\n" in unset


def test_a_resumed_run_keeps_its_model(here):
    config = Config.model_validate({"training": {"seed": 4}, "model": {"dim": 64}})
    (here / "model").mkdir()
    (here / "model" / "config.hocon").write_text(hocon.dump_config(config))
    resumed, _ = read(resume=True, overrides=[["training.max_steps=3"]])
    assert (resumed.model, resumed.training.seed, resumed.training.max_steps) == (
        config.model, 4, 3
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"the run has model\.dim=64, which cannot become 32 on"):
        read(resume=True, overrides=[["model.dim=32"]])
    assert read(resume=True, overrides=[["model.dim=64"]])[0].model.dim == 64


# Stopping


def stopping_after(monkeypatch, steps, number=signal.SIGINT):
    real = train.train_in_folder

    def signalled(*arguments):
        for record in real(*arguments):
            if record.step == steps:
                signal.raise_signal(number)
            yield record

    monkeypatch.setattr(train, "train_in_folder", signalled)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_after_the_step_and_says_how_to_go_on(
    here, brief, monkeypatch, capsys, number, code
):
    (here / "c d.hocon").write_text("model.dim = 24")
    stopping_after(monkeypatch, 3, number)
    changes = [*TINY_RUN, "paths.output_dir=a b"]
    assert main(["train", "--config", "c d.hocon", "--set", *changes]) == code
    out = capsys.readouterr().out
    assert out.endswith(
        "stopped and saved after step 3; to continue:\n  python -m moe_tutorial train --resume "
        "--config 'c d.hocon' --set paths.output_dir='a b'\n"
    )
    assert (here / "a b" / "checkpoints" / "latest").read_text() == "step-000003\n"
    changes = ["paths.output_dir=a b", "training.max_steps=4"]
    assert main(["train", "--resume", "--config", "c d.hocon", "--set", *changes]) == 0


def test_an_interrupted_comparison_says_that_the_model_is_saved(here, monkeypatch, capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_finish", interrupted)
    assert run_tiny() == 130
    end = "the model is saved in model; it was not compared with counting to the end\n"
    assert capsys.readouterr().out.endswith(end)


SIGNALS = [n for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("ignore_repeated", [False, True])
def test_the_first_signal_is_noted_and_the_second_does_what_it_did_before(name, ignore_repeated):
    number, seen = getattr(signal, name), []
    before = signal.signal(number, lambda *_: seen.append(name))
    try:
        with stop_between_steps(ignore_repeated) as interrupt:
            assert interrupt.signal is None
            signal.raise_signal(number)
            assert (interrupt.signal, seen) == (number, [])
            signal.raise_signal(number)
            assert seen == ([] if ignore_repeated else [name])
        signal.raise_signal(number)
        assert seen == ([] if ignore_repeated else [name, name])
        assert interrupt.signal == number
    finally:
        for each in SIGNALS:
            default = signal.default_int_handler if each == "SIGINT" else signal.SIG_DFL
            signal.signal(getattr(signal, each), default)
        signal.signal(number, before)


def test_without_a_signal_the_handlers_are_those_from_before():
    numbers = [getattr(signal, name) for name in SIGNALS]
    before = [signal.getsignal(number) for number in numbers]
    with stop_between_steps():
        pass
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_under_nohup_a_closed_terminal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_between_steps() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert interrupt.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_may_train_too():
    from threading import Thread

    found = []

    def work():
        with stop_between_steps() as interrupt:
            found.append(interrupt.signal)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


class Lost(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise BrokenPipeError

    def fileno(self):
        return self.number


def test_last_words_go_where_somebody_reads(monkeypatch, capsys):
    progress.tell("a")
    assert capsys.readouterr() == ("a\n", "")
    redirected = []
    monkeypatch.setattr(os, "open", lambda *a: a)
    monkeypatch.setattr(os, "dup2", lambda *a: redirected.append(a))
    monkeypatch.setattr(sys, "stdout", Lost(70))
    progress.tell("b")
    assert capsys.readouterr().err == "b\n"
    monkeypatch.setattr(sys, "stderr", Lost(71))
    progress.tell("c")
    nowhere = (os.devnull, os.O_WRONLY)
    assert redirected == [(nowhere, 70), (nowhere, 70), (nowhere, 71)]


@pytest.mark.slow
def test_the_help_does_not_wait_for_pytorch():
    code = "import sys; from moe_tutorial.command import cli; cli.build_parser(); "
    code += "print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert found.stdout == "False\n", found.stderr
