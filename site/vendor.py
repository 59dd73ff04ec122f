"""Scripts and fonts that the pages need come along: fetched once by npm, checked, unpacked.

`npm pack` fetches one package and runs nothing of it.
"""

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """A package of npm: exact version, hash of its file, and what is taken from where to where."""

    name: str
    version: str
    sha256: str
    take: dict[str, str]  # path or folder inside the package -> path on the site


PACKAGES = (
    Package(
        "mathjax", "3.2.2", "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        {
            "es5/tex-mml-chtml.js": "mathjax/tex-mml-chtml.js",
            "es5/output/chtml/fonts/woff-v2/": "mathjax/output/chtml/fonts/woff-v2/",
        },
    ),
)  # fmt: skip


def vendor(cache: Path, target: Path) -> None:
    """Put what PACKAGES name into the folder target; the packages stay in the folder cache.

    Raises: OSError without npm, or if a package is not the one that was checked.
    """
    shutil.rmtree(target, ignore_errors=True)
    for package in PACKAGES:
        with tarfile.open(fetch(package, cache)) as files:
            for member in files.getmembers():
                name = member.name.removeprefix("package/")
                for source, place in package.take.items():
                    inside = source.endswith("/") and name.startswith(source)
                    if member.isfile() and (inside or name == source):
                        path = target / (place + name.removeprefix(source) if inside else place)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(files.extractfile(member).read())


def fetch(package: Package, cache: Path) -> Path:
    """The package's file, from the cache or from npm's registry."""
    path = cache / f"{package.name}-{package.version}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise OSError(f"npm was not found; install Node.js, which brings it, for {path.name}")
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise OSError(f"npm could not fetch {path.name}: {done.stderr.strip()[-300:]}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise OSError(f"{path} has the SHA-256 {found}, not {package.sha256}; remove it, try again")
    return path
