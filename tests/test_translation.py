"""The translation alone, without transformers: nothing is lost, doubled or changed."""

import importlib
import inspect
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.config import ModelConfig
from moe_tutorial.families import FAMILIES, KEYS
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.translation import (
    architecture_settings,
    family_of,
    to_hugging_face,
    to_ours,
)

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.architecture)


def config_of(family, **sizes):
    sizes = {"dim": 12, "num_layers": 2, "num_heads": 2, "num_experts": 3, "hidden_dim": 5, **sizes}
    return ModelConfig(**{**family.keys, **sizes})


@every_family
@given(data=st.data())
def test_there_and_back_changes_no_bit(family, data):
    heads, half, experts = (data.draw(st.integers(1, 4)) for _ in range(3))
    config = config_of(
        family, dim=2 * heads * half, num_heads=heads, top_k=1,
        num_experts=experts + ("router_score" in family.keys),
        num_layers=data.draw(st.integers(1, 3)), hidden_dim=data.draw(st.integers(1, 7)),
    )  # fmt: skip
    ours = MoELanguageModel(config, vocab_size=11).state_dict()
    ours = {name: torch.randn_like(tensor) for name, tensor in ours.items()}
    theirs = to_hugging_face(ours, config)
    back = to_ours(theirs, config)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())
    assert all(tensor.is_contiguous() for tensor in [*theirs.values(), *back.values()])


@every_family
def test_family_follows_from_the_keys_of_its_router(family):
    assert family_of(config_of(family)) is family


@pytest.mark.parametrize(
    ("keys", "model_type"),
    [
        ({"router_score": "softmax", "shared_expert": False}, "mixtral"),
        ({"router_normalize": True, "shared_expert": False, "balance": "none"}, "mixtral"),
        ({"router": "sigmoid", "router_score": "softmax", "router_normalize": True},
         "granitemoeshared"),
        ({"balance": "bias", "shared_expert": False}, "ernie4_5_moe"),
        ({"balance": "quantile"}, "ernie4_5_moe"),
        ({"balance": "bias", "router_normalize": True}, "ernie4_5_moe"),
        ({"router": "sigmoid", "balance": "bias", "router_normalize": True}, "glm4_moe"),
        ({"router": "sigmoid", "balance": "bias", "router_scale": 2.5}, "glm4_moe"),
        ({"router_score": "sigmoid", "balance": "bias", "router_normalize": False}, "glm4_moe"),
        ({"router_score": "sigmoid", "balance": "bias", "router_scale": 1.4,
          "shared_expert": False}, "mimo_v2_flash"),
    ],
)  # fmt: skip
def test_what_the_router_computes_decides_and_not_how_it_is_written(keys, model_type):
    assert family_of(ModelConfig(**keys)).model_type == model_type


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"router_normalize": False}, "router_normalize=false"),
        ({"router_scale": 2.0}, "router_scale=2.0"),
        ({"router_score": "sqrtsoftplus", "balance": "bias"}, "router_score=sqrtsoftplus"),
        ({"router_score": "sigmoid"}, "router_score=sigmoid"),
        ({"router_score": "sigmoid", "balance": "none"}, "balance=none"),
        ({"router": "sigmoid", "balance": "bias"}, "router=sigmoid .*with balance=bias"),
        ({"balance": "bias", "router_scale": 2.0}, "router_scale=2.0 with balance=bias"),
        ({"balance": "quantile", "router_normalize": False}, "balance=quantile"),
    ],
)
def test_a_router_that_no_class_has_is_refused_in_one_line_with_what_can_be_exported(keys, words):
    with pytest.raises(ValueError, match=f"{words}.* is not exported") as caught:
        family_of(ModelConfig(**keys))
    assert "\n" not in str(caught.value)
    assert all(family.architecture in str(caught.value) for family in FAMILIES)


