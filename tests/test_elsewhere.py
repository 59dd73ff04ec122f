"""What chapters 11 to 13 say also holds with runs of another processor, which rounds otherwise."""

import json

import pytest
from chapters import cells

from moe_tutorial.experiments.__main__ import experiments
from moe_tutorial.experiments.base import RESULTS, Results, committed, elsewhere
from moe_tutorial.experiments.ch13_statements import TABLES

EXPERIMENTS = experiments()
NAMES = json.loads((RESULTS / "elsewhere.json").read_text(encoding="utf-8"))["runs"]
TIMES = {"seconds", "milliseconds"}


def with_the_other_runs(name):
    """The committed runs, those repeated elsewhere in their place, with the committed times."""
    other = {(run["variant"], run["seed"]): run for run in elsewhere(name).runs}
    return Results(
        run | other.get((run["variant"], run["seed"]), {}) for run in committed(name).runs
    )


@pytest.mark.parametrize(
    ("name", "sentence"), [(name, said) for name in NAMES for said in EXPERIMENTS[name].statements]
)
def test_statement_holds_with_the_runs_of_another_processor(name, sentence):
    assert EXPERIMENTS[name].statements[sentence](with_the_other_runs(name))


def end(run):
    """The held-out loss at the end, whatever its name."""
    (found,) = (run[key] for key in ("loss", "held_out", "as trained") if key in run)
    return found[-1] if isinstance(found, list) else found


@pytest.mark.parametrize("name", NAMES)
def test_the_other_runs_are_of_the_same_variants_and_other_digits(name):
    ours = {(run["variant"], run["seed"]): run for run in committed(name).runs}
    other = elsewhere(name).runs
    seeds = {run["seed"] for run in other}
    assert seeds >= {3, 4}
    assert [(run["variant"], run["seed"]) for run in other] == [
        (variant, seed) for variant in EXPERIMENTS[name].variants for seed in sorted(seeds)
    ]
    for run in other:
        assert set(ours[run["variant"], run["seed"]]) - set(run) <= TIMES
    moved = [abs(end(run) - end(ours[run["variant"], run["seed"]])) for run in other]
    assert 0 < max(moved) < 0.03  # as much as another seed, not more


def test_chapter_11_says_how_far_apart_they_end_and_how_often_a_seed_changed_sides():
    (said,) = (cell.source for cell in cells("11_router_health") if cell.id == "ch11-train-03")
    ours, other = committed("balance"), elsewhere("balance")
    moved = [
        abs(a - b)
        for way in ours.variants()
        for a, b in zip(ours.of(way, "held_out")[3:], other.of(way, "held_out"), strict=True)
    ]
    assert f"up to {max(moved):.3f} nats apart" in said
    both = with_the_other_runs("balance")
    for low, high in (("loss 0.01", "none"), ("loss 0.1", "loss 1")):
        assert ours.all_below(low, high, "held_out")
        assert both.seeds_below(low, high, "held_out") == 4


def test_chapter_13_says_what_rounding_moves():
    (said,) = (cell.source for cell in cells("13_does_it_pay") if cell.id == "ch13-worth-09")
    ours, other = committed("router_why"), elsewhere("router_why")

    def moved(names):
        return max(
            abs(a - b)
            for name in names
            for a, b in zip(ours.of(name, "loss")[3:], other.of(name, "loss"), strict=True)
        )

    tables, learned = moved(["hash", "random table"]), moved(["learned", "learned, no balance"])
    assert f"random table move by {tables:.3f}, the learned routers by up to {learned:.3f}" in said
    assert f"moves by up to {moved(['table of a trained router']):.3f}" in said
    both = with_the_other_runs("router_why")
    for runs in (ours, both):
        found = [runs.seeds_below(table, "learned", "loss") for table in TABLES]
        assert found == [5, 5, 4]
