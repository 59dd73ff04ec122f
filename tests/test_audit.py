"""A look-up that could not be made is never reported as a clean one."""

import runpy

from conftest import ROOT

VERDICT = runpy.run_path(str(ROOT / "tools" / "audit.py"))["verdict"]
CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found on PyPI"}


def test_clean_found_and_skipped_packages_are_told_apart():
    assert VERDICT([CLEAN]) == (0, "1 of 1 packages looked up, 0 known vulnerabilities")
    assert VERDICT([CLEAN, BAD])[0] == 1
    assert "b 2: PYSEC-1, mended in 3" in VERDICT([BAD])[1]
    assert VERDICT([CLEAN, SKIPPED])[0] == 1
    assert "error: 1 could not be looked up: c" in VERDICT([SKIPPED])[1]
    assert VERDICT([])[0] == 1