def test_the_published_class_with_deepseeks_router_needs_two_experts():
    config = ModelConfig(router_score="sigmoid", balance="bias", num_experts=1, top_k=1)
    with pytest.raises(ValueError, match=r"num_experts=1 is not exported with .*train with two"):
        architecture_settings(config, 11)


def test_only_llama_4_and_ernie_interleave_the_rows_of_q_and_k():
    """A head of size 6 has the pairs (0, 3), (1, 4), (2, 5); they put partners side by side."""
    for family in FAMILIES:
        config = config_of(family, num_layers=1)
        ours = MoELanguageModel(config, vocab_size=11).state_dict()
        q, k, v = ours["blocks.0.attention.qkv.weight"].chunk(3)
        theirs = to_hugging_face(ours, config)
        beside = family.model_type in ("llama4_text", "ernie4_5_moe")
        order = [0, 3, 1, 4, 2, 5] if beside else [0, 1, 2, 3, 4, 5]
        rows = torch.tensor([*order, *(6 + i for i in order)])
        for letter, tensor in (("q", q[rows]), ("k", k[rows]), ("v", v)):
            assert torch.equal(theirs[f"model.layers.0.self_attn.{letter}_proj.weight"], tensor)


SIZES = {"dim": 12, "num_layers": 2, "num_heads": 2, "num_experts": 3, "top_k": 2, "hidden_dim": 5,
         "max_seq_len": 64, "rope_theta": 500.0, "norm_eps": 1e-3}  # fmt: skip
IN_EVERY_FAMILY = {
    "vocab_size": 11, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-3,
    "hidden_act": "silu", "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}  # fmt: skip
MOST = {"num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 5}
PARTIAL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}
DEEPSEEK = {
    "n_routed_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "n_group": 1,
    "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0, "attention_bias": False,
}  # fmt: skip
THEIR_SETTINGS = {
    "mixtral": {**MOST, "sliding_window": None},
    "ernie4_5_moe": {
        "moe_num_experts": 3, "moe_k": 2, "moe_intermediate_size": 5, "moe_num_shared_experts": 1,
        "moe_layer_start_index": 0, "moe_layer_end_index": 1, "moe_layer_interval": 1,
        "moe_norm_min": 1e-12, "use_bias": False,
    },
    "glm4_moe": {
        **DEEPSEEK, "n_shared_experts": 1, "first_k_dense_replace": 0, "use_qk_norm": False,
        "rope_parameters": PARTIAL,
    },
    "mimo_v2_flash": {
        **DEEPSEEK, "head_dim": 6, "v_head_dim": 6, "attention_value_scale": 1.0,
        "layer_types": ["full_attention", "full_attention"],
        "mlp_layer_types": ["sparse", "sparse"], "rope_parameters": {"full_attention": PARTIAL},
    },
    "granitemoeshared": {
        **MOST,
        "shared_intermediate_size": 5, "attention_multiplier": 6**-0.5, "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0, "logits_scaling": 1.0, "attention_bias": False,
    },
    "llama4_text": {
        **MOST, "head_dim": 6, "no_rope_layers": [1, 1], "attention_chunk_size": 64,
        "moe_layers": [0, 1], "layer_types": ["full_attention", "full_attention"],
        "use_qk_norm": False, "attn_temperature_tuning": False, "attention_bias": False,
    },
}  # fmt: skip


@every_family
def test_the_settings_are_those_of_the_published_architecture(family):
    wanted = {"model_type": family.model_type, **IN_EVERY_FAMILY}
    wanted |= THEIR_SETTINGS[family.model_type]
    found = architecture_settings(config_of(family, **SIZES), 11)
    assert json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)  # 6, not 6.0


@every_family
def test_the_default_width_of_an_expert_is_written_as_a_number(family):
    settings = architecture_settings(config_of(family, dim=12, hidden_dim=None), 11)
    name = {**KEYS, **family.names}["hidden_dim"]
    assert settings[name] == 32  # 8 thirds of 12
    assert settings.get("shared_intermediate_size", 32) == 32


