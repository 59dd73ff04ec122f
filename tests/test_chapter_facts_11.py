"""What chapter 11 says of its trainings, over the committed results; and that they run again."""

import json
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from chapters import cells

from moe_tutorial import plots
from moe_tutorial.balance import BiasedRouter
from moe_tutorial.batching import evaluation_batches
from moe_tutorial.experiments import __main__ as command
from moe_tutorial.experiments import committed
from moe_tutorial.experiments.base import (
    MODEL,
    RESULTS,
    TRAINING,
    Results,
    run,
    same_settings,
    texts,
    train_once,
)
from moe_tutorial.experiments.ch11 import (
    EXPERIMENTS,
    VARIANTS,
    held_out,
    listen,
    mean_violation,
    measure,
    told_apart,
    ways,
)
from moe_tutorial.moe import Routing, expert_load, load_summary

[BALANCE] = EXPERIMENTS


@pytest.fixture(scope="module")
def found():
    return committed("balance")


@pytest.mark.parametrize("sentence", BALANCE.statements)
def test_a_sentence_of_the_chapter_holds(found, sentence):
    assert BALANCE.statements[sentence](found)


def test_the_chapter_says_how_long_the_trainings_take_on_quiet_cores(found):
    text = "\n".join(cell.source for cell in cells("11_router_health"))
    assert "takes a quarter of an hour on two quiet cores" in text
    fastest = min(run["seconds"] for run in found.runs)  # the machine was quiet then
    assert 12 < fastest * len(found.runs) / 2 / 60 < 18


def test_what_the_routers_tell_apart_is_a_mean_over_all_seeds(found):
    for way, *printed in (("none", 0.11, 0.58), ("loss 1", 0.03, 0.36)):
        for layer, value in enumerate(printed):
            each = [
                run["mean_entropy"][layer] - run["token_entropy"][layer]
                for run in found.runs
                if run["variant"] == way
            ]
            assert sum(each) / len(each) == pytest.approx(value, abs=0.005)
            assert told_apart(found, way, layer) == pytest.approx(sum(each) / len(each))
        line = f"{way:10} layer 1: {printed[0]:.2f}, layer 2: {printed[1]:.2f}"
        assert line in "".join(the_cell("ch11-entropy-02").raw["outputs"][0]["text"])


def test_no_number_in_the_picture_of_load_and_loss_covers_another(found):
    points = {way: (mean_violation(found, way), found.of(way, "held_out")) for way in ways(found)}
    figure = plots.tradeoff_figure(points)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == len(points) - 2  # "none" and "quantile" have no number
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def the_cell(cell_id):
    return next(cell for cell in cells("11_router_health") if cell.id == cell_id)


@pytest.mark.parametrize("seed", range(3))
def test_the_buggy_rule_of_exercise_3_comes_nearer_to_even_and_moves_away(seed):
    generator = torch.Generator().manual_seed(seed)
    probs = (torch.randn(400, 6, generator=generator) + torch.linspace(2, -2, 6)).softmax(-1)
    space, bias, found = {"torch": torch}, torch.zeros(6), []
    exec(the_cell("ch11-exercise-3").source, space)
    for _ in range(200):
        experts = (probs + bias).topk(2, dim=-1).indices
        routing = Routing(probs.gather(1, experts), experts, probs)
        found.append(load_summary(expert_load(routing)).max_over_mean - 1)
        bias = space["repaired_rebalance"](bias, routing, 0.01)
    assert min(found) + 0.3 < min(found[0], found[-1])
    assert min(found) > 0.5  # it never gets there
    assert bias.abs().max() > 1  # and it grows with every step


def test_every_way_was_run_with_five_seeds_and_these_settings(found):
    data = json.loads((RESULTS / "balance.json").read_text(encoding="utf-8"))
    assert same_settings(BALANCE, data)
    other = {**data["settings"], "model": {**data["settings"]["model"], "dim": 64}}
    assert not same_settings(BALANCE, {"settings": other})
    assert found.variants() == list(VARIANTS)
    for way in VARIANTS:
        assert found.of(way, "seed") == [0, 1, 2, 3, 4]
        assert all(len(part) == 50 for part in found.of(way, "history")[0])
        for load in found.of(way, "load"):
            assert [sum(layer) for layer in load] == pytest.approx([1, 1], abs=0.001)


@pytest.mark.parametrize("way", ["none", "bias 0.05", "quantile", "sequence 1", "z-loss 0.1"])
def test_a_way_is_trained_and_measured(way):
    one = measure(way, 0, True)
    assert set(one) == {
        "held_out", "load", "max_violation", "idle", "token_entropy", "mean_entropy",
        "sequence_violation", "balance_loss", "stock_loss", "logit_range", "history", "bias",
        "seconds",
    }  # fmt: skip
    assert 3.9 < one["held_out"] < 4.3  # six steps
    biased = way in ("bias 0.05", "quantile")
    assert any(one["bias"][0]) == biased
    assert (one["balance_loss"] != one["stock_loss"]) == biased


