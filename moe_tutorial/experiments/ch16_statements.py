"""Chapter 16: what must come out."""

from collections.abc import Callable

from moe_tutorial.experiments.base import Results

Statements = dict[str, Callable[[Results], bool]]
DRAFTS: Statements = {}
