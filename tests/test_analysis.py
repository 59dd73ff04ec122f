"""Information is counted right, and a changed router is what it says, for a while only."""

import math
from contextlib import suppress

import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial import analysis as lib
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.training import evaluate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def two(table):
    """Two rows of values with this table of counts."""
    cells = [(x, y) for x, row in enumerate(table) for y, n in enumerate(row) for _ in range(n)]
    return torch.tensor(cells).T


@pytest.mark.parametrize(
    ("table", "bits"),
    [
        ([[4, 0], [0, 4]], 1),
        ([[2, 2], [2, 2]], 0),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 2]], 1.5),
        ([[3, 1], [1, 3]], 1 - (2 - 0.75 * math.log2(3))),
        ([[5]], 0),
    ],
)
def test_information_of_tables_that_a_pencil_can_do(table, bits):
    assert lib.mutual_information(*two(table)) == pytest.approx(bits, abs=1e-12)


tables = st.lists(
    st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=2, max_size=4
).filter(lambda table: sum(map(sum, table)) > 0)


@given(tables)
def test_information_is_the_sum_over_the_table_and_the_same_both_ways(table):
    x, y = two(table)
    p = torch.tensor(table, dtype=torch.float64)
    p = p / p.sum()
    apart = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    expected = torch.special.xlogy(p, p / apart.clamp(min=1e-300)).sum().item() / math.log(2)
    assert lib.mutual_information(x, y) == pytest.approx(expected, abs=1e-9)
    assert lib.mutual_information(y, x) == pytest.approx(expected, abs=1e-9)
    assert -1e-9 <= expected <= min(lib.entropy_bits(x), lib.entropy_bits(y)) + 1e-9


def test_a_hash_has_the_share_one_and_a_constant_choice_zero():
    characters = torch.randint(61, (500,), generator=generator())
    experts_of = torch.randint(8, (61,), generator=generator())
    choice = experts_of[characters]
    assert lib.information_share(characters, choice) == pytest.approx(1)
    assert lib.information_share(choice, characters) < 1
    assert lib.information_share(characters, torch.zeros(500)) == 0


def test_two_halves_of_a_sum_tell_nothing_alone_and_everything_together():
    a, b = (torch.randint(2, (4000,), generator=generator(seed)) for seed in (0, 1))
    choice = (a + b) % 2
    assert lib.mutual_information(a, choice) < 0.01
    assert lib.added_information(a, choice, known=b) == pytest.approx(1, abs=0.01)
    assert lib.added_information(b, choice, known=b) == pytest.approx(0, abs=1e-9)


def test_shuffling_keeps_the_values_and_within_groups_also_the_groups():
    x = torch.arange(300)
    groups = torch.randint(4, (300,), generator=generator())
    mixed, inside = lib.shuffled(x, generator()), lib.shuffled(x, generator(), within=groups)
    for one in (mixed, inside):
        assert one.sort().values.equal(x)
        assert (one != x).double().mean() > 0.9
    assert groups[inside].equal(groups)
    assert not groups[mixed].equal(groups)
    assert lib.shuffled(x, generator()).equal(mixed)


def test_what_is_left_after_shuffling_is_the_bias_of_counting():
    """About (X - 1)(Y - 1) / (2 N ln 2) bits: Miller 1955."""
    n, values = 2000, 20
    x, y = (torch.randint(values, (n,), generator=generator(seed)) for seed in (0, 1))
    found = lib.mutual_information(lib.shuffled(x, generator(2)), y)
    assert found == pytest.approx((values - 1) ** 2 / (2 * n * math.log(2)), rel=0.15)


def test_features_of_a_short_text():
    features = lib.text_features("An ox\n'8'")
    kinds = [lib.CLASSES[i] for i in features.char_class]
    assert kinds == [
        "vowel", "consonant", "space", "vowel", "consonant", "space", "punctuation", "other",
        "punctuation",
    ]  # fmt: skip
    assert features.position.tolist() == [1, 2, 0, 1, 2, 0, 0, 0, 0]
    assert features.character.tolist() == list(map(ord, "An ox\n'8'"))
    assert features.previous.tolist() == [-1, *map(ord, "An ox\n'8")]
    assert features.following.tolist() == [*map(ord, "n ox\n'8'"), -1]


