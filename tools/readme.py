"""Refresh the README: run the commands it shows and put their real output below them.

    python tools/readme.py    (about three minutes on two cores)

Every ```console block that begins with "$ command" is run, one after the other in one folder that
holds a copy of config.hocon and configs/.
The picture docs/history.png is the history.png of the first training.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```console\n\$ (?P<command>.+)\n(?P<output>(?:.*\n)*?)```\n")


def run(command: str, folder: Path) -> str:
    """What a command prints on both streams."""
    shell = re.sub(r"(^|\| )python ", rf"\1{sys.executable} ", command)
    result = subprocess.run(
        ["bash", "-c", shell], cwd=folder, capture_output=True, text=True, check=False
    )
    return result.stdout + result.stderr


def main() -> None:
    """Rewrite README.md and docs/history.png."""
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


if __name__ == "__main__":
    main()
