"""What the descriptions of published architectures have in common; see `test_translation`."""

import pytest
import torch

from moe_tutorial.config import ModelConfig
from moe_tutorial.families import FAMILIES, KEYS, OUTSIDE_THE_BLOCKS, SAME_IN_EVERY_BLOCK
from moe_tutorial.model import MoELanguageModel

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.architecture)


def rules_of(family, **changes):
    model = ModelConfig(**{"num_experts": 3, "dim": 12, "num_heads": 2, **family.keys, **changes})
    return model, family.describe(model)[1]


@every_family
@pytest.mark.parametrize("shared_expert", [True, False])
def test_the_rules_name_every_tensor_of_a_block_once(family, shared_expert):
    if family.keys.get("shared_expert", shared_expert) != shared_expert:
        return
    model, rules = rules_of(family, shared_expert=shared_expert)
    names = [name for rule in [*SAME_IN_EVERY_BLOCK, *rules] for name in rule.ours.split()]
    with torch.device("meta"):
        tensors = MoELanguageModel(model, 7).state_dict()
    assert sorted(names) == sorted(
        name.removeprefix("blocks.0.") for name in tensors if name.startswith("blocks.0.")
    )
    assert {name for name in tensors if not name.startswith("blocks.")} == {*OUTSIDE_THE_BLOCKS}
    theirs = [name for rule in rules for name in rule.theirs.split()]
    assert len({*theirs}) == len(theirs)


@every_family
def test_names_are_of_keys_that_the_section_model_has(family):
    assert {*KEYS, *family.names, *family.keys} <= {*ModelConfig.model_fields}


def test_classes_and_types_are_different_ones():
    for part in ("architecture", "model_type", "describe"):
        assert len({getattr(family, part) for family in FAMILIES}) == len(FAMILIES)


def test_one_expert_is_refused_by_the_classes_that_add_up_two():
    for family in FAMILIES:
        if "router_score" in family.keys:
            with pytest.raises(ValueError, match=r"num_experts=1 is not exported with .*add up"):
                rules_of(family, num_experts=1, top_k=1)
        else:
            rules_of(family, num_experts=1, top_k=1)
