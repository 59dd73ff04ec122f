"""Download all wheels of requirements.txt, for a room without network.

    python tools/wheelhouse.py            (make wheelhouse: into build/wheelhouse)
    python tools/wheelhouse.py --to D     into folder D

The wheels are for this operating system, processor and version of Python. What else is given goes
to `pip wheel`, such as --extra-index-url with the address where pytorch.org has CPU builds.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ("hatchling", "editables")  # what `-e .` in requirements.txt needs while it is installed


def wanted(pins: Sequence[str], torch: str | None) -> list[str]:
    """The pins without this repository, with what installs it, and with the build of PyTorch here.

    torch: the version installed here. A build such as 2.13.0+cpu is asked for by its full name: on
    Linux the plain version would bring several GB of CUDA.
    """
    lines = [line for line in pins if "==" in line]
    plain = next(line for line in lines if line.startswith("torch=="))
    if torch and torch.partition("+")[0] == plain.removeprefix("torch=="):
        lines[lines.index(plain)] = f"torch=={torch}"
    return [*lines, *BUILD]


def readme(files: Sequence[Path]) -> str:
    """Three lines for whoever gets the folder."""
    size = sum(path.stat().st_size for path in files) / 1e6
    python = ".".join(platform.python_version_tuple()[:2])
    kind = f"{platform.system()} {platform.machine()}, Python {python}"
    return (
        f"{len(files)} packages, {size:.0f} MB, for {kind}; copy this folder and the repository.\n"
        f"Set PIP_NO_INDEX=1 and PIP_FIND_LINKS=(this folder); then install as README.md says.\n"
        f"Then `python -m moe_tutorial doctor` says whether everything is there.\n"
    )


def pip(*arguments: object) -> str | None:
    """Run pip; the last line of its error, None if there is none."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    if result.returncode == 0:
        return None
    return (errors or result.stderr.strip().splitlines() or ["pip failed"])[-1]


def collect(folder: Path, options: Sequence[str] = ()) -> str | None:
    """Fill the folder; an error in one line, None if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.whl"), *folder.glob("README.txt")]:
        old.unlink()
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = wanted(pins, metadata.version("torch"))
    # Not `pip download`: pyhocon has no wheel, which is built here, as is that of this repository.
    error = pip("wheel", "--wheel-dir", folder, *options, *needed, ROOT)
    if error:
        return (
            f"{error}; this needs the network, and for a CPU build of PyTorch the address of its "
            f"index: make wheelhouse ARGS='--extra-index-url ADDRESS', see pytorch.org"
        )
    text = readme(sorted(folder.glob("*.whl")))
    (folder / "README.txt").write_text(text, encoding="utf-8")
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "wheelhouse", metavar="D")
    options, others = parser.parse_known_args()
    print(f"downloading into {options.to}: some hundred MB, more with CUDA", flush=True)
    if error := collect(options.to, others):
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((options.to / "README.txt").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
