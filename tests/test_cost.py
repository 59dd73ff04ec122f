import pytest
import torch
from test_shapes import ShapeTracer, claims_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moe_tutorial.config import ModelConfig
from moe_tutorial.cost import (
    HashRouter,
    always_read,
    balanced_table,
    bytes_per_token,
    count_touched,
    expert_size,
    experts_touched,
    flops_per_token,
    route_by_id,
)
from moe_tutorial.model import MoELanguageModel, count_parameters
from moe_tutorial.moe import Router, expert_load

SMALL = ModelConfig(
    dim=24, num_layers=3, num_heads=2, num_experts=7, top_k=2, hidden_dim=20, shared_expert=False,
    max_seq_len=16, dropout=0.0,
)  # fmt: skip
SHAPES = [
    {},
    {"num_experts": 1, "top_k": 1, "hidden_dim": None},
    {"top_k": 1, "router": "sigmoid", "shared_expert": True},
]
each_shape = pytest.mark.parametrize("changes", SHAPES)
VOCAB = 11


def small(**changes):
    torch.manual_seed(0)
    config = SMALL.model_copy(update=changes)
    return config, MoELanguageModel(config, VOCAB)


def counted(model, tokens, *, backward=False):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(tokens).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() / tokens.numel()


@each_shape
def test_flops_are_those_that_torch_counts(changes):
    config, model = small(**changes)
    tokens = torch.randint(VOCAB, (3, 16))
    assert flops_per_token(config, VOCAB, 16) == counted(model, tokens)


@each_shape
def test_a_training_step_takes_three_times_the_flops(changes):
    config, model = small(**changes)
    found = counted(model, torch.randint(VOCAB, (3, 16)), backward=True)
    assert found == 3 * flops_per_token(config, VOCAB, 16)


@each_shape
def test_parameters_are_those_of_the_model(changes):
    config, model = small(**changes)
    moe, layers = model.blocks[0].moe, config.num_layers
    assert expert_size(config) == sum(p.numel() for p in moe.experts[0].parameters())
    every = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    routed = layers * config.num_experts * expert_size(config)
    assert always_read(config, VOCAB) == every - routed - model.embedding.weight.numel()


@each_shape
def test_a_single_token_reads_the_active_parameters_but_one_row_of_the_embedding(changes):
    config, model = small(**changes)
    numbers = count_parameters(model).active - (VOCAB - 1) * config.dim
    assert bytes_per_token(config, VOCAB, 1) == pytest.approx(4 * numbers)
    assert bytes_per_token(config, VOCAB, 1, bytes_per_number=2) == pytest.approx(2 * numbers)


def test_a_huge_batch_reads_all_parameters_once():
    config, model = small()
    batch = 10**6
    all_but_embedding = count_parameters(model).total - VOCAB * config.dim
    read = bytes_per_token(config, VOCAB, batch) - 4 * config.dim
    assert batch * read == pytest.approx(4 * all_but_embedding)


@pytest.mark.parametrize("top_k", [1, 2, 7])
def test_one_token_touches_k_experts_and_very_many_touch_all(top_k):
    assert experts_touched(7, top_k, 1) == pytest.approx(top_k)
    assert experts_touched(7, top_k, 10**4) == pytest.approx(7)


def test_touched_follows_the_formula_for_independent_even_choices():
    generator = torch.Generator().manual_seed(0)
    experts = torch.rand(40_000, 8, generator=generator).topk(2, dim=-1).indices
    for batch in (1, 2, 4, 8, 16):
        assert count_touched(experts, batch) == pytest.approx(
            experts_touched(8, 2, batch), abs=0.05
        )


def test_touched_counts_every_expert_once_and_only_full_batches():
    experts = torch.tensor([[0, 1], [1, 2], [2, 1], [2, 1], [5, 6]])
    assert count_touched(experts, 2) == (3 + 2) / 2
    assert count_touched(experts, 5) == 5


