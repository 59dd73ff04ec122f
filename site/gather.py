"""From the repository to the pages: notebooks with what the theme needs, the README in pieces.

The copy has the layout of the repository, so that links between chapters stay as they are.
"""

import json
import re
from pathlib import Path

from sliders import SLIDERS

ROOT = Path(__file__).resolve().parent.parent
FOLDED = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
WRITTEN: set[Path] = set()  # files of this build
# On the site there is a slider, or a line that says what is needed.
REMARK = re.compile(r"\(Without a running kernel[^)]*\)[ \n]?")
ELSEWHERE = {
    "playground": "On this site, without Python, [a model writes in the page](../writer.md): "
    "with the same settings, its letters colored by expert.",
}  # fmt: skip
RUN = (
    "Start", "Train", "Generate", "Is the router alive?", "Your own text",
    "When something goes wrong",
)  # fmt: skip


def chapters() -> list[Path]:
    """The notebooks, in order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def put(path: Path, content: str | bytes) -> None:
    """Write a file if that changes it: Sphinx then reads only what changed."""
    data = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    WRITTEN.add(path)


def remove_others(target: Path) -> None:
    """Remove what an earlier build put there and this one did not."""
    for path in target.rglob("*"):
        if path.is_file() and path not in WRITTEN:
            path.unlink()


def copy_notebooks(target: Path) -> None:
    """The chapters with folded solutions and alternative text; the rest as it is stored."""
    for path in chapters():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            dress(cell)
        notebook["cells"] = [c for cell in notebook["cells"] for c in moved_by_hand(cell, path)]
        text = json.dumps(notebook, ensure_ascii=False, indent=1)
        put(target / "notebooks" / path.name, text)


def dress(cell: dict) -> None:
    """Add to one cell what MyST-NB reads: a fold, and what a picture says."""
    cell["source"] = REMARK.sub("", "".join(cell["source"]))
    metadata = cell["metadata"]
    if "solution" in metadata.get("tags", []):
        metadata["tags"] = [*metadata["tags"], "hide-cell"]
        metadata["mystnb"] = dict(FOLDED)
    if "outputs" in cell:  # a widget without a kernel shows only its name
        cell["outputs"] = [o for o in cell["outputs"] if "VBox(" not in str(o.get("data"))]
    for output in cell.get("outputs", []):
        if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
            metadata.setdefault("mystnb", {})["image"] = {"alt": alt}


def moved_by_hand(cell: dict, path: Path) -> list[dict]:
    """The cell; if it makes a widget, also what stands for the widget in a page."""
    widget = re.search(r"^widgets\.(\w+)\(", "".join(cell["source"]), re.MULTILINE)
    if cell["cell_type"] != "code" or widget is None:
        return [cell]
    if make := SLIDERS.get(widget[1]):
        data = json.dumps(make(path), separators=(",", ":")).replace("</", "<\\/")
        text = (
            f'<div class="course-slider" id="{widget[1]}">'
            f'<script type="application/json">{data}</script></div>'
        )
    else:
        text = (
            ELSEWHERE.get(widget[1])
            or f"*`widgets.{widget[1]}` computes while you use it: it needs the notebook.*"
        )
    return [
        cell,
        {"cell_type": "markdown", "id": f"{cell['id']}-page", "metadata": {}, "source": text},
    ]


def readme_sections() -> dict[str, str]:
    """Heading -> text of the README; "" is what stands above the first heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    first, *rest = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {"": first, **dict(zip(rest[::2], rest[1::2], strict=True))}


def pages_of_readme() -> dict[str, str]:
    """run.md has the sections RUN, more.md all others but the table of chapters."""
    sections = readme_sections()
    others = [name for name in sections if name not in ("", "The chapters", *RUN)]
    pages = {"run.md": ("Run it", RUN), "more.md": ("Go further", others)}
    where = {_anchor(name): page for page, (_, names) in pages.items() for name in names}

    def lead(match: re.Match, here: str) -> str:
        there = where.get(match[1], here)
        return f"]({'' if there == here else there}#{match[1]})"

    found = {}
    for page, (title, names) in pages.items():
        text = "".join(f"## {name}\n{sections[name]}" for name in names)
        text = re.sub(r"\]\(#([^)]+)\)", lambda match, page=page: lead(match, page), text)
        found[page] = relinked(f"# {title}\n\n{text}")
    return found


def _anchor(heading: str) -> str:
    """The part after # in a link to a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c == "-")


def copy_pages(target: Path) -> None:
    """What is Markdown already: the site's own pages, CONTRIBUTING, benchmarks, teaching."""
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *teaching_pages()]
    for path in pages:
        put(target / path.relative_to(ROOT), relinked(path.read_text(encoding="utf-8")))
    for path in (*(ROOT / "docs").glob("*.png"), *(ROOT / "teaching").glob("*.html")):
        put(target / path.relative_to(ROOT), path.read_bytes())
    for path in sorted((ROOT / "site" / "pages").glob("*.md")):
        put(target / path.name, path.read_bytes())


def teaching_pages() -> list[Path]:
    """teaching/*.md, as far as the repository has them: what is for all chapters comes first."""
    found = (ROOT / "teaching").glob("*.md")
    return sorted(found, key=lambda path: (path.name[:2].isdigit(), path.name))


def relinked(text: str) -> str:
    """Links to the README lead to the page of its first section, links to a module to its names.

    Files of the repository that are no page here, such as CITATION.cff, are named and not linked.
    """
    text = re.sub(r"\]\(((?:\.\./)*)README\.md", r"](\1run.md", text)

    def module(match: re.Match) -> str:
        return f"]({match[1]}reference/{match[2].replace('/', '.')}.rst"

    text = re.sub(r"\]\(((?:\.\./)*)(moe_tutorial/[\w/]+)\.py", module, text)
    return re.sub(r"\[([^\]\n]+)\]\(([^)\s#]+)(#[^)\s]*)?\)", _linked_or_named, text)


def _linked_or_named(match: re.Match) -> str:
    target = match[2]
    page = target.endswith((".md", ".ipynb", ".rst", ".png", ".html"))
    return match[0] if page or re.match(r"https?:|mailto:", target) else match[1]
