"""What chapter 16 says of its experiment holds in the committed data, and its parts work."""

import json
import re
from copy import deepcopy

import pytest
import torch
from chapters import cells
from conftest import TINY
from torch.utils._python_dispatch import TorchDispatchMode

from moe_tutorial import plots, widgets
from moe_tutorial.cost import experts_touched
from moe_tutorial.experiments import ch16
from moe_tutorial.experiments.ask import specialists
from moe_tutorial.experiments.base import RESULTS, committed, same_settings
from moe_tutorial.experiments.ch16_drafts import ModelDraft, first_layers
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import next_token_probs
from moe_tutorial.speculation import CountedDraft, SpeculatedToken, speculate

DRAFTS, PASS_TIME = ch16.EXPERIMENTS


@pytest.mark.parametrize(
    ("one", "sentence"),
    [(one, sentence) for one in ch16.EXPERIMENTS for sentence in one.statements],
)
def test_sentence_holds_in_the_committed_data(one, sentence):
    assert one.statements[sentence](committed(one.name))


@pytest.mark.parametrize("one", ch16.EXPERIMENTS)
def test_committed_runs_are_complete_small_and_of_these_settings(one):
    path = RESULTS / f"{one.name}.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    assert same_settings(one, data)
    pairs = {(run["variant"], run["seed"]) for run in data["runs"]}
    assert pairs == {(variant, seed) for variant in one.variants for seed in range(one.seeds)}
    assert len(data["runs"]) == len(pairs)
    assert path.stat().st_size < 30_000


@pytest.mark.slow
@pytest.mark.parametrize("one", ch16.EXPERIMENTS)
def test_a_quick_run_measures_the_same_things(one):
    found = json.loads(json.dumps(one.measure(one.variants[0], 0, True)))
    (like, *_) = committed(one.name).runs
    assert set(found) == set(like) - {"variant", "seed"}
    for key, value in found.items():
        same = set(value) == set(like[key]) if isinstance(value, dict) else True
        assert same
        assert not isinstance(value, list) or len(value) == len(like[key])


def test_passes_are_timed_for_the_guesses_and_the_token_before_them():
    assert (1, *(length + 1 for length in ch16.LENGTHS)) == ch16.TOKENS


def model_draft(tiny_model, context):
    most = tiny_model.config.max_seq_len
    while len(context) > most:
        context = context[most // 4 :]
    with torch.no_grad():
        return tiny_model(torch.tensor([context])).logits[0, -1].softmax(-1)


def test_a_model_as_a_draft_knows_every_text_it_is_asked_about(tiny_model):
    draft, generator = ModelDraft(tiny_model), torch.Generator().manual_seed(0)
    text = torch.randint(13, (40,), generator=generator).tolist()
    for context in (
        text[:1], text[:5], text[:6], text[:6], text[:3], [7, *text[1:8]], text[:16], text[:17],
        text[:20], text[:21], text, text[:4],
    ):  # fmt: skip
        torch.testing.assert_close(draft.probs(context), model_draft(tiny_model, context))


def test_a_model_as_a_draft_reads_only_what_is_new(tiny_model):
    draft = ModelDraft(tiny_model)
    with ch16.watched(tiny_model) as passes:
        for context in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 5, 6], [1, 2]):
            draft.probs(context)
    assert [one.tokens for one in passes] == [3, 1, 2, 1]
    assert all(len(one.touched) == len(tiny_model.blocks) for one in passes)


def test_first_layers_are_those_of_the_model(tiny_model):
    ids, first = torch.tensor([[1, 2, 3]]), tiny_model.blocks[0]
    same, one = first_layers(tiny_model, 2), first_layers(tiny_model, 1)
    assert torch.equal(same(ids).logits, tiny_model(ids).logits)
    assert len(one.blocks) == 1
    assert torch.equal(one.blocks[0].moe.router.scores.weight, first.moe.router.scores.weight)
    assert not torch.equal(one(ids).logits, tiny_model(ids).logits)


def test_a_model_that_guesses_for_itself_is_always_accepted(tiny_model):
    ids = torch.randint(13, (20,), generator=torch.Generator().manual_seed(0))
    assert ch16.acceptance(tiny_model, ModelDraft(tiny_model), ids) == pytest.approx(1, abs=1e-5)
    found = ch16.written(tiny_model, ModelDraft(deepcopy(tiny_model)), ids[:3], 2, 9)
    assert found["per pass"] == 3
    assert found["accepted"] == [3, 3, 3]
    assert 2 <= found["touched"] <= TINY.num_experts