@pytest.fixture
def model(tiny_model):
    return tiny_model.eval()


@pytest.fixture
def ids():
    return torch.randint(13, (100,), generator=generator())


def test_reading_gives_the_loss_of_evaluate_and_every_choice_in_order(model, ids):
    found = lib.read(model, ids)
    assert found.losses.mean().item() == pytest.approx(evaluate(model, ids, 16), abs=1e-6)
    assert [len(r.experts) for r in found.routings] == [99, 99]
    whole = model(ids[None, 16:32]).routings
    for ours, theirs in zip(found.routings, whole, strict=True):
        assert ours.experts[16:32].equal(theirs.experts)


def test_a_set_has_one_number_whatever_the_order():
    experts = torch.tensor([[1, 4], [4, 1], [0, 4], [4, 3]])
    a, b, c, d = lib.chosen_set(lib.Routing(experts.float(), experts, torch.zeros(4, 5))).tolist()
    assert a == b
    assert len({a, c, d}) == 3


def routing(n=50, num_experts=5, top_k=2):
    probs = torch.rand(n, num_experts, generator=generator()).softmax(-1)
    return lib.choose(probs, probs.topk(top_k, dim=-1).indices)


def test_choose_gives_the_weights_of_the_router(model, ids):
    for own in lib.read(model, ids).routings:
        again = lib.choose(own.probs, own.experts)
        assert torch.allclose(again.weights, own.weights, atol=1e-6)


def test_top_gives_the_best_and_weights_that_add_up_to_one():
    own = routing()
    for k in (1, 3, 5):
        new = lib.top(k)(own)
        assert new.experts.equal(own.probs.topk(k, dim=-1).indices)
        assert torch.allclose(new.weights.sum(dim=-1), torch.ones(50))
    assert torch.allclose(lib.top(2)(own).weights, own.weights)


def test_equal_weights_and_random_choice_change_one_half_each():
    own = routing()
    equal = lib.equal_weights(own)
    assert equal.experts.equal(own.experts)
    assert equal.weights.unique().tolist() == [0.5]
    drawn = lib.random_choice(generator(1))(own)
    assert drawn.weights.equal(own.weights)
    assert (drawn.experts[:, 0] != drawn.experts[:, 1]).all()
    assert drawn.experts.unique().tolist() == [0, 1, 2, 3, 4]
    assert (drawn.experts != own.experts).any(dim=1).double().mean() > 0.5


def test_without_an_expert_the_next_best_takes_the_place():
    own = routing()
    new = lib.without(3)(own)
    ranked = own.probs.argsort(dim=-1, descending=True).tolist()
    assert new.experts.tolist() == [[e for e in row if e != 3][:2] for row in ranked]
    assert torch.allclose(new.weights.sum(dim=-1), torch.ones(50))
    assert new.probs.equal(own.probs)
    untouched = (own.experts != 3).all(dim=1)
    assert torch.allclose(new.weights[untouched], own.weights[untouched])
    assert lib.without(0, 1, 2)(own).experts.unique().tolist() == [3, 4]
    with pytest.raises(ValueError, match="1 of 5 experts are left; a token needs 2"):
        lib.without(0, 1, 2, 2, 3)(own)


def test_forced_makes_one_expert_all_choices_of_every_token():
    new = lib.forced(2)(routing())
    assert new.experts.shape == (50, 2)
    assert (new.experts.unique().tolist(), new.weights.unique().tolist()) == ([2], [0.5])


def test_a_forced_expert_alone_makes_the_output(model):
    x = torch.randn(1, 6, 24, generator=generator())
    moe = model.blocks[0].moe
    with torch.no_grad(), lib.rerouted(model, lib.forced(3)):
        assert torch.allclose(moe(x)[0], moe.experts[3](x), atol=1e-6)


def test_replayed_choices_meet_their_tokens_in_several_calls():
    own, given = routing(), torch.randint(5, (50, 2), generator=generator(3))
    change = lib.replayed(given)
    parts = [lib.Routing(*(each[start : start + 20] for each in own)) for start in (0, 20, 40)]
    new = [change(part) for part in parts]
    assert torch.cat([part.experts for part in new]).equal(given)
    assert torch.allclose(new[1].weights, lib.choose(own.probs, given).weights[20:40])
    with pytest.raises(ValueError, match="50 choices were recorded, but 70 tokens came"):
        change(parts[0])


