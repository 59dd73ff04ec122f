"""Cells may be run again, the course may lie anywhere; `make soak` does it for all chapters."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from chapters import NOTEBOOKS
from twice import run_twice_in_new_process

pytestmark = pytest.mark.slow


def test_two_chapters_at_once_every_cell_twice_in_a_folder_with_an_awkward_name(tmp_path):
    paths = [NOTEBOOKS / "02_tokenizer.ipynb", NOTEBOOKS / "03_batching.ipynb"]
    with ThreadPoolExecutor(2) as pool:
        errors = pool.map(lambda path: run_twice_in_new_process(path, tmp_path), paths)
        assert list(errors) == ["", ""]