def test_runs_count_the_accepted_guesses_before_every_other_token():
    hows = ["accepted", "accepted", "drawn", "corrected", "accepted", "corrected"]
    assert ch16.runs([SpeculatedToken(0, None, None, how) for how in hows]) == [2, 0, 1]


# What the prose says


def text_of(*ids):
    found = {cell.id: cell.source for cell in cells("16_speculation")}
    return "\n".join(found[i] for i in ids)


def test_the_gains_on_paper_are_those_of_the_formula():
    characters = sum(0.8**i for i in range(4))
    four = {(E, K): experts_touched(E, K, 4) / K for E, K in ((8, 2), (256, 8))}
    for number in (characters, 2 * four[8, 2], four[8, 2]):
        assert f"{number:.2f}" in text_of("ch16-gain-01")
    for ratio in four.values():
        assert f"{characters / ratio:.2f}" in text_of("ch16-gain-03")


def test_the_text_names_the_settings_of_the_runs():
    said = text_of("ch16-length-01", "ch16-drafts-01", "ch16-price-03")
    assert f"each wrote {ch16.CHARACTERS} characters" in said
    assert f"temperature {ch16.TEMPERATURE}" in said
    assert "five seeds" in said
    assert DRAFTS.seeds == 5
    assert "one dense layer of half the width" in said
    assert ch16.SMALL["dim"] * 2 == ch16.MODEL.dim
    assert f"for {ch16.TOKENS[0]} to {ch16.TOKENS[-1]} tokens, behind {ch16.READ} others" in said
    assert "four layers with 2 of 32 experts" in said
    assert (ch16.LARGE["num_layers"], ch16.LARGE["num_experts"]) == (4, 32)


@pytest.fixture(scope="module")
def writer():
    model, ids = specialists()
    return model, ids, CountedDraft.count(ids.train, ids.tokenizer.vocab_size)


def test_other_seeds_need_other_numbers_of_passes(writer):
    model, ids, draft = writer
    start, passes, begins, mended = ids.tokenizer.encode("Once upon a ti"), [], [], []
    for seed in range(5):
        told = {"draft_length": 4, "max_new_tokens": 240, "temperature": 0.8}
        dice = torch.Generator().manual_seed(seed)
        tokens = list(speculate(model, start, draft, generator=dice, **told))
        text = "i" + ids.tokenizer.decode([one.token for one in tokens])
        first = [char.isspace() for char in text[:-1]]
        passes.append(sum(one.how != "accepted" for one in tokens))
        begins += first
        mended += [b for b, one in zip(first, tokens, strict=True) if one.how == "corrected"]
    assert 60 <= min(passes) < max(passes) <= 90
    assert "other seeds need between 60 and 90" in text_of("ch16-loop-05")
    assert sum(mended) / len(mended) > sum(begins) / len(begins)


def test_heat_brings_out_rare_characters_about_which_the_two_agree_less(writer):
    model, ids, draft = writer
    gaps = {(heat, rare): 0.0 for heat in (1.0, 2.0) for rare in (True, False)}
    for window in ids.validation[:256].split(128):
        with torch.no_grad():
            logits = model(window[None]).logits[0]
        for i, row in enumerate(logits):
            guess, rare = draft.probs(window[: i + 1].tolist()).log(), row.softmax(-1) < 0.02
            for heat in (1.0, 2.0):
                gap = (next_token_probs(row, heat) - next_token_probs(guess, heat)).abs()
                gaps[heat, True] += gap[rare].sum().item()
                gaps[heat, False] += gap[~rare].sum().item()
    assert gaps[2.0, True] > 3 * gaps[1.0, True]
    assert gaps[2.0, False] < 1.2 * gaps[1.0, False]


def test_counts_of_five_look_four_characters_back(writer):
    _, ids, draft = writer
    same = (ids.tokenizer.encode(text).tolist() for text in ("looked a", "baked a", "ed a"))
    behind = [draft.probs(text) for text in same]
    assert draft.order == 5
    assert all(torch.equal(probs, behind[0]) for probs in behind)
    assert not torch.equal(behind[0], draft.probs(ids.tokenizer.encode("saw a").tolist()))


