"""Three published architectures, and how their names and tensors are made from ours. Chapter 10.

Which one computes the same as a model of this library follows from its configuration:
MixtralForCausalLM (softmax router, no shared expert), GraniteMoeSharedForCausalLM (softmax router,
shared expert) and Llama4ForCausalLM (sigmoid router, shared expert; the text model). These are the
classes of Hugging Face's transformers 5 and the names in the files that it reads.

Shape letters: D dim, H heads, Dh head size, E experts, F hidden_dim.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from moe_tutorial.config import ModelConfig
from moe_tutorial.moe import RouterKind, default_hidden_dim
from moe_tutorial.rope import to_half_split, to_interleaved
from moe_tutorial.routers import switches_of

Tensors = list[Tensor]
Settings = dict[str, object]


class Step(NamedTuple):
    """One change of layout and its inverse."""

    there: Callable[[Tensors], Tensors]
    back: Callable[[Tensors], Tensors]


def _transpose(tensors: Tensors) -> Tensors:
    return [tensor.mT for tensor in tensors]


TRANSPOSE = Step(_transpose, _transpose)  # we multiply x @ w; a Linear layer stores the transpose
SPLIT = Step(lambda one: list(one[0].chunk(3)), lambda three: [torch.cat(three)])
STACK = Step(lambda many: [torch.stack(many)], lambda one: list(one[0].unbind()))
JOIN = Step(  # gate and up of an expert side by side, gate first
    lambda parts: [torch.cat(pair, -1) for pair in zip(parts[::2], parts[1::2], strict=True)],
    lambda joined: [half for both in joined for half in both.chunk(2, -1)],
)


def _interleave(num_heads: int) -> Step:
    """Rows of q and k in the order of Meta's pairs (2i, 2i + 1); v has no pairs."""

    def rows(w: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
        return order(w.unflatten(0, (num_heads, -1)).mT).mT.flatten(0, 1)

    def there(qkv: Tensors) -> Tensors:
        return [rows(qkv[0], to_interleaved), rows(qkv[1], to_interleaved), qkv[2]]

    def back(qkv: Tensors) -> Tensors:
        return [rows(qkv[0], to_half_split), rows(qkv[1], to_half_split), qkv[2]]

    return Step(there, back)


class Rule(NamedTuple):
    """Tensors of ours (names after blocks.i.), tensors of theirs (after model.layers.i.), steps."""

    ours: str
    theirs: str
    steps: tuple[Step, ...] = ()


QKV = "attention.qkv.weight"
THEIR_QKV = "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight"


def _experts(model: ModelConfig, *names: str) -> str:
    """The named matrices of all experts of a layer, expert by expert."""
    return " ".join(f"moe.experts.{e}.{name}" for e in range(model.num_experts) for name in names)


def _mixtral(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    theirs = "block_sparse_moe.experts"
    return {"sliding_window": None}, [
        Rule(QKV, THEIR_QKV, (SPLIT,)),
        Rule("moe.router.scores.weight", "block_sparse_moe.gate.weight"),
        *(
            Rule(f"moe.experts.{e}.{name}", f"{theirs}.{e}.{number}.weight", (TRANSPOSE,))
            for e in range(model.num_experts)
            for name, number in (("w_gate", "w1"), ("w_down", "w2"), ("w_up", "w3"))
        ),
    ]


def _granite(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    settings = {
        "shared_intermediate_size": _hidden_dim(model),
        "attention_multiplier": (model.dim // model.num_heads) ** -0.5,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "attention_bias": False,
    }
    ours, theirs, shared = "moe.shared_expert", "block_sparse_moe", "shared_mlp"
    gates, downs = _experts(model, "w_gate", "w_up"), _experts(model, "w_down")
    return settings, [
        Rule(QKV, THEIR_QKV, (SPLIT,)),
        Rule("moe.router.scores.weight", f"{theirs}.router.layer.weight"),
        Rule(gates, f"{theirs}.input_linear.weight", (JOIN, TRANSPOSE, STACK)),
        Rule(downs, f"{theirs}.output_linear.weight", (TRANSPOSE, STACK)),
        Rule(f"{ours}.w_gate {ours}.w_up", f"{shared}.input_linear.weight", (JOIN, TRANSPOSE)),
        Rule(f"{ours}.w_down", f"{shared}.output_linear.weight", (TRANSPOSE,)),
    ]


def _llama4(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    settings = {
        "head_dim": model.dim // model.num_heads,
        "no_rope_layers": [1] * model.num_layers,  # 1 means that RoPE is used
        "layer_types": ["full_attention"] * model.num_layers,
        "attention_chunk_size": model.max_seq_len,  # must be a number, though no layer uses it
        "moe_layers": list(range(model.num_layers)),
        "use_qk_norm": False,
        "attn_temperature_tuning": False,
        "attention_bias": False,
    }
    ours, theirs = "moe.shared_expert", "feed_forward.shared_expert"
    return settings, [
        Rule(QKV, THEIR_QKV, (SPLIT, _interleave(model.num_heads))),
        Rule("moe.router.scores.weight", "feed_forward.router.weight"),
        Rule(_experts(model, "w_gate", "w_up"), "feed_forward.experts.gate_up_proj", (JOIN, STACK)),
        Rule(_experts(model, "w_down"), "feed_forward.experts.down_proj", (STACK,)),
        Rule(f"{ours}.w_gate", f"{theirs}.gate_proj.weight", (TRANSPOSE,)),
        Rule(f"{ours}.w_up", f"{theirs}.up_proj.weight", (TRANSPOSE,)),
        Rule(f"{ours}.w_down", f"{theirs}.down_proj.weight", (TRANSPOSE,)),
    ]


class Family(NamedTuple):
    """A published architecture."""

    architecture: str  # the class in transformers
    model_type: str
    router: RouterKind
    shared_expert: bool
    describe: Callable[[ModelConfig], tuple[Settings, list[Rule]]]


FAMILIES = (
    Family("MixtralForCausalLM", "mixtral", "softmax", False, _mixtral),
    Family("GraniteMoeSharedForCausalLM", "granitemoeshared", "softmax", True, _granite),
    Family("Llama4ForCausalLM", "llama4_text", "sigmoid", True, _llama4),
)
SAME_IN_EVERY_BLOCK = (
    Rule("attention_norm.weight", "input_layernorm.weight"),
    Rule("attention.out.weight", "self_attn.o_proj.weight"),
    Rule("moe_norm.weight", "post_attention_layernorm.weight"),
)
OUTSIDE_THE_BLOCKS = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
KEYS = {
    "dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    "num_experts": "num_local_experts", "top_k": "num_experts_per_tok",
    "hidden_dim": "intermediate_size", "max_seq_len": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}  # fmt: skip


def family_of(model: ModelConfig) -> Family:
    """The architecture that is made in the same way. Raises: ValueError if there is none."""
    if model.balance in ("bias", "quantile"):
        kind = f"balance={model.balance} is not exported: in none of the three classes does a bias"
        raise ValueError(f"{kind} choose; train with balance=loss or balance=none to export")
    if switches_of(model) is not None:
        keys = "router_score, router_normalize and router_scale"
        raise ValueError(f"{keys} are not exported; train with their defaults to export")
    for family in FAMILIES:
        if (family.router, family.shared_expert) == (model.router, model.shared_expert):
            return family
    choices = "; ".join(
        f"router={f.router} with shared_expert={str(f.shared_expert).lower()} as {f.architecture}"
        for f in FAMILIES
    )
    raise ValueError(
        f"router={model.router} with shared_expert={str(model.shared_expert).lower()} is not "
        f"exported, because none of the three classes is made so; what can be exported is {choices}"
    )


def architecture_settings(model: ModelConfig, vocab_size: int) -> Settings:
    """The keys of config.json that decide what is computed. Raises: ValueError as `family_of`."""
    family = family_of(model)
    return {
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        **{theirs: getattr(model, ours) for ours, theirs in KEYS.items()},
        "intermediate_size": _hidden_dim(model),
        "num_key_value_heads": model.num_heads,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        **family.describe(model)[0],
    }


def to_hugging_face(weights: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Their tensors, made from ours: the same numbers under other names and in other layouts.

    Shapes: the E w_gate (D, F) become E times (F, D) in Mixtral, the first half of (E, 2F, D) in
    GraniteMoeShared and of (E, D, 2F) in Llama 4; the qkv (3D, D) becomes three times (D, D).
    Raises: KeyError if a tensor is missing; ValueError as `family_of`.
    """
    result = {}
    for ours, theirs, steps in _rules(model):
        tensors = [weights[name] for name in ours]
        for step in steps:
            tensors = step.there(tensors)
        result.update(zip(theirs, _in_order(tensors), strict=True))
    return result


def to_ours(weights: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Our tensors, made from theirs: the inverse of `to_hugging_face`, bit for bit."""
    result = {}
    for ours, theirs, steps in _rules(model):
        tensors = [weights[name] for name in theirs]
        for step in reversed(steps):
            tensors = step.back(tensors)
        result.update(zip(ours, _in_order(tensors), strict=True))
    return result


def _in_order(tensors: Tensors) -> Tensors:
    return [tensor.contiguous() for tensor in tensors]  # only such ones can be saved


def _hidden_dim(model: ModelConfig) -> int:
    return model.hidden_dim or default_hidden_dim(model.dim)


def _rules(model: ModelConfig) -> Iterator[tuple[list[str], list[str], tuple[Step, ...]]]:
    """All tensors of a model, with full names."""
    for ours, theirs in OUTSIDE_THE_BLOCKS.items():
        yield [ours], [theirs], ()
    rules = [*SAME_IN_EVERY_BLOCK, *family_of(model).describe(model)[1]]
    for i in range(model.num_layers):
        for rule in rules:
            ours = [f"blocks.{i}.{name}" for name in rule.ours.split()]
            theirs = [f"model.layers.{i}.{name}" for name in rule.theirs.split()]
            yield ours, theirs, rule.steps
