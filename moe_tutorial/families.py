"""Six published architectures, and how their names and tensors are made from ours. Chapter 10.

These are classes of Hugging Face's transformers 5 and the names in the files that it reads. Each of
them computes, with some of its settings, what a model of this library computes:
MixtralForCausalLM          softmax router, no shared expert
GraniteMoeSharedForCausalLM softmax router, shared expert
Llama4ForCausalLM           sigmoid router that scales inputs, shared expert (the text model)
Ernie4_5_MoeForCausalLM     softmax router whose choice a bias moves, shared expert or none
Glm4MoeForCausalLM          the router of DeepSeek-V3 (sigmoids, a bias, a scale), shared expert
MiMoV2FlashForCausalLM      the same router, no shared expert

Why no others (read in transformers 5.23): DeepseekV3ForCausalLM makes keys and values from a short
vector that it normalizes, and all heads share one rotated key. Softmax routers whose weights are
not divided by their sum: OLMoE, FlexOlmo, Qwen3-MoE and Mellum normalize q and k; Jamba has no
RoPE; Qwen2-MoE multiplies its shared expert by a sigmoid, and has that gate's weights even if the
expert has width 0; DeepSeek-V2 has the attention of V3. None of that can be switched off.

Shape letters: D dim, H heads, Dh head size, E experts, F hidden_dim.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from moe_tutorial.config import ModelConfig
from moe_tutorial.layouts import JOIN, SPLIT, STACK, TRANSPOSE, Rule, interleave
from moe_tutorial.moe import default_hidden_dim
from moe_tutorial.routers import switches_of

Settings = dict[str, object]
KEYS = {  # of the section model, and the names of most families
    "dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    "num_experts": "num_local_experts", "top_k": "num_experts_per_tok",
    "hidden_dim": "intermediate_size", "max_seq_len": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}  # fmt: skip
QKV = "attention.qkv.weight"
THEIR_QKV = "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight"


def _experts(model: ModelConfig, *names: str) -> str:
    """The named matrices of all experts of a layer, expert by expert."""
    return " ".join(f"moe.experts.{e}.{name}" for e in range(model.num_experts) for name in names)


def _hidden_dim(model: ModelConfig) -> int:
    return model.hidden_dim or default_hidden_dim(model.dim)


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
        Rule(QKV, THEIR_QKV, (SPLIT, interleave(model.num_heads))),
        Rule("moe.router.scores.weight", "feed_forward.router.weight"),
        Rule(_experts(model, "w_gate", "w_up"), "feed_forward.experts.gate_up_proj", (JOIN, STACK)),
        Rule(_experts(model, "w_down"), "feed_forward.experts.down_proj", (STACK,)),
        Rule(f"{ours}.w_gate", f"{theirs}.gate_proj.weight", (TRANSPOSE,)),
        Rule(f"{ours}.w_up", f"{theirs}.up_proj.weight", (TRANSPOSE,)),
        Rule(f"{ours}.w_down", f"{theirs}.down_proj.weight", (TRANSPOSE,)),
    ]


def _linears(model: ModelConfig, bias: Rule) -> list[Rule]:
    """The layout of Ernie 4.5, GLM-4.5 and MiMo-V2: every matrix is a Linear of its own."""
    places = [(f"moe.experts.{e}", f"mlp.experts.{e}") for e in range(model.num_experts)]
    if model.shared_expert:
        places.append(("moe.shared_expert", "mlp.shared_experts"))
    return [
        Rule("moe.router.scores.weight", "mlp.gate.weight"),
        bias,
        *(
            Rule(f"{ours}.w_{name}", f"{theirs}.{name}_proj.weight", (TRANSPOSE,))
            for ours, theirs in places
            for name in ("gate", "up", "down")
        ),
    ]


def _ernie(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    settings = {
        "moe_num_shared_experts": int(model.shared_expert),
        "moe_layer_start_index": 0,
        "moe_layer_end_index": model.num_layers - 1,
        "moe_layer_interval": 1,
        "moe_norm_min": 1e-12,  # the least sum of the chosen probabilities that is divided by
        "use_bias": False,  # in the Linear layers
    }
    bias = Rule("moe.router.bias", "mlp.moe_statics.e_score_correction_bias", (STACK,))  # (1, E)
    rules = _linears(model, bias)
    return settings, [Rule(QKV, THEIR_QKV, (SPLIT, interleave(model.num_heads))), *rules]


def _deepseek(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    """What GLM-4.5 and MiMo-V2 share. Raises: ValueError if there is only one expert."""
    if model.num_experts == 1:
        raise ValueError(
            "num_experts=1 is not exported with router_score=sigmoid and balance=bias, because the "
            "classes made so add up the two best scores; train with two experts or more to export"
        )
    settings = {
        "norm_topk_prob": switches_of(model).normalize,
        "n_group": 1,
        "topk_group": 1,
        "attention_bias": False,
    }
    bias = Rule("moe.router.bias", "mlp.gate.e_score_correction_bias")
    rules = _linears(model, bias)
    return settings, [Rule(QKV, THEIR_QKV, (SPLIT,)), *rules]


def _whole_rope(model: ModelConfig) -> Settings:
    """By default these two rotate only a part of each head."""
    return {
        "rope_type": "default", "rope_theta": model.rope_theta, "partial_rotary_factor": 1.0,
    }  # fmt: skip


def _glm(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    settings, rules = _deepseek(model)
    return settings | {
        "n_shared_experts": 1,
        "first_k_dense_replace": 0,
        "use_qk_norm": False,
        "rope_parameters": _whole_rope(model),
    }, rules


def _mimo(model: ModelConfig) -> tuple[Settings, list[Rule]]:
    settings, rules = _deepseek(model)
    head_dim = model.dim // model.num_heads
    return settings | {
        "head_dim": head_dim,
        "v_head_dim": head_dim,
        "attention_value_scale": 1.0,
        "layer_types": ["full_attention"] * model.num_layers,
        "mlp_layer_types": ["sparse"] * model.num_layers,
        "rope_parameters": {"full_attention": _whole_rope(model)},
    }, rules


class Family(NamedTuple):
    """A published architecture."""

    architecture: str  # the class in transformers
    model_type: str
    keys: Settings  # of the section model: with them ours is made in the same way
    describe: Callable[[ModelConfig], tuple[Settings, list[Rule]]]
    names: Mapping[str, str] = MappingProxyType({})  # as KEYS, where theirs are other or more


_DEEPSEEK = {"router_score": "sigmoid", "balance": "bias"}
_DEEPSEEK_NAMES = {
    "num_experts": "n_routed_experts", "hidden_dim": "moe_intermediate_size",
    "router_normalize": "norm_topk_prob", "router_scale": "routed_scaling_factor",
}  # fmt: skip
_ERNIE_NAMES = {
    "num_experts": "moe_num_experts", "top_k": "moe_k", "hidden_dim": "moe_intermediate_size",
    "shared_expert": "moe_num_shared_experts",
}  # fmt: skip
FAMILIES = (
    Family("MixtralForCausalLM", "mixtral",
           {"router": "softmax", "shared_expert": False}, _mixtral),
    Family("GraniteMoeSharedForCausalLM", "granitemoeshared",
           {"router": "softmax", "shared_expert": True}, _granite),
    Family("Llama4ForCausalLM", "llama4_text",
           {"router": "sigmoid", "shared_expert": True}, _llama4),
    Family("Ernie4_5_MoeForCausalLM", "ernie4_5_moe",
           {"router": "softmax", "balance": "bias"}, _ernie, _ERNIE_NAMES),
    Family("Glm4MoeForCausalLM", "glm4_moe",
           {**_DEEPSEEK, "shared_expert": True}, _glm, _DEEPSEEK_NAMES),
    Family("MiMoV2FlashForCausalLM", "mimo_v2_flash",
           {**_DEEPSEEK, "shared_expert": False}, _mimo, _DEEPSEEK_NAMES),
)  # fmt: skip
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
