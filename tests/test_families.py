"""The translation alone, without transformers: nothing is lost, doubled or changed."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.config import ModelConfig
from moe_tutorial.families import (
    FAMILIES,
    SPLIT,
    STACK,
    architecture_settings,
    family_of,
    to_hugging_face,
    to_ours,
)
from moe_tutorial.model import MoELanguageModel

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.architecture)


def config_of(family, **sizes):
    sizes = {"dim": 12, "num_layers": 2, "num_heads": 2, "num_experts": 3, "hidden_dim": 5, **sizes}
    return ModelConfig(**sizes, router=family.router, shared_expert=family.shared_expert)


@every_family
@given(data=st.data())
def test_there_and_back_changes_no_bit(family, data):
    heads, half, experts = (data.draw(st.integers(1, 4)) for _ in range(3))
    config = config_of(
        family, dim=2 * heads * half, num_heads=heads, num_experts=experts, top_k=1,
        num_layers=data.draw(st.integers(1, 3)), hidden_dim=data.draw(st.integers(1, 7)),
    )  # fmt: skip
    ours = MoELanguageModel(config, vocab_size=11).state_dict()
    theirs = to_hugging_face(ours, config)
    back = to_ours(theirs, config)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())
    assert all(tensor.is_contiguous() for tensor in [*theirs.values(), *back.values()])


@every_family
def test_family_follows_from_router_and_shared_expert(family):
    assert family_of(config_of(family)) is family


def test_only_llama_4_interleaves_the_rows_of_q_and_k():
    """A head of size 6 has the pairs (0, 3), (1, 4), (2, 5); Llama 4 puts partners side by side."""
    for family in FAMILIES:
        config = config_of(family, num_layers=1)
        ours = MoELanguageModel(config, vocab_size=11).state_dict()
        q, k, v = ours["blocks.0.attention.qkv.weight"].chunk(3)
        theirs = to_hugging_face(ours, config)
        order = [0, 3, 1, 4, 2, 5] if family.model_type == "llama4_text" else [0, 1, 2, 3, 4, 5]
        rows = torch.tensor([*order, *(6 + i for i in order)])
        for letter, tensor in (("q", q[rows]), ("k", k[rows]), ("v", v)):
            assert torch.equal(theirs[f"model.layers.0.self_attn.{letter}_proj.weight"], tensor)


SIZES = {"dim": 12, "num_layers": 2, "num_heads": 2, "num_experts": 3, "top_k": 2, "hidden_dim": 5,
         "max_seq_len": 64, "rope_theta": 500.0, "norm_eps": 1e-3}  # fmt: skip
IN_EVERY_FAMILY = {
    "vocab_size": 11, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2,
    "intermediate_size": 5, "max_position_embeddings": 64, "rms_norm_eps": 1e-3,
    "hidden_act": "silu", "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}  # fmt: skip
THEIR_SETTINGS = {
    "mixtral": {"sliding_window": None},
    "granitemoeshared": {
        "shared_intermediate_size": 5, "attention_multiplier": 6**-0.5, "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0, "logits_scaling": 1.0, "attention_bias": False,
    },
    "llama4_text": {
        "head_dim": 6, "no_rope_layers": [1, 1], "attention_chunk_size": 64, "moe_layers": [0, 1],
        "layer_types": ["full_attention", "full_attention"], "use_qk_norm": False,
        "attn_temperature_tuning": False, "attention_bias": False,
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
    assert settings["intermediate_size"] == 32  # 8 thirds of 12
    assert settings.get("shared_intermediate_size", 32) == 32


LAYER = "model.layers.1."
IN_EVERY_LAYER = {
    "input_layernorm.weight": (12,), "post_attention_layernorm.weight": (12,),
    "self_attn.q_proj.weight": (12, 12), "self_attn.k_proj.weight": (12, 12),
    "self_attn.v_proj.weight": (12, 12), "self_attn.o_proj.weight": (12, 12),
}  # fmt: skip
THEIR_TENSORS = {
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
    config = config_of(family, **SIZES)
    ours = {name: torch.randn_like(t) for name, t in exported(family)[0].items()}
    theirs = to_hugging_face(ours, config)
    for name, other in (
        ("embedding.weight", "model.embed_tokens.weight"), ("norm.weight", "model.norm.weight"),
        ("head.weight", "lm_head.weight"),
        ("blocks.1.attention_norm.weight", LAYER + "input_layernorm.weight"),
        ("blocks.1.moe_norm.weight", LAYER + "post_attention_layernorm.weight"),
        ("blocks.1.attention.out.weight", LAYER + "self_attn.o_proj.weight"),
    ):  # fmt: skip
        assert torch.equal(theirs[other], ours[name]), name
    router = {"mixtral": "block_sparse_moe.gate", "llama4_text": "feed_forward.router",
              "granitemoeshared": "block_sparse_moe.router.layer"}[family.model_type]  # fmt: skip
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
        else:
            both = theirs[LAYER + "feed_forward.experts.gate_up_proj"][e]
            found = both[:, :5], both[:, 5:], theirs[LAYER + "feed_forward.experts.down_proj"][e]
        for a, b in zip(found, (gate, up, down), strict=True):
            assert torch.equal(a, b)


@every_family
def test_the_matrices_of_the_shared_expert_are_where_they_are_read(family):
    ours, theirs = exported(family)
    if not family.shared_expert:
        assert not any("shared" in name for name in theirs)
        return
    if family.model_type == "granitemoeshared":
        both = theirs[LAYER + "shared_mlp.input_linear.weight"]
        found = both[:5], both[5:], theirs[LAYER + "shared_mlp.output_linear.weight"]
    else:
        place = LAYER + "feed_forward.shared_expert."
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


def test_the_steps_split_into_three_and_stack_along_a_new_first_axis():
    rows = torch.arange(6.0).view(6, 1)
    assert [part.flatten().tolist() for part in SPLIT.there([rows])] == [[0, 1], [2, 3], [4, 5]]
    assert STACK.there([rows, rows])[0].shape == (2, 6, 1)


def test_a_combination_that_is_not_exported_lists_what_is():
    with pytest.raises(ValueError, match="not exported") as caught:
        family_of(ModelConfig(router="sigmoid", shared_expert=False))
    assert str(caught.value) == (
        "router=sigmoid with shared_expert=false is not exported, because none of the three "
        "classes is made so; what can be exported is router=softmax with shared_expert=false as "
        "MixtralForCausalLM; router=softmax with shared_expert=true as "
        "GraniteMoeSharedForCausalLM; router=sigmoid with shared_expert=true as Llama4ForCausalLM"
    )
