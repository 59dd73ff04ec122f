"""Experts on several processes compute what one process computes; real gloo processes here."""

from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as collectives

from moe_tutorial.moe import MoE, Routing
from moe_tutorial.parallel import (
    Exchange,
    ExpertParallelMoE,
    Traffic,
    all_to_all,
    bytes_leaving,
    clip_over_ranks,
    experts_per_rank,
    forward_and_backward,
    rows_between,
    training_step,
)
from moe_tutorial.processes.ranks import run

D, HIDDEN, E = 6, 10, 8
SECONDS = 300.0  # a deadline for a busy machine, not an expectation


def make(router="softmax", top_k=2, shared_expert=False, dtype=torch.float64, num_experts=E):
    return MoE(
        dim=D, hidden_dim=HIDDEN, num_experts=num_experts, top_k=top_k, router=router,
        shared_expert=shared_expert,
    ).to(dtype)  # fmt: skip


def batches_of(sizes, dtype=torch.float64):
    return [torch.randn(1, size, D, dtype=dtype) for size in sizes]


def drawn_to(full, *favorites):
    """Every token of the batches below goes to the favorites: their rows of the router win."""
    with torch.no_grad():
        full.router.scores.weight.zero_()
        for place, expert in enumerate(favorites):
            full.router.scores.weight[expert, 0] = 9.0 - place
    return full


def positive(batches):
    return [x.abs() + 0.1 for x in batches]


def cases(num_ranks):
    """Name -> the full layer, one batch per rank."""
    sizes = {2: (5, 8), 4: (5, 8, 1, 3)}[num_ranks]
    found = {}
    for router in ("softmax", "sigmoid"):
        for top_k in (1, 2, 3):
            for seed in (0, 1):
                torch.manual_seed(seed)
                full = make(router, top_k, shared_expert=bool(seed))
                found[f"{router} {top_k} seed {seed}"] = full, batches_of(sizes)
        torch.manual_seed(2)
        empty = (0, *sizes[1:])
        found[f"{router}, rank without a token"] = (
            make(router, shared_expert=True),
            batches_of(empty),
        )
        one = drawn_to(make(router, shared_expert=True), E - 2, E - 1)
        found[f"{router}, all to the last rank"] = one, positive(batches_of(sizes))
        found[f"{router}, all to rank 0, which has none"] = (
            drawn_to(make(router), 1, 0),
            positive(batches_of(empty)),
        )
        found[f"{router}, experts without a token"] = (
            drawn_to(make(router), 0, E - 1),
            positive(batches_of(sizes)),
        )
    found["no token anywhere"] = make(shared_expert=True), batches_of([0] * num_ranks)
    found["float32"] = (
        make(shared_expert=True, dtype=torch.float32),
        batches_of(sizes, torch.float32),
    )
    return found


def everything(rank, num_ranks, every, first, second, batches):
    """All that one group does: a start of processes takes longer than the work."""
    results = {name: forward_and_backward(rank, *case) for name, case in every.items()}
    steps = [training_step(rank, first, batches, over_ranks) for over_ranks in (True, False)]
    return results, two_layers(rank, first, second, batches), exchange(rank, num_ranks), steps


def two_layers(rank, first, second, batches):
    """Output without gradients, bytes of the backward pass so far, gradients of x and experts."""
    a, b = ExpertParallelMoE(first), ExpertParallelMoE(second)
    with torch.no_grad():
        quiet = b(a(batches[rank])[0])[0]
    before = a.traffic.backward
    x = batches[rank].clone().requires_grad_()
    b(a(x)[0])[0].sin().sum().backward()
    return quiet, before, x.grad, [expert.w_gate.grad for expert in a.experts]


def exchange(rank, size):
    """Uneven pieces, s rows for rank s: what arrives here, and the gradient of what was sent."""
    rows, weights = sent_rows(rank, size).requires_grad_(), arrived_weights(rank, size)
    arrived = Exchange.apply(rows, list(range(size)), [rank] * size, None, Traffic())
    (arrived * weights).sum().backward()
    return arrived.detach(), rows.grad


def sent_rows(rank, size):
    return torch.arange(sum(range(size)) * 2.0).view(-1, 2) + 100 * rank


def arrived_weights(rank, size):
    """Weights of a loss: rank rows from each of the ranks."""
    return torch.randn(rank * size, 2, generator=torch.Generator().manual_seed(rank))