def test_what_is_measured_is_the_routing_of_the_held_out_text():
    trained = train_once(texts(), 1, model=MODEL.model_copy(update={"balance": "bias"}), quick=True)
    one, loads = held_out(trained, True), torch.zeros(2, 8)
    assert isinstance(trained.model.blocks[0].moe.router, BiasedRouter)
    counted = 0
    for x, _ in evaluation_batches(texts().validation[:2000], 32, TRAINING.seq_len):
        for layer, routing in enumerate(trained.model(x).routings):
            loads[layer] += expert_load(routing) * x.numel()
        counted += x.numel()
    for layer in (0, 1):
        load = loads[layer] / counted
        torch.testing.assert_close(one["load"][layer], load, atol=1e-6, rtol=0)
        assert one["max_violation"][layer] == pytest.approx(load_summary(load).max_over_mean - 1)


def test_the_z_loss_hears_the_logits_of_training_steps_alone():
    loud = []
    trained = train_once(texts(), 0, quick=True, prepare=lambda model: listen(model, loud))
    assert len(loud) == 2 * 6  # layers, steps; none of the measurement
    assert loud[0].shape == (TRAINING.batch_size * TRAINING.seq_len, 8)
    assert all(logits.requires_grad for logits in loud)
    x = torch.randn(3, 96, requires_grad=True)
    routing = trained.model.blocks[1].moe.router(x)
    torch.testing.assert_close(loud[-1].softmax(-1), routing.probs)


def test_results_know_a_difference_from_the_spread():
    values = {"a": (1.0, 1.2, 1.1), "b": (1.1, 1.3, 1.2), "c": (1.3, 1.0, 1.1)}
    runs = [
        {"variant": variant, "seed": seed, "x": x}
        for variant, numbers in values.items()
        for seed, x in enumerate(numbers)
    ]
    found = Results(reversed(runs))
    assert found.of("a", "x") == [1.0, 1.2, 1.1]
    assert found.mean("a", "x") == pytest.approx(1.1)
    assert found.spread("a", "x") == pytest.approx(0.1)
    assert found.all_below("a", "b", "x")
    assert not found.all_below("a", "c", "x")
    assert found.differ("a", "b", "x")
    assert not found.differ("a", "c", "x")
    with pytest.raises(KeyError, match="no run of 'd'"):
        found.of("d", "x")


@pytest.mark.slow
def test_the_command_runs_all_ways_in_processes():
    data = run(BALANCE, 1, quick=True)
    assert [one["variant"] for one in data["runs"]] == list(VARIANTS)
    assert set(data["versions"]) == {"moe_tutorial", "torch", "python", "machine"}
    assert data["settings"]["training"]["max_steps"] == 1000


def small(tmp_path, monkeypatch, measure):
    """The command with one experiment of two ways and two seeds."""
    one = replace(BALANCE, variants=("none", "quantile"), measure=measure, seeds=2, statements={})
    monkeypatch.setattr(command, "experiments", lambda: {"balance": one})
    return lambda *more: command.main(["balance", "--out", str(tmp_path), *more])


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_after_its_finished_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MARKS", str(tmp_path))
    with pytest.raises(OSError, match="the first time"):
        small(tmp_path, monkeypatch, fails_once)()
    part = tmp_path / "balance.part.jsonl"
    kept = [json.loads(line) for line in part.read_text().splitlines()[1:]]
    assert 0 < len(kept) < 4
    with part.open("a") as file:
        file.write('{"variant": "no')  # killed while it wrote
    assert small(tmp_path, monkeypatch, fails_once)() == 0
    assert f"goes on after {len(kept)} runs" in capsys.readouterr().out
    assert not part.exists()
    runs = json.loads((tmp_path / "balance.json").read_text())["runs"]
    assert [(one["variant"], one["seed"]) for one in runs] == [
        ("none", 0), ("none", 1), ("quantile", 0), ("quantile", 1),
    ]  # fmt: skip
    done = [tuple(line.split()) for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(done) == sorted((one["variant"], str(one["seed"])) for one in runs)


def test_runs_of_other_settings_are_not_taken_over(tmp_path, capsys):
    part = tmp_path / "balance.part.jsonl"
    assert command.begin(part, BALANCE) == []
    with part.open("a") as file:
        file.write('{"variant": "none", "seed": 0}\n')
    assert command.begin(part, BALANCE) == [{"variant": "none", "seed": 0}]
    assert command.begin(part, replace(BALANCE, settings={})) == []
    assert len(part.read_text().splitlines()) == 1


def fails_once(variant, seed, quick):
    """One run fails until it is tried a second time; the others leave a mark."""
    folder = Path(os.environ["MARKS"])
    if (variant, seed) == ("none", 1) and not (folder / "tried").exists():
        (folder / "tried").touch()
        raise OSError("the first time")
    with (folder / "done").open("a") as file:
        file.write(f"{variant} {seed}\n")
    return {"loss": 1.0}


@pytest.mark.parametrize("tops", [(1, 5), (5, 1)])
def test_every_violation_lies_inside_its_panel(tops):
    figure = plots.violation_figure({str(top): [[0.0, top]] for top in tops}, 20)
    for axes, top in zip(figure.axes, tops, strict=True):
        bottom, end = axes.get_ylim()
        assert (bottom, axes.lines[0].get_ydata()[-1]) == (0, top)
        assert top < end