@pytest.mark.parametrize(
    ("keys", "theirs"),
    [
        ({"router_normalize": False, "router_scale": 2.5}, (False, 2.5)),
        ({"router": "sigmoid", "router_scale": 1.4}, (False, 1.4)),
        ({"router_normalize": True}, (True, 1.0)),
    ],
)
def test_normalization_and_scale_go_along(keys, theirs):
    for shared_expert in (True, False):
        config = ModelConfig(
            router_score="sigmoid", balance="bias", shared_expert=shared_expert, **keys
        )
        settings = architecture_settings(config, 11)
        assert (settings["norm_topk_prob"], settings["routed_scaling_factor"]) == theirs


def test_ernies_number_of_shared_experts_is_a_number():
    for shared_expert, number in ((True, "1"), (False, "0")):
        config = ModelConfig(balance="bias", shared_expert=shared_expert)
        found = architecture_settings(config, 11)["moe_num_shared_experts"]
        assert json.dumps(found) == number


LAYER = "model.layers.1."
IN_EVERY_LAYER = {
    "input_layernorm.weight": (12,), "post_attention_layernorm.weight": (12,),
    "self_attn.q_proj.weight": (12, 12), "self_attn.k_proj.weight": (12, 12),
    "self_attn.v_proj.weight": (12, 12), "self_attn.o_proj.weight": (12, 12),
}  # fmt: skip
LINEARS = {
    "mlp.gate.weight": (3, 12),
    **{f"mlp.{place}.{name}_proj.weight": shape
       for place in (*(f"experts.{e}" for e in range(3)), "shared_experts")
       for name, shape in (("gate", (5, 12)), ("up", (5, 12)), ("down", (12, 5)))},
}  # fmt: skip
ERNIE_BIAS, DEEPSEEK_BIAS = (
    f"mlp.{where}.e_score_correction_bias" for where in ("moe_statics", "gate")
)
THEIR_TENSORS = {
    "ernie4_5_moe": {**LINEARS, ERNIE_BIAS: (1, 3)},
    "glm4_moe": {**LINEARS, DEEPSEEK_BIAS: (3,)},
    "mimo_v2_flash": {
        **{name: shape for name, shape in LINEARS.items() if "shared" not in name},
        DEEPSEEK_BIAS: (3,),
    },
    "mixtral": {
        "block_sparse_moe.gate.weight": (3, 12),
        **{f"block_sparse_moe.experts.{e}.{name}.weight": shape for e in range(3)
           for name, shape in (("w1", (5, 12)), ("w2", (12, 5)), ("w3", (5, 12)))},
    },
    "granitemoeshared": {
        "block_sparse_moe.router.layer.weight": (3, 12),
        "block_sparse_moe.input_linear.weight": (3, 10, 12),
        "block_sparse_moe.output_linear.weight": (3, 12, 5),
        "shared_mlp.input_linear.weight": (10, 12), "shared_mlp.output_linear.weight": (12, 5),
    },
    "llama4_text": {
        "feed_forward.router.weight": (3, 12),
        "feed_forward.experts.gate_up_proj": (3, 12, 10),
        "feed_forward.experts.down_proj": (3, 5, 12),
        "feed_forward.shared_expert.gate_proj.weight": (5, 12),
        "feed_forward.shared_expert.up_proj.weight": (5, 12),
        "feed_forward.shared_expert.down_proj.weight": (12, 5),
    },
}  # fmt: skip


def exported(family):
    config = config_of(family, **SIZES)
    ours = MoELanguageModel(config, vocab_size=11).state_dict()
    ours = {name: torch.randn_like(tensor) for name, tensor in ours.items()}
    return ours, to_hugging_face(ours, config)


