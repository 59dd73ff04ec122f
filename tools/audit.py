"""Look up known vulnerabilities of the packages in requirements.txt with pip-audit.

pip-audit lives in an environment of its own, build/audit, so that it changes nothing here.
Installing it and looking up need the network. Packages that could not be looked up are a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "audit"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)


def verdict(packages: list[dict]) -> tuple[int, str]:
    """Exit code and text for pip-audit's list of packages."""
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    found = [(p, v) for p in packages for v in p.get("vulns", [])]
    lines = [
        f"{p['name']} {p['version']}: {v['id']}, mended in "
        f"{', '.join(v['fix_versions']) or 'no version yet'}"
        for p, v in found
    ]
    lines.append(
        f"{len(packages) - len(skipped)} of {len(packages)} packages looked up, "
        f"{len(found)} known vulnerabilities"
    )
    if skipped:
        lines.append(f"error: {len(skipped)} could not be looked up: {', '.join(skipped[:5])}, ...")
    return int(bool(found or skipped or not packages)), "\n".join(lines)


def main() -> int:
    python = HOME / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(HOME, with_pip=True)
    installed = run(python, "-m", "pip", "install", "--quiet", "pip-audit>=2.9,<3")
    if installed.returncode:
        print("error: make audit needs the network: pip-audit cannot be installed", file=sys.stderr)
        return 1
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = HOME / "pins.txt"  # without "-e .", which is this project
    kept = [line for line in lines if not line.startswith("-e")]
    pins.write_text("\n".join(kept) + "\n", encoding="utf-8")
    result = run(python, "-m", "pip_audit", "--format", "json", "--requirement", pins)
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (result.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"error: make audit needs the network: {last}", file=sys.stderr)
        return 1
    code, text = verdict(packages)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