class Calls(TorchDispatchMode):
    """Counts the operations inside."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number = getattr(self, "number", 0) + 1
        return function(*args, **(kwargs or {}))


def calls(model):
    caches, text = model.new_caches(), torch.zeros(1, 65, dtype=torch.long)
    with torch.inference_mode():
        model(text[:, :64], caches)
        with Calls() as counted:
            model(text[:, 64:], caches)
    return counted.number


def test_one_layer_makes_half_as_many_small_calls_as_two():
    torch.manual_seed(0)
    whole = MoELanguageModel(ch16.MODEL, 61).eval()
    small = MoELanguageModel(ch16.MODEL.model_copy(update=ch16.SMALL), 61).eval()
    for one in (small, first_layers(whole, 1)):
        assert 0.4 < calls(one) / calls(whole) < 0.6


# Figures and sliders


def test_parts_of_the_draft_and_of_the_text_add_up():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    (axes,) = plots.parts_figure("ab ", p, q).axes
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == [[0.25] * 3, [0, 0.25, 0], [0.25] * 3, [0.25, 0, 0]]
    assert [bar.get_y() for bar in axes.containers[1]] == [0.25] * 3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "␣"]


def test_text_shows_how_each_character_came_about():
    origins = ["accepted", "corrected", "drawn", "drawn"]
    page = plots.origin_html("a<b\n", origins, ["x", '"y"', "z", "&"], before="&")
    styles = re.findall(r'<span style="([^"]+)" title="([^"]+)">([^<]+)', page)
    assert [(style, char) for style, _, char in styles] == [
        (plots.ch16.ORIGINS[origin], char)
        for origin, char in zip(origins, ["a", "&lt;", "b", "↵"], strict=True)
    ]
    assert [tip for _, tip, _ in styles] == ["x", "&quot;y&quot;", "z", "&amp;"]
    assert "<b>&amp;</b>" in page
    assert all(f"&nbsp;{origin}&nbsp;" in page for origin in plots.ch16.ORIGINS)


def test_predicted_are_lines_and_measured_markers():
    (axes,) = plots.length_figure([1, 2], {"p": [1, 2]}, {"m": [1, 1.5]}, "speed").axes
    predicted, measured = axes.lines
    assert (predicted.get_linestyle(), predicted.get_marker()) == ("-", "None")
    assert (measured.get_linestyle(), measured.get_marker()) == ("None", "s")
    assert list(measured.get_ydata()) == [1, 1.5]
    assert axes.get_ylim()[0] == 0
    (axes,) = plots.length_figure([1, 2], {}, {"m": [1, 1.5], "n": [1, 2]}, "speed").axes
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]


def test_pass_times_are_divided_by_the_first():
    figure = plots.pass_figure([1, 4], {"x": {"a": [2.0, 6.0]}, "y": {"a": [1.0, 1.0]}})
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[1, 3], [1, 1]]
    assert [axes.get_title() for axes in figure.axes] == ["x", "y"]


def test_every_pass_time_lies_inside_its_panel():
    low, high = {"a": [1.0, 2.0]}, {"a": [1.0, 6.0]}
    for panels in ({"x": low, "y": high}, {"x": high, "y": low}):
        for axes in plots.pass_figure([1, 13], panels).axes:
            bottom, top = axes.get_ylim()
            assert bottom == 0
            assert max(axes.lines[0].get_ydata()) < top


def test_five_measured_curves_are_told_apart_without_color():
    measured = {str(i): [1, i] for i in range(5)}
    (axes,) = plots.length_figure([1, 2], {}, measured, "speed").axes
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 5


def test_gains_are_drawn_beside_one():
    (axes,) = plots.gain_figure([1, 2, 4], {"a": [2, 1, 0.5]}, highest=3).axes
    assert list(axes.lines[0].get_ydata()) == [2, 1, 0.5]
    assert set(axes.lines[1].get_ydata()) == {1}
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == (0, 3)


def test_the_slider_asks_for_what_is_set():
    asked = []

    def gain(*settings):
        asked.append(settings)
        return 1.0

    box = widgets.gain_slider([1, 8], gain)
    experts, top_k, share, length, picture = box.children
    assert asked[:2] == [(256, 8, 1, 0.8, 3), (256, 8, 8, 0.8, 3)]
    assert asked[2:] == [(1, 1, 1, 0.8, 3), (1, 1, 8, 0.8, 3)]
    experts.value = 4
    assert asked[-4] == (4, 4, 1, 0.8, 3)
    top_k.value, share.value, length.value = 2, 0.5, 5
    assert asked[-4] == (4, 2, 1, 0.5, 5)
    assert bytes(picture.value).startswith(b"\x89PNG")


def test_models_of_one_size_have_caches_that_can_be_cut(tiny_model):
    draft = ModelDraft(MoELanguageModel(tiny_model.config, 13).eval())
    first = draft.probs([1, 2, 3])
    draft.probs([4])
    torch.testing.assert_close(draft.probs([1, 2, 3]), first)
