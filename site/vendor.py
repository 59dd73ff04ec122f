"""Scripts and fonts that the pages need come along: fetched once by npm, checked, unpacked.

`npm pack` fetches one package and runs nothing of it.
"""

import gzip
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
    license: str
    sha256: str
    take: dict[str, str]  # path or folder inside the package -> path on the site


PACKAGES = (
    Package(
        "mathjax", "3.2.2", "Apache-2.0",
        "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        {
            "es5/tex-mml-chtml.js": "mathjax/tex-mml-chtml.js",
            "es5/output/chtml/fonts/woff-v2/": "mathjax/output/chtml/fonts/woff-v2/",
            "LICENSE": "mathjax/LICENSE",
        },
    ),
    Package(
        "onnxruntime-web", "1.30.0", "MIT",
        "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        {
            "dist/ort.wasm.min.js": "onnxruntime/ort.wasm.min.js",
            "dist/ort-wasm-simd-threaded.mjs": "onnxruntime/ort-wasm-simd-threaded.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "onnxruntime/ort-wasm-simd-threaded.wasm.gz",
        },
    ),
)  # fmt: skip


def vendor(cache: Path, target: Path) -> None:
    """Put what PACKAGES name into the folder target; the packages stay in the folder cache.

    A name that ends in .gz is packed; the page unpacks it. Nothing is done if all is there.
    Raises: OSError without npm, or if a package is not the one that was checked.
    """
    stamp, done = target / "packages", repr(PACKAGES)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == done:
        return
    shutil.rmtree(target, ignore_errors=True)
    for package in PACKAGES:
        with tarfile.open(fetch(package, cache)) as files:
            for member in filter(tarfile.TarInfo.isfile, files.getmembers()):
                if path := place(package, member.name.removeprefix("package/")):
                    content = files.extractfile(member).read()
                    if path.endswith(".gz"):
                        content = gzip.compress(content, mtime=0)
                    (target / path).parent.mkdir(parents=True, exist_ok=True)
                    (target / path).write_bytes(content)
    stamp.write_text(done, encoding="utf-8")


def place(package: Package, name: str) -> str | None:
    """Where a file of the package comes to lie, if it is taken at all."""
    for source, target in package.take.items():
        if name == source:
            return target
        if source.endswith("/") and name.startswith(source):
            return target + name.removeprefix(source)
    return None


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
