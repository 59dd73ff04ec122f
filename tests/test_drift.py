"""What a chapter calls final is the library's code, and no part of the library lacks a chapter."""

import ast
import re
from difflib import unified_diff

import pytest
from chapters import CHAPTERS, PRESENT, cells, code, module_tree
from conftest import ROOT

from moe_tutorial.command.hocon import load_config
from moe_tutorial.model import MoELanguageModel, count_parameters

in_each = pytest.mark.parametrize("chapter", PRESENT)


class Bare(ast.NodeTransformer):
    """Removes docstrings and annotations, in methods too."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        return self.without_docstring(node)

    def visit_ClassDef(self, node):
        self.generic_visit(node)
        return self.without_docstring(node)

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        if node.value is None:  # the field of a named tuple: keep its name
            node.annotation = ast.Constant(...)
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    @staticmethod
    def without_docstring(node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def definitions(tree: ast.Module) -> dict[str, str]:
    """Name -> bare source, of functions, classes and methods ("RMSNorm.forward")."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = bare(node)
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef):
                    found[f"{node.name}.{method.name}"] = bare(method)
    return found


def bare(node: ast.stmt) -> str:
    tree = Bare().visit(ast.Module([node], []))
    return ast.unparse(ast.fix_missing_locations(tree))


def drift(notebook: str, library: dict[str, str]) -> list[str]:
    """One diff per definition on which the notebook's final code and the library disagree.

    A function whose first argument is `self` or `cls` stands for a method of that name.
    """
    diffs = []
    for name, text in definitions(ast.parse(notebook)).items():
        if "." in name:
            continue  # compared as part of its class
        is_method = re.match(r"(@\w+\n)*def \w+\((self|cls)\b", text)
        theirs = [
            t for n, t in library.items() if n == name or (is_method and n.endswith(f".{name}"))
        ]
        if text not in theirs:
            other = theirs[0] if theirs else ""
            diffs.append("\n".join(unified_diff(text.split("\n"), other.split("\n"), lineterm="")))
    return diffs


def library_definitions(chapter: str) -> dict[str, str]:
    found = {}
    for module in CHAPTERS[chapter]:
        found |= definitions(module_tree(module))
    return found


def public_names(module: str) -> list[str]:
    """Functions, classes, their public methods, and constants."""
    names = []
    for node in module_tree(module).body:
        if isinstance(node, ast.Assign):
            names += [target.id for target in node.targets]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
            if isinstance(node, ast.ClassDef):
                names += [m.name for m in node.body if isinstance(m, ast.FunctionDef)]
    return [name for name in names if not name.startswith("_")]


@in_each
def test_final_code_is_the_librarys_code(chapter):
    library = library_definitions(chapter)
    final = [cell.source for cell in code(chapter) if "final" in cell.tags]
    assert final
    for source in final:
        assert definitions(ast.parse(source)), "a final cell defines something"
        assert drift(source, library) == []


@in_each
def test_every_public_name_appears_in_its_chapter(chapter):
    words = set(re.findall(r"\w+", "\n".join(cell.source for cell in cells(chapter))))
    for module in CHAPTERS[chapter]:
        assert [name for name in public_names(module) if name not in words] == []


LIBRARY = '''
class Box:
    """A box."""
    size: int = 2

    def grow(self, by: int) -> int:
        """Bigger."""
        return self.size + by

def scale(x: float) -> float:
    """Twice x."""
    return x * 2
'''


@pytest.mark.parametrize(
    "same",
    [
        "def scale(x):\n    return x * 2",
        "def grow(self, by):\n    return self.size + by",
        "class Box:\n    size = 2\n    def grow(self, by):\n        return self.size + by",
    ],
)
def test_docstrings_and_annotations_are_no_drift(same):
    assert drift(same, definitions(ast.parse(LIBRARY))) == []


@pytest.mark.parametrize(
    "other",
    [
        "def scale(x):\n    return x * 3",
        "def grow(self, by):\n    return self.size - by",
        "class Box:\n    size = 3\n    def grow(self, by):\n        return self.size + by",
        "def unknown(x):\n    return x",
    ],
)
def test_any_other_difference_is_drift(other):
    assert len(drift(other, definitions(ast.parse(LIBRARY)))) == 1


def test_chapter_07_counts_the_default_configuration():
    config = load_config(ROOT / "config.hocon").model
    count = count_parameters(MoELanguageModel(config, vocab_size=61))
    chapter = (ROOT / "notebooks" / "07_moe.ipynb").read_text(encoding="utf-8")
    assert f"total {count.total}, active {count.active}," in chapter
