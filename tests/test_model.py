import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from torch import nn

from moe_tutorial.config import ModelConfig
from moe_tutorial.model import Block, MoELanguageModel, count_parameters
from moe_tutorial.rmsnorm import RMSNorm
from moe_tutorial.rope import rope_table
from moe_tutorial.training import next_character_loss

V = 13


EACH_KEY = {  # a value that is not TINY's, and where every layer must have it
    "dim": (30, lambda model: {weight.shape[-1] for weight in norms(model, "weight")}),
    "num_layers": (3, lambda model: {len(model.blocks)}),
    "num_heads": (4, lambda model: {block.attention.num_heads for block in model.blocks}),
    "num_experts": (7, lambda model: {len(block.moe.experts) for block in model.blocks}),
    "top_k": (3, lambda model: {block.moe.router.top_k for block in model.blocks}),
    "hidden_dim": (9, lambda model: {len(w) for b in model.blocks for w in b.moe.output_weights()}),
    "router": ("sigmoid", lambda model: {block.moe.router.router for block in model.blocks}),
    "shared_expert": (
        True,
        lambda model: {bool(block.moe.shared_expert) for block in model.blocks},
    ),
    "max_seq_len": (9, lambda model: {len(model.cos), model.new_caches()[0].keys.shape[2]}),
    "rope_theta": (81.0, lambda model: {round(1 / model.sin[1, -1].asin().item() ** (4 / 3), 3)}),
    "norm_eps": (0.5, lambda model: set(norms(model, "eps"))),
    "dropout": (0.25, lambda model: {m.p for m in model.modules() if isinstance(m, nn.Dropout)}),
    "load_balancing_loss_coef": (2.0, lambda model: {model.config.load_balancing_loss_coef}),
    "balance": ("bias", lambda m: {getattr(b.moe.router, "rule", None) for b in m.blocks}),
    "bias_update_rate": (0.5, lambda model: {model.config.bias_update_rate}),
    "router_score": ("sigmoid", lambda model: switches(model, "score")),
    "router_normalize": (False, lambda model: switches(model, "normalize")),
    "router_scale": (2.5, lambda model: switches(model, "scale")),
}


def switches(model, name):
    routers = [block.moe.router for block in model.blocks]
    return {getattr(getattr(router, "switches", None), name, None) for router in routers}


def norms(model, attribute):
    found = [getattr(m, attribute) for m in model.modules() if isinstance(m, RMSNorm)]
    assert len(found) == 2 * len(model.blocks) + 1
    return found


def sequence(batch=2, time=16):
    return torch.randint(V, (batch, time))


@pytest.mark.parametrize("key", ModelConfig.model_fields)
def test_every_key_of_the_configuration_reaches_every_layer(key):
    value, read = EACH_KEY[key]
    model = MoELanguageModel(TINY.model_copy(update={key: value}), V)
    assert read(model) == {value}
    assert read(MoELanguageModel(TINY, V)) != {value}


def test_the_model_is_embedding_blocks_norm_and_head():
    config = TINY.model_copy(update={"norm_eps": 0.3, "rope_theta": 50.0})
    model, tokens = MoELanguageModel(config, V), sequence()
    for weight in norms(model, "weight"):
        weight.data.uniform_(0.5, 2.0)
    table, x = rope_table(16, 8, 50.0), model.embedding.weight[tokens]
    for block in model.blocks:
        x = x + block.attention(F.rms_norm(x, (24,), block.attention_norm.weight, 0.3), *table)
        x = x + block.moe(F.rms_norm(x, (24,), block.moe_norm.weight, 0.3))[0]
    expected = F.rms_norm(x, (24,), model.norm.weight, 0.3) @ model.head.weight.T
    torch.testing.assert_close(model(tokens).logits, expected)


