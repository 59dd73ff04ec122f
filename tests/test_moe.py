import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial import moe as module
from moe_tutorial.moe import (
    FEW,
    MoE,
    Router,
    Routing,
    SwiGLU,
    default_hidden_dim,
    dispatch,
    dispatch_few,
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
            w_gate, w_up, w_down = moe.experts[e].parameters()
            y = (F.silu(inside @ w_gate) * (inside @ w_up)) @ w_down
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
    # The definition never calls an expert without tokens; ours gets zeros.
    wanted = torch.autograd.grad(expected.square().sum(), inputs, materialize_grads=True)
    torch.testing.assert_close(grads, wanted)


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
    weights = (scores.softmax(-1) if router == "softmax" else scores.sigmoid()).unbind(-1)
    expected = sum(
        F.silu(z @ expert.w_gate) * (z @ expert.w_up) @ expert.w_down * w
        for expert, weight in zip(moe.experts, weights, strict=True)
        for z, w in [
            (flat, weight[:, None]) if router == "softmax" else (flat * weight[:, None], 1)
        ]
    )
    torch.testing.assert_close(moe(x)[0], expected.view_as(x))


def test_one_expert_equals_a_plain_swiglu_forward_and_backward():
    moe, dense = make(num_experts=1, top_k=1), SwiGLU(dim=D, hidden_dim=HIDDEN).double()
    dense.load_state_dict(moe.experts[0].state_dict())
    x = tokens()
    y, expected = moe(x)[0], dense(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(moe.experts[0].parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


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


@pytest.mark.parametrize(
    ("weights_of", "alive"),
    [
        (lambda z, e: z.gather(1, e).softmax(-1), False),
        (lambda z, e: z.softmax(-1).gather(1, e), True),  # Switch
        (lambda z, e: z.gather(1, e).sigmoid(), True),  # Llama 4
        (lambda z, e: F.normalize(z.gather(1, e).sigmoid(), p=1), False),  # DeepSeek-V3
    ],
)
def test_one_choice_whose_weights_must_add_up_to_one_leaves_the_router_dead(weights_of, alive):
    moe, x = make(), tokens().flatten(0, 1)
    logits = moe.router.scores(x)
    only = logits.topk(1).indices
    routing = Routing(weights_of(logits, only), only, logits.softmax(-1))
    y = dispatch(x, routing, moe.experts, scale_input=False)
    (gradient,) = torch.autograd.grad(y.square().sum(), moe.router.scores.weight)
    assert bool(gradient.abs().max() > 1e-6) is alive


def test_the_router_learns_whether_a_chosen_expert_is_better_than_the_mixture():
    moe, x = make(), tokens().flatten(0, 1)
    logits = moe.router.scores(x).detach().requires_grad_()
    chosen, two = logits.topk(2)
    routing = Routing(chosen.softmax(-1), two, logits.softmax(-1))
    y = dispatch(x, routing, moe.experts, scale_input=False)
    (gradient,) = torch.autograd.grad(y.square().sum(), logits)
    outputs = torch.stack([expert(x) for expert in moe.experts], dim=1)  # (N, E, D)
    better = (2 * y[:, None] * (outputs - y[:, None])).sum(-1).gather(1, two)
    expected = torch.zeros_like(logits).scatter(1, two, routing.weights * better)
    torch.testing.assert_close(gradient, expected)  # 0 for all that were not chosen


def test_sigmoid_scales_the_input_not_the_output():
    moe, x = make("sigmoid"), tokens()
    routing = moe.router(x.flatten(0, 1))
    inside = dispatch(x.flatten(0, 1), routing, moe.experts, scale_input=True)
    outside = dispatch(x.flatten(0, 1), routing, moe.experts, scale_input=False)
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
        for weight in moe.experts[e].parameters():
            assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_no_tokens_come_back_as_no_tokens_and_gradients_are_zero(router):
    moe, x = make(router, shared_expert=True), tokens(2, 0).requires_grad_()
    y, routing = moe(x)
    assert y.shape == (2, 0, D)
    assert routing.experts.shape == (0, K)
    gradients = torch.autograd.grad(y.sum(), [x, *moe.parameters()])
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
    with torch.inference_mode():
        assert moe(x)[0].shape == (2, 0, D)


def test_experts_are_any_callables_each_called_once_with_its_tokens():
    seen = []

    def expert(rows):
        seen.append(rows.tolist())
        return -rows

    routing = routing_of([[1], [0], [1]], torch.ones(3, 3))
    x = torch.tensor([[10.0], [11.0], [12.0]])
    with torch.no_grad():
        y = dispatch(x, routing, [expert, expert, None], scale_input=False)
    assert y.tolist() == [[-10.0], [-11.0], [-12.0]]
    assert seen == [[[11.0]], [[10.0], [12.0]]]


def test_every_expert_gets_its_tokens_in_the_order_of_the_text():
    seen = []

    def expert(rows):
        seen.append(rows.flatten().tolist())
        return rows

    routing = routing_of([[n % 2] for n in range(200)], torch.ones(200, 2))
    dispatch(torch.arange(200.0)[:, None], routing, [expert, expert], scale_input=False)
    assert seen == [list(range(0, 200, 2)), list(range(1, 200, 2))]


def test_a_token_for_an_expert_that_is_not_there_is_an_error():
    routing = routing_of([[0], [2]], torch.ones(2, 3))
    with pytest.raises(ValueError, match="zip"):
        dispatch(torch.ones(2, D), routing, [torch.neg, torch.neg], scale_input=False)


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("time", [0, 1, 2, FEW, FEW + 1])
def test_few_tokens_without_gradients_get_what_sorting_gives(monkeypatch, router, time):
    layer, x, used = make(router), tokens(1, time), []
    for name in ("dispatch", "dispatch_few"):
        way = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, name=name, way=way, **o: (used.append(name), way(*a, **o))[1]
        )
    expected = layer(x)[0]
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], expected.detach(), atol=1e-6, rtol=1e-5)
    assert used == ["dispatch", "dispatch_few" if time <= FEW else "dispatch"]


