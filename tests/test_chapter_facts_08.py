"""The long runs that chapter 08 tells of: their settings are the chapter's, its table is theirs."""

import ast
import re

import pytest
from chapters import cells

from benchmarks.choices import CHAPTER, CHOICES, RESULT, Outcome, main, saved, table
from moe_tutorial import config as settings

FOUND = saved(RESULT)


def cell(name):
    return next(cell.source for cell in cells("08_training") if cell.id == name)


def test_the_long_runs_have_the_settings_of_the_chapter():
    tree = ast.parse(cell("ch08-intuition-02"))
    (expression,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "config"
    )
    source = compile(ast.Expression(expression), "<cell>", "eval")
    assert eval(source, {"settings": settings}) == CHAPTER


def test_the_table_of_the_chapter_is_the_committed_one():
    assert "\n".join(table(FOUND)) in cell("ch08-worth-01")


def behind(choice):
    """Seed -> how much higher the loss ends than that of the chapter with this seed."""
    last = {(one.choice, one.seed): one.held_out[-1] for one in FOUND}
    seeds = [seed for name, seed in last if name == choice]
    return {seed: last[choice, seed] - last["as in the chapter", seed] for seed in seeds}


def test_every_choice_was_run_with_both_seeds():
    assert [(one.choice, one.seed) for one in FOUND] == [(c, s) for c in CHOICES for s in (0, 1)]


def test_other_numbers_in_the_text_are_from_the_same_runs():
    text = cell("ch08-worth-01").replace("\n".join(table(FOUND)), "")
    known = {f"{n:.2f}" for one in FOUND for n in (*one.gains, one.busiest, one.held_out[0])}
    seeds = [one.held_out[-1] for one in FOUND if one.choice == "as in the chapter"]
    known.add(f"{max(seeds) - min(seeds):.2f}")
    known |= {f"{gap:.2f}" for gap in behind("dense").values()}
    found = set(re.findall(r"\d\.\d\d\b", text))
    assert len(found) > 6
    assert found <= known


def test_the_cited_facts_are_those_of_the_runs():
    last = {(one.choice, one.seed): one.held_out[-1] for one in FOUND}
    usual = {seed: loss for (choice, seed), loss in last.items() if choice == "as in the chapter"}
    assert all(0.08 < gap < 0.12 for gap in behind("gains decay too").values())
    assert all(0.02 < gap < 0.03 for gap in behind("dense").values())
    for (choice, _), loss in last.items():
        if choice not in ("gains decay too", "dense"):
            assert min(usual.values()) - 0.02 < loss < max(usual.values()) + 0.02
    assert max(one.idle for one in FOUND) == 0


def test_less_weight_decay_is_ahead_until_the_last_measurement():
    held_out = {(one.choice, one.seed): one.held_out for one in FOUND}
    for seed in (0, 1):
        less, usual = held_out["weight decay 0.1", seed], held_out["as in the chapter", seed]
        ahead = [a < b for a, b in zip(less, usual, strict=True)]
        assert ahead == [True, True, True, False]


def test_a_seed_that_is_missing_is_an_empty_field():
    found = [Outcome(name, 0, [2.0, 1.0], 1.0, 0, [0, 1], "") for name in list(CHOICES)[:2]]
    found.append(found[0]._replace(seed=1, held_out=[2.0, 1.5]))
    assert table(found)[2:] == [
        "| as in the chapter | 1.000 | 1.500 | 1.250 |",
        "| no warm-up | 1.000 | | 1.000 |",
    ]


@pytest.mark.slow
def test_a_short_look_prints_and_keeps_a_row(tmp_path, capsys):
    kept = tmp_path / "found.json"
    main(["gains decay too", "--seeds", "1", "--steps", "2", "--out", str(kept)])
    (one,) = saved(kept)
    assert capsys.readouterr().out.splitlines() == table([one])
    assert (one.choice, one.seed, len(one.held_out)) == ("gains decay too", 0, 1)
    with pytest.raises(SystemExit):
        main(["no such choice"])
