"""Build the site in build/site: `make site`.

Gathers the pages in build/site-src, fetches MathJax, and lets Sphinx write build/site.
"""

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gather
import generate
import onnx_model
from vendor import vendor

BUILD = gather.ROOT / "build"


def write_pages(source: Path) -> None:
    """Everything that Sphinx reads, and nothing else."""
    gather.copy_notebooks(source)
    gather.copy_pages(source)
    for name, text in gather.pages_of_readme().items():
        gather.put(source / name, text)
    parts = {
        "what": generate.what_it_is, "chapters": generate.chapter_table,
        "settings": generate.settings_page, "facts": generate.facts,
        "writer": lambda: onnx_model.write_model(BUILD / "site-vendor"),
        "glossary": generate.glossary, "teaching": generate.teaching,
    }  # fmt: skip
    for name, part in parts.items():
        gather.put(source / "parts" / f"{name}.md", part())
    generate.write_reference(source / "reference")
    gather.remove_others(source)


def main() -> int:
    try:
        vendor(BUILD / "npm", BUILD / "site-vendor")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_pages(BUILD / "site-src")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-c", "site"]
    done = subprocess.run(
        [*command, "-d", BUILD / "site-doctrees", BUILD / "site-src", BUILD / "site"],
        cwd=gather.ROOT, check=False,
    )  # fmt: skip
    for path in gather.chapters():  # what a page offers to download is the notebook itself
        shutil.copy(path, BUILD / "site" / "_sources" / "notebooks")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
