"""Build the site in build/site: `make site`.

Gathers the pages in build/site-src, fetches MathJax, and lets Sphinx write build/site.
"""

import subprocess
import sys
from pathlib import Path

import gather

sys.path.insert(0, str(gather.ROOT))
import generate
from vendor import vendor

BUILD = gather.ROOT / "build"
PAGES = {
    "run.md": ("Run it", ["Start", "Train", "Generate", "Is the router alive?", "Your own text",
                          "When something goes wrong"]),
    "more.md": ("Further", ["Hugging Face", "Beyond one machine", "Speed", "Sources"]),
}  # fmt: skip


def write_pages(source: Path) -> None:
    """Everything that Sphinx reads, and nothing else."""
    gather.copy_notebooks(source)
    gather.copy_pages(source)
    moved = {_anchor(s): page for page, (_, names) in PAGES.items() for s in names}
    for page, (title, names) in PAGES.items():
        here = {anchor: "" if there == page else there for anchor, there in moved.items()}
        text = gather.page_of_readme(title, names, here)
        gather.put(source / page, text)
    parts = {
        "what": generate.what_it_is, "chapters": generate.chapter_table,
        "settings": generate.settings_page, "facts": generate.facts,
    }  # fmt: skip
    for name, part in parts.items():
        gather.put(source / "parts" / f"{name}.md", part())
    for name in ("teaching", "glossary"):
        gather.put(source / "parts" / f"{name}.md", "\n")
    generate.write_reference(source / "reference")
    gather.remove_others(source)


def _anchor(heading: str) -> str:
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c == "-")


def main() -> int:
    try:
        vendor(BUILD / "npm", BUILD / "site-vendor")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_pages(BUILD / "site-src")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-c", "site"]
    return subprocess.run(
        [*command, "-d", BUILD / "site-doctrees", BUILD / "site-src", BUILD / "site"],
        cwd=gather.ROOT, check=False,
    ).returncode  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
