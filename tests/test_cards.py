"""The committed cards against the installed transformers: which default has moved?"""

import importlib
import re

import pytest
from conftest import ROOT
from test_packaging import pins

from moe_tutorial.cards import BEYOND, CARDS, CHECKED, Card

# Field of a card -> the names under which configurations of transformers hold it, the first counts.
NAMES = {
    "num_experts": ("n_routed_experts", "moe_num_experts", "num_local_experts", "num_experts"),
    "top_k": ("num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k", "top_k_experts"),
    "shared": ("n_shared_experts", "moe_num_shared_experts", "num_shared_experts"),
    "dim": ("hidden_size",),
    "hidden_dim": (
        "moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size", "intermediate_size",
    ),
    "dense_first": (
        "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "expert_layer_offset",
    ),
    "zero_experts": ("zero_expert_num",),
    "score": ("scoring_func",),
    "groups": ("n_group",),
    "kept_groups": ("topk_group",),
    "normalize": ("norm_topk_prob", "moe_normalize_expert_weights"),
    "scale": ("routed_scaling_factor", "route_scale"),
}  # fmt: skip
WITH_CLASS = [card for card in CARDS if card.config]
each = pytest.mark.parametrize("card", WITH_CLASS, ids=lambda card: card.name)


def config_class(card: Card) -> type:
    file, name = card.config.split(".")
    return getattr(
        importlib.import_module(f"transformers.models.{file}.configuration_{file}"), name
    )


def theirs(card: Card, config: object) -> dict[str, str]:
    """Field of the card -> its name in this configuration, where it has one."""
    return {
        field: next(name for name in names if hasattr(config, name))
        for field, names in NAMES.items()
        if any(hasattr(config, name) for name in names)
    }


def moved(card: Card, config: object) -> list[str]:
    """Which settings are neither the card's nor what the card says that they are."""
    values = card._asdict() | card.switches._asdict()
    found = []
    for field, name in theirs(card, config).items():
        now, then = getattr(config, name), card.unlike.get(name, values[field])
        if now != then:
            found.append(f"{name} is {now}, not {then}")
    width = getattr(config, "shared_expert_intermediate_size", card.shared * card.hidden_dim)
    if width != card.shared * card.hidden_dim:
        found.append(f"shared_expert_intermediate_size is {width}")
    return found


@each
def test_no_default_has_moved(card):
    assert moved(card, config_class(card)()) == []


@each
def test_what_a_card_calls_unlike_is_a_setting_and_is_unlike(card):
    values = card._asdict() | card.switches._asdict()
    named = {name: field for field, name in theirs(card, config_class(card)()).items()}
    for name, default in card.unlike.items():
        assert values[named[name]] != default, name


def test_a_setting_that_moves_is_named():
    card = next(card for card in CARDS if card.name == "DeepSeek-V3")
    config = config_class(card)(routed_scaling_factor=2.0, n_group=4)
    assert moved(card, config) == ["n_group is 4, not 8", "routed_scaling_factor is 2.0, not 2.5"]


def test_the_date_and_the_version_are_those_of_the_pin():
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\d against transformers {pins()['transformers']}", CHECKED
    )


def test_the_chapter_says_the_same_date_and_version():
    text = (ROOT / "notebooks" / "15_routers.ipynb").read_text(encoding="utf-8")
    date, version = CHECKED.split(" against transformers ")
    assert f"checked on {date} against version {version}" in text


def test_cards_are_at_least_fifteen_in_order_and_each_says_where_it_was_read():
    assert len(CARDS) >= 15
    assert len({card.name for card in CARDS}) == len(CARDS)
    assert [card.year for card in CARDS] == sorted(card.year for card in CARDS)
    for card in CARDS:
        assert card.config or card.source, card.name
        assert bool(card.config) == bool(card.router), card.name
        assert card.source or not card.unlike, card.name
        assert 1 <= card.top_k < card.num_experts, card.name


def test_what_the_function_does_not_reach_is_in_transformers():
    for one in BEYOND:
        file, name = one.source.split(".")
        module = importlib.import_module(f"transformers.models.{file}.modeling_{file}")
        assert hasattr(module, name)
