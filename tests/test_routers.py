"""The one function against the router classes of transformers, and its own laws."""

import importlib
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, TINY
from test_cards import NAMES, WITH_CLASS, config_class
from torch import Tensor, nn

from moe_tutorial.balance import BiasedRouter
from moe_tutorial.cards import CARDS, Card
from moe_tutorial.checkpoint import (
    load_checkpoint,
    load_model,
    save_checkpoint,
    start_run_folder,
)
from moe_tutorial.command.hocon import load_config
from moe_tutorial.config import Config, ConfigError, ModelConfig, TrainingConfig, validate_config
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import Router
from moe_tutorial.routers import (
    SCORES,
    SwitchedRouter,
    Switches,
    restoring_scale,
    route_by,
    softmax,
    sqrt_softplus,
    switches_of,
)
from moe_tutorial.sampling import generate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import TrainingState, start_training, train
from moe_tutorial.translation import family_of

V3 = Switches("sigmoid", True, groups=4, kept_groups=2, group_best=2, normalize=True, scale=2.5)


def router_of(card: Card, num_experts: int, top_k: int, dim: int) -> nn.Module:
    """A module of transformers that routes as the card says, in small, with random weights."""
    zero = 4 if card.zero_experts else 0
    small = {"num_experts": num_experts - zero, "top_k": top_k, "dim": dim, "hidden_dim": 2}
    values = {"zero_experts": zero, **card.switches._asdict(), **small}
    kind = config_class(card)
    default = kind()
    names = {f: next((n for n in NAMES[f] if hasattr(default, n)), "") for f in NAMES}
    settings = {names[field]: value for field, value in values.items() if names.get(field)}
    if card.name == "DeepSeek-V2":
        settings |= {"topk_method": "group_limited_greedy", "num_attention_heads": 1}
    if card.name == "DBRX":
        settings["moe_normalize_expert_weights"] = 1.0  # the norm of this order: the sum
    config = kind(**settings)
    file = card.config.partition(".")[0]
    module = importlib.import_module(f"transformers.models.{file}.modeling_{file}")
    if card.name == "DBRX":
        config = SimpleNamespace(ffn_config=config)
    router = getattr(module, card.router)(config).float().eval()
    with torch.no_grad():
        for tensor in (*router.parameters(), *router.buffers()):
            tensor.copy_(torch.randn_like(tensor) * (0.3 if min(tensor.shape) == 1 else 0.5))
            if tensor.ndim == 1:
                tensor *= 0.5
    return router


