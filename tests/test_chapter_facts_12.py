"""Every sentence of chapter 12 about its experiments holds in the committed results."""

import json

import pytest
import torch
from chapters import cells
from safetensors.torch import load_file

from moe_tutorial import analysis
from moe_tutorial.experiments import committed
from moe_tutorial.experiments.ask import ASKED, SPECIALISTS, specialists
from moe_tutorial.experiments.base import RESULTS, same_settings
from moe_tutorial.experiments.ch12 import EXPERIMENTS
from moe_tutorial.experiments.early import SNAPSHOTS
from moe_tutorial.experiments.languages import SHORT
from moe_tutorial.moe import expert_load

SENTENCES = [
    pytest.param(one, sentence, id=f"{one.name}-{n}")
    for one in EXPERIMENTS
    for n, sentence in enumerate(one.statements)
]
each = pytest.mark.parametrize("one", EXPERIMENTS, ids=lambda one: one.name)


@pytest.mark.parametrize(("one", "sentence"), SENTENCES)
def test_sentence_holds(one, sentence):
    assert one.statements[sentence](committed(one.name)), sentence


@each
def test_the_committed_runs_are_those_of_the_experiment(one):
    data = json.loads((RESULTS / f"{one.name}.json").read_text(encoding="utf-8"))
    assert same_settings(one, data)
    assert one.seeds >= 5
    expected = [(variant, seed) for variant in one.variants for seed in range(one.seeds)]
    assert [(run["variant"], run["seed"]) for run in data["runs"]] == expected


@each
def test_a_quick_run_measures_the_same_things(one):
    runs = committed(one.name).runs
    found = one.measure(one.variants[-1], 0, True)
    like = next(run for run in runs if (run["variant"], run["seed"]) == (one.variants[-1], 0))
    assert set(found) == set(like) - {"variant", "seed"}


def test_the_committed_model_is_the_first_one_that_was_asked():
    model, ids = specialists()
    assert {value.dtype.itemsize for value in load_file(SPECIALISTS).values()} == {2}
    found = ask_a_little(model, ids)
    (first, *_) = committed("ask").runs
    assert found["as trained"] == pytest.approx(first["as trained"], abs=2e-3)
    assert found["k 8"] == pytest.approx(first["k 8"], abs=0.02)


def ask_a_little(model, ids):
    found = {"as trained": analysis.read(model, ids.validation).losses.mean().item()}
    with analysis.rerouted(model, analysis.top(8)):
        found["k 8"] = analysis.read(model, ids.validation).losses.mean().item()
    return found


@pytest.fixture(scope="module")
def asked():
    """The committed model, a piece of its text, and what it does with it."""
    model, ids = specialists()
    text = ids.validation[:4097]
    return model, text, analysis.read(model, text)


def test_a_removal_in_the_last_layer_touches_only_those_who_had_chosen_the_expert(asked):
    model, text, own = asked
    chosen = (own.routings[1].experts == 3).any(dim=1)  # (N,)
    assert chosen.double().mean() == pytest.approx(2 * expert_load(own.routings[1])[3].item())
    with analysis.rerouted(model, {1: analysis.without(3)}):
        changed = (analysis.read(model, text).losses - own.losses).abs() > 1e-4
    assert not changed[~chosen].any()
    assert changed[chosen].double().mean() > 0.9


def test_what_rounding_flips_is_the_second_expert_and_the_third(asked):
    model, text, own = asked
    with analysis.rerouted(model, dtype=torch.bfloat16):
        rounded = analysis.read(model, text)
    for exact, other in zip(own.routings, rounded.routings, strict=True):
        flipped = analysis.chosen_set(exact) != analysis.chosen_set(other)
        best = exact.probs[flipped].topk(3)
        assert (best.values[:, 2] > 0.98 * best.values[:, 1]).all()
        swapped = best.indices[:, [0, 2]].sort(dim=1).values
        assert torch.equal(swapped, other.experts[flipped].sort(dim=1).values)


def test_the_text_names_the_settings_of_the_runs():
    text = "\n".join(cell.source for cell in cells("12_specialists"))
    assert f"trained for {ASKED.max_steps:,} steps" in text
    assert f"Five seeds, {SHORT.max_steps} steps" in text
    assert f"at {'eleven' if len(SNAPSHOTS) == 11 else len(SNAPSHOTS)} snapshots" in text


def test_the_data_of_the_chapter_are_small():
    names = [*(f"{one.name}.json" for one in EXPERIMENTS), SPECIALISTS.name]
    assert sum((RESULTS / name).stat().st_size for name in names) < 1_400_000
