"""`make wheelhouse`: everything is in it, in the build of PyTorch that is used here."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, environment
from test_packaging import pins

sys.path.insert(0, str(ROOT / "tools"))
import wheelhouse

LINES = ["# exact", "torch==2.13.0", "tqdm==4.70.1", "", "-e ."]


@pytest.mark.parametrize(
    ("installed", "asked"),
    [("2.13.0+cpu", "torch==2.13.0+cpu"), ("2.13.0", "torch==2.13.0"),
     ("2.14.0+cpu", "torch==2.13.0"), (None, "torch==2.13.0")],
)  # fmt: skip
def test_the_pins_are_asked_for_in_the_build_that_is_used_here(installed, asked):
    assert wheelhouse.wanted(LINES, installed) == [asked, "tqdm==4.70.1", "hatchling", "editables"]


def test_the_readme_has_three_lines(tmp_path):
    (tmp_path / "a.whl").write_bytes(bytes(2_600_000))
    text = wheelhouse.readme([tmp_path / "a.whl"])
    assert text.count("\n") == 3
    assert text.startswith("1 packages, 3 MB, for ")
    assert "PIP_NO_INDEX=1" in text
    assert "python -m moe_tutorial doctor" in text


def test_a_failure_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    error = "ERROR: No matching distribution found for torch==2.13.0+cpu"
    failed = subprocess.CompletedProcess([], 1, "", f"WARNING: a\n{error}\nmore\n")
    monkeypatch.setattr(wheelhouse.subprocess, "run", lambda *_, **__: failed)
    (tmp_path / "old-1.whl").touch()
    told = wheelhouse.collect(tmp_path)
    assert told.startswith(f"{error}; this needs the network")
    assert "\n" not in told
    assert "--extra-index-url" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_everything_installs_from_it_without_an_index(tmp_path):
    """As its README says, in a new environment that sees nothing else."""
    folder, python = tmp_path / "wheels", tmp_path / ".venv" / "bin" / "python"
    one = ["download", "--no-deps", "--dest", tmp_path, f"tqdm=={pins()['tqdm']}"]
    if error := wheelhouse.pip(*one):
        pytest.skip(f"no index of packages: {error}")
    assert wheelhouse.collect(folder) is None
    try:
        names = {path.name.partition("-")[0].lower().replace("_", "-"): path.name
                 for path in folder.glob("*.whl")}  # fmt: skip
        assert set(pins()) | {"moe-tutorial", "editables"} <= set(names)
        shutil.copytree(ROOT / "moe_tutorial", tmp_path / "repository" / "moe_tutorial")
        for name in ("requirements.txt", "pyproject.toml", "README.md", "LICENSE", "config.hocon",
                     "build_hook.py"):  # fmt: skip
            shutil.copy(ROOT / name, tmp_path / "repository")
        shutil.copytree(ROOT / "data", tmp_path / "repository" / "data")
        clean = {k: v for k, v in environment().items()
                 if k != "PYTHONPATH" and not k.startswith("PIP_")}  # fmt: skip
        offline = {**clean, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder),
                   "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}  # fmt: skip
        subprocess.run([sys.executable, "-m", "venv", tmp_path / ".venv"], check=True)
        for command in (["-m", "pip", "install", "-q", "-r", "requirements.txt"],
                        ["-m", "moe_tutorial", "doctor"]):  # fmt: skip
            result = subprocess.run(
                [python, *command], cwd=tmp_path / "repository", env=offline, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            assert result.returncode == 0, result.stderr[-2000:]
        assert f"fine  {len(pins())} packages, all as checked" in result.stdout
        assert result.stdout.endswith(" | ready\n")
    finally:
        for large in (folder, tmp_path / ".venv"):
            shutil.rmtree(large)