def run_theirs(card: Card, router: nn.Module, x: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Their weights and experts; of Llama 4 the weights of all experts, most of them 0."""
    if card.name == "DBRX":
        return router.route_tokens_to_experts(router.router(x))
    if card.name == "Llama 4 Scout":
        return (router(x)[0],)
    handed_in = card.name in ("MiniMax-M2", "LFM2-8B-A1B")  # by the layer, which keeps the bias
    return router(x, bias)[1:3] if handed_in else router(x)[1:3]


def run_ours(
    card: Card, router: nn.Module, weight: Tensor, x: Tensor, bias: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """Our weights and experts with their parameters; what the notes of the cards say is here."""
    if card.name == "Gemma 4 26B-A4B":
        x = F.rms_norm(x, x.shape[-1:], eps=router.eps) * router.scale * x.shape[-1] ** -0.5
    logits = F.linear(x, weight, router.bias if card.name == "gpt-oss-120b" else None)
    routing = route_by(logits, top_k, card.switches, bias if card.switches.bias else None)
    scale = 1.0
    if card.name == "Gemma 4 26B-A4B":
        scale = router.per_expert_scale[routing.experts]
    return routing.weights * scale, routing.experts


def dense(num_experts: int, weights: Tensor, experts: Tensor | None = None) -> Tensor:
    """Each expert's weight for each token, 0 if it was not chosen. Shapes: (N, K) -> (N, E)."""
    if experts is None:
        return weights
    return torch.zeros(len(weights), num_experts).scatter_add(1, experts, weights)


def bias_of(router: nn.Module, num_experts: int) -> Tensor:
    for name, tensor in router.state_dict().items():
        if name.endswith("e_score_correction_bias"):
            return tensor.flatten()
    return 0.3 * torch.randn(num_experts)


def compare(card: Card, num_experts: int, top_k: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    router = router_of(card, num_experts, top_k, dim)
    (weight,) = [p for p in router.parameters() if p.shape == (num_experts, dim)]
    weight.requires_grad_()
    bias, x = bias_of(router, num_experts), torch.randn(43, dim)
    results = []
    for weights in (
        run_theirs(card, router, x, bias), run_ours(card, router, weight, x, bias, top_k)
    ):  # fmt: skip
        values = dense(num_experts, *weights)
        torch.manual_seed(seed)
        loss = (values * torch.randn_like(values)).sum()
        results.append((values, torch.autograd.grad(loss, weight)[0]))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    values, slopes = results[1]
    assert (values != 0).sum(dim=1).eq(top_k).all()
    assert slopes.abs().max() > 1e-3 or (card.switches.normalize and top_k == 1)


SIZES = [(24, 5, 7), (40, 3, 13)]  # experts, top_k, dim; some cards have eight groups


@pytest.mark.parametrize("card", WITH_CLASS, ids=lambda card: card.name)
def test_equals_the_class_of_transformers_in_values_and_gradients(card):
    for seed, sizes in enumerate(SIZES):
        compare(card, *sizes, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("card", WITH_CLASS, ids=lambda card: card.name)
def test_equals_the_class_of_transformers_in_many_sizes(card, seed):
    for num_experts, top_k, dim in ((16, 1, 5), (48, 7, 3), (72, 11, 17), (120, 2, 9)):
        kept = num_experts // card.switches.groups * card.switches.kept_groups
        least = 2 if card.name == "LFM2-8B-A1B" else 1  # see its note: with 1, 1e-6 is seen
        compare(card, num_experts, max(least, min(top_k, kept)), dim, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DeepSeek-V3", "GLM-4.5", "Mistral 4"])
@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (3, 1), (4, 3), (6, 2)])
def test_equals_the_class_of_transformers_with_other_groups(name, groups, kept):
    card = next(card for card in CARDS if card.name == name)
    switches = card.switches._replace(groups=groups, kept_groups=kept, group_best=2)
    for seed in range(5):
        compare(card._replace(switches=switches), 24, 3, 7, seed)


def test_our_two_routers_are_two_settings_of_it():
    x = torch.randn(29, 6)
    for kind, switches in (("softmax", Switches(normalize=True)), ("sigmoid", Switches("sigmoid"))):
        router = Router(dim=6, num_experts=7, top_k=3, router=kind)
        routing = router(x)
        for ours, theirs in zip(route_by(router.scores(x), 3, switches), routing, strict=True):
            torch.testing.assert_close(ours, theirs)
        biased = BiasedRouter(router, "bias", 0.1)
        biased.bias.copy_(0.2 * torch.randn(7))
        with_bias = route_by(router.scores(x), 3, switches._replace(bias=True), biased.bias)
        for ours, theirs in zip(with_bias, biased(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def by_hand(logits: Tensor, top_k: int, switches: Switches, bias: Tensor | None) -> Tensor:
    """The weights of all experts, token by token and expert by expert. Shapes: -> (N, E)."""
    scores = SCORES[switches.score](logits).double()
    result = torch.zeros_like(scores)
    size = logits.shape[1] // switches.groups
    for row, score in zip(result, scores.tolist(), strict=True):
        choice = (
            score if bias is None else [s + b for s, b in zip(score, bias.tolist(), strict=True)]
        )
        groups = [range(g * size, (g + 1) * size) for g in range(switches.groups)]

        def worth(group: range, choice: list[float] = choice) -> float:
            return sum(sorted((choice[e] for e in group), reverse=True)[: switches.group_best])

        kept = sorted(groups, key=worth, reverse=True)[: switches.kept_groups]
        open_experts = [e for group in kept for e in group]
        chosen = sorted(open_experts, key=lambda e: choice[e], reverse=True)[:top_k]
        total = sum(score[e] for e in chosen) if switches.normalize else 1.0
        for e in chosen:
            row[e] = switches.scale * score[e] / total
    return result


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("score", list(SCORES))
@pytest.mark.parametrize("groups", [(1, 1, 1), (3, 2, 1), (5, 2, 2), (5, 1, 3), (5, 5, 2)])
def test_equals_the_rule_followed_by_hand(score, groups, normalize):
    for seed, biased in ((0, False), (1, True)):
        torch.manual_seed(seed)
        logits, bias = 2 * torch.randn(17, 15), torch.randn(15) if biased else None
        switches = Switches(score, biased, *groups, normalize, 1.5)
        routing = route_by(logits, 3, switches, bias)
        ours = dense(15, routing.weights, routing.experts).double()
        torch.testing.assert_close(ours, by_hand(logits, 3, switches, bias), rtol=1e-5, atol=1e-6)
        assert routing.probs.equal(logits.softmax(-1))


def test_softmax_then_normalize_is_softmax_over_the_chosen_with_the_same_gradients():
    logits = torch.randn(31, 9, dtype=torch.float64, requires_grad=True)
    chosen, experts = logits.topk(4, dim=-1)
    routing = route_by(logits, 4, Switches(normalize=True))
    assert routing.experts.equal(experts)
    mixed = torch.randn(31, 4, dtype=torch.float64)
    results = [(w, *torch.autograd.grad((w * mixed).sum(), logits, retain_graph=True))
               for w in (routing.weights, chosen.softmax(-1))]  # fmt: skip
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_bias_chooses_and_neither_weighs_nor_is_trained():
    logits, bias = torch.randn(40, 8), torch.randn(8, requires_grad=True)
    switches = Switches("sigmoid", bias=True)
    routing = route_by(logits.requires_grad_(), 3, switches, bias)
    assert not routing.experts.equal(route_by(logits, 3, Switches("sigmoid")).experts)
    assert routing.weights.equal(logits.sigmoid().gather(1, routing.experts))
    assert torch.autograd.grad(routing.weights.sum(), bias, allow_unused=True) == (None,)
    choice = (logits.sigmoid() + bias).gather(1, routing.experts)
    assert choice.equal(choice.sort(dim=-1, descending=True).values), "best first"


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("score", list(SCORES))
def test_one_expert_can_be_trained_unless_its_weight_is_normalized(score, normalize):
    logits = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    weights = route_by(logits, 1, Switches(score, normalize=normalize)).weights
    (slope,) = torch.autograd.grad(weights.sum(), logits)
    assert (slope.abs().max() < 1e-12) == normalize
    assert not normalize or weights.sub(1).abs().max() < 1e-12


def test_normalized_weights_sum_to_the_scale_and_softmax_alone_to_less_than_one():
    logits = torch.randn(50, 12)
    assert route_by(logits, 4, V3._replace(bias=False)).weights.sum(-1).sub(2.5).abs().max() < 1e-5
    sums = route_by(logits, 4, Switches()).weights.sum(-1)
    assert sums.max() < 1
    tripled = route_by(logits, 4, Switches(scale=3.0)).weights.sum(-1)
    torch.testing.assert_close(tripled, 3 * sums)


def test_groups_limit_how_many_machines_a_token_meets():
    logits, bias = torch.randn(200, 32), torch.randn(32)
    switches = Switches("sigmoid", True, groups=8, kept_groups=3, group_best=2)
    experts = route_by(logits, 6, switches, bias).experts
    met = [len(set(row)) for row in (experts // 4).tolist()]
    assert max(met) <= 3
    free = route_by(logits, 6, switches._replace(kept_groups=8), bias)
    assert free.experts.equal(route_by(logits, 6, Switches("sigmoid", True), bias).experts)


@pytest.mark.parametrize("score", list(SCORES))
def test_far_logits_give_finite_weights(score):
    logits = torch.tensor([[-200.0, -210.0, -220.0], [300.0, 200.0, 100.0]])
    assert route_by(logits, 2, Switches(score, normalize=True)).weights.isfinite().all()


def test_sqrt_softplus_is_what_its_name_says_and_softmax_is_over_the_experts():
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64)[None]
    torch.testing.assert_close(sqrt_softplus(logits) ** 2, (1 + logits.exp()).log())
    assert softmax(torch.randn(5, 3)).sum(-1).sub(1).abs().max() < 1e-6


def test_the_restoring_scale_restores_the_variance():
    switches = Switches("sigmoid", normalize=True)
    scale = restoring_scale(switches, 16, 4)
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(20_000, 16, generator=generator)
    weights = route_by(logits, 4, switches._replace(scale=scale)).weights
    outputs = torch.randn(20_000, 4, generator=generator)  # of variance 1
    assert (weights * outputs).sum(-1).std().item() == pytest.approx(1, abs=0.02)
    assert scale == restoring_scale(V3._replace(groups=1, group_best=1), 16, 4), "its own scale"
    assert restoring_scale(switches, 16, 1) == pytest.approx(1)
    logits = torch.randn(4096, 16, generator=torch.Generator().manual_seed(3))
    of_each = route_by(logits, 4, Switches()).weights.square().sum(-1).rsqrt()  # of a token
    assert restoring_scale(Switches(), 16, 4, seed=3) == pytest.approx(of_each.mean().item())


@pytest.mark.parametrize(("name", "digits"), [("Moonlight-16B-A3B", 5e-4), ("Kimi K2", 1e-3)])
def test_two_published_scales_are_the_restoring_ones(name, digits):
    card = next(card for card in CARDS if card.name == name)
    found = restoring_scale(card.switches, card.num_experts, card.top_k)
    assert found == pytest.approx(card.switches.scale, abs=digits)


@pytest.mark.parametrize(
    ("switches", "top_k", "bias", "message"),
    [
        (Switches("tanh"), 2, None, "score='tanh' is unknown; choose softmax, sigmoid, sqrt"),
        (Switches(bias=True), 2, None, "bias=True, and none is given"),
        (Switches(), 2, torch.zeros(12), "bias=False, and one is given"),
        (Switches(groups=5), 2, None, "num_experts=12 is not divisible by groups=5"),
        (Switches(groups=6, group_best=3), 2, None, "group_best=3 is not between 1 and 2"),
        (Switches(groups=6, group_best=0), 2, None, "group_best=0 is not between 1 and 2"),
        (Switches(groups=6, kept_groups=2), 5, None, "top_k=5 is not between 1 and 4"),
        (Switches(), 13, None, "top_k=13 is not between 1 and 12"),
        (Switches(), 0, None, "top_k=0 is not between 1 and 12"),
        (Switches(groups=6, kept_groups=7), 13, None, "top_k=13 is not between 1 and 12"),
    ],
)
def test_what_does_not_fit_is_named(switches, top_k, bias, message):
    with pytest.raises(ValueError, match=message):
        route_by(torch.randn(4, 12), top_k, switches, bias)


def configured(**keys: object) -> ModelConfig:
    return TINY.model_copy(update=keys)


def test_without_the_three_keys_the_router_is_that_of_before():
    for balance, kind in (("loss", Router), ("none", Router), ("bias", BiasedRouter)):
        config = configured(balance=balance)
        assert switches_of(config) is None
        assert type(MoELanguageModel(config, 9).blocks[0].moe.router) is kind


@pytest.mark.parametrize(
    ("keys", "switches"),
    [
        ({"router_score": "sigmoid"}, Switches("sigmoid", normalize=True)),
        ({"router": "sigmoid", "router_score": "sqrtsoftplus"}, Switches("sqrtsoftplus")),
        ({"router": "sigmoid", "router_scale": 2.0}, Switches("sigmoid", scale=2.0)),
        ({"router_normalize": False}, Switches()),
        ({"router_normalize": True, "balance": "bias"}, Switches(bias=True, normalize=True)),
        ({"router_scale": 2.0, "balance": "quantile"},
         Switches(bias=True, normalize=True, scale=2.0)),
    ],
)  # fmt: skip
def test_a_null_key_means_as_the_router_of_that_name(keys, switches):
    config = configured(**keys)
    assert switches_of(config) == switches
    router = MoELanguageModel(config, 9).blocks[1].moe.router
    assert (type(router), router.switches, router.top_k) == (SwitchedRouter, switches, config.top_k)
    assert ("bias" in router.state_dict()) == switches.bias


def test_the_layer_scales_outputs_by_what_a_switched_router_says():
    torch.manual_seed(2)
    config = configured(router="sigmoid", router_score="sigmoid", router_scale=3.0, balance="bias")
    layer = MoELanguageModel(config, 9).blocks[0].moe
    layer.router.bias.copy_(torch.randn_like(layer.router.bias))
    x = torch.randn(1, 11, config.dim)
    y, routing = layer(x)
    logits = layer.router.scores(x[0])
    expected = route_by(logits, config.top_k, Switches("sigmoid", True, scale=3.0),
                        layer.router.bias)  # fmt: skip
    assert routing.experts.equal(expected.experts)
    torch.testing.assert_close(routing.weights, expected.weights)
    for n in range(11):
        parts = [w * layer.experts[e](x[0, n]) for w, e in
                 zip(routing.weights[n], routing.experts[n].tolist(), strict=True)]  # fmt: skip
        torch.testing.assert_close(y[0, n], sum(parts))
    with torch.no_grad():  # a single token goes another way
        torch.testing.assert_close(layer(x[:, :1])[0], y[:, :1])


def test_a_switched_router_computes_in_float32_under_autocast():
    router = SwitchedRouter(Router(dim=6, num_experts=5, top_k=2, router="softmax"),
                            Switches("sigmoid", normalize=True), None, 0.1)  # fmt: skip
    x = torch.randn(40, 6)
    plain = router(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = router(x)
    assert all(a.equal(b) for a, b in zip(plain, cast, strict=True))
    assert router(x.bfloat16()).weights.dtype == torch.float32


def test_the_bias_of_a_switched_router_moves_after_a_step_and_without_one_nothing_does():
    routers = {}
    for rule in ("bias", "quantile", None):
        router = SwitchedRouter(Router(dim=6, num_experts=5, top_k=2, router="softmax"),
                                Switches(normalize=True), rule, 0.1)  # fmt: skip
        router.rebalance(router(torch.randn(50, 6)))
        routers[rule] = router
    assert routers["bias"].bias.abs().max() == pytest.approx(0.1, abs=0.06)
    assert routers["quantile"].bias.abs().max() > 0
    assert routers[None].bias is None
    assert not routers[None].switches.bias


DEEPSEEK = {"router_score": "sigmoid", "router_normalize": True, "router_scale": 1.4,
            "balance": "bias", "bias_update_rate": 0.05}  # fmt: skip


@pytest.mark.parametrize("keys", [DEEPSEEK, {"router_score": "sqrtsoftplus"}])
def test_a_model_with_it_trains_saves_resumes_with_equal_losses_and_generates(tmp_path, keys):
    config = configured(**keys)
    settings = TrainingConfig(seq_len=8, batch_size=2, max_steps=8, learning_rate=3e-3,
                              warmup_steps=0, eval_steps=8, epochs=99)  # fmt: skip
    ids = torch.arange(9).repeat(40)
    start_run_folder(tmp_path, Config(model=config, training=settings), CharTokenizer("abcdefghi"))

    def fresh() -> TrainingState:
        torch.manual_seed(3)
        return start_training(MoELanguageModel(config, 9), settings)

    losses, state = [], fresh()
    for record in train(state, ids, ids[:60], settings):
        losses.append(record.loss)
        if len(losses) == 4:
            save_checkpoint(tmp_path, state)
            first = state.model.blocks[0].moe.router
            saved = None if first.bias is None else first.bias.clone()
    assert losses[-1] < losses[0]
    again = fresh()
    load_checkpoint(tmp_path, again)
    assert [r.loss for r in train(again, ids, ids[:60], settings)] == losses[4:]
    loaded = load_model(tmp_path, "latest").model
    bias = loaded.blocks[0].moe.router.bias
    assert bias is saved is None or bias.equal(saved)
    tokens = [t.token for t in generate(loaded, torch.tensor([0]), max_new_tokens=5, temperature=0)]
    assert len(tokens) == 5


def test_the_configuration_of_deepseek_is_read_and_its_scale_restores_the_variance():
    plain, found = (
        load_config(ROOT / name).model for name in ("config.hocon", "configs/deepseek.hocon")
    )
    switches = Switches("sigmoid", bias=True, normalize=True, scale=1.4)
    assert switches_of(found) == switches
    scale = restoring_scale(switches, found.num_experts, found.top_k)
    assert scale == pytest.approx(1.4, abs=0.02)
    keys = ("router_score", "router_normalize", "router_scale", "balance", "bias_update_rate")
    assert found == plain.model_copy(update={key: getattr(found, key) for key in keys})


@pytest.mark.parametrize("key", [{"router_score": "sqrtsoftplus"}, {"router_normalize": False},
                                 {"router_scale": 2.0}])  # fmt: skip
def test_a_router_that_no_class_of_chapter_10_has_is_not_exported(key):
    with pytest.raises(ValueError, match=f"{next(iter(key))}=.* is not exported"):
        family_of(configured(**key))


def test_the_router_of_deepseek_is_exported():
    assert family_of(configured(**DEEPSEEK)).architecture == "MiMoV2FlashForCausalLM"


def test_the_quantile_needs_softmax_scores():
    with pytest.raises(ConfigError, match=r'needs router_score="softmax" or null; .*"sigmoid"'):
        validate_config({"model": {"balance": "quantile", "router_score": "sigmoid"}}, "here")
    validate_config({"model": {"balance": "quantile", "router_score": "softmax"}}, "here")