COUNTS = torch.tensor([2, 50, 1, 30, 20, 3, 14, 8, 7, 25, 12, 40])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 1), (4, 2), (6, 2), (3, 3)])
def test_a_balanced_table_gives_every_expert_as_much_text(num_experts, top_k):
    table = balanced_table(COUNTS, num_experts, top_k, generator())
    assert table.shape == (len(COUNTS), top_k)
    assert all(len(set(row)) == top_k for row in table.tolist())
    load = torch.zeros(num_experts)
    for column in table.T:
        load.index_add_(0, column, COUNTS.float())
    assert load.max() / load.mean() < 1.1


def test_the_same_experts_are_not_always_paired():
    table = balanced_table(torch.ones(40), 8, 2, generator())
    assert len({tuple(sorted(row)) for row in table.tolist()}) > 4


def test_frequent_ids_are_placed_first():
    table = balanced_table(torch.tensor([1, 1, 9, 1, 8, 1]), 2, 1, generator())
    assert table[2] != table[4]


def test_chance_is_the_generators():
    one, same, other = (balanced_table(COUNTS, 6, 2, generator(seed)) for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)


def test_the_hash_router_looks_the_choice_up_and_learns_the_weights():
    torch.manual_seed(0)
    router = Router(dim=5, num_experts=4, top_k=2, router="softmax")
    table = torch.tensor([[3, 1], [0, 2]])
    hashed = HashRouter(router, table)
    hashed.ids = torch.tensor([1, 0, 1])
    x = torch.randn(3, 5)
    found = hashed(x)
    assert found.experts.tolist() == [[0, 2], [3, 1], [0, 2]]
    logits = x @ router.scores.weight.T
    torch.testing.assert_close(found.weights, logits.gather(1, found.experts).softmax(-1))
    torch.testing.assert_close(found.probs, logits.softmax(-1))
    found.weights[:, 0].sum().backward()
    assert router.scores.weight.grad.any()


def test_a_table_of_the_learned_choice_changes_nothing():
    _, model = small()
    tokens = torch.randint(VOCAB, (2, 5))
    before = model(tokens)
    first = model.blocks[0].moe.router
    chosen = before.routings[0].experts[0]
    route_by_id(model, [chosen.repeat(VOCAB, 1)] * 3)
    assert model.blocks[0].moe.router.scores is first.scores
    after = model(tokens[:, :1])
    assert after.routings[0].experts.tolist() == [chosen.tolist()] * 2
    torch.testing.assert_close(after.routings[0].weights[0], before.routings[0].weights[0])


def test_each_forward_routes_by_its_own_ids_in_training_and_with_a_cache():
    _, model = small()
    tables = [balanced_table(COUNTS[:VOCAB], 7, 2, generator(i)) for i in range(3)]
    route_by_id(model, tables)
    tokens = torch.randint(VOCAB, (2, 6))
    for table, routing in zip(tables, model(tokens).routings, strict=True):
        assert routing.experts.equal(table[tokens.flatten()])
    model.eval()
    caches = model.new_caches(2)
    with torch.no_grad():
        model(tokens[:, :4], caches)
        last = model(tokens[:, 4:5], caches)
    assert last.routings[2].experts.equal(tables[2][tokens[:, 4]])


def test_the_hash_is_balanced_on_the_text_it_was_made_for():
    _, model = small()
    counts = torch.tensor([90, 10, 40, 30, 20, 60, 5, 80, 70, 50, 45])
    text = torch.repeat_interleave(torch.arange(VOCAB), counts)
    tokens = text[torch.randperm(len(text), generator=generator())][:496].view(-1, 16)
    route_by_id(model, [balanced_table(counts, 7, 2, generator())] * 3)
    load = expert_load(model(tokens).routings[0])
    assert load.max() / load.mean() < 1.15


def test_shape_comments_are_true():
    functions = (HashRouter.forward, balanced_table)
    tracer = ShapeTracer({function.__code__: claims_of(function) for function in functions})

    def drive():
        router = Router(dim=20, num_experts=11, top_k=5, router="softmax")
        hashed = HashRouter(router, balanced_table(torch.arange(17), 11, 5, generator()))
        hashed.ids = torch.arange(21) % 17
        hashed(torch.randn(21, 20))

    tracer.run(drive)
    assert not tracer.wrong
    assert len(tracer.seen) == 4
