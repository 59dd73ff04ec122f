"""Cells may be run again, the course may lie anywhere; `make soak` does it for all chapters."""

import pytest
from chapters import NOTEBOOKS
from twice import run_twice


@pytest.mark.parametrize("chapter", ["02_tokenizer"])
@pytest.mark.filterwarnings("ignore")  # the kernel's transport, not ours
def test_every_cell_twice_in_a_folder_with_an_awkward_name(chapter, tmp_path):
    run_twice(NOTEBOOKS / f"{chapter}.ipynb", tmp_path)
