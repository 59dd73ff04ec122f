"""What chapter 13 says of its experiments holds in the committed data, and their code runs."""

import json

import pytest
import torch
from conftest import TINY_SHAKESPEARE

from moe_tutorial import plots, widgets
from moe_tutorial.cost import experts_touched
from moe_tutorial.experiments import base, ch13, ch13_routers
from moe_tutorial.model import MoELanguageModel

EXPERIMENTS = {one.name: one for one in ch13.EXPERIMENTS}
STATEMENTS = [(one.name, sentence) for one in EXPERIMENTS.values() for sentence in one.statements]
RUNS = [(one.name, variant) for one in EXPERIMENTS.values() for variant in one.variants]
each = pytest.mark.parametrize("name", EXPERIMENTS)


@pytest.mark.parametrize(("name", "sentence"), STATEMENTS)
def test_statement_holds_in_the_committed_data(name, sentence):
    assert EXPERIMENTS[name].statements[sentence](base.committed(name))


@each
def test_committed_runs_are_complete_and_of_these_settings(name):
    one, found = EXPERIMENTS[name], base.committed(name)
    assert [(run["variant"], run["seed"]) for run in found.runs] == [
        (variant, seed) for variant in one.variants for seed in range(one.seeds)
    ]
    data = json.loads((base.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert base.same_settings(one, data)
    assert one.statements


def marks(variant):
    """Only the learned router on the fables is tried always, and a text may be missing."""
    missing = "Shakespeare" in variant and not TINY_SHAKESPEARE.exists()
    skip = pytest.mark.skipif(missing, reason="put tiny_shakespeare.txt into data/")
    return [skip] if variant == "learned" else [skip, pytest.mark.slow]


@pytest.mark.parametrize(
    ("name", "variant"),
    [pytest.param(name, variant, marks=marks(variant)) for name, variant in RUNS],
)
def test_a_few_steps_measure_what_the_committed_runs_hold(name, variant):
    found = EXPERIMENTS[name].measure(variant, 0, True)
    (run,) = (r for r in base.committed(name).runs if r["variant"] == variant and r["seed"] == 0)
    assert {"variant", "seed", *found} == set(run)
    assert json.loads(json.dumps(found)) is not None


@pytest.fixture(scope="module")
def ids():
    return base.texts()


@pytest.mark.parametrize("router", ["hash", "random table"])
def test_tables_give_every_layer_two_different_experts(ids, router):
    tables = ch13_routers.tables(router, ids, 0, quick=True)
    assert [tuple(table.shape) for table in tables] == [(ids.tokenizer.vocab_size, 2)] * 2
    assert all(len(set(row)) == 2 for table in tables for row in table.tolist())
    assert not tables[0].equal(tables[1])
    again, other = (ch13_routers.tables(router, ids, seed, quick=True) for seed in (0, 1))
    assert again[0].equal(tables[0])
    assert not other[0].equal(tables[0])


def test_favorites_of_a_hash_are_its_table(ids):
    torch.manual_seed(0)
    model = MoELanguageModel(base.MODEL, ids.tokenizer.vocab_size)
    ch13_routers.prepared("hash", ids, 0, True)(model)
    text = ids.train[:2000]
    for found, block in zip(ch13_routers.favorites(model, text), model.blocks, strict=True):
        seen = text[:-1].unique()
        pairs = block.moe.router.table[seen].sort(dim=-1).values
        assert found[seen].sort(dim=-1).values.equal(pairs)


def test_a_frozen_router_keeps_its_rows_and_the_model_learns(ids):
    rows = {}

    def watch(step, model):
        router, head = model.blocks[0].moe.router.scores.weight, model.head.weight
        rows[step] = router.detach().clone(), head.detach().clone()

    prepare = ch13_routers.prepared("frozen", ids, 0, True)
    base.train_once(ids, 0, quick=True, prepare=prepare, watch=watch)
    assert rows[0][0].equal(rows[6][0])
    assert not rows[0][1].equal(rows[6][1])


def test_only_the_learned_router_has_a_balance_loss():
    balanced = {name for name, changes in ch13_routers.ROUTERS.items() if "balance" not in changes}
    assert balanced == {"learned", "one expert"}  # one expert is always balanced
    assert base.MODEL.balance == "loss"


def test_far_characters_are_of_different_windows(monkeypatch):
    batches = []
    monkeypatch.setattr(ch13_routers, "chosen", lambda _, ids: [ids.flatten()[:, None]])
    monkeypatch.setattr(ch13_routers, "count_touched", lambda x, n: batches.append(x[:n]) or 0.0)
    ch13_routers.touched_counts(None, torch.arange(64 * 128))
    near, far = (batches[i::2] for i in (0, 1))  # of 1, 2, ... tokens
    for n, one, other in zip(ch13_routers.BATCHES, near, far, strict=True):
        assert one.flatten().tolist() == list(range(n))
        assert other.flatten().tolist() == list(range(0, 128 * n, 128))


def test_same_choices_counts_experts_in_any_order():
    one = [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5], [6, 7]])]
    other = [torch.tensor([[1, 0], [2, 4]]), torch.tensor([[5, 4], [7, 6]])]
    assert ch13_routers.same_choices(one, other) == pytest.approx((3 / 4 + 1) / 2)


