"""What a training may replace in its folder, what it must leave alone, and who may read it."""

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_RUN, environment

from moe_tutorial import checkpoint, trust
from moe_tutorial.checkpoint import load_model, save_checkpoint
from moe_tutorial.command.cli import main
from moe_tutorial.command.generation import ask
from moe_tutorial.command.hocon import load_config
from moe_tutorial.command.run import open_run, train_in_folder
from moe_tutorial.command.terminal import ADVICE, reason, visible
from moe_tutorial.trust import CheckpointError

MORE = [*TINY_RUN, "training.epochs=1000", "training.max_steps=9"]


@pytest.fixture
def folder(trained_folder, tmp_path, monkeypatch) -> Path:
    """The current folder: config.hocon, and in `model` a finished run of 4 steps."""
    shutil.copytree(trained_folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(capsys, code: int, *arguments: str) -> str:
    """The one line of a command that does not do what it was asked; where its settings are from."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(settings: [^\n]+\n)?", out)
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


@pytest.mark.parametrize("name", ["config.hocon", "notes.txt", "vocab.txt", "model"])
@pytest.mark.parametrize("text", ["// mine\nmodel.dim = 24", '{"model": {"dim": 24}}'])
def test_a_new_run_replaces_nothing_that_is_not_of_a_run(folder, capsys, name, text):
    shutil.rmtree(folder / "model")
    (folder / "else").mkdir()
    if name == "model":
        (folder / "else" / name).mkdir()
        (folder / "else" / name / "diary.txt").write_text("mine")
    else:
        (folder / "else" / name).write_text(text)
    before = contents(folder / "else")
    arguments = ["train", "--set", *TINY_RUN, "paths.output_dir=else"]
    line = refused(capsys, 2, *arguments)
    assert f"else holds '{name}', which is not of a run" in line
    assert "--set paths.output_dir=DIR" in line
    refused(capsys, 2, *arguments, "--resume")
    now = contents(folder / "else")
    assert {file: now[file] for file in before} == before
    assert now.keys() - before.keys() <= {"training.lock", "training.pid"}


def test_a_project_is_no_place_for_a_run_whatever_links_its_folders_hold(folder, capsys):
    (folder / ".venv").mkdir()
    (folder / ".venv" / "lib64").symlink_to("lib")
    line = refused(capsys, 2, "train", "--set", *TINY_RUN, "paths.output_dir=.")
    assert "error: . holds 'config.hocon', which is not of a run" in line


def test_what_a_killed_run_without_a_checkpoint_left_is_replaced(folder):
    shutil.rmtree(folder / "model" / "checkpoints")
    (folder / "model" / ".DS_Store").write_text("")
    assert main(["train", "--set", *TINY_RUN]) == 0
    assert len((folder / "model" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_run_in_the_current_folder_is_not_moved_from_under_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder / "model")
    arguments = ["train", "--config", "../config.hocon", "--set", *MORE, "paths.output_dir=."]
    before = contents(folder / "model")
    assert "it is the current folder; go on with --resume" in refused(capsys, 2, *arguments)
    assert contents(folder / "model") == before
    assert main([*arguments, "--resume"]) == 0
    assert load_model(folder / "model", "latest").config.training.max_steps == 9


@pytest.mark.parametrize(("name", "change", "file"), [
    ("vocab.txt", [], "vocab.txt"),
    ("config.hocon", ["model.top_k=1"], "config.hocon"),
    ("config.hocon", ["model.dim=48"], r"checkpoints/\S+\.safetensors"),
])  # fmt: skip
def test_resuming_without_what_belongs_to_the_weights_loses_nothing(
    folder, capsys, name, change, file
):
    (folder / "model" / name).unlink()
    before = contents(folder / "model" / "checkpoints")
    line = refused(capsys, 1, "train", "--resume", "--set", *MORE, *change)
    assert re.match(f"error: model/{file}", line)
    assert contents(folder / "model" / "checkpoints") == before


def test_a_lost_snapshot_is_replaced_by_a_configuration_of_the_same_model(folder, capsys):
    snapshot = folder / "model" / "config.hocon"
    prompt = load_config(snapshot).inference.prompt
    snapshot.unlink()
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert "resumed after step 4" in capsys.readouterr().out
    assert load_config(snapshot).inference.prompt == prompt


def test_weights_without_their_configuration_are_moved_aside_by_a_new_run(folder):
    (folder / "model" / "config.hocon").unlink()
    before = contents(folder / "model" / "checkpoints")
    assert main(["train", "--set", *TINY_RUN]) == 0
    assert contents(folder / "model.old-1" / "checkpoints") == before


def test_a_first_save_killed_before_it_was_pointed_to_is_found(folder, capsys):
    for pointer in ("latest", "best"):
        (folder / "model" / "checkpoints" / pointer).unlink()
    assert load_model(folder / "model").config.training.max_steps == 20
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert "resumed after step 4" in capsys.readouterr().out
    assert (folder / "model" / "checkpoints" / "latest").read_text() == "step-000009\n"


def test_what_a_person_keeps_beside_the_checkpoints_stays(folder):
    checkpoints = folder / "model" / "checkpoints"
    names = ["favourite", "step-000004-copy", "step-4"]
    for name in names:
        shutil.copytree(checkpoints / "step-000004", checkpoints / name)
    before = {name: contents(checkpoints / name) for name in names}
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert {name: contents(checkpoints / name) for name in names} == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl", "history.png", "training.pid",
                                  "training.lock", "config.hocon.part", "checkpoints/latest.part",
                                  "checkpoints/step-000009"])  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_strangers_run_folder_does_not_lead_to_other_files(folder, capsys, name, kind):
    path, victim = folder / "model" / name, folder / "victim"
    victim.write_text("mine")
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim)
    else:
        os.mkfifo(path)
    line = refused(capsys, 1, "train", "--resume", "--set", *MORE)
    assert f"error: model/{name} is a link or no file" in line
    assert victim.read_text() == "mine"


@pytest.mark.slow
def test_a_run_folder_that_is_a_link_itself_is_used(folder, tmp_path):
    (folder / "model").rename(tmp_path / "big disk")
    (folder / "model").symlink_to(tmp_path / "big disk")
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert load_model(tmp_path / "big disk", "latest").config.training.max_steps == 9


DAMAGED = [b'{"a": 1}', b"[1]", b"\xff\xfe", b"{", b"17", b"[" * 100_000]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_metrics_stop_a_run_before_it_trains_and_not_after(folder, capsys, line):
    path = folder / "model" / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[3:], b""]))
    before = contents(folder / "model" / "checkpoints")
    message = refused(capsys, 2, "train", "--resume", "--set", *MORE)
    assert "error: model/metrics.jsonl: damaged; mend it, or remove it to go on" in message
    assert contents(folder / "model" / "checkpoints") == before


def test_a_history_that_cannot_be_drawn_costs_the_picture_alone(folder, capsys):
    (folder / "model" / "history.png").unlink()
    (folder / "model" / "history.png").mkdir()
    assert main(["train", "--resume", "--set", *MORE]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    table, told = out.split("saved in model, but history.png could not be drawn (")
    assert "interpolated 5-gram counts" in table
    assert "); a sample of it:" in told
    assert load_model(folder / "model", "latest").config.training.max_steps == 9


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="written for a POSIX shell")
@pytest.mark.parametrize(("arguments", "closed"), [
    (["train", "--resume", "--set", *MORE], ">&-"), (["train", "--resume", "--set", *MORE], "2>&-"),
    (["generate", "--interactive"], "<&-"), (["generate", "--stdin"], "<&- >&- 2>&-"),
])  # fmt: skip
def test_closed_streams_are_empty_ones(folder, arguments, closed):
    command = shlex.join([sys.executable, "-m", "moe_tutorial", *arguments])
    result = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], env=environment(), capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


def test_without_metrics_a_run_goes_on_without_the_history_so_far(folder, capsys):
    (folder / "model" / "metrics.jsonl").unlink()
    assert main(["train", "--resume", "--set", *TINY_RUN]) == 0
    assert "no step is recorded in metrics.jsonl" in capsys.readouterr().out
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert "held-out text, best step" in capsys.readouterr().out
    assert len((folder / "model" / "metrics.jsonl").read_text().splitlines()) == 5


def steps_recorded(folder: Path) -> list[int]:
    lines = (folder / "model" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.slow
def test_history_of_a_run_that_lost_some_has_every_step_once(folder):
    """Two steps were removed, two done after the checkpoint, and half a line came last."""
    path = folder / "model" / "metrics.jsonl"
    *_, third, fourth = path.read_text().splitlines(keepends=True)
    later = [fourth.replace('"step": 4', f'"step": {step}') for step in (5, 6)]
    path.write_text("".join([third, fourth, *later]) + fourth[:30])
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert steps_recorded(folder) == [3, 4, 5, 6, 7, 8, 9]
    path.write_text(fourth[:30])
    assert main(["train", "--resume", "--set", *MORE, "training.max_steps=10"]) == 0
    assert steps_recorded(folder) == [10]


@pytest.mark.slow
def test_no_checkpoint_survives_a_power_cut_without_its_history(folder, monkeypatch):
    done = []
    path, real = folder / "model" / "metrics.jsonl", os.fsync

    def fsync(number):
        done.append(os.fstat(number).st_ino == path.stat().st_ino and path.stat().st_size)
        real(number)

    def save(*arguments):
        done.append("save")
        return save_checkpoint(*arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    assert main(["train", "--resume", "--set", *MORE]) == 0
    saves = [i for i, what in enumerate(done) if what == "save"]
    assert len(saves) > 1
    sizes = [done[i - 1] for i in saves]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == path.stat().st_size


def test_a_run_with_nothing_left_to_train_says_so(folder, capsys):
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert "no step was left" not in capsys.readouterr().out
    assert main(["train", "--resume"]) == 0
    assert "no step was left to train; --set training.epochs or" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_resumes_on_the_text_it_began_with_wherever_that_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "the fox and the hen sat under an old tree\n" * 20
    (tmp_path / "my.txt").write_text(text)
    arguments = ["train", "--set", *TINY_RUN, "training.epochs=99"]
    assert main([*arguments, "training.dataset=my.txt", "training.max_steps=2"]) == 0
    before = contents(tmp_path / "model" / "checkpoints")
    for other in (text[::-1], text * 3, text[:-1]):  # the same symbols
        (tmp_path / "my.txt").write_text(other)
        capsys.readouterr()
        again = ["training.dataset=my.txt", "training.max_steps=4", "--resume"]
        line = refused(capsys, 1, *arguments, *again)
        assert "model: the text is not the one that the run began with; put it back" in line
        assert contents(tmp_path / "model" / "checkpoints") == before
    (tmp_path / "my.txt").write_text(text + "!")
    assert "model/vocab.txt has 15 symbols, but the corpus has 16" in refused(
        capsys, 2, *arguments, *again
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "my.txt").unlink()
    (tmp_path / "texts" / "same.txt").write_text(text)
    for step, place in ((4, "texts/same.txt"), (6, tmp_path / "texts" / "same.txt")):
        more = [f"training.max_steps={step}", f"training.dataset={place}"]
        assert main([*arguments, *more, "--resume"]) == 0
    saved = json.loads((tmp_path / "model/checkpoints/step-000006/state.json").read_text())
    halves = text[: round(len(text) * 0.9)], text[round(len(text) * 0.9) :]
    assert saved["sha256"]["text"] == hashlib.sha256("\0".join(halves).encode()).hexdigest()


def test_a_checkpoint_that_knows_no_text_resumes(folder):
    """Of version 0.1, or saved by a notebook, whose state has none."""
    path = folder / "model" / "checkpoints" / "step-000004" / "state.json"
    state = json.loads(path.read_text())
    del state["sha256"]["text"]
    path.write_text(json.dumps(state))
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert (
        "text"
        in json.loads((path.parent.parent / "step-000009" / "state.json").read_text())["sha256"]
    )


def test_resuming_what_is_not_there_begins_nothing(folder, capsys):
    line = refused(capsys, 2, "train", "--resume", "--set", *MORE, "paths.output_dir=modle")
    assert "modle is no folder that could be resumed; train without --resume" in line
    assert not (folder / "modle").exists()


@pytest.mark.parametrize(("setting", "said"), [
    ("inference.prompt=Ödipus 42", "unknown character 'Ö'"),
    ("inference.temperature=1e300", "temperature=1e+300 must be"),
    ("inference.top_p=1e-300", "top_p=1e-300 must be"),
])  # fmt: skip
def test_a_sample_that_cannot_be_drawn_is_refused_before_the_training(
    folder, capsys, setting, said
):
    line = refused(capsys, 2, "train", "--set", *TINY_RUN, "paths.output_dir=new", setting)
    assert f"section inference of the configuration: {said}" in line
    assert not (folder / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["MPLBACKEND", "MPLCONFIGDIR"])
def test_matplotlib_settings_of_the_user_cost_the_picture_alone(folder, command, setting):
    """A backend that does not exist; LaTeX for all text, where there is none."""
    (folder / "mpl").mkdir()
    (folder / "mpl" / "matplotlibrc").write_text("text.usetex: True\n")
    value = {"MPLBACKEND": "foo", "MPLCONFIGDIR": str(folder / "mpl")}[setting]
    no_latex = {"PATH": str(folder / "mpl")}
    result = command(
        "train", "--resume", "--set", *MORE, cwd=folder, more={setting: value, **no_latex}
    )
    assert result.returncode == 0, result.stderr
    assert "held-out text, best step" in result.stdout
    told = r"saved in model, but history.png could not be drawn \(.+\); a sample of it:\n"
    assert re.search(told, result.stdout)
    assert result.stdout.rstrip().endswith("--model-path model")


def test_a_model_trained_on_a_gpu_generates_where_there_is_none(folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["generate"]) == 0
    expected = capsys.readouterr().out
    path = folder / "model" / "config.hocon"
    path.write_text(path.read_text().replace('"type": "auto"', '"type": "cuda"'))
    assert main(["generate"]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert re.fullmatch("generating on the CPU: .*needs GPU 0, but PyTorch sees 0.*\n", err)


@pytest.mark.slow
def test_a_run_folder_may_begin_with_a_dash(folder):
    assert main(["train", "--set", *TINY_RUN, "paths.output_dir=-dash"]) == 0
    assert load_model("-dash").config.paths.output_dir == "-dash"


@pytest.mark.slow
def test_one_line_that_is_no_text_does_not_end_the_others(folder, command):
    result = command(
        "generate", "--stdin", "--max-new-tokens", "3", cwd=folder,
        more={"PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8:strict"},
        input="the\n\udcff\udcfe\nhen\n",
    )  # fmt: skip
    assert result.returncode == 2
    assert re.fullmatch(r"error: line 2: unknown character '\\udcff'.*\n", result.stderr)
    assert re.fullmatch(r"(?s)the...\n\nhen...\n\n", result.stdout)  # three new characters each


def test_a_piped_dialogue_does_not_command_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda question: "the\x1b]2;owned\x07")
    assert ask("Prompt: ") == "the\x1b]2;owned\x07"
    assert capsys.readouterr().out == "the\x1b]2;owned\x07\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    ask("Prompt: ")
    assert capsys.readouterr().out == "the\\x1b]2;owned\\x07\n"


def test_too_little_memory_is_said_without_the_library_s_own_words():
    words = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you"
    assert reason(RuntimeError(words)) == (
        "not enough memory; lower training.batch_size or the sizes in the section model"
    )


def test_an_export_goes_to_what_a_link_leads_to_and_not_to_the_current_folder(
    folder, capsys, monkeypatch
):
    assert "is the current folder; name a new" in refused(capsys, 2, "export", "--to", ".")
    (folder / "big disk").mkdir()
    (folder / "link").symlink_to("big disk")
    assert main(["export", "--to", "link"]) == 0
    assert (folder / "link").is_symlink()
    assert (folder / "big disk" / "model.safetensors").exists()
    capsys.readouterr()
    line = refused(capsys, 1, "generate", "--model-path", "link")
    assert "link holds an exported model; make it a run folder with python -m" in line


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_whoever_may_read_the_vocabulary_may_read_the_weights(folder):
    assert main(["export", "--to", "out"]) == 0
    files = [path for name in ("model", "out") for path in (folder / name).rglob("*.*")]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files if path.is_file()}
    assert {path.name for path in files} >= {"model.safetensors", "training_state.safetensors"}
    (folder / "new").touch()
    assert modes == {stat.S_IMODE((folder / "new").stat().st_mode)}


def test_a_model_loads_while_a_training_saves_and_removes_what_was_the_latest(
    folder, monkeypatch, trained_folder
):
    """Between reading the pointer and reading the weights, step after step is saved."""
    config = load_config("config.hocon", [*MORE, "training.max_steps=1000"])
    real, saved = trust.verified, []
    with open_run(config, resume=True) as run:
        steps = train_in_folder(run)

        def overtaken(place, checkpoint):
            if len(saved) < 3:
                for record in islice(steps, 2):
                    run.state.best_step = record.step  # so that the one before is removed
                    save_checkpoint(run.folder, run.state)
                saved.append(checkpoint.name)
            return real(place, checkpoint)

        run.state.best_step = None
        monkeypatch.setattr(trust, "verified", overtaken)
        trained = load_model(folder / "model", "latest")
    assert saved == ["step-000004", "step-000006", "step-000008"]
    for mine, theirs in zip(trained.model.parameters(), run.state.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_model_that_is_always_overtaken_is_given_up(folder, monkeypatch):
    tries = []

    def overtaken(place, checkpoint):
        tries.append(checkpoint)
        part = place / "checkpoints" / "latest.part"
        part.write_bytes((place / "checkpoints" / "latest").read_bytes())
        (place / "checkpoints" / f"step-{100 + len(tries):06d}").mkdir()
        raise CheckpointError("overtaken")

    monkeypatch.setattr(trust, "verified", overtaken)
    with pytest.raises(CheckpointError, match="overtaken"):
        load_model(folder / "model")
    assert len(tries) == 10


def test_a_vocabulary_that_vanishes_stops_the_training_with_a_checkpoint_that_loads(folder):
    config, vocabulary = load_config("config.hocon", MORE), folder / "model" / "vocab.txt"
    with open_run(config, resume=True) as run:
        steps, kept = train_in_folder(run), vocabulary.read_bytes()
        assert next(steps).step == 5  # which is saved
        vocabulary.unlink()
        next(steps)
        with pytest.raises(OSError, match=r"cannot be written .*vocab\.txt.*before it is kept"):
            save_checkpoint(run.folder, run.state)
    vocabulary.write_bytes(kept)
    assert load_model(folder / "model", "latest").config.training.max_steps == 9


@pytest.mark.parametrize("name", ["vocab.txt", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_changed(folder, monkeypatch, capsys, name):
    """Permissions mean nothing to root, who may be running this."""
    real = trust.sha256

    def sha256(path):
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(trust, "sha256", sha256)
    line = refused(capsys, 1, "generate")
    assert re.search(rf"model/\S*{name}: cannot be read \(Permission denied\)", line)


def test_an_error_of_the_operating_system_says_what_to_do(folder, capsys):
    (folder / "file").write_text("")
    for place, said in [("file", "file exists; remove it"), ("file/x", "not a directory; remove")]:
        line = refused(capsys, 1, "train", "--set", *TINY_RUN, f"paths.output_dir={place}")
        assert f"error: {place}: {said}" in line
    for number, advice in ADVICE.items():
        line = reason(OSError(number, os.strerror(number), "a\x1b[2Jb\nc"))
        assert line == f"a\\x1b[2Jb c: {os.strerror(number).lower()}; {advice}"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write, which knows no name
    assert reason(full) == f"no space left on device; {ADVICE[errno.ENOSPC]}"
    assert reason(KeyError()) == "KeyError"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_devices_and_pipes_are_no_configuration_and_no_corpus(folder, capsys):
    assert "is no file" in refused(capsys, 2, "train", "--config", "/dev/zero")
    os.mkfifo(folder / "pipe")
    for name in ("/dev/zero", "pipe"):
        line = refused(capsys, 2, "train", "--set", *TINY_RUN, f"training.dataset={name}")
        assert f"dataset '{name}' is neither a file nor a folder" in line


def test_only_what_a_terminal_obeys_is_written_out():
    kept = "Ünïcödé e\u0301 \u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f52c\r\n\tend \ufeff"
    assert visible(kept) == kept
    assert visible("\x1b]52;c;bWluZQ==\x07\x9b2J\x00\x7f\u202e") == (
        "\\x1b]52;c;bWluZQ==\\x07\\x9b2J\\x00\\x7f\\u202e"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminal")
def test_a_strangers_model_cannot_command_the_terminal(tmp_path, command, monkeypatch):
    """A model of two symbols, one of them ESC, seen through a pseudo-terminal and a pipe."""
    import pty

    shutil.copy(ROOT / "config.hocon", tmp_path)
    (tmp_path / "escape\x1b[2J.txt").write_text("\x1b]2;owned\x07" * 400)
    arguments = ["train", "--set", *TINY_RUN, "training.dataset=escape\x1b[2J.txt"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = []

    def read(number: int) -> bytes:
        shown.append(os.read(number, 4096))
        return shown[-1]

    for words in (arguments, ["generate"], ["generate", "--verbose"]):
        status = pty.spawn([sys.executable, "-m", "moe_tutorial", *words], read, lambda number: b"")
        assert os.waitstatus_to_exitcode(status) == 0
    seen = b"".join(shown).decode()
    assert "\\x1b]2;owned\\x07" in seen
    assert "escape\\x1b[2J.txt: " in seen
    assert not re.search("\x1b\\]|\x07|\x1b\\[2J", seen)
    assert "\x1b]2;owned\x07" in command("generate", cwd=tmp_path).stdout