@pytest.mark.parametrize("half", ["attention", "moe"])
def test_dropout_falls_once_on_what_each_half_of_a_block_adds(half):
    block, x = Block(TINY.model_copy(update={"dropout": 0.5})).double(), torch.randn(4, 16, 24)
    x, table = x.double(), rope_table(16, 8)
    silent = block.moe.output_weights() if half == "attention" else [block.attention.out.weight]
    for weight in silent:
        weight.data.zero_()
    added = block.eval()(x, *table)[0] - x
    dropped = block.train()(x, *table)[0] - x
    kept = dropped.abs() > 1e-9
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped[kept], 2 * added[kept])


def test_every_parameter_starts_with_its_standard_deviation():
    """Uniform from -1/sqrt(n) to 1/sqrt(n) has the deviation 1/sqrt(3n); 6 outputs are added up."""
    config = ModelConfig(dim=96, num_layers=3, num_heads=4, num_experts=16, hidden_dim=400)
    linear, expert = (3 * 96) ** -0.5, 96**-0.5
    expected = {
        "embedding": 1.0, "head": 0.02, "norm": 0.0, "attention_norm": 0.0, "moe_norm": 0.0,
        "qkv": linear, "out": linear / 6**0.5, "scores": linear, "w_gate": expert, "w_up": expert,
        "w_down": 400**-0.5 / 6**0.5,
    }  # fmt: skip
    for name, parameter in MoELanguageModel(config, vocab_size=61).named_parameters():
        deviation = expected[name.removesuffix(".weight").split(".")[-1]]
        assert parameter.std().item() == pytest.approx(deviation, rel=0.06), name
        assert parameter.mean().item() == pytest.approx(float(deviation == 0), abs=0.06), name


def test_only_parameters_are_saved_and_the_tables_move_with_the_model(tiny_model):
    assert set(tiny_model.state_dict()) == {name for name, _ in tiny_model.named_parameters()}
    assert {name for name, _ in tiny_model.named_buffers()} == {"cos", "sin"}
    assert not any(name.endswith("bias") for name in tiny_model.state_dict())
    assert tiny_model.head.weight is not tiny_model.embedding.weight


def test_a_missing_hidden_dim_means_eight_thirds_of_dim():
    model = MoELanguageModel(TINY.model_copy(update={"hidden_dim": None}), V)
    assert model.blocks[0].moe.experts[0].w_up.shape == (24, 64)


def test_new_caches_are_empty_and_of_the_model_s_sizes_type_and_device(tiny_model):
    caches = tiny_model.double().new_caches(4)
    assert len(caches) == 2
    for cache in caches:
        assert cache.keys.shape == cache.values.shape == (4, 3, 16, 8)
        assert cache.keys.dtype == cache.values.dtype == torch.float64
        assert cache.length == 0
    cache = tiny_model.to("meta").new_caches()[1]
    assert cache.keys.device.type == "meta"
    assert len(cache.keys) == 1


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


def test_one_layer_reads_through_its_cache_too():
    model = MoELanguageModel(TINY.model_copy(update={"num_layers": 1}), V)
    tokens, caches = sequence(1, 3), model.new_caches()
    model(tokens[:, :2], caches)
    last = model(tokens[:, 2:], caches).logits[:, 0]
    torch.testing.assert_close(last, model(tokens).logits[:, 2])


def test_overfits_one_batch(tiny_model):
    x, y = sequence(4), sequence(4)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
    for _ in range(80):
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
    count = count_parameters(tiny_model)
    assert count == (rest + layers * e * expert, rest + layers * k * expert)
    assert f"{count.active:,}" == "10,200"


def test_shared_expert_is_always_active():
    config = ModelConfig(dim=16, num_layers=1, num_heads=2, num_experts=4, hidden_dim=8)
    with_shared = count_parameters(MoELanguageModel(config, V))
    without = count_parameters(
        MoELanguageModel(config.model_copy(update={"shared_expert": False}), V)
    )
    assert with_shared.active - without.active == with_shared.total - without.total == 3 * 16 * 8
