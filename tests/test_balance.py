"""Balance without a loss: the two rules, the router that they move, and what shows its health."""

import math

import pytest
import torch
from conftest import TINY

from moe_tutorial import training
from moe_tutorial.balance import (
    BiasedRouter,
    RouterHealth,
    WindowBalanceLoss,
    drift,
    quantile_bias,
    router_health,
    sequence_balance_loss,
    sign_update,
)
from moe_tutorial.checkpoint import load_checkpoint, load_model, save_checkpoint, start_run_folder
from moe_tutorial.config import Config, ConfigError, TrainingConfig, validate_config
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import MoE, Router, Routing, expert_load, load_balancing_loss
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.translation import family_of
from moe_tutorial.trust import CheckpointError, model_hash

E, K, D = 8, 2, 6


def uneven(kind="softmax", rule="bias", rate=0.01, seed=0):
    """A biased router whose first experts are far ahead."""
    torch.manual_seed(seed)
    router = Router(dim=D, num_experts=E, top_k=K, router=kind)
    with torch.no_grad():
        router.scores.weight[:, 0] = torch.linspace(4, -4, E)
    return BiasedRouter(router, rule, rate)


def tokens(n=400, seed=1):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = 1  # the same for all: what makes an expert popular with every token
    return x


def routing_of(probs, top_k=K):
    best = probs.topk(top_k, dim=-1)
    return Routing(best.values, best.indices, probs)


def test_sign_update_moves_every_expert_by_the_rate_against_its_load():
    load = torch.tensor([0.5, 0.25, 0.25, 0.0])
    moved = sign_update(torch.zeros(4), load, 0.1)
    assert moved.tolist() == pytest.approx([-0.1, 0.0, 0.0, 0.1])
    load = torch.tensor([0.7, 0.1, 0.1, 0.1])  # three up and one down: the mean is taken away
    moved = sign_update(torch.tensor([1.0, 0, 0, -1.0]), load, 0.1)
    assert moved.tolist() == pytest.approx([0.85, 0.05, 0.05, -0.95])


def test_the_quantile_puts_the_share_of_every_expert_above_the_threshold():
    torch.manual_seed(0)
    for top_k in (1, 2, 5):
        scores, bias = (torch.randn(1000, E) + torch.arange(E)).softmax(-1), torch.zeros(E)
        before = expert_load(routing_of(scores, top_k))
        for _ in range(20):
            bias = quantile_bias(scores, bias, top_k)
            assert bias.mean().abs() < 1e-6
        best = (scores + bias).topk(top_k, dim=-1).indices
        after = expert_load(Routing(scores.gather(1, best), best, scores))
        assert before.max() > 1.5 / E  # it was uneven
        assert after.max() < 1.1 / E
    assert quantile_bias(scores, bias, E) is bias  # no choice is left


@pytest.mark.parametrize(("tokens", "top_k", "place"), [(1000, 2, 249), (4, 2, 0), (1, 1, 0)])
def test_the_quantile_is_the_margin_at_the_place_of_the_share(tokens, top_k, place):
    torch.manual_seed(0)
    scores, bias = torch.randn(tokens, E), torch.linspace(-0.5, 0.5, E)
    best = (scores + bias).sort(dim=1, descending=True).values
    margins = scores - (best[:, top_k - 1 : top_k] + best[:, top_k : top_k + 1]) / 2
    at = margins.sort(dim=0, descending=True).values[place]
    torch.testing.assert_close(quantile_bias(scores, bias, top_k), at.mean() - at)


def test_each_rule_moves_the_bias_in_its_own_way():
    x = tokens()
    for kind in ("softmax", "sigmoid"):
        router = uneven(kind, "bias", 0.03)
        router.rebalance(routing := router(x))
        assert torch.equal(router.bias, sign_update(torch.zeros(E), expert_load(routing), 0.03))
    router = uneven(rule="quantile")
    router.rebalance(routing := router(x))
    assert torch.equal(router.bias, quantile_bias(routing.probs, torch.zeros(E), K))


