"""The translation alone, without transformers: nothing is lost, doubled or changed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.config import ModelConfig
from moe_tutorial.families import (
    FAMILIES,
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


def test_other_combinations_have_no_counterpart():
    message = "router=sigmoid with shared_expert=false has no counterpart in transformers; what can"
    with pytest.raises(ValueError, match=message) as caught:
        architecture_settings(ModelConfig(router="sigmoid", shared_expert=False), 11)
    for family in FAMILIES:
        assert family.architecture in str(caught.value)


def test_only_llama_4_turns_the_rows_of_q_and_k():
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
