import math

import pytest
import torch
from conftest import ROOT

from moe_tutorial.command.hocon import load_config
from moe_tutorial.config import ModelConfig
from moe_tutorial.model import MoELanguageModel, count_parameters
from moe_tutorial.training import next_character_loss

V = 13


def sequence(batch=2, time=16):
    return torch.randint(V, (batch, time))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared_expert", [False, True])
def test_first_loss_is_that_of_uniform_guessing(seed, shared_expert):
    torch.manual_seed(seed)
    model = MoELanguageModel(ModelConfig(dim=64, shared_expert=shared_expert), vocab_size=61)
    ids = torch.randint(61, (4, 129))
    loss = next_character_loss(model(ids[:, :-1]).logits, ids[:, 1:]).item()
    assert loss == pytest.approx(math.log(61), rel=0.02)


def test_later_tokens_never_change_earlier_logits(tiny_model):
    tokens, changed = sequence(), sequence()
    changed[:, :9] = tokens[:, :9]
    a, b = tiny_model(tokens).logits, tiny_model(changed).logits
    torch.testing.assert_close(a[:, :9], b[:, :9], atol=1e-6, rtol=0)
    assert not torch.allclose(a[:, 9:], b[:, 9:])


def test_rows_of_a_batch_never_meet(tiny_model):
    tokens = sequence(4)
    alone = torch.cat([tiny_model(row[None]).logits for row in tokens])
    torch.testing.assert_close(tiny_model(tokens).logits, alone, atol=1e-6, rtol=0)


def test_order_matters(tiny_model):
    tokens = sequence(1, 8)
    tokens[0, :2] = torch.tensor([0, 1])
    swapped = tokens[:, [1, 0, *range(2, 8)]]
    assert not torch.allclose(tiny_model(tokens).logits[0, -1], tiny_model(swapped).logits[0, -1])


def test_one_routing_per_layer_for_all_tokens(tiny_model):
    output = tiny_model(sequence(3, 5))
    assert output.logits.shape == (3, 5, V)
    assert len(output.routings) == 2
    assert output.routings[0].experts.shape == (15, 2)
    assert output.routings[0].probs.shape == (15, 5)


@pytest.mark.parametrize("pieces", [[1] * 16, [5, 1, 10], [16]])
def test_cached_logits_equal_uncached(tiny_model, pieces):
    tokens, caches = sequence(3), tiny_model.new_caches(3)
    parts = [tiny_model(part, caches).logits for part in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(
        torch.cat(parts, dim=1), tiny_model(tokens).logits, atol=1e-5, rtol=0
    )


def test_overfits_one_batch(tiny_model):
    x, y = sequence(4), sequence(4)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = next_character_loss(tiny_model(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_every_parameter_gets_a_gradient(tiny_model):
    next_character_loss(tiny_model(sequence()).logits, sequence()).backward()
    for name, parameter in tiny_model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_text_longer_than_max_seq_len_is_an_error(tiny_model):
    with pytest.raises(ValueError, match="reaches position 17, but max_seq_len=16"):
        tiny_model(sequence(1, 17))
    caches = tiny_model.new_caches()
    tiny_model(sequence(1, 16), caches)
    with pytest.raises(ValueError, match="position 17"):
        tiny_model(sequence(1, 1), caches)


def test_parameters_counted_by_hand(tiny_model):
    d, f, e, k, layers = 24, 16, 5, 2, 2
    rest = 2 * V * d + d + layers * (2 * d + 4 * d * d + d * e)
    expert = 3 * d * f
    assert count_parameters(tiny_model) == (
        rest + layers * e * expert,
        rest + layers * k * expert,
    )


def test_chapter_07_counts_the_default_configuration():
    config = load_config(ROOT / "config.hocon").model
    count = count_parameters(MoELanguageModel(config, vocab_size=61))
    chapter = (ROOT / "notebooks" / "07_moe.ipynb").read_text(encoding="utf-8")
    assert f"total {count.total}, active {count.active}," in chapter


def test_shared_expert_is_always_active():
    config = ModelConfig(dim=16, num_layers=1, num_heads=2, num_experts=4, hidden_dim=8)
    with_shared = count_parameters(MoELanguageModel(config, V))
    without = count_parameters(
        MoELanguageModel(config.model_copy(update={"shared_expert": False}), V)
    )
    assert with_shared.active - without.active == with_shared.total - without.total == 3 * 16 * 8
