import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.moe import (
    MoE,
    Router,
    Routing,
    SwiGLU,
    default_hidden_dim,
    dispatch,
    expert_load,
    load_balancing_loss,
    load_summary,
)

D, HIDDEN, E, K = 6, 10, 5, 2


def make(router="softmax", top_k=K, num_experts=E, shared_expert=False):
    return MoE(
        dim=D, hidden_dim=HIDDEN, num_experts=num_experts, top_k=top_k, router=router,
        shared_expert=shared_expert,
    ).double()  # fmt: skip


def tokens(batch=2, time=7):
    return torch.randn(batch, time, D, dtype=torch.float64)


def token_by_token(moe, x):
    """The definition: one token after the other, one chosen expert after the other."""
    flat = x.flatten(0, 1)
    routing = moe.router(flat)
    rows = []
    for n, token in enumerate(flat):
        row = torch.zeros_like(token)
        for weight, e in zip(routing.weights[n], routing.experts[n].tolist(), strict=True):
            inside = token * weight if moe.router.router == "sigmoid" else token
            y = (F.silu(inside @ moe.w_gate[e]) * (inside @ moe.w_up[e])) @ moe.w_down[e]
            row = row + (y if moe.router.router == "sigmoid" else weight * y)
        if moe.shared_expert is not None:
            row = row + moe.shared_expert(token[None])[0]
        rows.append(row)
    return torch.stack(rows).view_as(x)


def routing_of(experts, probs):
    experts = torch.tensor(experts)
    return Routing(torch.ones(experts.shape), experts, torch.as_tensor(probs, dtype=torch.float32))


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shared_expert", [False, True])
@pytest.mark.parametrize(("batch", "time", "top_k"), [(2, 7, 2), (1, 1, 3), (3, 2, 1)])
def test_sorted_dispatch_equals_the_definition(router, shared_expert, batch, time, top_k):
    moe, x = make(router, top_k, shared_expert=shared_expert), tokens(batch, time).requires_grad_()
    y, expected = moe(x)[0], token_by_token(moe, x)
    torch.testing.assert_close(y, expected)
    inputs = [x, *moe.parameters()]
    grads = torch.autograd.grad(y.square().sum(), inputs)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), inputs))


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_one_token_without_gradients_equals_the_definition(router, top_k, monkeypatch):
    moe, x = make(router, top_k, shared_expert=True), tokens(1, 1)
    expected = token_by_token(moe, x)
    monkeypatch.setattr("moe_tutorial.moe.dispatch", None)  # the short way is taken
    with torch.inference_mode():
        torch.testing.assert_close(moe(x)[0], expected)


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_all_experts_chosen_equals_the_dense_mixture(router):
    moe, x = make(router, top_k=E), tokens()
    flat, scores = x.flatten(0, 1), moe.router.scores(x.flatten(0, 1))
    experts = zip(moe.w_gate, moe.w_up, moe.w_down, strict=True)
    weights = (scores.softmax(-1) if router == "softmax" else scores.sigmoid()).unbind(-1)
    expected = sum(
        F.silu(z @ g) * (z @ u) @ d * w
        for (g, u, d), weight in zip(experts, weights, strict=True)
        for z, w in [
            (flat, weight[:, None]) if router == "softmax" else (flat * weight[:, None], 1)
        ]
    )
    torch.testing.assert_close(moe(x)[0], expected.view_as(x))


def test_one_expert_equals_a_plain_swiglu_forward_and_backward():
    moe, dense = make(num_experts=1, top_k=1), SwiGLU(dim=D, hidden_dim=HIDDEN).double()
    for name in ("w_gate", "w_up", "w_down"):
        getattr(dense, name).data.copy_(getattr(moe, name)[0])
    x = tokens()
    y, expected = moe(x)[0], dense(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name in ("w_gate", "w_up", "w_down"):
        torch.testing.assert_close(getattr(moe, name).grad[0], getattr(dense, name).grad)


def test_softmax_weights_sum_to_one_over_the_chosen():
    routing = Router(dim=D, num_experts=E, top_k=3, router="softmax")(torch.randn(9, D))
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(9))
    torch.testing.assert_close(routing.probs.sum(-1), torch.ones(9))
    chosen = routing.probs.gather(1, routing.experts)
    torch.testing.assert_close(routing.weights, chosen / chosen.sum(-1, keepdim=True))


def test_the_chosen_are_the_most_probable_best_first():
    routing = Router(dim=D, num_experts=E, top_k=3, router="sigmoid")(torch.randn(9, D))
    assert torch.equal(routing.experts, routing.probs.argsort(-1, descending=True)[:, :3])


def test_the_loss_reaches_the_router():
    for router, top_k in [("softmax", 2), ("sigmoid", 2), ("sigmoid", 1)]:
        moe = make(router, top_k)
        moe(tokens())[0].square().sum().backward()
        assert moe.router.scores.weight.grad.abs().max() > 1e-6