class Group(NamedTuple):
    """One start of the processes: what they were given, and what they have returned, by rank."""

    every: dict  # name -> the full layer, one batch per rank
    layers: tuple
    results: tuple[dict, ...]
    two_layers: tuple
    exchanged: tuple
    steps: tuple  # the weights after a step that is clipped over all ranks, and on each alone


@pytest.fixture(scope="module", params=[2, 4])
def group(request):
    size = request.param
    every = cases(size)
    layers = make(top_k=3), make("sigmoid"), batches_of((4, 6, 2, 1))
    results = run(everything, size, size, every, *layers, seconds=SECONDS)
    return Group(every, layers, *zip(*results, strict=True))


def single_process(full, batches):
    x = torch.cat(batches, dim=1).requires_grad_()
    full.zero_grad()
    y, routing = full(x)
    y.sin().sum().backward()
    return y, x.grad, routing


def assert_same(actual, expected, name):
    bound = 1e-5 if "float32" in name else 1e-11
    torch.testing.assert_close(
        actual, expected, rtol=bound, atol=bound, msg=lambda text: f"{name}: {text}"
    )


@pytest.mark.slow
def test_outputs_and_input_gradients_are_those_of_one_process(group):
    for name, case in group.every.items():
        y, gradient, _ = single_process(*case)
        joined = [torch.cat([r[name][i] for r in group.results], dim=1) for i in (0, 1)]
        assert_same(joined, [y.detach(), gradient.detach()], name)


