"""Refresh the README: run the commands it shows and put their real output below them.

    python tools/readme.py    (about four minutes on two cores; needs a Chromium)

Every ```console block that begins with "$ command" is run, one after the other in one folder that
holds a copy of config.hocon and configs/. The pictures in docs/: history.png is that of the first
training; playground.png and experts.png are chapters 09, with that model, and 07 in a browser.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import jupyter_lab

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```console\n\$ (?P<command>.+)\n(?P<output>(?:.*\n)*?)```\n")


def run(command: str, folder: Path) -> str:
    """What a command prints on both streams."""
    shell = re.sub(r"(^|\| )python ", rf"\1{sys.executable} ", command)
    result = subprocess.run(
        ["bash", "-c", shell], cwd=folder, capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


def photograph(folder: Path) -> None:
    """Run chapters 07 and 09 in a browser; keep the colored passage and the playground."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    (folder / "jupyter").mkdir()
    with jupyter_lab(folder / "notebooks", folder / "jupyter") as lab:
        page = lab.open("07_moe.ipynb")
        page.locator(".jp-OutputArea div[style*='white-space:pre-wrap']").first.screenshot(
            path=ROOT / "docs" / "experts.png"
        )
        page = lab.open("09_sampling.ipynb")
        page.locator(".playground-prompt input").fill("The old fox")
        page.locator(".playground-button").click()
        page.wait_for_selector(".playground-stopper:enabled")  # the text is being written
        page.wait_for_selector(".playground-stopper:disabled")
        page.locator(".playground-box").screenshot(path=ROOT / "docs" / "playground.png")


def main() -> None:
    """Rewrite README.md and the pictures in docs/."""
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ROOT / "config.hocon", folder)
        shutil.copytree(ROOT / "configs", folder / "configs")

        def refresh(match: re.Match[str]) -> str:
            print("$", match["command"], flush=True)
            output = run(match["command"], folder).rstrip() + "\n"
            return f"```console\n$ {match['command']}\n{output}```\n"

        readme.write_text(BLOCK.sub(refresh, readme.read_text(encoding="utf-8")), encoding="utf-8")
        (ROOT / "docs").mkdir(exist_ok=True)
        shutil.copy(folder / "model" / "history.png", ROOT / "docs" / "history.png")
        photograph(folder)


if __name__ == "__main__":
    main()
