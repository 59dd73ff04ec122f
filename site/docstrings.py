"""The library's docstrings are plain text with formulas; reStructuredText reads them as written."""

import re
from itertools import groupby
from textwrap import dedent

SPECIAL = re.compile(r"([\\*|_<>])")
CODE = re.compile(r"(`[^`]+`)")
HEAD = re.compile(r"^(Shapes?|Raises|Returns|Source|Sources|Units?|[a-z_]+(, [a-z_]+)*): ")


def as_rst(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Handler of `autodoc-process-docstring`: replaces the lines in place."""
    if what == "data":  # the docstring is that of its type, perhaps of another package
        lines.clear()
    elif lines:
        lines[:] = convert("\n".join(lines)).splitlines()


def skip_foreign(
    app: object, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Handler of `autodoc-skip-member`: methods that another package put into a class."""
    if not (getattr(obj, "__module__", None) or "moe_tutorial").startswith("moe_tutorial"):
        return True
    return None


def convert(text: str) -> str:
    """Plain text as reStructuredText: paragraphs, `code`, and indented blocks as they stand."""
    blocks = []
    for blank, group in groupby(
        dedent(text).strip("\n").splitlines(), lambda line: not line.strip()
    ):
        if not blank:
            blocks += _block(list(group))
    return "\n\n".join(blocks) + "\n"


def _block(lines: list[str]) -> list[str]:
    if all(line.startswith("  ") for line in lines) or any("  " in s.strip() for s in lines):
        return ["::\n\n" + "\n".join(f"    {line}" for line in lines)]
    paragraphs: list[list[str]] = []
    for line in lines:
        if not paragraphs or HEAD.match(line) or line.startswith("- "):
            paragraphs.append([])
        paragraphs[-1].append(_escape(line.strip()))
    return [" ".join(paragraph) for paragraph in paragraphs]


def _escape(line: str) -> str:
    """One line with `code` as literals and every other sign as itself."""
    found = ""
    for part in CODE.split(line):
        if CODE.fullmatch(part):
            apart = "" if not found or found[-1] in " (['\"-/" else "\\ "
            found += f"{apart}`{part}`"
        else:
            apart = "\\ " if found and part[:1].isalnum() else ""
            found += apart + SPECIAL.sub(r"\\\1", part.replace("`", "'"))
    return found