def test_no_token_needs_no_expert():
    routing = Routing(torch.empty(0, 2), torch.empty(0, 2, dtype=torch.long), torch.empty(0, 2))
    with torch.no_grad():
        for send in (dispatch, dispatch_few):
            y = send(torch.empty(0, D), routing, [torch.neg, torch.neg], scale_input=False)
            assert y.shape == (0, D)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2)])
def test_a_weight_without_an_expert_is_an_error(shape):
    routing = routing_of([[0, 1]], torch.ones(1, 2))._replace(weights=torch.ones(shape))
    with pytest.raises(ValueError, match="zip"):
        dispatch_few(torch.ones(1, D), routing, [torch.neg, torch.neg], scale_input=False)


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("time", [1, 9])
def test_the_router_computes_in_float32_whatever_the_model_s_type(router, time):
    moe, x = make(router, shared_expert=True).bfloat16(), tokens(1, time).bfloat16()
    y, routing = moe(x)
    assert y.dtype == torch.bfloat16
    expected = x[0].float() @ moe.router.scores.weight.float().T
    chosen, experts = expected.topk(K)
    assert torch.equal(routing.experts, experts)
    weights = chosen.softmax(-1) if router == "softmax" else chosen.sigmoid()
    torch.testing.assert_close(tuple(routing), (weights, experts, expected.softmax(-1)))
    with torch.no_grad():
        torch.testing.assert_close(y, moe(x)[0], rtol=0.05, atol=0.05)
    assert make(router)(tokens())[1].probs.dtype == torch.float64


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_autocast_leaves_the_routing_alone_and_the_outputs_near(router):
    moe, x = make(router, shared_expert=True).float(), tokens(3, 40).float()
    y, routing = moe(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near, same = moe(x)
    assert all(torch.equal(a, b) for a, b in zip(same, routing, strict=True))
    torch.testing.assert_close(near, y, rtol=0.05, atol=0.05)
    assert not torch.equal(near, y)  # the experts' products were rounded


@pytest.mark.parametrize("shared_expert", [False, True])
def test_the_layer_holds_these_matrices_and_no_biases(shared_expert):
    swiglu = {"w_gate": (D, HIDDEN), "w_up": (D, HIDDEN), "w_down": (HIDDEN, D)}
    parts = [f"experts.{e}" for e in range(E)] + ["shared_expert"] * shared_expert
    expected = {f"{part}.{name}": shape for part in parts for name, shape in swiglu.items()}
    found = {
        name: tuple(p.shape) for name, p in make(shared_expert=shared_expert).named_parameters()
    }
    assert found == {"router.scores.weight": (E, D), **expected}


@pytest.mark.parametrize("shared_expert", [False, True])
def test_output_weights_are_what_writes_to_the_residual_stream(shared_expert):
    moe = make(shared_expert=shared_expert)
    for weight in moe.output_weights():
        assert weight.shape == (HIDDEN, D)
        weight.data.zero_()
    assert len(moe.output_weights()) == E + shared_expert
    assert torch.count_nonzero(moe(tokens())[0]) == 0
    assert torch.count_nonzero(moe.router.scores.weight) == D * E


def test_every_matrix_starts_at_one_over_the_root_of_its_inputs():
    moe = MoE(dim=64, hidden_dim=400, num_experts=2, top_k=1, shared_expert=True)
    for swiglu in (*moe.experts, moe.shared_expert):
        for weight, inputs in [(swiglu.w_gate, 64), (swiglu.w_up, 64), (swiglu.w_down, 400)]:
            assert weight.std().item() == pytest.approx(inputs**-0.5, rel=0.03)
            assert weight.abs().max() > 3 * weight.std()  # normal, not uniform
    a, b = (expert.w_up for expert in moe.experts)
    assert not torch.equal(a, b)


def test_a_layer_is_mixtral_s_unless_told_otherwise():
    moe = MoE(dim=D, hidden_dim=HIDDEN, num_experts=E, top_k=K)
    assert moe.router.router == "softmax"
    assert moe.shared_expert is None


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
    # Four of eight experts are idle, yet the value is far below that of perfect balance: the tokens
    # go where the mean probability is low.
    probs = torch.full((1, 8), 0.05).repeat(8, 1)
    probs[:, 4:] = 0.2
    half_idle = routing_of([[n % 4] for n in range(8)], probs)
    assert load_balancing_loss([half_idle]).item() == pytest.approx(0.4)
    assert load_summary(expert_load(half_idle)) == (2.0, 4)


def test_balance_and_load_count_each_of_the_top_k():
    # f = (1/2, 1/4, 1/4), P = (0.5, 0.3, 0.2): 3 * (0.25 + 0.075 + 0.05)
    routing = routing_of([[0, 1], [0, 2]], [[0.5, 0.4, 0.1], [0.5, 0.2, 0.3]])
    assert expert_load(routing).tolist() == [0.5, 0.25, 0.25]
    assert load_balancing_loss([routing]).item() == pytest.approx(1.125)


def test_an_expert_with_few_tokens_is_not_idle():
    assert load_summary(torch.tensor([0.75, 0.01, 0.24, 0.0])) == (3.0, 1)


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


def test_an_unknown_router_is_an_error():
    with pytest.raises(ValueError, match="router='Softmax' is unknown; choose softmax or sigmoid"):
        make("Softmax")


@pytest.mark.parametrize(("dim", "hidden_dim"), [(0, 4), (4, 0), (-2, 4)])
def test_sizes_below_one_are_an_error(dim, hidden_dim):
    message = f"dim={dim} and hidden_dim={hidden_dim} must be at least 1"
    with pytest.raises(ValueError, match=message):
        SwiGLU(dim=dim, hidden_dim=hidden_dim)


def test_one_number_and_one_hidden_unit_are_enough():
    assert SwiGLU(dim=1, hidden_dim=1)(torch.ones(3, 1)).shape == (3, 1)
