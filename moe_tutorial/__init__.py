"""A Mixture-of-Experts character language model, built chapter by chapter.

Importing the package imports nothing heavy; import the module of the chapter that you need, such as
`moe_tutorial.moe`. Reading order = chapter order = import order; see README.md.
"""

from pathlib import Path

__version__ = "0.2.0"

_HERE = Path(__file__).resolve().parent
# Holds config.hocon and data/: inside the installed package, or the root of the repository.
FILES = _HERE / "built_in" if (_HERE / "built_in").is_dir() else _HERE.parent
