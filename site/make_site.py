"""Build the site in build/site: `make site`, or with a model of your own `make site MODEL=model`.

Gathers the pages in build/site-src, fetches MathJax, and lets Sphinx write build/site.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gather
import generate
import onnx_model
import shown
from vendor import vendor

from moe_tutorial.command.terminal import reason
from moe_tutorial.trust import CheckpointError

BUILD = gather.ROOT / "build"


def write_pages(source: Path, writer: str) -> None:
    """Everything that Sphinx reads, and nothing else; writer is the part of the model's page."""
    gather.copy_notebooks(source)
    gather.copy_pages(source)
    for name, text in gather.pages_of_readme().items():
        gather.put(source / name, text)
    parts = {
        "what": generate.what_it_is, "chapters": generate.chapter_table,
        "settings": generate.settings_page, "facts": generate.facts,
        "writer": lambda: writer, "glossary": generate.glossary,
        "teaching": generate.teaching,
    }  # fmt: skip
    for name, part in parts.items():
        gather.put(source / "parts" / f"{name}.md", part())
    generate.write_reference(source / "reference")
    gather.remove_others(source)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the site in build/site.")
    parser.add_argument(
        "--model-path", metavar="F", help="run folder of the model in the page; default: chapter 12"
    )
    args = parser.parse_args()
    try:
        model = shown.trained(args.model_path) if args.model_path else shown.committed()
        vendor(BUILD / "npm", BUILD / "site-vendor")
        writer = onnx_model.write_model(BUILD / "site-vendor", model)
    except (OSError, ValueError, CheckpointError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return 1
    write_pages(BUILD / "site-src", writer)
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
