"""From the repository to the pages: notebooks with what the theme needs, the README in pieces.

The copy has the layout of the repository, so that links between chapters stay as they are.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDED = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
WRITTEN: set[Path] = set()  # files of this build
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


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
        text = json.dumps(notebook, ensure_ascii=False, indent=1)
        put(target / "notebooks" / path.name, text)


def dress(cell: dict) -> None:
    """Add to one cell what MyST-NB reads: a fold, and what a picture says."""
    metadata = cell["metadata"]
    if "solution" in metadata.get("tags", []):
        metadata["tags"] = [*metadata["tags"], "hide-cell"]
        metadata["mystnb"] = dict(FOLDED)
    for output in cell.get("outputs", []):
        if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
            metadata.setdefault("mystnb", {})["image"] = {"alt": alt}


def readme_sections() -> dict[str, str]:
    """Heading -> text of the README; "" is what stands above the first heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    first, *rest = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {"": first, **dict(zip(rest[::2], rest[1::2], strict=True))}


def page_of_readme(title: str, names: list[str], moved: dict[str, str]) -> str:
    """A page of some sections; `moved` says on which page the others are."""
    sections = readme_sections()
    text = "".join(f"## {name}\n{sections[name]}" for name in names)

    def lead(match: re.Match) -> str:
        anchor = match[1]
        return f"]({moved.get(anchor, '')}#{anchor})"

    return f"# {title}\n\n" + re.sub(r"\]\(#([^)]+)\)", lead, text)


def copy_pages(target: Path) -> None:
    """What is Markdown already: the site's own pages, CONTRIBUTING, benchmarks, teaching."""
    files = [*sorted((ROOT / "teaching").glob("*.md")), *sorted((ROOT / "docs").glob("*.png"))]
    for path in [*files, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]:
        put(target / path.relative_to(ROOT), path.read_bytes())
    for path in sorted((ROOT / "site" / "pages").glob("*.md")):
        put(target / path.name, path.read_bytes())
