"""Every benchmark runs with tiny sizes, its contenders compute the same, and its tables add up."""

import json
import os
import sys

import pytest
import torch
from conftest import ROOT

from benchmarks.__main__ import main
from benchmarks.contenders import (
    SETUPS,
    TINY_SETUPS,
    hugging_face,
    implementations,
    make_dense,
    ours,
)
from benchmarks.effort import EFFORTS
from benchmarks.report import (
    BEGIN,
    END,
    ORDER,
    RESULTS,
    Table,
    against,
    put_between_markers,
    readme_section,
    write_json,
)
from benchmarks.startup import python
from benchmarks.timing import interleave, ratio, spread
from moe_tutorial.model import count_parameters

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="cores and peak memory as on Linux")


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("question", ORDER)
def test_every_benchmark_runs_with_tiny_sizes(question, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.__main__.pin", lambda: None)  # this process has other tests
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main(["--tiny", question, "--out", str(tmp_path)])
    found = json.loads((tmp_path / f"{question}.json").read_text(encoding="utf-8"))
    assert found["mode"] == "tiny"
    assert found["cores"] == os.cpu_count()
    assert all(len(row) == len(found["columns"]) for row in found["rows"])
    assert len(found["rows"]) >= 1
    assert found["question"] in capsys.readouterr().out


@pytest.mark.parametrize("name", SETUPS)
def test_transformers_computes_the_same_with_every_expert_implementation(name):
    setup = TINY_SETUPS[name]
    tokens = torch.arange(8)[None]
    expected = ours(setup.model).eval()(tokens).logits
    theirs = hugging_face(setup.model)
    for implementation in implementations(setup.model, 8):
        theirs.set_experts_implementation(implementation)
        torch.testing.assert_close(theirs(tokens).logits, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", SETUPS)
def test_the_dense_twin_has_the_active_parameters_without_the_router(name):
    config = SETUPS[name].model
    active = count_parameters(ours(config)).active
    routers = config.num_layers * config.dim * config.num_experts
    dense = sum(p.numel() for p in make_dense(ours(config)).parameters())
    assert dense == active - routers


def test_copying_weights_for_every_token_is_left_out_when_it_takes_too_much_memory():
    assert "batched_mm" in implementations(SETUPS["S"].model, 1)
    assert "batched_mm" not in implementations(SETUPS["M"].model, 2048)


@pytest.mark.slow
@on_linux
def test_peak_memory_is_not_inherited_from_the_process_that_measures():
    big = torch.ones(100_000_000)  # 381 MiB
    code = "from benchmarks.startup import peak_resident; print(peak_resident())"
    assert 1 < float(python("-c", code)[1]) < 381
    assert big.sum() == 1e8


def test_contenders_take_turns():
    order = []
    times = interleave({name: lambda n=name: order.append(n) for name in "abc"}, 2, 0.0)
    assert order[6:] == list("abcabc")
    assert {len(rounds) for rounds in times.values()} == {2}


def test_a_ratio_is_that_of_the_same_round():
    assert ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == 2.0
    assert spread([1.0, 1.0, 1.0, 1.0]) == 0.0
    assert spread([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [(1.2, False, "≥ 1.2: yes"), (1.19, False, "≥ 1.2: no"), (1.2, True, "≤ 1.2: yes")],
)
def test_a_verdict_names_what_was_to_be_reached(value, at_most, verdict):
    assert against(value, 1.2, at_most=at_most) == verdict


def test_only_the_part_between_the_markers_is_replaced(tmp_path):
    write_json(tmp_path, "startup", "tiny", Table("How long?", ["a", "b"], [["1", "2"]], ["So."]))
    section = readme_section(tmp_path)
    assert "| 1 | 2 |" in section
    assert "torch 2" in section
    text = put_between_markers(f"before\n{BEGIN}\nold\n{END}\nafter\n", section)
    assert text == f"before\n{BEGIN}\n{section}\n{END}\nafter\n"
    with pytest.raises(ValueError, match="needs the two lines"):
        put_between_markers("nothing", section)


def test_the_readme_shows_the_committed_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert put_between_markers(text, readme_section(RESULTS)) == text
    assert {path.stem for path in RESULTS.glob("*.json")} == set(ORDER)
    assert set(EFFORTS) == {"tiny", "quick", "full"}