@every_family
def test_the_tensors_have_the_names_and_shapes_of_the_published_architecture(family):
    _, theirs = exported(family)
    found = {name: tuple(t.shape) for name, t in theirs.items()}
    outside = {name: found.pop(name) for name in list(found) if ".layers." not in name}
    assert outside == {"model.embed_tokens.weight": (11, 12), "model.norm.weight": (12,),
                       "lm_head.weight": (11, 12)}  # fmt: skip
    layer = IN_EVERY_LAYER | THEIR_TENSORS[family.model_type]
    assert found == {f"model.layers.{i}.{key}": layer[key] for i in (0, 1) for key in layer}


@every_family
def test_norms_embedding_head_and_output_are_ours_as_they_are(family):
    ours, theirs = exported(family)
    for name, other in (
        ("embedding.weight", "model.embed_tokens.weight"), ("norm.weight", "model.norm.weight"),
        ("head.weight", "lm_head.weight"),
        ("blocks.1.attention_norm.weight", LAYER + "input_layernorm.weight"),
        ("blocks.1.moe_norm.weight", LAYER + "post_attention_layernorm.weight"),
        ("blocks.1.attention.out.weight", LAYER + "self_attn.o_proj.weight"),
    ):  # fmt: skip
        assert torch.equal(theirs[other], ours[name]), name
    router = {"mixtral": "block_sparse_moe.gate", "llama4_text": "feed_forward.router",
              "granitemoeshared": "block_sparse_moe.router.layer"}  # fmt: skip
    router = router.get(family.model_type, "mlp.gate")
    scores = ours["blocks.1.moe.router.scores.weight"]
    assert torch.equal(theirs[f"{LAYER}{router}.weight"], scores)


@every_family
def test_every_matrix_of_an_expert_is_where_the_published_architecture_reads_it(family):
    """Each expert of theirs, read by their rules, has our three matrices."""
    ours, theirs = exported(family)
    for e in range(3):
        gate, up, down = (ours[f"blocks.1.moe.experts.{e}.w_{n}"] for n in ("gate", "up", "down"))
        if family.model_type == "mixtral":
            place = f"{LAYER}block_sparse_moe.experts.{e}."
            w1, w2, w3 = (theirs[f"{place}w{n}.weight"].T for n in (1, 2, 3))
            found = w1, w3, w2
        elif family.model_type == "granitemoeshared":
            both = theirs[LAYER + "block_sparse_moe.input_linear.weight"][e]
            downs = theirs[LAYER + "block_sparse_moe.output_linear.weight"]
            found = both[:5].T, both[5:].T, downs[e].T
        elif f"{LAYER}mlp.gate.weight" in theirs:
            place = f"{LAYER}mlp.experts.{e}."
            found = [theirs[f"{place}{name}_proj.weight"].T for name in ("gate", "up", "down")]
        else:
            both = theirs[LAYER + "feed_forward.experts.gate_up_proj"][e]
            found = both[:, :5], both[:, 5:], theirs[LAYER + "feed_forward.experts.down_proj"][e]
        for a, b in zip(found, (gate, up, down), strict=True):
            assert torch.equal(a, b)


@every_family
def test_the_matrices_of_the_shared_expert_are_where_they_are_read(family):
    ours, theirs = exported(family)
    if not config_of(family).shared_expert:
        assert not any("shared" in name for name in theirs)
        return
    if family.model_type == "granitemoeshared":
        both = theirs[LAYER + "shared_mlp.input_linear.weight"]
        found = both[:5], both[5:], theirs[LAYER + "shared_mlp.output_linear.weight"]
    else:
        llama4 = family.model_type == "llama4_text"
        place = LAYER + ("feed_forward.shared_expert." if llama4 else "mlp.shared_experts.")
        found = [theirs[f"{place}{n}_proj.weight"] for n in ("gate", "up", "down")]
    for tensor, name in zip(found, ("gate", "up", "down"), strict=True):
        assert torch.equal(tensor.T, ours[f"blocks.1.moe.shared_expert.w_{name}"])


