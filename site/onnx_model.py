"""The model of the page for the reader's browser: one step of generation as an ONNX graph.

The graph is exported from the library's own modules when the site is built, and compared with them.
"""

import contextlib
import gzip
import io
import logging
import warnings
from pathlib import Path

import onnxruntime
import torch
from shown import Shown, page
from step import Step
from torch import Tensor

from moe_tutorial.config import ModelConfig
from moe_tutorial.model import MoELanguageModel

MOST_MEGABYTES = 10  # that the page may load for its first text


def empty_cache(config: ModelConfig, length: int = 0) -> Tensor:
    """Shapes: -> (L, 2, 1, H, length, Dh)."""
    head_dim = config.dim // config.num_heads
    return torch.zeros(config.num_layers, 2, 1, config.num_heads, length, head_dim)


def export(model: MoELanguageModel) -> bytes:
    """The graph with its weights."""
    config = model.config
    longest = max(config.max_seq_len, 4)  # the example is shorter than that
    example = (torch.zeros(1, 1, dtype=torch.long), torch.tensor([3]), empty_cache(config, 3))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # about deprecations inside the exporter
        program = torch.onnx.export(
            Step(model).eval(), example, dynamo=True, verbose=False,
            input_names=["token", "position", "cache"],
            output_names=["logits", "experts", "kept"],
            dynamic_shapes=({}, {}, {4: torch.export.Dim("S", min=0, max=longest)}),
        )  # fmt: skip
    return program.model_proto.SerializeToString()


def verify(model: MoELanguageModel, graph: bytes, tokens: Tensor, tolerance: float = 1e-4) -> float:
    """The largest difference of the graph's logits from the library's over these tokens (T,).

    Raises: ValueError if it is above the tolerance, or if the graph chooses other experts.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    cache, worst = empty_cache(model.config).numpy(), 0.0
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


def still_good(packed: Path, shown: Shown) -> bool:
    """Whether the graph of an earlier build is there and computes what this model computes."""
    try:
        verify(shown.model, gzip.decompress(packed.read_bytes()), shown.tokens)
    except Exception:  # no file, half a file, other sizes: onnxruntime has errors of its own
        return False
    return True


def write_model(folder: Path, shown: Shown) -> str:
    """Put the verified graph, packed, into the folder; what the page shows, as HTML in Markdown.

    A graph that lies there and still computes what the library computes is kept.
    Raises: ValueError if the graph is not the model, or the page would load too much.
    """
    packed = folder / "model.onnx.gz"
    if not still_good(packed, shown):
        graph = export(shown.model)
        verify(shown.model, graph, shown.tokens)
        packed.write_bytes(gzip.compress(graph, mtime=0))
    files = [packed, *sorted((folder / "onnxruntime").iterdir())]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    if megabytes >= MOST_MEGABYTES:
        raise ValueError(
            f"with this model the page would load {megabytes:.1f} MB, and {MOST_MEGABYTES} are too "
            f"many; give a smaller model"
        )
    return page(shown, megabytes)
