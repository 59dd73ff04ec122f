"""Pages and parts of pages that are computed: from notebooks, config.hocon, parser and cards.

What an author writes lies in site/pages; a part is included there.
"""

import argparse
import ast
import json
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from gather import ROOT, chapters, put, readme_sections, teaching_pages
from vendor import PACKAGES

LIBRARY = ROOT / "moe_tutorial"
ESCAPED = re.compile(r"([\\`*_\[\]<>|$#])")


def plain(text: str) -> str:
    """Markdown that shows this text as it is, in a table too."""
    return ESCAPED.sub(r"\\\1", text)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def markdown(path: Path) -> str:
    """All Markdown cells of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def teaching() -> str:
    """The teaching pages, if the repository has them."""
    names = [f"teaching/{path.name}" for path in teaching_pages()]
    entries = "\n".join(names)
    return f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n" if names else "\n"


def what_it_is() -> str:
    """The README's first paragraphs and its picture, without the title."""
    return readme_sections()[""].partition("\n")[2].strip() + "\n"


def chapter_table() -> str:
    """Chapter, what you build (the README says it), and the minutes that the chapter plans."""
    builds = dict(re.findall(r"^\| \[(\d\d) [^|]*\| ([^|]+) \|", readme_sections()["The chapters"],
                             re.MULTILINE))  # fmt: skip
    rows, whole = [], 0
    for path in chapters():
        text = markdown(path)
        title = re.search(r"^# (.+)$", text, re.MULTILINE)[1]
        minutes = int(re.search(r"Plan (\d+) minutes", text)[1])
        whole += minutes
        link = f"[{title}](notebooks/{path.name})"
        rows.append([link, builds.get(path.name[:2], ""), str(minutes)])
    return table(["chapter", "you build", "minutes"], rows) + f"\nTogether {whole} minutes.\n"


ITALICS = re.compile(r"(?<![*\w])\*([^*\s](?:[^*\n]*[^*\s])?)\*(?![*\w])")


def italics(path: Path) -> list[str]:
    """What a chapter sets in italics, in small letters; its questions, formulas and code aside."""
    text = markdown(path).partition("\n## Questions\n")[0]
    text = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    return list(dict.fromkeys(found.lower() for found in ITALICS.findall(text)))


def introduced() -> dict[str, Path]:
    """Words in italics -> the first chapter that has them."""
    first: dict[str, Path] = {}
    for path in chapters():
        for word in italics(path):
            first.setdefault(word, path)
    return first


def glossary() -> str:
    """The terms of glossary.toml in alphabetical order, each with the chapter that introduces it.

    A term that no chapter here has is left out.
    """
    terms = tomllib.loads((ROOT / "site" / "glossary.toml").read_text(encoding="utf-8"))["terms"]
    first, parts = introduced(), []
    for term in sorted(set(terms) & set(first)):
        path = first[term]
        link = f"[chapter {path.name[:2]}](notebooks/{path.name})"
        parts.append(f"{term}\n  {plain(terms[term])} ({link})\n")
    return "```{glossary}\n" + "\n".join(parts) + "```\n"


class Key(NamedTuple):
    """One key of config.hocon: section.name, its value there, and the comment behind it."""

    name: str
    value: str
    meaning: str


def settings() -> list[Key]:
    """Every key of config.hocon in order; comment lines below a key go on with its meaning."""
    section, keys = "", []
    for line in (ROOT / "config.hocon").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"(\w+) \{$", line):
            section = found[1]
        elif found := re.match(r"  (\w+) = (.+?)\s*(?:#\s*(.+))?$", line):
            keys.append(Key(f"{section}.{found[1]}", found[2], found[3] or ""))
        elif section and (found := re.match(r"\s+#\s*(.+)$", line)):
            last = keys[-1]
            keys[-1] = last._replace(meaning=f"{last.meaning} {found[1]}")
    return keys


def settings_page() -> str:
    """The commands with their flags, as their parser has them, and the table of all keys."""
    from moe_tutorial.command.cli import build_parser

    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = ["## The command line\n", parser.description, ""]
    for name, command in commands.choices.items():
        (help_,) = (a.help for a in commands._choices_actions if a.dest == name)
        parts += [f"### {name}\n", f"`{parser.prog} {name}`: {plain(help_)}.\n"]
        rows = [[code(_flag(a)), plain(a.help or "")] for a in command._actions]
        parts.append(table(["flag", "what it does"], rows))
    parts += ["## The configuration\n", _configuration_head(), ""]
    rows = [[code(key.name), code(key.value), plain(key.meaning)] for key in settings()]
    parts.append(table(["key", "default", "meaning"], rows))
    return "\n".join(parts)