@pytest.mark.slow
def test_gradients_of_every_parameter_are_those_of_one_process(group):
    for name, (full, batches) in group.every.items():
        single_process(full, batches)
        for parameter, value in full.named_parameters():
            found = [r[name].gradients for r in group.results]
            if parameter.startswith("experts."):  # on one rank, where its number begins at 0
                _, number, matrix = parameter.split(".")
                owner, place = divmod(int(number), E // len(found))
                parts = [found[owner][f"experts.{place}.{matrix}"]]
            else:  # router and shared expert: the same on every rank
                parts = [gradients[parameter] for gradients in found]
            for part in parts:
                assert_same(part, value.grad, f"{name}, {parameter}")


@pytest.mark.slow
def test_bytes_are_those_that_the_routing_says(group):
    num_ranks = len(group.results)
    for name, (full, batches) in group.every.items():
        sizes = [x.shape[1] for x in batches]
        expected = [0] * num_ranks
        row = D * batches[0].element_size()
        routing = single_process(full, batches)[2]
        homes = [rank for rank, size in enumerate(sizes) for _ in range(size)]
        for home, chosen in zip(homes, routing.experts.tolist(), strict=True):
            for expert in chosen:  # one row there, one row back
                there = expert // (E // num_ranks)
                expected[home] += row * (there != home)
                expected[there] += row * (there != home)
        rows = rows_between(routing.experts.split(sizes), E)
        assert bytes_leaving(rows, row).tolist() == expected
        counts = 8 * E // num_ranks * (num_ranks - 1)
        for result, leaving in zip(group.results, expected, strict=True):
            assert result[name].traffic == Traffic(counts, leaving, leaving), name


@pytest.mark.slow
def test_the_cases_are_what_their_names_say(group):
    for name, (full, batches) in group.every.items():
        sizes = [x.shape[1] for x in batches]
        assert (0 in sizes) == ("no token" in name or "which has none" in name or "rank w" in name)
        if not sum(sizes):
            continue
        routing = single_process(full, batches)[2]
        rows = rows_between(routing.experts.split(sizes), E)
        work = rows.sum(dim=0)
        if "last rank" in name:
            assert not work[:-1].any()
        elif "rank 0, which has none" in name:
            assert not work[1:].any()
            assert not rows[0].any()
        elif "experts without" in name:
            assert sorted(set(routing.experts.flatten().tolist())) == [0, E - 1]
        elif "seed" in name:
            assert len(work.nonzero()) == len(sizes)


@pytest.mark.slow
def test_two_layers_after_one_another_with_and_without_gradients(group):
    first, second, batches = group.layers
    x = torch.cat(batches[: len(group.results)], dim=1).requires_grad_()
    first.zero_grad()
    y = second(first(x)[0])[0]
    y.sin().sum().backward()
    quiet, before, x_grad, w_gate = zip(*group.two_layers, strict=True)
    torch.testing.assert_close(torch.cat(quiet, dim=1), y.detach())
    torch.testing.assert_close(torch.cat(x_grad, dim=1), x.grad)
    expected = [expert.w_gate.grad for expert in first.experts]
    torch.testing.assert_close([gradient for rank in w_gate for gradient in rank], expected)
    assert set(before) == {0}
    assert not any(p.is_shared() for p in first.parameters())  # the processes had copies


@pytest.mark.slow
def test_a_training_step_on_ranks_leaves_the_weights_of_one_process(group):
    full, _, batches = group.layers
    full.zero_grad()
    full(torch.cat(batches[: len(group.results)], dim=1))[0].sin().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(full.parameters(), 1.0)
    assert norm > 1
    moved = {name: p.detach() - 0.1 * p.grad for name, p in full.named_parameters()}
    together, alone = zip(*group.steps, strict=True)
    size = E // len(group.steps)
    for name, expected in moved.items():
        if name.startswith("experts."):
            _, number, matrix = name.split(".")
            owner, place = divmod(int(number), size)
            torch.testing.assert_close(together[owner][f"experts.{place}.{matrix}"], expected)
        else:
            for weights in together:
                torch.testing.assert_close(weights[name], expected)
    routers = [weights["router.scores.weight"] for weights in alone]
    assert (routers[0] - routers[1]).abs().max() > 1e-5  # each by its own norm: they drift apart


@pytest.mark.slow
def test_rows_arrive_in_the_order_of_ranks_and_their_gradients_go_back(group):
    size = len(group.exchanged)
    cuts = list(range(size))
    for rank, (arrived, gradient) in enumerate(group.exchanged):
        pieces = [sent_rows(home, size).split(cuts)[rank] for home in range(size)]
        assert torch.equal(arrived, torch.cat(pieces))
        weights = [arrived_weights(r, size).view(size, r, 2)[rank] for r in range(size)]
        assert torch.equal(gradient, torch.cat(weights))


def test_rows_between_counts_assignments_by_home_and_owner():
    experts = [torch.tensor([[2, 1], [0, 3]]), torch.tensor([[3, 2]])]
    rows = rows_between(experts, 4)
    assert rows.tolist() == [[2, 2], [0, 2]]
    assert bytes_leaving(rows, 100).tolist() == [200, 200]


def test_experts_that_cannot_be_divided_are_one_clear_error():
    with pytest.raises(ValueError, match=r"num_experts=8 cannot be divided evenly over 3 ranks"):
        experts_per_rank(8, 3)
    with pytest.raises(ValueError, match="cannot be divided evenly over 3"):
        rows_between([torch.zeros(1, 1).long()] * 3, 8)


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_one_rank_sends_nothing_and_is_the_plain_layer(alone, router):
    full, (x,) = make(router, shared_expert=True), batches_of([9])
    layer = ExpertParallelMoE(full)
    y, routing = layer(x)
    torch.testing.assert_close(y, full(x)[0])
    assert isinstance(routing, Routing)
    y.sum().backward()
    assert layer.traffic == Traffic(0, 0, 0)


def test_counts_that_cannot_be_right_are_one_clear_error(alone):
    rows = torch.zeros(4, D)
    for send, receive in (([4], [3]), ([3], [3])):
        with pytest.raises(ValueError, match=rf"rank 0 has 4 rows, send=\[{send[0]}\], receive="):
            Exchange.apply(rows, send, receive, None, Traffic())
    assert torch.equal(all_to_all(rows + 1, [4], [4], None), rows + 1)


def test_as_many_batches_as_ranks_or_one_clear_error(alone):
    with pytest.raises(ValueError, match="2 batches for 1 ranks; one for each"):
        forward_and_backward(0, make(), batches_of((3, 4)))


def test_norm_is_that_of_one_process(alone):
    """Of one rank here; of several in the test of a training step."""
    full, (x,) = make("sigmoid", shared_expert=True), batches_of([9])
    layer = ExpertParallelMoE(full)
    for each in (full, layer):
        each(x)[0].sin().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(full.parameters(), 0.5)
    torch.testing.assert_close(clip_over_ranks(layer, 0.5), norm)
    assert norm > 0.5
    for part, expected in zip(layer.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(part.grad, expected.grad)


def test_pytorchs_own_exchange_has_the_same_gradient(alone):
    rows = torch.randn(4, D, requires_grad=True)
    theirs = collectives.all_to_all_single_autograd(rows, [4], [4], dist.group.WORLD)
    for crossed in (Exchange.apply(rows, [4], [4], None, Traffic()), theirs):
        (gradient,) = torch.autograd.grad(crossed.square().sum(), rows)
        assert torch.equal(gradient, 2 * rows)
