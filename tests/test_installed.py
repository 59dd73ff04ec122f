"""The package is whole: installed from its wheel, it works in an empty folder.

The wheel is built from the source distribution, as an index would get both, and installed into an
environment of its own, which sees the tests' other packages but not this repository.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from chapters import NOTEBOOKS, PRESENT
from conftest import ROOT, TINY_RUN, environment
from filelock import FileLock

from moe_tutorial.experiments.base import RESULTS

pytestmark = pytest.mark.slow

QUICK = [item for item in TINY_RUN if "dataset" not in item]
RUN_NOTEBOOK = """
import nbformat, pathlib, sys
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
"""


def build(folder: Path) -> Path:
    """The Python of a new environment with the wheel in it."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True,
        env=environment(), capture_output=True,
    )  # fmt: skip
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "-q"]
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    others = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (Path(site.strip()) / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    return python


@pytest.fixture(scope="session")
def python(tmp_path_factory, worker_id) -> Path:
    """One environment for all test processes, whichever comes first."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "installed"
    with FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)
        if not (folder / "python").exists():
            (folder / "python").write_text(str(build(folder)), encoding="utf-8")
    return Path((folder / "python").read_text(encoding="utf-8"))


def run(python: Path, *arguments: object, cwd: Path) -> str:
    """Standard output of the environment's Python, which sees no other copy of the library."""
    clean = {k: v for k, v in environment().items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, env=clean, capture_output=True, text=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_wheel_holds_every_module_and_one_copy_of_the_built_in_files(python):
    (wheel,) = python.parents[2].glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if "dist-info" not in name]
    modules = {str(p.relative_to(ROOT).as_posix()) for p in (ROOT / "moe_tutorial").rglob("*.py")}
    built_in = {
        f"moe_tutorial/built_in/{name}"
        for name in (
            "config.hocon",
            "data/fables.txt",
            "data/passage.txt",
            "requirements.txt",
        )
    }
    results = {f"moe_tutorial/experiments/results/{path.name}" for path in RESULTS.iterdir()}
    assert sorted(names) == sorted(modules | built_in | results)


def test_the_installed_library_is_the_one_of_the_wheel(python, tmp_path):
    where = "import moe_tutorial; print(moe_tutorial.__file__, moe_tutorial.FILES)"
    module, built_in = run(python, "-c", where, cwd=tmp_path).split()
    assert Path(module).is_relative_to(python.parents[1])
    assert Path(built_in) == Path(module).parent / "built_in"


def test_an_empty_folder_is_enough_to_train_generate_export_and_import(python, tmp_path):
    out = run(python, "-m", "moe_tutorial", "train", "--set", *QUICK, cwd=tmp_path)
    first, second = out.splitlines()[:2]
    assert first == "settings: those of the package; a config.hocon here would be used instead"
    assert second.startswith("fables: 203,133 characters to train on, 22,570 held out, 61 symbols")
    text = run(python, "-m", "moe_tutorial", "generate", "--prompt", "The", cwd=tmp_path)
    assert text.startswith("The")
    run(python, "-m", "moe_tutorial", "export", "--to", "hf", cwd=tmp_path)
    run(python, "-m", "moe_tutorial", "import", "--from", "hf", "--to", "back", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf", "model"]
    out = run(python, "-m", "moe_tutorial", "train", "--resume", cwd=tmp_path)
    assert out.startswith("settings: model/config.hocon, the run's own\n".replace("/", os.sep))


def test_the_doctor_knows_the_pins_and_trains_in_an_empty_folder(python, tmp_path):
    lines = run(python, "-m", "moe_tutorial", "doctor", cwd=tmp_path).splitlines()
    assert lines[1].startswith("fine  ")
    assert "packages, all as checked" in lines[1]
    assert lines[5].startswith("fine  trained for 2 seconds: ")
    assert lines[7].endswith(" | ready")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_in_the_folder_is_used_instead(python, tmp_path):
    shutil.copy(ROOT / "config.hocon", tmp_path / "config.hocon")
    text = (tmp_path / "config.hocon").read_text(encoding="utf-8")
    changed = re.sub(r'dataset = "fables"', 'dataset = "passage"', text)
    assert changed != text
    (tmp_path / "config.hocon").write_text(changed, encoding="utf-8")
    out = run(python, "-m", "moe_tutorial", "train", "--set", *QUICK, cwd=tmp_path)
    assert out.startswith("settings: config.hocon\npassage: ")


@pytest.mark.parametrize("chapter", PRESENT)
def test_a_chapter_downloaded_alone_runs_in_an_empty_folder(python, tmp_path, chapter):
    """With the parent folder read-only, where permissions count."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.copy(NOTEBOOKS / f"{chapter}.ipynb", folder)
    tmp_path.chmod(0o555)
    try:
        run(python, "-c", RUN_NOTEBOOK, f"{chapter}.ipynb", cwd=folder)
    finally:
        tmp_path.chmod(0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]
