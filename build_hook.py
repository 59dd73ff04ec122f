"""Puts the built-in texts, settings and pins into the wheel, beside the modules that read them.

In the repository there is one copy of each, where people look for it; `moe_tutorial.FILES` finds
both places.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT_IN = ("config.hocon", "data/fables.txt", "data/passage.txt", "requirements.txt")


class BuiltIn(BuildHookInterface):
    """Named in pyproject.toml; an editable installation reads the repository's own files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"] |= {f: f"moe_tutorial/built_in/{f}" for f in BUILT_IN}
