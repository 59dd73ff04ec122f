"""Set-up files agree, the library is laid out as promised, and importing it is free."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

# The root of the library, in the order in which it is read: the course and what it stands on.
COURSE = (
    "config", "device", "trust", "corpus", "tokenizer", "batching", "rope", "rmsnorm", "attention",
    "moe", "balance", "routers", "cards", "model", "training", "checkpoint", "sampling", "layouts",
    "families", "translation", "hugging_face", "analysis", "cost", "parallel", "speculation",
)  # fmt: skip
# The rooms beside it, and which rooms each may use; all may use the course.
ROOMS = {
    "processes": (), "plots": (), "widgets": ("plots",), "checks": (),
    "command": ("processes", "plots"), "experiments": (),
}  # fmt: skip
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


def test_the_packages_of_the_site_are_pinned_exactly_and_no_learner_needs_them():
    ours = [Requirement(r) for r in PROJECT["optional-dependencies"]["site"]]
    assert ours
    for requirement in ours:
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert requirement.name not in pins()


def test_the_folder_of_the_site_is_described_whole():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.partition("## The site\n")[2].split("```")[1]
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()[2:]}
    found = {path.name for path in (ROOT / "site").iterdir()}
    assert named == found - {"__pycache__"}


def test_what_shows_slides_is_pinned_and_no_learner_needs_it():
    slides = [Requirement(r) for r in PROJECT["optional-dependencies"]["slides"]]
    assert "jupyterlab-slideshow" in {r.name for r in slides}
    assert not {r.name for r in slides} & set(pins())
    assert all(str(r.specifier).startswith("==") for r in slides)


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


def name_of(path: Path) -> str:
    """moe_tutorial/plots/ch01.py -> plots.ch01; of a package's __init__.py -> plots."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The modules of the library that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                n if n.removeprefix("moe_tutorial.") in modules else node.module for n in names
            ]
        found |= {n.removeprefix("moe_tutorial.") for n in names if n.startswith("moe_tutorial.")}
    return found


GRAPH = {name_of(path): imports_of(path, {name_of(p) for p in FILES}) for path in FILES}


def test_the_root_holds_the_course_and_its_rooms():
    at_root = {name.split(".")[0] for name in GRAPH} - {"", "__main__"}
    assert at_root == {*COURSE, *ROOMS}


@pytest.mark.parametrize("module", COURSE)
def test_a_module_of_the_course_imports_only_modules_above_it(module):
    below = GRAPH[module] - set(COURSE[: COURSE.index(module)])
    assert not below, f"{module}.py imports {', '.join(below)}"


@pytest.mark.parametrize("module", [name for name in GRAPH if name.split(".")[0] in ROOMS])
def test_a_room_uses_the_course_and_the_rooms_it_may(module):
    room = module.split(".")[0]
    others = {name.split(".")[0] for name in GRAPH[module]} - {room, *ROOMS[room], *COURSE}
    assert not others, f"{module.replace('.', '/')}.py imports {', '.join(others)}"


def test_no_import_goes_in_a_circle():
    seen: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"{' -> '.join([*way, module])}"
        if module not in seen:
            for other in sorted(GRAPH[module]):
                walk(other, (*way, module))
            seen.add(module)

    for module in GRAPH:
        walk(module, ())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40, node.name


def test_no_method_of_an_object_is_replaced_while_the_program_runs():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        methods = {
            method.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for method in node.body
            if isinstance(method, ast.FunctionDef)
        } | {"forward"}
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                assert getattr(target, "attr", None) not in methods, (path.name, target.lineno)


def test_the_map_in_contributing_names_every_file_and_no_other():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.partition("## The rooms of the library")[2].split("```")[1]
    named, room = set(), ""
    for line in tree.splitlines()[2:]:
        name = line.split()[0]
        if name.endswith("/"):
            room = name
            continue
        inside = len(line) - len(line.lstrip()) == 4
        named |= {(room if inside else "") + name} - {f"{room}chNN.py"}
    there = {str(path.relative_to(LIBRARY).as_posix()) for path in FILES}
    chapters = {name for name in there if re.search(r"/ch\d\d\.py$", name)}
    assert named == there - chapters


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, moe_tutorial; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split()
    assert not {"torch", "numpy", "matplotlib", "pyhocon", "pydantic", "tqdm"} & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["command.train", "command.generation", "hugging_face"])
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
