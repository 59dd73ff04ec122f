"""Set-up files agree, the library is laid out as promised, and importing it is free."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

READING_ORDER = (
    "__init__", "terminal", "config", "corpus", "tokenizer", "batching", "rope", "rmsnorm",
    "attention", "moe", "model", "training", "checkpoint", "sampling", "families", "hugging_face",
    "parallel", "device", "distributed", "plots", "widgets", "checks", "run", "progress",
    "generation", "cli", "__main__",
)  # fmt: skip
LIBRARY = ROOT / "moe_tutorial"
FILES = sorted(LIBRARY.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and line[0] not in "#-")


def test_every_pin_is_exact_and_inside_the_range_of_pyproject():
    extras = PROJECT["optional-dependencies"]
    ranges = [
        Requirement(r) for r in [*PROJECT["dependencies"], *extras["test"], *extras["datasets"]]
    ]
    assert {r.name for r in ranges} == set(pins())
    for requirement in ranges:
        assert requirement.specifier.contains(pins()[requirement.name]), requirement
        assert {s.operator for s in requirement.specifier} == {">=", "<"}, requirement


def test_every_package_is_installed():
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_requirements_end_with_this_repository():
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").endswith("\n-e .\n")


def test_environment_yml_is_python_pip_and_the_requirements():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ *- (.+)$", text, re.MULTILINE)
    python = f"python{PROJECT['requires-python']}"
    assert listed == ["conda-forge", python, "pip", "pip:", "-r requirements.txt"]


def test_the_pins_are_what_is_installed():
    from importlib.metadata import version

    for name, pin in pins().items():
        assert version(name).partition("+")[0] == pin, name


def test_every_module_has_its_place_in_the_reading_order():
    modules = {path.relative_to(LIBRARY).parts[0].removesuffix(".py") for path in FILES}
    assert modules == set(READING_ORDER)


@pytest.mark.parametrize("module", READING_ORDER)
def test_a_module_imports_only_modules_above_it(module):
    above = READING_ORDER[: READING_ORDER.index(module)]
    files = [
        path for path in FILES if path.relative_to(LIBRARY).parts[0] in (module, f"{module}.py")
    ]
    inside = [module] if len(files) > 1 else []  # the parts of a package know one another
    for node in [node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))]:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("moe_tutorial."):
                assert name.split(".")[1] in [*above, *inside], f"{module} imports {name}"


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, moe_tutorial; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()
    assert not {"torch", "numpy", "matplotlib", "pyhocon", "pydantic", "tqdm"} & set(loaded)


@pytest.mark.parametrize("module", ["run", "progress", "generation", "hugging_face"])
def test_what_the_command_line_needs_imports_no_optional_or_slow_part(module):
    code = f"import sys, moe_tutorial.{module}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()
    unwanted = {"matplotlib", "ipywidgets", "pyhocon", "datasets", "IPython"}
    assert not (unwanted | {"transformers", "tokenizers"}) & set(loaded)


def test_nothing_on_the_way_of_a_checkpoint_can_execute_code():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", None)))
            called = isinstance(node, ast.Call) and getattr(node.func, "id", None)
            assert called not in ("eval", "exec", "compile", "__import__"), path.name
            assert name not in ("pickle", "torch.load", "cloudpickle", "joblib"), path.name
            is_torch = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "torch"
            assert not (is_torch and node.attr in ("load", "save")), path.name


def test_a_missing_browser_that_may_not_be_installed_is_one_line(tmp_path):
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n", encoding="utf-8")
    (tmp_path / "id").chmod(0o755)  # an ordinary user without apt-get
    script = ROOT / "tools" / "chromium.sh"
    result = subprocess.run(
        ["/bin/sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "sudo apt-get install chromium" in result.stderr


def test_the_makefile_lists_every_command():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"\.PHONY: (.+)", makefile)[1].split()
    assert sorted(phony) == sorted(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
