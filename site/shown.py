"""Which model writes in the page, and what the page says of it.

Without a run folder it is the committed one of chapter 12; its training is not repeated here.
"""

import html
import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
from gather import ROOT
from torch import Tensor

from moe_tutorial.checkpoint import load_model
from moe_tutorial.command.hocon import load_config
from moe_tutorial.command.terminal import visible
from moe_tutorial.config import Config
from moe_tutorial.experiments.ask import ASKED, specialists
from moe_tutorial.experiments.base import MODEL
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.plots import EXPERT_COLORS
from moe_tutorial.sampling import generate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.trust import at_home, pointed, verified

PROMPT = "The old fox"
COMPARED = 256  # characters at most, over which graph and library are compared
# Keys of the section training that are told elsewhere, or do not change a weight.
APART = {"dataset", "data_dir", "num_workers", "eval_steps", "save_steps"}


class Shown(NamedTuple):
    """A model with what its page needs."""

    model: MoELanguageModel  # in evaluation mode, with weights that float16 holds
    tokenizer: CharTokenizer
    prompt: str  # what stands in the form at first
    tokens: Tensor  # (T,) over which graph and library are compared
    who: str  # the beginning of a sentence, in Markdown
    training: str  # on what, how long
    differences: list[str]  # settings that are not those of config.hocon


def committed() -> Shown:
    """The model of chapter 12."""
    model, texts = specialists()
    return Shown(
        model, texts.tokenizer, PROMPT, texts.validation[: model.config.max_seq_len],
        "The model that [chapter 12](notebooks/12_specialists.ipynb) takes apart",
        f"on `fables` for {ASKED.max_steps:,} steps",
        differences(Config(model=MODEL, training=ASKED)),
    )  # fmt: skip


def trained(folder: str | Path) -> Shown:
    """The best model of a run folder, which `train` wrote.

    Raises: CheckpointError or ConfigError, one line, naming the file and the reason.
    """
    folder = at_home(folder)
    model, tokenizer, config = load_model(folder)
    with torch.no_grad():  # half as much to load; the model of chapter 12 is stored so
        for weight in model.parameters():
            weight.copy_(weight.half())
    counters = verified(folder, pointed(folder, "best")).counters
    prompt, others = first_prompt(config, tokenizer), differences(config)
    usual_text = load_config(ROOT / "config.hocon").training.dataset
    who = "A model that was trained for this site"
    if counters["step"] == 0:  # of its training the folder tells nothing
        who = "A model that was imported for this site"
        others = [each for each in others if each.startswith("model.")]
    elif not others and config.training.dataset == usual_text:
        who = "The model that `make train` trains"
    tokens = own_text(model, tokenizer.encode(prompt))
    return Shown(model, tokenizer, prompt, tokens, who, how_trained(config, counters), others)


def how_trained(config: Config, counters: dict[str, float | None]) -> str:
    """On which text, how long, and how well it came to read the held-out part."""
    if counters["step"] == 0:
        return "elsewhere"
    told = f"on {named(config.training.dataset)} for {counters['step']:,} steps"
    loss = counters["validation_loss"]
    if loss is None:
        return told
    return f"{told} (held-out loss {loss:.3f} nats per character before rounding)"


def named(dataset: str) -> str:
    """The name of a text as code. Of a path on the builder's machine only the last part is told."""
    path = Path(dataset).expanduser()
    name = path.name if path.anchor else dataset
    return f"`{visible(name).replace('`', chr(39))}`"


def differences(config: Config) -> list[str]:
    """Settings of model and training that are not those of config.hocon, as key = value."""
    usual, found = load_config(ROOT / "config.hocon"), []
    for section in ("model", "training"):
        values = getattr(config, section).model_dump(exclude=APART)
        for key, value in values.items():
            if value != getattr(getattr(usual, section), key):
                shown = f"{value:g}" if isinstance(value, float) else json.dumps(value)
                found.append(f"{section}.{key} = {shown}")
    return found


def first_prompt(config: Config, tokenizer: CharTokenizer) -> str:
    """A line that the model can read: that of the settings, the usual one, or one symbol."""
    for line in ((config.inference.prompt or "").partition("\n")[0], PROMPT):
        if line and set(line) <= tokenizer.char_to_int.keys():
            return line
    symbols = tokenizer.int_to_char
    return next((symbol for symbol in symbols if symbol.isalnum()), symbols[0])


def own_text(model: MoELanguageModel, prompt: Tensor) -> Tensor:
    """What the model itself writes, as far as its context. Shapes: prompt (P,) -> (T,)."""
    length = min(model.config.max_seq_len, COMPARED)
    new = generate(
        model, prompt, max_new_tokens=length, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    tokens = torch.tensor([*prompt.tolist(), *(each.token for each in new)])
    return tokens[:length]


def described(shown: Shown, megabytes: float) -> str:
    """What the page says of the model, as one paragraph of Markdown."""
    config, others = shown.model.config, ", ".join(f"`{each}`" for each in shown.differences)
    layers = f"{config.num_layers} layer{'s' * (config.num_layers > 1)}"
    parameters = sum(p.numel() for p in shown.model.parameters())
    return (
        f"{shown.who} writes here, in your browser: {layers} of {config.num_experts} experts, "
        f"{config.top_k} for each character, {parameters:,} parameters rounded to float16, "
        f"trained {shown.training}. Its settings are those of [config.hocon](settings.md)"
        f"{f', but for {others}' if others else ''}. "
        f"The first text loads {megabytes:.1f} MB from this site; nothing is sent anywhere."
    )


def page(shown: Shown, megabytes: float) -> str:
    """The paragraph, and the form with its data; writer.js does the rest."""
    config, symbols = shown.model.config, shown.tokenizer.int_to_char
    colors = [EXPERT_COLORS[e % len(EXPERT_COLORS)] for e in range(config.num_experts)]
    data = {
        "symbols": symbols, "layers": config.num_layers, "heads": config.num_heads,
        "head_dim": config.dim // config.num_heads, "top_k": config.top_k,
        "max_seq_len": config.max_seq_len, "colors": colors, "dark": EXPERT_COLORS[0],
        "files": {
            "mjs": "_static/onnxruntime/ort-wasm-simd-threaded.mjs",
            "wasm": "_static/onnxruntime/ort-wasm-simd-threaded.wasm.gz",
            "model": "_static/model.onnx.gz",
        },
    }  # fmt: skip
    values = {
        "DATA": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "LAYERS": "".join(
            f'<option value="{i}">{i + 1}</option>' for i in range(config.num_layers)
        ),
        "LEGEND": "".join(
            f'<span><i style="background:{color}"></i>expert {e}</span>'
            for e, color in enumerate(colors)
        ),
        "MOST": str(len(symbols)),
        "PROMPT": html.escape(shown.prompt),
    }
    form = (ROOT / "site" / "writer.html").read_text(encoding="utf-8")
    form = re.sub(r"%([A-Z]+)%", lambda match: values[match[1]], form)
    return f"{described(shown, megabytes)}\n\n{form}\n"