def test_shapes_that_claim_equal_sizes_have_them():
    def size(changes):
        config = base.MODEL.model_copy(update=changes)
        counts = [config.top_k + config.shared_expert, config.num_experts + config.shared_expert]
        return [count * config.hidden_dim for count in counts]

    shapes = ch13.SHAPES
    for name in ("1 expert", "2 experts", "4 experts", "16 experts"):
        assert size(shapes[name])[0] == size(shapes["8 experts"])[0]
    for name in ("top 1 of 7 and a shared one", "16/4, width 48", "32/8, width 24"):
        assert size(shapes[name]) == size(shapes["8 experts"])


def test_figure_of_touched_experts_holds_formula_and_count():
    figure = plots.touched_figure([1, 2, 4], {"f": [2, 3.5, 5]}, {"counted": [2, 3.4]})
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["f"].get_ydata().tolist() == [2, 3.5, 5]
    assert lines["counted"].get_xdata().tolist() == [1, 2]
    assert lines["counted"].get_linestyle() == "None"


def test_figure_per_token_divides_by_the_batch():
    (axes,) = plots.per_token_figure([1, 4], {"a": [2.0, 4.0]}).axes
    assert axes.lines[0].get_ydata().tolist() == [2, 1]
    assert axes.get_yscale() == "log"


def test_figure_of_seeds_shows_each_and_the_mean():
    (axes,) = plots.seeds_figure({"a": [1.0, 3.0], "b": [2.0]}, "loss").axes
    points = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    means = [bar.lines[0].get_xdata().tolist() for bar in axes.containers]
    assert points == [[1, 3], [2]]
    assert means == [[2], [2]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_figure_of_learning_shows_mean_and_deviation_in_every_panel():
    panel = {"a": ([1, 2], [[4.0, 2.0], [6.0, 2.0]])}
    figure = plots.learning_figure({"tokens": panel, "time": panel}, "loss")
    assert [axes.get_xlabel() for axes in figure.axes] == ["tokens", "time"]
    container = figure.axes[0].containers[0]
    assert container.lines[0].get_ydata().tolist() == [5, 2]
    (bars,) = container.lines[2]
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 2**0.5)


def test_the_slider_draws_the_formula_of_its_values(monkeypatch):
    drawn = []
    real = plots.touched_figure
    monkeypatch.setattr(plots, "touched_figure", lambda *a: drawn.append(a) or real(*a))
    box = widgets.touched_slider([1, 8])
    experts, top_k, picture = box.children
    experts.value = 8
    assert drawn[-1][1] == {"2 of 8": [experts_touched(8, 2, 1), experts_touched(8, 2, 8)]}
    top_k.value = 16
    assert list(drawn[-1][1]) == ["8 of 8"]
    assert bytes(picture.value).startswith(b"\x89PNG")
