"""The chapters' widgets without Python: the same figures for some of the values, as data.

The library computes every number here; static/sliders.js only draws. The exception is the router
that is played by hand: static/router.js counts what the reader chose. What a chapter passes to its
widget is found by running the cells above it.
"""

import ast
import contextlib
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from moe_tutorial.balance import drift
from moe_tutorial.cost import experts_touched
from moe_tutorial.plots import EXPERT_COLORS, expert_colors, visible
from moe_tutorial.plots.history import smooth
from moe_tutorial.sampling import next_token_probs
from moe_tutorial.widgets.ch11 import RATES

Figure = dict[str, object]  # what sliders.js draws
PLACES = (0, 1, 10, 50, 100, 200, 300, 400, 464)
TEMPERATURES = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3)
TOP_P = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1)
EXPERTS = (2, 4, 8, 16, 32, 64, 128)
CHOSEN = (1, 2, 4, 8, 16)
MIXTURES = {  # experts and how many of them each token gets
    "1 of 1": (1, 1), "2 of 8": (8, 2), "1 of 16": (16, 1), "8 of 64": (64, 8),
    "4 of 128": (128, 4), "8 of 256": (256, 8),
}  # fmt: skip
ACCEPTED = (0, 0.2, 0.4, 0.6, 0.8, 0.9)
GUESSES = (1, 2, 3, 5, 8)


class _Reached(Exception):
    """The cell with the widget was reached."""


def arguments(path: Path, widget: str) -> list[object]:
    """What a chapter passes to `widgets.NAME`, its figures not drawn and its widgets not built."""
    found: list[object] = []

    def stop(*values: object, **named: object) -> None:
        found.extend([*values, *named.values()])
        raise _Reached

    namespace: dict[str, object] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(_Reached):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            tags = set(cell["metadata"].get("tags", []))
            if cell["cell_type"] == "code" and not tags & {"exercise", "check", "solution"}:
                try:
                    _run("".join(cell["source"]), namespace, {widget: stop})
                except Exception as error:
                    if isinstance(error, _Reached) or "raises-exception" not in tags:
                        raise
    if not found:
        raise ValueError(f"{path.name} has no cell with widgets.{widget}(...)")
    return found


def _run(source: str, namespace: dict[str, object], stops: Mapping[str, Callable]) -> None:
    tree = ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))
    namespace["widgets"] = SimpleNamespace(**stops)
    tree.body = [
        node for node in tree.body
        if not (isinstance(node, ast.ImportFrom) and node.names[0].name == "widgets")
    ]  # fmt: skip
    exec(compile(tree, "<cell>", "exec"), namespace)


def rounded(values: Tensor | list[float], digits: int = 4) -> list[float]:
    """Numbers short enough to travel in a page."""
    listed = values.tolist() if isinstance(values, Tensor) else values
    return [round(float(value), digits) for value in listed]


def frames(draw: Callable[..., object], *values: tuple) -> dict[str, object]:
    """A frame for every combination of the sliders' values, named by their places: "0,2"."""
    places = itertools.product(*(range(len(v)) for v in values))
    return {
        ",".join(map(str, at)): draw(*(v[i] for v, i in zip(values, at, strict=True)))
        for at in places
    }


def slider(name: str, values: tuple, start: object) -> dict[str, object]:
    return {"name": name, "values": [f"{value}" for value in values], "start": values.index(start)}


def offset_slider(path: Path) -> Figure:
    """Chapter 04: scores of two key positions, rotated and added."""
    offsets, panels_at, _ = arguments(path, "offset_slider")
    first = panels_at(0)

    def draw(place: int) -> list[list[float]]:
        panels = panels_at(place)
        return [rounded(panels[title][f"key at {place}"]) for title in panels]

    return {
        "kind": "lines", "x": rounded(offsets), "xlabel": "offset: query position - key position",
        "ylabel": "score q.k", "panels": list(first),
        "fixed": [{"key at 0": rounded(curves["key at 0"])} for curves in first.values()],
        "moving": "key at {0}", "sliders": [slider("position of the key", PLACES, 0)],
        "frames": frames(lambda place: draw(place), PLACES),
    }  # fmt: skip


