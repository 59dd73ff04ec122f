"""Tables: printed, written as JSON, and copied into the repository's README.

python -m benchmarks.report    (puts the tables of benchmarks/results/ into README.md)
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ORDER = ("training_step", "moe_layer", "generation", "loss_against_time", "startup")
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


@dataclass
class Table:
    """The answer to one question."""

    question: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measurements: dict[str, object] = field(default_factory=dict)  # what the rows were made from

    def markdown(self) -> str:
        """The question, a table, and its notes."""
        lines = [f"**{self.question}**", "", _row(self.columns), _row(["---"] * len(self.columns))]
        lines += [_row(row) for row in self.rows]
        if self.notes:
            lines += ["", " ".join(self.notes)]
        return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def against(value: float, target: float, *, at_most: bool = False) -> str:
    """What was to be reached, and whether it was."""
    reached = value <= target if at_most else value >= target
    return f"{'≤' if at_most else '≥'} {target:.4g}: {'yes' if reached else 'no'}"


def machine() -> dict[str, object]:
    """What a figure is worth nothing without."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
    }


def cpu_name() -> str:
    """The processor's name and its widest vector instructions, as Linux reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    values = {key.strip(): value.strip() for key, value in found.items()}
    flags = values.get("flags", "").split()
    widest = next((flag for flag in ("avx512f", "avx2") if flag in flags), "")
    return " ".join([values.get("model name", platform.machine()), widest]).strip()


def write_json(folder: Path, name: str, mode: str, table: Table) -> None:
    """Keep a table with machine, date and versions in folder/name.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"mode": mode, **machine(), **asdict(table)}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


def readme_section(folder: Path) -> str:
    """All tables of a folder, each with the machine and the day that it was measured on."""
    parts = []
    for name in ORDER:
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        table = Table(*(found[key] for key in ("question", "columns", "rows", "notes")))
        versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
        origin = (
            f"*{found['date']}, {found['cpu']}, {found['cores']} cores, {found['system']}, "
            f"{versions}; mode: {found['mode']}.*"
        )
        parts.append(f"{table.markdown()}\n\n{origin}")
    return "\n\n".join(parts)


def put_between_markers(text: str, section: str) -> str:
    """README text with the section between the two markers. Raises: ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md needs the two lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def main() -> None:
    """Rewrite the benchmark tables in README.md."""
    readme = ROOT / "README.md"
    text = put_between_markers(readme.read_text(encoding="utf-8"), readme_section(RESULTS))
    readme.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