def _flag(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    return f"{names} {action.metavar}" if action.metavar else names


def _configuration_head() -> str:
    text = (ROOT / "config.hocon").read_text(encoding="utf-8")
    lines = [line[1:].strip() for line in text.partition("\nmodel {")[0].strip().splitlines()]
    head, _, rest = "\n".join(lines).partition("\n\n")
    first, *commands = head.splitlines()
    return f"{plain(first)}\n\n```text\n" + "\n".join(commands) + f"\n```\n\n{plain(rest)}"


def facts() -> str:
    """The cards of published routers with the day they were checked, and the versions pinned."""
    from moe_tutorial.cards import BEYOND, CARDS, CHECKED

    cards = [
        [plain(card.name), str(card.year), plain("; ".join(filter(None, (_switches(card.switches),
         card.note)))), f"{card.top_k} of {card.num_experts}", str(card.shared), str(card.dim),
         str(card.hidden_dim)]
        for card in CARDS
    ]  # fmt: skip
    beyond = [[plain(b.name), plain(b.formula), plain(b.why)] for b in BEYOND]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    versions = [[code(a), code(b)] for a, b in re.findall(r"^([\w-]+)==(.+)$", pins, re.MULTILINE)]
    brought = [[code(p.name), code(p.version), p.license] for p in PACKAGES]
    head = ["model", "year", "router", "experts", "shared", "dim", "width"]
    return "\n".join([
        "## Routers of published models\n", f"Checked {CHECKED}.",
        "[Chapter 15](notebooks/15_routers.ipynb) explains the switches and proves the cards.\n",
        table(head, cards), "Routers that the one function does not reach:\n",
        table(["router", "formula", "why"], beyond),
        "## Versions\n", "The course was checked with exactly these.\n",
        table(["package", "version"], versions),
        "These pages bring along:\n",
        table(["package", "version", "license"], brought),
    ])  # fmt: skip


def _switches(switches: NamedTuple) -> str:
    default = type(switches)()
    changed = {k: v for k, v in switches._asdict().items() if v != getattr(default, k)}
    named = [k if v is True else f"{k}={v}" for k, v in changed.items() if k != "score"]
    return ", ".join([switches.score, *named])


def modules() -> list[str]:
    """Every module of the library, as moe_tutorial.plots.ch01."""
    paths = sorted(LIBRARY.rglob("*.py"))
    names = (path.relative_to(ROOT).with_suffix("").parts for path in paths)
    return [
        ".".join(p for p in parts if p != "__init__") for parts in names if parts[-1] != "__main__"
    ]


def public_names(module: str) -> dict[str, str]:
    """Public names that a module defines -> function, class or data."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = "function"
        elif isinstance(node, ast.ClassDef):
            found[node.name] = "class"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id: "data" for t in targets if isinstance(t, ast.Name)}
    return {name: kind for name, kind in found.items() if not name.startswith("_")}


def write_reference(folder: Path) -> None:
    """One page per module with every public name, and their table of contents."""
    rooms: dict[str, list[str]] = {}
    for module in modules():
        path = module.split(".")
        room = path[1] if (LIBRARY / path[1 % len(path)]).is_dir() and len(path) > 1 else ""
        rooms.setdefault(room, []).append(module)
        put(folder / f"{module}.rst", reference_page(module))
    parts = ["# The library\n", "Every public name, from its docstring.\n"]
    for room, names in rooms.items():
        entries = "\n".join(names)
        caption = f"moe_tutorial.{room}" if room else "The course, in one folder"
        parts.append(f"## {caption}\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n")
    put(folder / "index.md", "\n".join(parts))


def reference_page(module: str) -> str:
    lines = [module, "=" * len(module), "", f".. automodule:: {module}", ""]
    lines += [f".. currentmodule:: {module}", ""]
    for name, kind in public_names(module).items():
        lines.append(f".. auto{kind}:: {name}")
        if kind == "class":
            lines += ["   :members:", "   :undoc-members:"]
        if kind == "data":
            lines.append("   :no-value:")
        lines.append("")
    return "\n".join(lines)
