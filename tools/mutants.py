"""Put small faults into the library, one at a time, and report those that its tests do not see.

`make mutants` does all modules of MODULES, `make mutants ARGS="rope moe"` two of them. Prints the
survivors and refreshes the rows of these modules in CONTRIBUTING.md. The faults are those of
mutmut; each module is judged by the tests named here alone. Words of messages are not changed.
"""

import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
SURVIVORS = ROOT / "tests" / "survivors.toml"  # module -> fault -> why it cannot matter
TABLE = re.compile(r"(?<=<!-- mutants -->\n).*?(?=<!-- end of mutants -->)", re.DOTALL)
MINUTES = 60  # for all modules together; what is not reached is said

MODULES = {  # the file, its tests
    "rope": ["rope"],
    "rmsnorm": ["rmsnorm"],
    "attention": ["attention"],
    "moe": ["moe"],
    "balance": ["balance"],
    "model": ["model", "balance"],
    "training": ["training", "balance"],
    "sampling": ["sampling"],
    "speculation": ["speculation"],
    "tokenizer": ["tokenizer"],
    "batching": ["batching"],
    "corpus": ["corpus"],
    "checkpoint": ["checkpoint"],
    "command/run": ["run"],
    "config": ["config", "settings"],
    "command/cli": ["flags", "cli"],
    "layouts": ["layouts"],
    "families": ["families", "translation"],
    "translation": ["translation", "balance"],
    "routers": ["routers"],
}
SETTINGS = """
[tool.mutmut]
source_paths = ["moe_tutorial"]
only_mutate = ["moe_tutorial/{module}.py"]
also_copy = ["config.hocon", "configs", "data", "README.md"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
do_not_mutate_patterns = ['^\\s*raise ', '^\\s*"[^"]*"[,)]*$']
process_isolation = "forkserver"  # PyTorch cannot be forked once it has run backward
use_setproctitle = false
"""


def main(arguments: list[str]) -> int:
    reasons = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))
    page = ROOT / "CONTRIBUTING.md"
    kept = TABLE.search(page.read_text(encoding="utf-8"))[0]
    rows = {row.split("`")[1]: row for row in kept.splitlines() if row.startswith("| `")}
    until, unexplained = time.monotonic() + 60 * MINUTES, 0
    for module in arguments or MODULES:
        statuses = run(module, until)
        if statuses is None:
            print(f"{module}: not done within {MINUTES} minutes", flush=True)
            continue
        left = [name for name, status in statuses.items() if status in ("survived", "no tests")]
        faults = Counter(fault(module, name) for name in left)
        known = reasons.get(module, {})
        new = {text: count for text, count in faults.items() if text not in known}
        unexplained += sum(new.values())
        killed = len(statuses) - len(left)
        explained = len(left) - sum(new.values())
        share = killed / len(statuses)
        rows[module] = f"| `{module}` | {len(statuses)} | {killed} | {share:.1%} | {explained} |"
        print(rows[module], flush=True)
        for text in new:
            print(f"  not seen: {text}", flush=True)
        for text in known.keys() - faults.keys():
            print(f"  in {SURVIVORS.name}, but seen or gone: {text}", flush=True)
    head = "| module | faults | seen | share | survivors with a reason |\n|---|---|---|---|---|\n"
    table = head + "".join(f"{rows[module]}\n" for module in MODULES if module in rows)
    print(f"\n{table}\n{unexplained} survivors without a reason")
    text = page.read_text(encoding="utf-8")
    page.write_text(TABLE.sub(lambda _: table, text), encoding="utf-8", newline="\n")
    return 0


def run(module: str, until: float) -> dict[str, str] | None:
    """The fate of each fault of a module; None if the time was over before the end."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    tracked = subprocess.check_output(listing, cwd=ROOT, text=True)
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    tests = [f"tests/test_{name}.py" for name in MODULES[module]]
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(SETTINGS.format(module=module, tests=tests))
    try:
        done = mutmut(
            module, "run", "--max-children", "2", timeout=max(1, until - time.monotonic())
        )
    except subprocess.TimeoutExpired:
        return None
    if "mutations/second" not in done.stdout:
        raise SystemExit(f"mutmut failed on {module}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    lines = mutmut(module, "results", "--all", "true").stdout.splitlines()
    return dict(line.strip().split(": ", 1) for line in lines if "__mutmut_" in line)


def fault(module: str, name: str) -> str:
    """What was changed: `function: line -> changed line`."""
    lines = mutmut(module, "show", name).stdout.splitlines()
    old = " ".join(line[1:].strip() for line in lines if re.match(r"-(?!--)", line))
    new = " ".join(line[1:].strip() for line in lines if re.match(r"\+(?!\+\+)", line))
    function = re.sub(r"x_|ǁ", ".", name.rsplit(".", 1)[1].split("__mutmut")[0]).strip(".")
    return f"{function}: {old} -> {new}"


def mutmut(module: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=WORK / module, capture_output=True,
        text=True, timeout=timeout, check=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