def sampling_slider(path: Path) -> Figure:
    """Chapter 09: one distribution under temperature, top-k and top-p."""
    logits, symbols = arguments(path, "sampling_slider")
    most = len(symbols)
    top_k = (1, 2, 3, 5, 8, most)

    def draw(temperature: float, k: int, p: float) -> list[list[float]]:
        before = next_token_probs(logits, temperature)
        return [rounded(before), rounded(next_token_probs(logits, temperature, k, p))]

    return {
        "kind": "bars", "symbols": [visible(symbol) for symbol in symbols],
        "xlabel": "next character", "ylabel": "probability",
        "sliders": [
            slider("temperature (0: greedy)", TEMPERATURES, 1),
            slider(f"top-k ({most}: all)", top_k, most), slider("top-p (1: all)", TOP_P, 1),
        ],
        "frames": frames(draw, TEMPERATURES, top_k, TOP_P),
    }  # fmt: skip


def drift_slider(path: Path) -> Figure:
    """Chapter 11: the max violation of a drifting router under the sign update's rate."""
    every = slice(None, None, 2)

    def curve(values: list[float]) -> list[float]:
        return rounded(smooth(Tensor(values), 20)[every], 3)

    fixed = {"no bias": curve(drift(None)), "quantile": curve(drift("quantile"))}
    return {
        "kind": "lines", "x": list(range(1, 201))[every], "xlabel": "step",
        "ylabel": "max violation, mean of 20 steps", "panels": [""], "fixed": [fixed],
        "moving": "sign, rate {0}", "from_zero": True,
        "sliders": [slider("rate of the sign update", RATES, 0.01)],
        "frames": frames(lambda rate: [curve(drift("bias", rate=rate))], RATES),
    }  # fmt: skip


def touched_slider(path: Path) -> Figure:
    """Chapter 13: different experts that tokens at once need."""
    (batches,) = arguments(path, "touched_slider")

    def draw(num_experts: int, top_k: int) -> list[list[float]]:
        return [
            rounded([experts_touched(num_experts, min(num_experts, top_k), b) for b in batches])
        ]

    return {
        "kind": "lines", "x": list(range(len(batches))), "ticks": [str(b) for b in batches],
        "xlabel": "tokens at once", "ylabel": "different experts", "panels": [""], "fixed": [{}],
        "moving": "{1} of {0}", "from_zero": True,
        "sliders": [
            slider("experts", EXPERTS, 32), slider("experts per token (at most all)", CHOSEN, 2),
        ],
        "frames": frames(draw, EXPERTS, CHOSEN),
    }  # fmt: skip


def training_strip(path: Path) -> Figure:
    """Chapter 12: which expert each character of a text goes to, over the training, per layer."""
    text, strip, _ = arguments(path, "training_strip")
    steps, layers = tuple(strip), tuple(range(1, len(next(iter(strip.values()))) + 1))
    return {
        "kind": "strip", "text": [visible(char) for char in text], "colors": list(EXPERT_COLORS),
        "sliders": [slider("training step", steps, steps[0]), slider("layer", layers, 1)],
        "frames": frames(lambda step, layer: strip[step][layer - 1], steps, layers),
    }  # fmt: skip


def gain_slider(path: Path) -> Figure:
    """Chapter 16: how many times faster a draft makes writing, of a mixture and a dense model."""
    batches, gain = arguments(path, "gain_slider")

    def draw(mixture: str, accepted: float, length: int) -> list[list[list[float]]]:
        return [[
            rounded([gain(*shape, batch, accepted, length) for batch in batches], 3)
            for shape in (MIXTURES[mixture], MIXTURES["1 of 1"])
        ]]  # fmt: skip

    return {
        "kind": "lines", "x": list(range(len(batches))),
        "ticks": [str(b) if i % 2 == 0 else "" for i, b in enumerate(batches)],
        "xlabel": "texts at once", "ylabel": "times faster", "panels": [""],
        "fixed": [{"without guesses": [1] * len(batches)}], "moving": ["{0}", "dense"],
        "from_zero": True,
        "sliders": [
            slider("experts per token, of all", tuple(MIXTURES), "8 of 256"),
            slider("share of accepted guesses", ACCEPTED, 0.8),
            slider("guesses per pass", GUESSES, 3),
        ],
        "frames": frames(draw, tuple(MIXTURES), ACCEPTED, GUESSES),
    }  # fmt: skip


def hand_router(path: Path) -> Figure:
    """Chapter 07: a text whose characters the reader sends to four experts."""
    text, *_ = arguments(path, "hand_router")
    return {
        "kind": "router", "text": [visible(char) for char in text],
        "colors": [expert_colors(expert) for expert in range(4)],
    }  # fmt: skip


SLIDERS: dict[str, Callable[[Path], Figure]] = {
    each.__name__: each
    for each in (
        offset_slider, sampling_slider, drift_slider, touched_slider, training_strip, gain_slider,
        hand_router,
    )
}  # fmt: skip
