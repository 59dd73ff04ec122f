"""`doctor`: each examination says what is wrong and what to do, and predicts a training's time."""

import math
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from test_packaging import pins

from moe_tutorial import __version__, training
from moe_tutorial.command import doctor
from moe_tutorial.command.cli import main
from moe_tutorial.command.doctor import Finding, Pace
from moe_tutorial.command.hocon import load_config
from moe_tutorial.corpus import load_corpus


@pytest.fixture
def healthy(monkeypatch):
    """Every examination finds nothing wrong."""
    found = {name: lambda: Finding("fine", "good", "s") for name in doctor.EXAMINATIONS}
    monkeypatch.setattr(doctor, "EXAMINATIONS", found)
    return found


def test_a_healthy_machine_is_ready(healthy, capsys):
    assert main(["doctor"]) == 0
    *lines, empty, last = capsys.readouterr().out.splitlines()
    assert lines == ["fine  good"] * 6
    assert empty == ""
    assert last.startswith(f"for the instructor: moe_tutorial {__version__} | ")
    assert last.endswith(" | s | s | s | s | s | s | ready")


def test_what_is_broken_is_said_and_does_not_hide_the_rest(healthy, capsys):
    def no_module():
        raise ModuleNotFoundError("No module named 'torch'")

    def no_file():
        raise ValueError("config.hocon: a\nb \x1b[2J")

    healthy["training"], healthy["packages"] = no_module, no_file
    healthy["port"] = lambda: Finding("note", "busy")
    assert main(["doctor"]) == 1
    *lines, _, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[1] == r"mend  packages: config.hocon: a b \x1b[2J"
    assert lines[3] == "note  busy"
    assert lines[5] == "mend  training: ModuleNotFoundError: No module named 'torch'"
    assert last.endswith(" | to mend: packages, training")


def test_a_note_alone_is_ready(healthy, capsys):
    healthy["port"] = lambda: Finding("note", "busy")
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith(" | ready\n")


def test_an_old_python_is_refused():
    assert doctor.examine_python((3, 11, 0)).level == "fine"
    finding = doctor.examine_python((3, 10, 14))
    assert finding.level == "mend"
    assert finding.text == "Python 3.10.14 is too old; install 3.11 or newer and make .venv anew"


def test_this_environment_has_the_pins():
    finding = doctor.examine_packages()
    assert finding == Finding(
        "fine", f"{len(pins())} packages, all as checked", f"torch {torch.__version__}"
    )


def test_packages_are_compared_with_the_pins():
    wanted = {"torch": "2", "psutil": "7", "ruff": "1"}

    def told(**installed):
        return doctor.compared(wanted, {**wanted, **installed}, needed={"torch", "psutil"})

    assert told(torch="2+cpu") == Finding("fine", "3 packages, all as checked", "torch 2+cpu")
    gone = told(torch=None, psutil=None, ruff=None)
    assert gone.text == "missing: torch==2, psutil==7; python -m pip install torch==2 psutil==7"
    assert (gone.level, gone.short) == ("mend", "torch missing")
    other = told(psutil="8", ruff=None)
    assert other.level == "note"
    assert other.text == (
        "packages: psutil 8 (checked with 7); not here, needed by the tests only: ruff"
    )


def test_the_folder_must_be_writable_and_have_room(tmp_path, monkeypatch):
    assert doctor.examine_folder(tmp_path).level == "fine"
    assert list(tmp_path.iterdir()) == []
    gone = doctor.examine_folder(tmp_path / "gone")
    assert gone.level == "mend"
    assert "cannot be written to" in gone.text
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=0.44e9))
    little = doctor.examine_folder(tmp_path)
    assert (little.level, little.short) == ("note", "disk 0.4 GB")
    assert little.text == "this folder's disk has 0.4 GB left; make room"


def test_a_port_in_use_is_a_note_and_no_port_at_all_is_mended(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        assert doctor.examine_port(number).level == "note"
    assert doctor.examine_port(number) == Finding("fine", f"port {number} is free for JupyterLab")

    def refused(self, address):
        raise PermissionError

    monkeypatch.setattr(doctor.socket, "socket", type("S", (socket.socket,), {"bind": refused}))
    assert doctor.examine_port(number).level == "mend"


def test_cores_and_memory_are_those_of_the_machine(monkeypatch):
    import psutil

    memory = SimpleNamespace(total=8.4e9, available=3e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    finding = doctor.examine_machine()
    cores = finding.short.split()[0]
    assert int(cores) >= 1
    assert finding.text == f"{cores} cores, 8.4 GB of memory, 3.0 of them free"
    memory.available = 1.9e9
    assert doctor.examine_machine().level == "note"


@pytest.mark.parametrize(("limits", "seconds"), [("", 3168 * 0.1 + 13 * 2), ("90", 90)])
def test_the_time_of_make_train_is_steps_and_measurements(monkeypatch, limits, seconds):
    """The 3,168 steps and, every 250 steps and at the end, 13 measurements of the default."""
    config = load_config(ROOT / "config.hocon", [f"training.max_seconds={limits}"] * bool(limits))
    monkeypatch.setattr("moe_tutorial.command.hocon.load_config", lambda path: config)
    monkeypatch.setattr(doctor, "measured", lambda *_: Pace("cpu", 1, 7680.4, 0.1, 2.0))
    finding = doctor.examine_training()
    assert finding.level == "fine"
    assert f"make train takes about {seconds / 60:.1f} minutes here" in finding.text
    assert finding.short.startswith("cpu, 1 thread, 7,680 characters/s, make train takes ")


@pytest.mark.parametrize(
    ("times", "step"), [([5, 6, 7, 7.5, 8, 8.5, 99], 0.5), ([4], 4), ([4, 6], 2)]
)
def test_the_first_steps_are_not_counted(monkeypatch, tiny_config, times, step):
    def steps(state, train_ids, validation_ids, settings):
        assert settings.eval_steps > 1e9  # nothing is measured meanwhile
        return (SimpleNamespace(seconds=seconds) for seconds in times)

    monkeypatch.setattr(training, "train", steps)
    pace = doctor.measured(tiny_config, load_corpus("passage"), torch.device("cpu"), 8.2)
    assert pace.step == pytest.approx(step)
    assert pace.rate == pytest.approx(4 * 32 / step)


def test_it_trains_for_as_long_as_it_is_told(tiny_config):
    config = tiny_config.model_copy(
        update={
            "training": tiny_config.training.model_copy(update={"max_steps": None, "epochs": 999})
        }
    )
    pace = doctor.measured(config, load_corpus("passage"), torch.device("cpu"), 0.1)
    assert 0 < pace.step < 0.1
    assert 0 < pace.measurement < 1
    assert (pace.device, pace.threads) == ("cpu", torch.get_num_threads())
    assert math.isfinite(pace.rate)


def test_without_any_package_it_still_answers(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from moe_tutorial.command.cli import main; sys.exit(main(['doctor']))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[1].startswith(f"mend  missing: torch=={pins()['torch']}, jupyterlab==")
    assert [line[:4] for line in lines[:4]] == ["fine", "mend", "fine", lines[3][:4]]
    assert lines[4].startswith("mend  machine: ModuleNotFoundError")
    assert lines[5].startswith("mend  training: ModuleNotFoundError")
    assert lines[7].endswith("torch missing | to mend: packages, machine, training")