@every_family
def test_a_missing_tensor_is_named_and_others_are_left_out(family):
    config = config_of(family, **SIZES)
    ours, theirs = exported(family)
    assert to_hugging_face({**ours, "more": torch.ones(1)}, config).keys() == theirs.keys()
    assert to_ours({**theirs, "more": torch.ones(1)}, config).keys() == ours.keys()
    for weights, translate in ((ours, to_hugging_face), (theirs, to_ours)):
        weights = dict(weights)
        gone = list(weights)[5]
        del weights[gone]
        with pytest.raises(KeyError, match=gone):
            translate(weights, config)


@every_family
def test_the_bias_is_where_the_published_architecture_reads_it(family):
    ours, theirs = exported(family)
    biases = {name: tensor for name, tensor in theirs.items() if "bias" in name}
    if family.keys.get("balance") != "bias":
        assert not biases
        return
    name, shape = (
        (ERNIE_BIAS, (1, 3)) if family.model_type == "ernie4_5_moe" else (DEEPSEEK_BIAS, 3)
    )
    for i in (0, 1):
        bias = biases.pop(f"model.layers.{i}.{name}")
        assert torch.equal(bias, ours[f"blocks.{i}.moe.router.bias"].view(shape))
    assert not biases


def test_a_combination_that_is_not_exported_lists_what_is():
    with pytest.raises(ValueError, match="not exported") as caught:
        family_of(ModelConfig(router="sigmoid", shared_expert=False))
    assert str(caught.value) == (
        "router=sigmoid with shared_expert=false is not exported, because no class known here is "
        "made so; what can be exported is router=softmax with shared_expert=false as "
        "MixtralForCausalLM; router=softmax with shared_expert=true as "
        "GraniteMoeSharedForCausalLM; router=sigmoid with shared_expert=true as Llama4ForCausalLM; "
        "router=softmax with balance=bias as Ernie4_5_MoeForCausalLM; router_score=sigmoid with "
        "balance=bias with shared_expert=true as Glm4MoeForCausalLM; router_score=sigmoid with "
        "balance=bias with shared_expert=false as MiMoV2FlashForCausalLM"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "module", "sizes", "part"),
    [
        ("deepseek_v3", "Attention", {"kv_lora_rank": 8}, "kv_a_layernorm.weight"),
        ("deepseek_v2", "Attention", {"kv_lora_rank": 8}, "kv_a_layernorm.weight"),
        ("olmoe", "Attention", {}, "q_norm.weight"),
        ("flex_olmo", "Attention", {}, "q_norm.weight"),
        ("qwen3_moe", "Attention", {}, "q_norm.weight"),
        ("mellum", "Attention", {}, "q_norm.weight"),
        ("qwen2_moe", "SparseMoeBlock", {"shared_expert_intermediate_size": 0},
         "shared_expert_gate.weight"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_the_families_that_are_said_not_to_fit_have_the_part_that_does_not(
    file, module, sizes, part
):
    modeling = importlib.import_module(f"transformers.models.{file}.modeling_{file}")
    prefix = next(n for n in dir(modeling) if n.endswith("ForCausalLM")).removesuffix("ForCausalLM")
    found = getattr(modeling, f"{prefix}{module}")
    config = getattr(modeling, f"{prefix}ForCausalLM").config_class(hidden_size=64, **sizes)
    with torch.device("meta"):
        layer = found(config, 0) if module == "Attention" else found(config)
    assert part in dict(layer.named_parameters())


@pytest.mark.slow
def test_jamba_rotates_nothing():
    from transformers.models.jamba.modeling_jamba import JambaAttention
    from transformers.models.mixtral.modeling_mixtral import MixtralAttention

    assert "rotary" in inspect.getsource(MixtralAttention.forward)
    assert "rotary" not in inspect.getsource(JambaAttention.forward)