def same_reading(a, b):
    return torch.equal(a.losses, b.losses)


def test_nothing_is_left_behind_even_after_an_error(model, ids):
    routers = [block.moe.router for block in model.blocks]
    names, before = list(model.state_dict()), lib.read(model, ids)
    with lib.rerouted(model, lib.forced(0)):
        assert not same_reading(lib.read(model, ids), before)
    with suppress(ZeroDivisionError), lib.rerouted(model, {1: lib.top(1)}):
        assert model.blocks[0].moe.router is routers[0]
        assert model.blocks[1].moe.router is not routers[1]
        raise ZeroDivisionError
    assert [block.moe.router for block in model.blocks] == routers
    assert list(model.state_dict()) == names
    assert same_reading(lib.read(model, ids), before)


def test_blocks_in_blocks_come_back_one_by_one(model, ids):
    with lib.rerouted(model, {0: lib.forced(0)}):
        outer = lib.read(model, ids)
        with lib.rerouted(model, {1: lib.forced(1)}):
            inner = lib.read(model, ids)
            assert inner.routings[0].experts.unique().tolist() == [0]
            assert inner.routings[1].experts.unique().tolist() == [1]
        assert same_reading(lib.read(model, ids), outer)


def test_no_change_and_the_trained_number_change_nothing(model, ids):
    before = lib.read(model, ids)
    for change in (lib.unchanged, {}, lib.top(TINY.top_k)):
        with lib.rerouted(model, change):
            assert torch.allclose(lib.read(model, ids).losses, before.losses, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_change_without_a_layer_is_made_in_all_of_them(model, ids, dtype):
    with lib.rerouted(model, lib.forced(4), dtype=dtype):
        found = lib.read(model, ids).routings
    assert [routing.experts.unique().tolist() for routing in found] == [[4], [4]]


def test_a_rounded_router_flips_few_choices_and_replay_repairs_them(model, ids):
    own = lib.read(model, ids)
    with lib.rerouted(model, dtype=torch.float32):
        assert torch.allclose(lib.read(model, ids).losses, own.losses, atol=1e-5)
    with lib.rerouted(model, dtype=torch.bfloat16):
        rounded = lib.read(model, ids)
    for ours, theirs in zip(rounded.routings, own.routings, strict=True):
        logits, exact = ours.probs.log(), theirs.probs.log()
        assert 1e-5 < (logits - exact).abs().mean() < 0.05
    changes = {i: lib.replayed(r.experts) for i, r in enumerate(own.routings)}
    with lib.rerouted(model, changes, dtype=torch.bfloat16):
        replayed = lib.read(model, ids)
    for ours, theirs in zip(replayed.routings, own.routings, strict=True):
        assert ours.experts.equal(theirs.experts)


def test_a_sigmoid_router_is_refused_and_the_model_stays_whole(ids):
    model = MoELanguageModel(TINY.model_copy(update={"router": "sigmoid"}), 13).eval()
    before = lib.read(model, ids)
    with pytest.raises(ValueError, match="router='sigmoid'"), lib.rerouted(model, lib.top(1)):
        pass
    assert same_reading(lib.read(model, ids), before)


def test_a_router_with_a_bias_can_be_asked_too(ids):
    model = MoELanguageModel(TINY.model_copy(update={"balance": "bias"}), 13).eval()
    model.blocks[0].moe.router.bias += torch.tensor([9.0, 8, 0, 0, 0])
    with lib.rerouted(model, lib.equal_weights):
        own = lib.read(model, ids).routings[0]
    assert own.experts.unique().tolist() == [0, 1]
    assert own.weights.unique().tolist() == [0.5]


def test_what_is_known_already_is_not_added():
    known, x = torch.arange(400) % 4, torch.arange(400) // 4 % 2  # independent of each other
    both = 2 * known + x
    assert lib.added_information(x, known, known) == pytest.approx(0, abs=1e-12)
    assert lib.added_information(known, known, x) == pytest.approx(2)
    assert lib.added_information(x, both, known) == pytest.approx(1)
    assert lib.added_information(known, both, x) == pytest.approx(2)
