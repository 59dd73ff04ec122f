"""`inspect`: what it prints is computed a second way, and what is missing or odd is said."""

import json
import math
import shutil

import pytest
import torch

from moe_tutorial.balance import RouterHealth
from moe_tutorial.batching import evaluation_batches
from moe_tutorial.checkpoint import load_model
from moe_tutorial.command import inspect
from moe_tutorial.command.cli import main
from moe_tutorial.corpus import load_corpus


@pytest.fixture
def here(trained_folder, tmp_path, monkeypatch):
    shutil.copytree(trained_folder / "model", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys, *arguments):
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def fails(capsys, *arguments):
    assert main(["inspect", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_the_table_is_the_routing_of_the_held_out_text(here, capsys):
    lines = shown(capsys, "--model-path", "model")
    model, tokenizer, _ = load_model(here / "model")
    ids = tokenizer.encode(load_corpus("passage").validation)
    length = min(len(ids) - 1, 32)
    counts, probs = torch.zeros(2, 4), [[], []]
    for x, _ in evaluation_batches(ids, 1, length):
        for layer, routing in enumerate(model(x).routings):
            counts[layer] += routing.experts.flatten().bincount(minlength=4)
            probs[layer].append(routing.probs)
    assert f"{int(counts[0].sum()) // 2:,} held-out characters of passage" in lines[0]
    assert "model: 2 layers of 4 experts, top 2, balance = loss" in lines[0]
    for layer in (0, 1):
        number, violation, idle, sure, of_mean, *shares = lines[2 + layer].split()
        load, p = counts[layer] / counts[layer].sum(), torch.cat(probs[layer])
        assert int(number) == layer + 1
        assert float(violation) == pytest.approx(load.max().item() * 4 - 1, abs=0.006)
        assert int(idle) == int((load == 0).sum())
        assert [int(share) for share in shares] == [round(100 * v) for v in load.tolist()]
        entropy = -(p * p.log()).sum(-1).mean().item()
        assert float(sure) == pytest.approx(entropy, abs=0.006)
        mean = p.mean(0)
        assert float(of_mean) == pytest.approx(-(mean * mean.log()).sum().item(), abs=0.006)
    assert f"(at most {math.log(4):.2f})" in lines[1]


def test_the_training_is_shown_in_up_to_five_parts(here, capsys):
    metrics = here / "model" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()] * 3
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = shown(capsys)
    loads = torch.tensor([record["expert_load"] for record in records])  # (12, 2, 4)
    assert len(records) == 12
    start = lines.index("max violation of the mean load of 3 steps, from step 1 on:")
    for layer in (0, 1):
        parts = [loads[i : i + 3, layer].mean(0).max().item() * 4 - 1 for i in range(0, 12, 3)]
        number, *values = lines[start + 1 + layer].split()
        assert int(number) == layer + 1
        assert [float(value) for value in values] == pytest.approx(parts, abs=0.006)
    heads = "entropy per token of a batch", "entropy of a batch's mean"
    for head, name in zip(heads, ("token_entropy", "mean_entropy"), strict=True):
        start = lines.index(f"{head}, mean of the same steps:")
        for layer in (0, 1):
            means = [sum(r[name][layer] for r in records[i : i + 3]) / 3 for i in range(0, 12, 3)]
            number, *values = lines[start + 1 + layer].split()
            assert int(number) == layer + 1
            assert [float(value) for value in values] == pytest.approx(means, abs=0.006)


def test_a_record_without_entropies_is_shown_without_them(here, capsys):
    metrics = here / "model" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    del records[1]["mean_entropy"]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = shown(capsys)
    assert not any("entropy per token of a batch" in line for line in lines)
    assert any("max violation of the mean load" in line for line in lines)
    assert lines[-1] == "drawn in model/router.png"


def test_a_picture_is_drawn_where_it_is_asked_for(here, capsys):
    assert shown(capsys)[-1] == "drawn in model/router.png"
    assert (here / "model" / "router.png").read_bytes().startswith(b"\x89PNG")
    assert shown(capsys, "--to", "there.png")[-1] == "drawn in there.png"
    assert (here / "there.png").is_file()
    assert "could not be drawn (" in shown(capsys, "--to", "no/such/place.png")[-1]


def test_what_is_missing_or_damaged_is_said(here, capsys):
    metrics = here / "model" / "metrics.jsonl"
    record = json.loads(metrics.read_text().splitlines()[0])
    metrics.write_text('{"step": 1}\n')
    assert "metrics.jsonl: damaged; remove it" in fails(capsys)
    metrics.write_text(json.dumps(record | {"token_entropy": [1.0], "mean_entropy": [1.0]}) + "\n")
    assert "metrics.jsonl: damaged; remove it" in fails(capsys)
    metrics.unlink()
    assert "no record of a training (metrics.jsonl)" in shown(capsys)
    metrics.write_text("")
    assert "no record of a training (metrics.jsonl)" in shown(capsys)
    assert "or name another with --dataset" in fails(capsys, "--dataset", "./gone.txt")
    (here / "other.txt").write_text("Zebras " * 40)
    assert "unknown character 'Z'" in fails(capsys, "--dataset", "other.txt")
    assert "holds no trained model" in fails(capsys, "--model-path", "nowhere")


def health(load, token=1.0, mean=2.0):
    load = torch.tensor(load)
    violation = load.max().item() * len(load) - 1
    return RouterHealth(load, violation, int((load == 0).sum()), token, mean)


def test_findings_name_layer_and_expert():
    odd = [
        health([0.6, 0.0, 0.4, 0.0]),
        health([0.25] * 4, 1.99, 2.0),
        health([0.3, 0.3, 0.2, 0.2]),
    ]
    assert inspect.findings(odd) == [
        "layer 1: no token for expert 1, 3",
        "layer 1: expert 0 does 2.4 times its share",
        "layer 2: the router tells tokens apart by 0.010 nats only",
    ]
    fine = "no expert is idle or does twice its share, and every router tells tokens apart"
    assert inspect.findings(odd[2:]) == [fine]
    assert inspect.findings([health([1.0], 0.0, 0.0)]) == [fine]  # one expert: nothing to tell
