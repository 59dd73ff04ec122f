"""The model of chapter 12 for the reader's browser: one step of generation as an ONNX graph.

The graph is exported from the library's own modules, once, when the site is built.
"""

import contextlib
import gzip
import io
import json
import logging
import warnings
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F
from gather import ROOT
from torch import Tensor, nn

from moe_tutorial.experiments.ask import specialists
from moe_tutorial.experiments.base import Texts
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import swiglu
from moe_tutorial.plots import EXPERT_COLORS
from moe_tutorial.rope import apply_rope


class Step(nn.Module):
    """One character after the cached ones. T = 1, so no mask is needed and experts are looked up.

    Shapes: token (1, 1) and position (1,) int64, cache (L, 2, 1, H, S, Dh)
    -> logits (V,), experts (L, K) int64, cache (L, 2, 1, H, S + 1, Dh).
    Differs from the library: the experts' matrices are stacked, (E, D, F), because a graph has no
    loop over the chosen.
    """

    def __init__(self, model: MoELanguageModel) -> None:
        super().__init__()
        self.model = model
        for i, block in enumerate(model.blocks):
            for name in ("w_gate", "w_up", "w_down"):
                stacked = torch.stack([getattr(e, name) for e in block.moe.experts]).detach()
                self.register_buffer(f"{name}_{i}", stacked)

    def forward(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        cos, sin = self.model.cos[position], self.model.sin[position]  # (1, Dh)
        x = self.model.embedding(token)  # (1, 1, D)
        chosen, caches = [], []
        for i, block in enumerate(self.model.blocks):
            y, kept = self.attend(block.attention, block.attention_norm(x), cos, sin, cache[i])
            x = x + y  # (1, 1, D)
            row = block.moe_norm(x)[0]  # (1, D)
            routing = block.moe.router(row)
            weights = (
                getattr(self, f"{n}_{i}")[routing.experts[0]] for n in ("w_gate", "w_up", "w_down")
            )
            outputs = swiglu(row, *weights)  # (K, 1, D)
            x = x + (routing.weights[0, :, None, None] * outputs).sum(dim=0)  # (1, 1, D)
            chosen.append(routing.experts[0])
            caches.append(kept)
        logits = self.model.head(self.model.norm(x))[0, 0]  # (V,)
        return logits, torch.stack(chosen), torch.stack(caches)

    def attend(
        self, attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `CausalSelfAttention` computes for one new position, with the cache as a tensor."""
        q, k, v = (attention.split_heads(part) for part in attention.qkv(x).chunk(3, dim=-1))
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)  # (1, H, 1, Dh)
        kept = torch.cat((cache, torch.stack((k, v))), dim=-2)  # (2, 1, H, S + 1, Dh)
        y = F.scaled_dot_product_attention(q, kept[0], kept[1])  # (1, H, 1, Dh)
        return attention.out(y.transpose(1, 2).flatten(2)), kept


def export(model: MoELanguageModel) -> bytes:
    """The graph with its weights."""
    config = model.config
    size = (config.num_layers, 2, 1, config.num_heads, 3, config.dim // config.num_heads)
    example = (torch.zeros(1, 1, dtype=torch.long), torch.tensor([3]), torch.zeros(size))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # about deprecations inside the exporter
        program = torch.onnx.export(
            Step(model).eval(), example, dynamo=True, verbose=False,
            input_names=["token", "position", "cache"],
            output_names=["logits", "experts", "kept"],
            dynamic_shapes=({}, {}, {4: torch.export.Dim("S", min=0, max=config.max_seq_len)}),
        )  # fmt: skip
    return program.model_proto.SerializeToString()


def verify(model: MoELanguageModel, graph: bytes, tokens: Tensor, tolerance: float = 1e-4) -> float:
    """The largest difference of the graph's logits from the library's over these tokens (T,).

    Raises: ValueError if it is above the tolerance, or if the graph chooses other experts.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    config, worst = model.config, 0.0
    size = (config.num_layers, 2, 1, config.num_heads, 0, config.dim // config.num_heads)
    cache = torch.zeros(size).numpy()
    with torch.inference_mode():
        expected, routings = model(tokens[None])
    for i in range(len(tokens)):
        inputs = {"token": tokens[None, i : i + 1].numpy(), "position": torch.tensor([i]).numpy()}
        logits, experts, cache = session.run(None, {**inputs, "cache": cache})
        worst = max(worst, (torch.from_numpy(logits) - expected[0, i]).abs().max().item())
        same = torch.equal(torch.from_numpy(experts), torch.stack([r.experts[i] for r in routings]))
        if not (same and worst <= tolerance):
            raise ValueError(f"the graph differs from the library by {worst:.1e} at character {i}")
    return worst


def write_model(folder: Path) -> str:
    """Put the verified graph, packed, into the folder; what the page shows, as HTML in Markdown.

    A graph that lies there and still computes what the library computes is kept.
    """
    model, texts = specialists()
    tokens, packed = texts.validation[: model.config.max_seq_len], folder / "model.onnx.gz"
    try:
        verify(model, gzip.decompress(packed.read_bytes()), tokens)
    except (OSError, ValueError):
        graph = export(model)
        verify(model, graph, tokens)
        packed.write_bytes(gzip.compress(graph, mtime=0))
    files = [packed, *sorted((folder / "onnxruntime").iterdir())]
    return page(model, texts, sum(file.stat().st_size for file in files) / 1e6)


def page(model: MoELanguageModel, texts: Texts, megabytes: float) -> str:
    """The form with its data; writer.js does the rest."""
    config, symbols = model.config, texts.tokenizer.decode(range(texts.tokenizer.vocab_size))
    data = {
        "symbols": list(symbols), "layers": config.num_layers, "heads": config.num_heads,
        "head_dim": config.dim // config.num_heads, "top_k": config.top_k,
        "max_seq_len": config.max_seq_len, "colors": list(EXPERT_COLORS),
        "files": {
            "mjs": "_static/onnxruntime/ort-wasm-simd-threaded.mjs",
            "wasm": "_static/onnxruntime/ort-wasm-simd-threaded.wasm.gz",
            "model": "_static/model.onnx.gz",
        },
    }  # fmt: skip
    form = (ROOT / "site" / "writer.html").read_text(encoding="utf-8")
    layers = "".join(f'<option value="{i}">{i + 1}</option>' for i in range(config.num_layers))
    legend = "".join(
        f'<span><i style="background:{color}"></i>expert {e}</span>'
        for e, color in enumerate(EXPERT_COLORS[: config.num_experts])
    )
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    for name, value in (("DATA", text), ("LAYERS", layers), ("LEGEND", legend),
                        ("MOST", str(len(symbols)))):  # fmt: skip
        form = form.replace(f"%{name}%", value)
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"The model that [chapter 12](notebooks/12_specialists.ipynb) takes apart writes here, in "
        f"your browser: {config.num_layers} layers of {config.num_experts} experts, "
        f"{config.top_k} for each character, {parameters:,} parameters, trained on the fables. "
        f"The first text loads {megabytes:.1f} MB from this site; nothing is sent anywhere.\n\n"
        f"{form}\n"
    )
