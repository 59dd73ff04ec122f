"""The model of the page for the reader's browser: one step of generation as an ONNX graph.

The graph is exported from the library's own modules when the site is built, and compared with them.
"""

import contextlib
import gzip
import io
import logging
import warnings
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from shown import Shown, page
from step import Step
from torch import Tensor

from moe_tutorial.config import ModelConfig
from moe_tutorial.model import MoELanguageModel

MOST_MEGABYTES = 10  # that the page may load for its first text
EVERY_PAGE = 2.7  # megabytes of style and scripts of every page of the site, at most


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
    return halved(program.model_proto).SerializeToString()


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every tensor in float16 that is exact there, and a node that widens it."""
    graph, casts = proto.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype("float16") if values.dtype == "float32" else values
        if values.dtype == "float32" and (half == values).all():
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=1))  # float32
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


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
        difference = (torch.from_numpy(logits) - expected[0, i]).abs().max().item()
        same = torch.equal(torch.from_numpy(experts), torch.stack([r.experts[i] for r in routings]))
        if not (same and difference <= tolerance):  # NaN is refused, too
            raise ValueError(
                f"the graph differs from the library by {difference:.1e} at character {i}"
            )
        worst = max(worst, difference)
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
    if megabytes + EVERY_PAGE >= MOST_MEGABYTES:
        raise ValueError(
            f"the first text would load {megabytes:.1f} MB beside the {EVERY_PAGE} of every page, "
            f"and {MOST_MEGABYTES} in all are too many; give a smaller model"
        )
    return page(shown, megabytes)
