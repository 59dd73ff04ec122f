"""Shape comments are executed: every `name = ...  # (B, T, D)` is compared with the real shape.

Each size is a different number, so that a comment cannot be right by accident.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from moe_tutorial.batching import evaluation_batches, random_batch
from moe_tutorial.command.log import as_json, log_line
from moe_tutorial.config import ModelConfig, TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import dispatch_few
from moe_tutorial.parallel import ExpertParallelMoE, bytes_leaving, rows_between
from moe_tutorial.plots import history_figure
from moe_tutorial.routers import Switches, route_by
from moe_tutorial.sampling import generate
from moe_tutorial.training import StepRecord, start_training, train

SIZES = {"B": 3, "T": 7, "H": 2, "Dh": 10, "D": 20, "F": 13, "E": 11, "K": 5, "V": 17, "L": 4,
         "N": 21, "G": 11, "S": 7, "steps": 19, "R": 1, "M": 105}  # fmt: skip
MODULES = ("batching", "rope", "rmsnorm", "attention", "moe", "model", "training", "sampling",
           "routers", "parallel", "command.log", "plots.history")  # fmt: skip
COMMENT = re.compile(r"#\s*\(([\w\s*+/,.]+)\)")
Claims = dict[int, tuple[str, str]]  # line -> variable, shape as written


def as_shape(text: str) -> tuple[int, ...]:
    dims = [dim.strip() for dim in text.split(",") if dim.strip()]
    return tuple(int(eval(dim, {}, SIZES)) for dim in dims)


def claims_of(function: FunctionType) -> Claims:
    lines, first = inspect.getsourcelines(function)
    found: Claims = {}
    for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))):
        comment = (
            COMMENT.search(lines[node.end_lineno - 1]) if isinstance(node, ast.Assign) else None
        )
        if comment and isinstance(node.targets[0], ast.Name):
            found[first + node.lineno - 1] = (node.targets[0].id, comment[1])
    return found


def functions() -> Iterator[FunctionType]:
    for name in MODULES:
        module = importlib.import_module(f"moe_tutorial.{name}")
        for thing in vars(module).values():
            members = vars(thing).values() if inspect.isclass(thing) else [thing]
            for member in members:
                function = inspect.unwrap(member) if callable(member) else member
                code = getattr(function, "__code__", None)
                if code is not None and code.co_filename == module.__file__:
                    yield function


class ShapeTracer:
    """Compares claims with shapes while code runs under `sys.settrace`."""

    def __init__(self, claims: dict[CodeType, Claims]) -> None:
        self.claims = claims
        self.seen: set[tuple[CodeType, int]] = set()
        self.wrong: set[str] = set()

    def run(self, call: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(self.enter)
        try:
            call()
        finally:
            sys.settrace(before)

    def enter(self, frame: FrameType, event: str, arg: object) -> Callable | None:
        claims = self.claims.get(frame.f_code)
        if not claims:
            return None
        waiting: list[int] = []

        def local(frame: FrameType, event: str, arg: object) -> Callable:
            if event in ("line", "return"):
                while waiting:
                    self.compare(frame, waiting.pop(), claims)
                if event == "line" and frame.f_lineno in claims:
                    waiting.append(frame.f_lineno)
            return local

        return local

    def compare(self, frame: FrameType, line: int, claims: Claims) -> None:
        name, shape = claims[line]
        value = frame.f_locals.get(name)
        if isinstance(value, Tensor):
            self.seen.add((frame.f_code, line))
            if tuple(value.shape) != as_shape(shape):
                where = f"{frame.f_code.co_qualname} line {line}"
                self.wrong.add(f"{where}: {name} is {tuple(value.shape)}, not ({shape})")


def drive() -> None:
    """Run every part of the library that has shape comments, in the sizes of SIZES."""
    for router, shared in (("softmax", False), ("sigmoid", True)):
        config = ModelConfig(
            dim=20, num_heads=2, num_layers=4, num_experts=11, top_k=5, hidden_dim=13,
            router=router, shared_expert=shared, max_seq_len=7,
        )  # fmt: skip
        training = TrainingConfig(
            batch_size=3, seq_len=7, max_steps=19, epochs=99, eval_steps=19, warmup_steps=0
        )
        ids = torch.arange(17).repeat(5)
        model = MoELanguageModel(config, 17)
        records = list(train(start_training(model, training), ids, ids[:22], training))
        moe = model.blocks[0].moe
        few = torch.randn(21, 20)
        with torch.no_grad():
            dispatch_few(few, moe.router(few), moe.experts, scale_input=shared)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        _, routing = ExpertParallelMoE(moe)(torch.randn(3, 7, 20))  # one rank: R = 1, M = N*K
        dist.destroy_process_group()
        bytes_leaving(rows_between([routing.experts], 11), row_bytes=80)
        log_line(records)
        history_figure([as_json(record) for record in records], {"unigram": 3.0})
    random_batch(ids, 3, 7, torch.Generator())
    grouped = Switches(groups=11, kept_groups=6, normalize=True)
    route_by(torch.randn(21, 11), 5, grouped)
    switched = MoELanguageModel(config.model_copy(update={"router_scale": 2.0}), 17)
    switched.blocks[0].moe.router(torch.randn(21, 20))


@pytest.fixture(scope="module")
def tracer() -> ShapeTracer:
    tracer = ShapeTracer({f.__code__: claims_of(f) for f in functions()})
    tracer.run(drive)
    return tracer


def test_no_shape_comment_lies(tracer):
    assert not tracer.wrong


def test_every_shape_comment_was_executed(tracer):
    all_claims = {(code, line) for code, claims in tracer.claims.items() for line in claims}
    missed = [f"{code.co_qualname} line {line}" for code, line in all_claims - tracer.seen]
    assert not missed
    assert len(all_claims) >= 20


def test_a_lie_would_be_caught():
    def lying(x: Tensor) -> Tensor:
        y = x.T  # (B, T)
        return y

    tracer = ShapeTracer({lying.__code__: claims_of(lying)})
    tracer.run(lambda: lying(torch.zeros(3, 7)))
    assert [text.split(": ")[1] for text in tracer.wrong] == ["y is (7, 3), not (B, T)"]


def test_fields_of_named_tuples_have_the_shapes_in_their_comments():
    config = ModelConfig(
        dim=20, num_heads=2, num_layers=4, num_experts=11, top_k=5, hidden_dim=13, max_seq_len=7
    )
    model = MoELanguageModel(config, 17)
    output = model(torch.zeros(3, 7, dtype=torch.long))
    token = next(generate(model, torch.tensor([1]), max_new_tokens=1))
    training = TrainingConfig(batch_size=3, seq_len=7, max_steps=1)
    record = next(iter(train(start_training(model, training), *[torch.arange(17)] * 2, training)))
    assert isinstance(record, StepRecord)
    checked = 0
    for value in (output, output.routings[0], token, record):
        for line in inspect.getsource(type(value)).splitlines():
            field, comment = line.strip().partition(":")[0], COMMENT.search(line)
            if comment:
                assert tuple(getattr(value, field).shape) == as_shape(comment[1]), line
                checked += 1
    assert checked == 7


def test_evaluation_batches_have_the_shapes_of_their_docstring():
    assert [tuple(x.shape) for x, _ in evaluation_batches(torch.arange(40), 3, 7)] == [
        (3, 7),
        (2, 7),
        (1, 4),
    ]