def test_the_bias_is_float32_whatever_the_default_is():
    torch.set_default_dtype(torch.float64)
    try:
        assert uneven().bias.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_a_bias_it_is_the_router_it_was_made_of():
    for kind in ("softmax", "sigmoid"):
        torch.manual_seed(0)
        router = Router(dim=D, num_experts=E, top_k=K, router=kind)
        biased, x = BiasedRouter(router, "bias", 0.1), tokens()
        for a, b in zip(router(x), biased(x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_bias_chooses_after_the_score_function_and_does_not_weigh(kind):
    router, x = uneven(kind), tokens()
    router.bias.copy_(torch.linspace(-1, 1, E))
    logits = x @ router.scores.weight.mT
    scores = logits.softmax(-1) if kind == "softmax" else logits.sigmoid()
    weights, experts, probs = router(x)
    assert torch.equal(experts, (scores + router.bias).topk(K).indices)
    chosen = logits.gather(1, experts)
    wanted = chosen.softmax(-1) if kind == "softmax" else chosen.sigmoid()
    torch.testing.assert_close(weights, wanted)
    torch.testing.assert_close(probs, logits.softmax(-1))
    weights.sum().backward()
    assert not router.bias.requires_grad


@pytest.mark.parametrize(("rule", "rate", "steps"), [("bias", 0.005, 800), ("quantile", 9.0, 30)])
def test_the_bias_revives_experts_that_got_nothing(rule, rate, steps):
    router, x = uneven(rule=rule, rate=rate), tokens()
    before, loads = router_health(router(x)), []
    for _ in range(steps):
        loads.append(expert_load(router(x)))
        router.rebalance(router(x))
    late = torch.stack(loads[steps // 2 :]).mean(dim=0)  # the steps make single batches swing
    assert before.idle >= 3
    assert late.min() > 0.02
    assert late.max() * E - 1 < 0.5 < before.max_violation
    assert router.bias.grad is None


def test_the_quantile_needs_the_softmax():
    with pytest.raises(ValueError, match='with "sigmoid" use "bias"'):
        uneven("sigmoid", "quantile")
    with pytest.raises(ConfigError, match='model: balance="quantile" needs router="softmax"'):
        validate_config({"model": {"balance": "quantile", "router": "sigmoid"}}, "x")


def test_the_router_widens_as_the_plain_one_does_under_autocast():
    router, x = uneven(), tokens()
    router.bias.copy_(torch.linspace(-1, 1, E))
    expected = router(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in zip(router(x), expected, strict=True):
            assert torch.equal(a, b)
    low = router.to(torch.bfloat16)(x.bfloat16())
    assert low.weights.dtype == torch.float32


def test_health_of_a_router_counted_by_hand():
    probs = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    found = router_health(routing_of(probs, 1))
    assert isinstance(found, RouterHealth)
    assert found.load.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert (found.max_violation, found.idle) == (1.0, 2)
    one = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
    of_mean = -(0.8 * math.log(0.4) + 0.2 * math.log(0.1))
    assert found.token_entropy == pytest.approx(one)
    assert found.mean_entropy == pytest.approx(of_mean)
    assert found.told_apart == pytest.approx(of_mean - one)
    sure = router_health(routing_of(torch.eye(4), 1))  # a probability of 0 is no NaN
    assert (sure.token_entropy, sure.max_violation) == (0.0, 0.0)
    assert sure.mean_entropy == pytest.approx(math.log(4))


def test_sequence_loss_is_the_loss_of_every_sequence_averaged():
    torch.manual_seed(0)
    probs = torch.randn(3 * 5, E).softmax(-1)
    whole = routing_of(probs)
    parts = [routing_of(part) for part in probs.split(5)]
    expected = torch.stack([load_balancing_loss([part]) for part in parts]).mean()
    torch.testing.assert_close(sequence_balance_loss([whole], 3), expected)
    torch.testing.assert_close(sequence_balance_loss([whole], 1), load_balancing_loss([whole]))
    first = routing_of(torch.tensor([[0.9, 0.05, 0.05]] * 4), 1)  # nobody chooses the last ones
    assert sequence_balance_loss([first], 2).item() == pytest.approx(2.7)
    twice = sequence_balance_loss([whole, routing_of(probs.flip(1))], 3)
    assert twice.shape == ()
    # Two sequences, each with its own expert: balanced together, not one by one.
    apart = routing_of(torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4), 1)
    assert load_balancing_loss([apart]) == 1
    assert sequence_balance_loss([apart], 2) == 2


def test_window_loss_remembers_loads_and_not_gradients():
    window = WindowBalanceLoss(4)
    first = routing_of(torch.tensor([[0.9, 0.1]]).requires_grad_(), 1)
    second = routing_of(torch.tensor([[0.2, 0.8]]).requires_grad_(), 1)
    assert window([first]).item() == pytest.approx(2 * 0.9)
    load = torch.tensor([0.75, 0.25])  # three quarters of the old, a quarter of the new
    loss = window([second])
    assert loss.item() == pytest.approx(2 * (load * second.probs[0]).sum().item())
    loss.backward()


def test_drift_is_seeded_and_the_rules_do_what_they_are_for():
    late = {rule: sum(drift(rule, rate=0.01, steps=200)[100:]) / 100
            for rule in (None, "bias", "quantile")}  # fmt: skip
    assert late["quantile"] < 0.5 < late[None]
    assert late["bias"] < late[None]
    assert drift("bias", steps=5) == drift("bias", steps=5)
    assert drift("bias", steps=5) != drift("bias", steps=5, seed=1)
    assert drift(None, rate=0.5, steps=9) == drift(None, rate=0.1, steps=9)
    defaults = {"rate": 0.01, "steps": 200, "num_experts": 32, "top_k": 4, "tokens": 512}
    assert drift("bias") == drift("bias", seed=0, **defaults)


@pytest.mark.parametrize("rule", [None, "bias", "quantile"])
def test_drift_computed_a_second_way(rule):
    generator = torch.Generator().manual_seed(3)
    offset, bias, expected = torch.randn(6, generator=generator), torch.zeros(6), []
    for _ in range(7):
        offset += torch.randn(6, generator=generator) / 20
        logits = torch.randn(40, 6, generator=generator) + offset
        probs = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        order = (probs + bias).argsort(dim=1, descending=True)[:, :2]
        counts = torch.tensor([(order == e).sum() for e in range(6)]) / 80
        expected.append(counts.max().item() * 6 - 1)
        if rule == "bias":
            bias = sign_update(bias, counts, 0.02)
        elif rule == "quantile":
            bias = quantile_bias(probs, bias, 2)
    found = drift(rule, rate=0.02, steps=7, seed=3, num_experts=6, top_k=2, tokens=40)
    assert found == pytest.approx(expected, abs=1e-6)


def small(**changes):
    return TINY.model_copy(update={"max_seq_len": 16, **changes})


def update_once(model):
    state = training.start_training(model, TrainingConfig())
    x = torch.arange(32).view(2, 16) % 13
    return training.update(state, x, x, 0.0, 1e9, model)


@pytest.mark.parametrize("rule", ["bias", "quantile"])
def test_a_training_step_moves_the_bias_and_nothing_else_does(rule):
    torch.manual_seed(0)
    model = MoELanguageModel(small(balance=rule), 13)
    routers = [block.moe.router for block in model.blocks]
    assert "blocks.0.moe.router.bias" in model.state_dict()
    x = torch.arange(16)[None] % 13
    model(x)  # training mode, but no step
    training.evaluate(model, torch.arange(40) % 13, 16)
    assert not any(router.bias.any() for router in routers)
    update_once(model)
    assert all(router.bias.any() for router in routers)
    assert not torch.equal(routers[0].bias, routers[1].bias)


def test_only_balance_loss_pays_the_balance_loss():
    grads = {}
    for balance in ("loss", "none", "bias", "quantile"):
        torch.manual_seed(0)
        model = MoELanguageModel(small(balance=balance, load_balancing_loss_coef=5.0), 13)
        weight = model.blocks[0].moe.router.scores.weight
        weight.register_hook(lambda grad, key=balance: grads.update({key: grad.clone()}))
        update_once(model)
    assert torch.equal(grads["none"], grads["bias"])  # the weights and the first choice are equal
    assert torch.equal(grads["none"], grads["quantile"])
    assert not torch.allclose(grads["none"], grads["loss"])


def test_a_balance_loss_of_ones_own_is_weighed_by_the_coefficient():
    grads = []
    for loss in (load_balancing_loss, lambda routings: 3 * load_balancing_loss(routings)):
        torch.manual_seed(0)
        model = MoELanguageModel(small(load_balancing_loss_coef=0.5), 13)
        kept = []
        model.blocks[0].moe.router.scores.weight.register_hook(kept.append)
        state = training.start_training(model, TrainingConfig())
        x = torch.arange(32).view(2, 16) % 13
        record = training.update(state, x, x, 0.0, 1e9, model, loss)
        grads.append((record.balance_loss, kept[0].clone()))
    assert grads[1][0] == pytest.approx(3 * grads[0][0])
    assert not torch.allclose(grads[0][1], grads[1][1])


def test_the_loop_hands_a_balance_loss_of_ones_own_on():
    found = []
    for loss in (load_balancing_loss, lambda routings: 7 * load_balancing_loss(routings)):
        torch.manual_seed(0)
        state = training.start_training(MoELanguageModel(small(), 13), TrainingConfig())
        settings = TrainingConfig(seq_len=16, batch_size=2, max_steps=1, epochs=9)
        ids = torch.arange(100) % 13
        [record] = training.train(state, ids, ids, settings, balance_loss=loss)
        found.append(record.balance_loss)
    assert found[1] == pytest.approx(7 * found[0])


def test_a_biased_run_is_saved_loaded_and_resumed_with_the_same_losses(tmp_path):
    ids = torch.arange(400) * 7 % 13
    tokenizer = CharTokenizer([chr(97 + i) for i in range(13)])
    model_config = small(balance="bias", bias_update_rate=0.05)
    settings = TrainingConfig(seq_len=16, batch_size=2, max_steps=8, warmup_steps=0, epochs=9)
    config = Config(model=model_config, training=settings)

    def fresh():
        torch.manual_seed(0)
        return training.start_training(MoELanguageModel(model_config, 13), settings)

    state = fresh()
    start_run_folder(tmp_path, config, tokenizer)
    losses = []
    for record in training.train(state, ids, ids[:60], settings):
        losses.append(record.loss)
        if record.step == 4:
            save_checkpoint(tmp_path, state)
            saved = [block.moe.router.bias.clone() for block in state.model.blocks]
    again = fresh()
    load_checkpoint(tmp_path, again)
    for block, bias in zip(again.model.blocks, saved, strict=True):
        assert torch.equal(block.moe.router.bias, bias)
    assert [r.loss for r in training.train(again, ids, ids[:60], settings)] == losses[4:]
    loaded = load_model(tmp_path, "latest").model
    assert torch.equal(loaded.blocks[0].moe.router.bias, saved[0])
    text = (tmp_path / "config.hocon").read_text(encoding="utf-8")
    (tmp_path / "config.hocon").write_text(text.replace('"bias"', '"quantile"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="not the one that the weights were trained with"):
        load_model(tmp_path, "latest")


def test_the_hash_of_a_model_is_that_of_before_unless_a_newer_key_is_used():
    newer = {"balance", "bias_update_rate", "router_score", "router_normalize", "router_scale"}
    plain = TINY.model_dump(exclude=newer)
    old = type(TINY)(**plain)
    hashes = {model_hash(old)}
    changes = [{"balance": "none"}, {"balance": "bias"}, {"bias_update_rate": 0.5}]
    changes += [{"router_score": "sigmoid"}, {"router_normalize": True}, {"router_scale": 2.0}]
    for change in changes:
        hashes.add(model_hash(TINY.model_copy(update=change)))
    assert len(hashes) == 7


def test_a_bias_that_moves_a_softmax_choice_is_exported_as_ernie():
    for balance in ("bias", "quantile"):
        assert family_of(small(balance=balance)).architecture == "Ernie4_5_MoeForCausalLM"
    for balance in ("loss", "none"):
        assert family_of(small(balance=balance)).architecture == "MixtralForCausalLM"
    with pytest.raises(ValueError, match=r"router=sigmoid .*with balance=bias is not exported"):
        family_of(small(balance="bias", router="sigmoid"))


def test_the_layer_scales_inputs_by_what_a_biased_sigmoid_router_says():
    torch.manual_seed(0)
    layer = MoE(dim=D, hidden_dim=5, num_experts=E, top_k=K, router="sigmoid")
    layer.router = BiasedRouter(layer.router, "bias", 0.1)
    layer.router.bias.copy_(torch.linspace(3, -3, E))
    x = tokens(20)[None]
    y, routing = layer(x)
    assert routing.experts.max() < 3  # the bias decides here
    expected = torch.zeros(20, D)
    for n in range(20):
        for weight, e in zip(routing.weights[n], routing.experts[n].tolist(), strict=True):
            expected[n] += layer.experts[e](weight * x[0, n])
    torch.testing.assert_close(y[0], expected)