def test_top_1_softmax_gives_the_router_a_gradient_of_exactly_zero():
    moe = make("softmax", top_k=1)
    moe(tokens())[0].square().sum().backward()
    assert torch.count_nonzero(moe.router.scores.weight.grad) == 0


def test_sigmoid_scales_the_input_not_the_output():
    moe, x = make("sigmoid"), tokens()
    routing = moe.router(x.flatten(0, 1))
    weights = (moe.w_gate, moe.w_up, moe.w_down)
    inside = dispatch(x.flatten(0, 1), routing, *weights, scale_input=True)
    outside = dispatch(x.flatten(0, 1), routing, *weights, scale_input=False)
    torch.testing.assert_close(moe(x)[0].flatten(0, 1), inside)
    assert not torch.allclose(inside, outside)


def test_shared_expert_is_added_with_weight_one_and_not_routed():
    moe, x = make(shared_expert=True), tokens()
    y, routing = moe(x)
    shared, moe.shared_expert = moe.shared_expert, None
    without, routing_without = moe(x)
    torch.testing.assert_close(y, without + shared(x))
    assert torch.equal(routing.probs, routing_without.probs)


def test_no_token_is_dropped_and_none_changes_another():
    moe, x = make(), tokens(1, 50)
    alone = torch.cat([moe(x[:, t : t + 1])[0] for t in range(50)], dim=1)
    torch.testing.assert_close(moe(x)[0], alone)


def test_an_expert_without_tokens_gets_a_zero_gradient():
    moe = make()
    moe.router.scores.weight.data.zero_()
    moe.router.scores.weight.data[0] = 100.0
    x = tokens().abs()  # expert 0 always wins; with ties the second choice is one and the same
    y, routing = moe(x)
    y.sum().backward()
    unused = set(range(E)) - set(routing.experts.flatten().tolist())
    assert unused
    for e in unused:
        assert torch.count_nonzero(moe.w_gate.grad[e]) == 0


def test_uniform_routing_has_balance_one_and_even_load():
    routing = routing_of([[0], [1], [2], [3]], torch.full((4, 4), 0.25))
    assert load_balancing_loss([routing]).item() == pytest.approx(1.0)
    assert load_summary(expert_load(routing)) == (1.0, 0)


def test_collapse_onto_one_expert_has_balance_near_the_number_of_experts():
    probs = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).repeat(6, 1)
    routing = routing_of([[0]] * 6, probs)
    assert load_balancing_loss([routing]).item() == pytest.approx(4 * 0.97)
    assert load_summary(expert_load(routing)) == (4.0, 3)


def test_balance_can_be_fooled_so_the_load_must_be_looked_at_too():
    # Everything goes to expert 0, which is only a little more probable than the others.
    collapsed = routing_of([[0]] * 6, torch.tensor([[0.255, 0.25, 0.25, 0.245]]).repeat(6, 1))
    assert load_balancing_loss([collapsed]).item() == pytest.approx(1.02)
    # Four of eight experts are dead, yet the value is far below that of perfect balance: the tokens
    # go where the mean probability is low.
    probs = torch.full((1, 8), 0.05).repeat(8, 1)
    probs[:, 4:] = 0.2
    half_dead = routing_of([[n % 4] for n in range(8)], probs)
    assert load_balancing_loss([half_dead]).item() == pytest.approx(0.4)
    assert load_summary(expert_load(half_dead)) == (2.0, 4)


def test_balance_is_taken_per_layer_then_averaged():
    left = routing_of([[0]] * 4, torch.tensor([[1.0, 0.0]]).repeat(4, 1))
    right = routing_of([[1]] * 4, torch.tensor([[0.0, 1.0]]).repeat(4, 1))
    assert load_balancing_loss([left, right]).item() == pytest.approx(2.0)  # pooled, it would be 1


def test_balance_gradient_reaches_all_experts_scores():
    router = Router(dim=D, num_experts=E, top_k=1, router="softmax")
    load_balancing_loss([router(torch.randn(20, D))]).backward()
    assert (router.scores.weight.grad.abs().sum(dim=1) > 0).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_load_counts_every_assignment(experts):
    load = expert_load(routing_of([[e] for e in experts], torch.ones(len(experts), 7)))
    torch.testing.assert_close(
        load, torch.tensor([experts.count(e) / len(experts) for e in range(7)])
    )


def test_hidden_dim_is_eight_thirds_rounded_up_to_eight():
    assert [default_hidden_dim(dim) for dim in (3, 96, 128, 256)] == [8, 256, 344, 688]


@pytest.mark.parametrize("top_k", [0, 6])
def test_top_k_outside_the_experts_is_an_error(top_k):
    with pytest.raises(ValueError, match=rf"top_k={top_k} is not between 1 and num_experts=5"):
        make(top_k=top_k)
