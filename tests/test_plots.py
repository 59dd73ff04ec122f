import re

import pytest
import torch
from conftest import TINY

from moe_tutorial import plots
from moe_tutorial.cards import CARDS
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.plots import COLORS, history_figure, smooth
from moe_tutorial.training import StepRecord

RECORDS = [
    {
        "step": step,
        "loss": 3.0 - step / 100,
        "validation_loss": 2.5 if step % 40 == 0 else None,
        "expert_load": [[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]],
    }
    for step in range(1, 101)
]


@pytest.fixture
def axes():
    return history_figure(RECORDS, {"unigram": 3.03, "bigram": 2.21}).axes


def test_loss_panel_shows_training_validation_and_baselines(axes):
    lines = {line.get_label(): line for line in axes[0].lines}
    assert list(lines) == ["train, mean of 50", "held out", "unigram 3.03", "bigram 2.21"]
    assert lines["held out"].get_xdata().tolist() == [40, 80]
    assert lines["train, mean of 50"].get_ydata()[-1] == pytest.approx(3.0 - 75.5 / 100)
    assert set(lines["bigram 2.21"].get_ydata()) == {2.21}


def test_load_panels_show_the_busiest_expert_and_every_share(axes):
    ratios = [line.get_ydata()[-1] for line in axes[1].lines[:2]]
    assert ratios == pytest.approx([1.5, 1.8])
    image = torch.as_tensor(axes[2].images[0].get_array())
    torch.testing.assert_close(
        image.double(), torch.tensor([[0.5, 0.5, 0], [0.2, 0.2, 0.6]]).double()
    )


def test_axes_name_their_units(axes):
    assert axes[0].get_ylabel() == "nats per character"
    assert all(a.get_xlabel() for a in axes[:3])


def test_smooth_is_the_mean_of_the_last_values():
    assert smooth(torch.tensor([1.0, 2, 3, 4]), width=2).tolist() == [1, 1.5, 2.5, 3.5]


def test_colors_differ_in_gray():
    gray = sorted(
        sum(w * int(c[i : i + 2], 16) for w, i in ((0.3, 1), (0.59, 3), (0.11, 5)))
        for c in COLORS[:2]
    )
    assert gray[1] - gray[0] > 20


# --- Chapter 01 ---


def test_symbol_bars_are_sorted_and_a_space_can_be_seen():
    axes = plots.symbol_figure({"a": 2, " ": 5, "b": 2, "\n": 1}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [5, 2, 2, 1]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["␣", "a", "b", "↵"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("symbol", "count")


def test_pair_heat_map_shows_shares_of_each_row():
    axes = plots.pair_figure(torch.tensor([[1, 3], [0, 0]]), ["a", " "]).axes[0]
    shown = torch.as_tensor(axes.images[0].get_array())
    assert shown[0].tolist() == [0.25, 0.75]
    assert shown[1].isnan().all()  # nothing was counted: gray, not 0
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "␣"]


def test_order_curves_begin_at_uniform():
    axes = plots.order_figure({"passage": [3.4, 2.9], "fables": [4.1, 3.0, 2.2]}).axes[0]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0, 1], [0, 1, 2]]
    assert axes.lines[1].get_ydata().tolist() == [4.1, 3.0, 2.2]
    assert len({line.get_linestyle() for line in axes.lines}) == 2
    assert "nats per character" in axes.get_ylabel()


# --- Chapter 02 ---


def test_ids_are_drawn_above_their_characters():
    axes = plots.ids_figure("a b", [1, 0, 2]).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "␣", "b"]
    assert list(axes.lines[0].get_ydata()) == [1, 0, 2]
    assert not axes.lines[0].get_clip_on()  # the marker of id 0 is whole
    assert [t.get_text() for t in axes.texts] == ["1", "0", "2"]


def test_vocabulary_grows_where_a_character_is_new():
    axes = plots.vocabulary_growth_figure({"one": "aab", "two": "abcabc"}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 1], [3, 2], [3, 2]]
    assert axes.lines[1].get_xydata().tolist() == [[1, 1], [2, 2], [3, 3], [6, 3]]
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels == ["one: 2 after 3", "two: 3 after 6"]


# --- Chapter 03 ---


def test_windows_are_rows_with_the_target_one_further_right():
    axes = plots.windows_figure("ab cd", 3).axes[0]
    spans = [(bar.get_x() + 0.5, bar.get_width(), bar.get_fill()) for bar in axes.patches]
    assert spans == [(0, 3, True), (1, 3, False), (1, 3, True), (2, 3, False)]
    assert "".join(t.get_text() for t in axes.texts) == "ab␣cb␣cd"
    assert len(axes.get_legend().get_texts()) == 2


def test_target_counts_are_one_line_each():
    counts = {"all": torch.tensor([0, 1, 2]), "once": torch.tensor([0, 1, 1])}
    axes = plots.target_counts_figure(counts).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0, 1, 2], [0, 1, 1]]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["all", "once"]


def test_split_panels_show_every_window_of_both_parts():
    panels = plots.split_figure({"a": ([0, 2], [1]), "b": ([0], [4, 5])}, seq_len=2).axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    bars = [[(bar.get_x() + 0.5, bar.get_width()) for bar in axes.patches] for axes in panels]
    assert bars == [[(0, 3), (2, 3), (1, 3)], [(0, 3), (4, 3), (5, 3)]]
    assert [bool(bar.get_hatch()) for bar in panels[1].patches] == [False, True, True]
    assert all(axes.get_legend() for axes in panels)


# --- Chapter 04 ---


def test_rotation_shows_every_position_as_an_arrow_and_as_two_numbers():
    pairs = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    plane, axes = plots.rotation_figure(pairs, torch.tensor([0, 1.57, 3.14])).axes
    labels = [t for t in plane.texts if t.get_text()]
    assert [t.get_text() for t in labels] == ["0", "1", "2"]
    assert [round(t.get_position()[0]) for t in labels] == [1, 0, -1]
    arrows = [t.xy for t in plane.texts if not t.get_text()]
    assert arrows == [(1, 0), (0, 1), (-1, 0)]
    assert [list(line.get_ydata()) for line in axes.lines] == pairs.T.tolist()
    assert axes.get_xticklabels()[1].get_text() == "1\n1.6"
    assert "radians" in axes.get_xlabel()


def test_frequencies_have_a_row_for_every_pair():
    cos = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.0, 0.25]])
    axes = plots.frequency_figure(cos).axes[0]
    assert axes.images[0].get_array().tolist() == cos.T.tolist()
    assert axes.images[0].get_clim() == (-1, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()[:4]) == ("position", "pair")


def test_offset_curves_share_their_scale_and_differ_in_style():
    curves = {"key at 0": torch.tensor([1.0, 2.0]), "key at 9": torch.tensor([3.0, 0.0])}
    figure = plots.offset_figure([0, 5], {"rotated": curves, "added": curves})
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["rotated", "added"]
    assert [list(line.get_ydata()) for line in right.lines] == [[1, 2], [3, 0]]
    assert [line.get_label() for line in right.lines] == list(curves)
    assert left.get_ylim() == right.get_ylim()
    assert len({line.get_linestyle() for line in left.lines}) == 2


def test_layouts_join_the_numbers_of_every_pair():
    axes = plots.layout_figure({"half": [(0, 2), (1, 3)], "inter": [(0, 1), (2, 3)]}).axes[0]
    joined = [(line.get_xdata()[0], line.get_xdata()[-1]) for line in axes.lines]
    assert joined == [(0, 2), (1, 3), (0, 1), (2, 3)]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["half", "inter"]
    boxes = {(round(t.get_position()[0]), t.get_text()) for t in axes.texts[:4]}
    assert boxes == {(0, "pair 0\nfirst"), (2, "pair 0\nsecond"), (1, "pair 1\nfirst"),
                     (3, "pair 1\nsecond")}  # fmt: skip


# --- Chapter 05 ---


def test_sizes_are_drawn_on_a_logarithmic_axis():
    axes = plots.size_figure({"grows": [1, 8, 64], "shrinks": [1, 0.5, 0.25]}).axes[0]
    assert axes.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[1, 8, 64], [1, 0.5, 0.25]]
    assert "root mean square" in axes.get_ylabel()


def test_norms_are_bars_with_their_mean():
    vectors = {"vector": torch.tensor([1.0, 3.0]), "centered": torch.tensor([-1.0, 1.0 - 1e-6])}
    left, right = plots.norm_figure(vectors).axes
    assert [bar.get_height() for bar in left.patches] == [1, 3]
    assert left.lines[1].get_ydata()[0] == 2
    assert right.get_legend_handles_labels()[1] == ["mean 0.00"]
    assert left.get_ylim() == right.get_ylim()


# --- Chapter 06 ---


def test_largest_weights_are_curves_above_equal_weights():
    curves = {"unscaled": [0.4, 0.9], "scaled": [0.2, 0.2]}
    axes = plots.largest_weight_figure([4, 64], curves, num_keys=16).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[0.4, 0.9], [0.2, 0.2]]
    assert set(axes.lines[2].get_ydata()) == {1 / 16}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["4", "64"]
    assert len({line.get_linestyle() for line in axes.lines[:2]}) == 2


def test_attention_maps_leave_hidden_positions_blank():
    open_, masked = torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([[1.0, 0], [0, 1]])
    figure = plots.attention_figure({"open": open_, "masked": masked}, "a ")
    left, right = (axes.images[0] for axes in figure.axes[:2])
    assert torch.equal(torch.as_tensor(left.get_array().filled(-1)), open_)
    assert right.get_array().filled(-1).tolist() == [[1, -1], [0, 1]]
    assert left.get_clim() == right.get_clim() == (0, 1)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["open", "masked"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "␣"]
    assert figure.axes[2].get_ylabel() == "weight"


# --- Chapter 07 ---


def test_routing_bars_tell_chosen_experts_from_the_others():
    axes = plots.routing_figure(torch.tensor([0.1, 0.6, 0.3]), [1, 2], "dog").axes[0]
    chosen, others = axes.containers
    assert [bar.get_height() for bar in chosen] == pytest.approx([0.6, 0.3])
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in chosen] == [1, 2]
    assert [bar.get_height() for bar in others] == pytest.approx([0.1])
    assert (chosen.get_label(), others.get_label()) == ("chosen", "not chosen")
    assert [bool(bars[0].get_hatch()) for bars in (chosen, others)] == [True, False]
    assert sorted(t.get_text() for t in axes.texts) == ["0.10", "0.30", "0.60"]


def test_dispatch_picture_sorts_assignments_and_leads_them_back_to_their_tokens():
    axes = plots.dispatch_figure(torch.tensor([[7, 1], [2, 7]]), ["The", "dog"]).axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["The to 7"] == (0, 0)
    assert places["dog to 7"] == (0, 3)
    sorted_ = sorted((y, text) for text, (x, y) in places.items() if x == 1)
    assert [text for _, text in sorted_] == [
        "expert 1: The", "expert 2: dog", "expert 7: The", "expert 7: dog",
    ]  # fmt: skip
    assert (places["The: sum of 2"], places["dog: sum of 2"]) == ((2, 0.5), (2, 2.5))
    paths = sorted(list(line.get_ydata()) for line in axes.lines)
    assert paths == [[0, 2, 0.5], [1, 0, 0.5], [2, 1, 2.5], [3, 3, 2.5]]


def test_time_panels_have_one_line_per_rival_and_one_for_equal_time():
    ratios = {
        "forward": {"active": [2.0, 1.0], "total": [0.5, 0.25]},
        "training": {"active": [3, 4]},
    }
    left, right = plots.time_figure([1, 32], ratios).axes
    assert [axes.get_title() for axes in (left, right)] == ["forward", "training"]
    assert [list(line.get_ydata()) for line in left.lines] == [[2, 1], [0.5, 0.25], [1, 1]]
    assert list(left.lines[0].get_xdata()) == [1, 32]
    assert [t.get_text() for t in left.get_xticklabels()] == ["1", "32"]
    assert left.get_ylabel() == "time / time of the rival"


def test_load_panels_show_shares_mean_probabilities_and_the_even_share():
    even, one = torch.full((4,), 0.25), torch.tensor([1.0, 0, 0, 0])
    loads = {"even": (even, even), "all to one": (one, torch.tensor([0.4, 0.2, 0.2, 0.2]))}
    left, right = plots.load_figure(loads).axes
    assert [axes.get_title() for axes in (left, right)] == list(loads)
    assert [bar.get_height() for bar in right.patches] == [1, 0, 0, 0]
    assert list(right.lines[0].get_ydata()) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert left.lines[1].get_ydata()[0] == 0.25
    assert left.get_ylim() == right.get_ylim()


def test_expert_html_is_escaped_and_has_a_tooltip_per_character():
    text, probs = '<"\n', torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    page = plots.expert_html(text, [1, 0, 0], probs)
    tips = re.findall(r'title="([^"]*)"', page)
    assert tips == ["&lt; expert 1, 75%", "&quot; expert 0, 50%", "↵ expert 0, 100%"]
    shown = re.findall(r'title="[^"]*">(.*?)</span>', page)
    assert shown == ["&lt;", "&quot;", "↵<br>"]
    colors = re.findall(r"background:(#\w+)", page)
    assert colors == [plots.EXPERT_COLORS[e] for e in (1, 0, 0, 0, 1)]  # the last two: the legend


def test_expert_colors_differ():
    assert len(set(plots.EXPERT_COLORS)) == 8


# --- Chapter 08 ---


def test_model_picture_holds_the_shapes_that_the_model_has():
    config = TINY.model_copy(update={"num_layers": 5})
    model = MoELanguageModel(config, 13)
    shapes = []
    for part in (model.embedding, *model.blocks, model.norm, model.head):
        part.register_forward_hook(
            lambda module, inputs, output: shapes.append(
                tuple((output[0] if isinstance(output, tuple) else output).shape)
            )
        )
    model(torch.zeros(2, 7, dtype=torch.long))
    texts = [text.get_text() for text in plots.model_figure(config, 13, 2, 7).axes[0].texts]
    drawn = [text for text in texts if text.startswith("(")]
    assert set(drawn) == {str(shape) for shape in shapes}
    assert drawn[-1] == str(shapes[-1]) == "(2, 7, 13)"
    assert [text for text in texts if text.startswith("block")] == ["block 1", "block 5"]
    assert "2 of 5 experts\nSwiGLU\n24 → 16 → 24" in texts
    assert "router\n14 tokens\n5 scores each" in texts


def test_schedule_is_one_curve_per_name():
    axes = plots.schedule_figure({"line": [0.1, 0.2], "cosine": [0.3, 0.0]}).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.1, 0.2], [0.3, 0.0]]
    assert [line.get_label() for line in axes.lines] == ["line", "cosine"]


def test_loss_curve_has_baselines_before_and_after_the_first_step():
    records = step_records([3.0, 2.0, 1.0], measured={2: 2.5})
    for seen in ([], records):
        whole, half = plots.loss_figure(seen, 10, {"order 5": 1.25, "order 1": 3.0}).axes
        for axes in (whole, half):
            train, held_out, counted, _ = axes.lines
            assert list(train.get_ydata()) == pytest.approx([3.0, 2.5, 2.0][: len(seen)])
            assert list(held_out.get_xdata()) == ([2] if seen else [])
            assert set(counted.get_ydata()) == {1.25}
        assert (whole.get_xlim(), half.get_xlim()) == ((0, 10), (5, 10))
        assert half.get_ylim() == (1.0, 1.5)  # around the lowest baseline


def test_busiest_expert_is_a_curve_per_layer():
    even, uneven = torch.full((30, 2, 4), 0.25), torch.tensor([1.0, 0, 0, 0]).repeat(30, 2, 1)
    left, right = plots.busiest_figure({"even": even, "uneven": uneven}).axes
    assert [line.get_ydata()[-1] for line in left.lines[:2]] == pytest.approx([1, 1])
    assert [line.get_ydata()[-1] for line in right.lines[:2]] == pytest.approx([4, 4])
    assert [axes.get_title() for axes in (left, right)] == ["even", "uneven"]


def step_records(losses, measured):
    return [
        StepRecord(
            step=step, epoch=0.0, loss=loss, balance_loss=1.0, learning_rate=0.0, grad_norm=1.0,
            tokens_per_second=1.0, seconds=1.0, progress=step / len(losses),
            expert_load=torch.full((1, 2), 0.5), validation_loss=measured.get(step),
        )
        for step, loss in enumerate(losses, start=1)
    ]  # fmt: skip


# --- Chapter 09 ---


def test_sampling_rows_tell_kept_from_dropped_on_one_scale():
    before, after = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.625, 0.375, 0.0])
    figure = plots.sampling_figure(
        ["a", " ", "\n"], {"all": (before, before), "k": (before, after)}
    )
    whole, cut = figure.axes
    kept, dropped = cut.containers
    assert [bar.get_height() for bar in kept] == pytest.approx([0.625, 0.375])
    assert [bar.get_height() for bar in dropped] == pytest.approx([0.2])
    assert [bool(bars[0].get_hatch()) for bars in (kept, dropped)] == [False, True]
    old = [segment[0][1] for segment in cut.collections[0].get_segments()]
    assert old == pytest.approx([0.5, 0.3])
    assert [axes.texts[0].get_text() for axes in figure.axes] == [
        "all: 3 of 3 kept",
        "k: 2 of 3 kept",
    ]
    assert [t.get_text() for t in cut.get_xticklabels()] == ["a", "␣", "↵"]
    (two,) = plots.sampling_figure(["a", "b"], {"k": (before, before)}).axes
    assert two.texts[0].get_text() == "k: 3 of 3 kept"  # the third is not drawn
    assert len(two.containers[0]) == 2
    assert whole.get_ylim() == cut.get_ylim() == pytest.approx((0, 1.05 * 0.625))


# --- Chapter 10 ---


def test_layouts_show_every_number_and_tell_gate_from_up():
    gate = torch.tensor([[1, 2], [3, 4]])
    figure = plots.layouts_figure(
        {
            "ours": {"w_gate": gate, "w_up": gate + 10},
            "glued": {"both": torch.cat((gate, gate + 10))},
        },
        highest_gate=4,
    )
    assert [axes.get_title() for axes in figure.axes] == ["ours", "glued"]
    for axes, names in zip(figure.axes, (["w_gate", "w_up"], ["both"]), strict=True):
        texts = [text.get_text() for text in axes.texts]
        assert [text for text in texts if not text.isdigit()] == names
        assert [int(t) for t in texts if t.isdigit()] == [1, 2, 3, 4, 11, 12, 13, 14]
        assert [bool(bar.get_hatch()) for bar in axes.patches] == [False] * 4 + [True] * 4
        places = {(bar.get_x(), bar.get_y()) for bar in axes.patches}
        assert len(places) == 8


def test_mistakes_stand_beside_the_tolerance():
    figure = plots.mistakes_figure({"right": 2e-7, "wrong": 0.5, "zero": 0.0}, tolerance=1e-5)
    axes = figure.axes[0]
    *points, tolerance = axes.lines
    assert [float(point.get_xdata()[0]) for point in points] == [2e-7, 0.5, 1e-8]
    assert [point.get_marker() for point in points] == ["o", "X", "o"]
    assert axes.get_xscale() == "log"
    assert tolerance.get_xdata() == [1e-5, 1e-5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["right", "wrong", "zero"]


# --- Chapter 12 ---


def test_information_has_a_bar_per_feature_and_state_and_a_stroke_per_seed():
    layers = {"layer 1": {"class": {"before": [1.0, 2.0], "after": [0.5, 0.7]}}}
    layers["layer 2"] = {"class": {"before": [0.0, 0.0], "after": [3.0, 3.0]}}
    left, right = plots.information_figure(layers).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([1.5, 0.6])
    assert [list(line.get_xdata()) for line in left.lines] == [[1, 2], [0.5, 0.7]]
    assert right.get_legend_handles_labels()[1] == ["before", "after"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["class"]
    assert len({bar.get_hatch() for bar in left.patches}) == 2


def test_curves_over_steps_are_means_in_a_band_of_the_seeds():
    named = {"share": [[0.0, 0.5], [0.5, 1.0]], "bits": [[0.1, 0.2], [0.1, 0.2]]}
    (axes,) = plots.over_steps_figure([0, 100], {"layer 1": named}, "share").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.25, 0.75], [0.1, 0.2]]
    corners = axes.collections[0].get_paths()[0].vertices.tolist()
    assert {(0, 0), (0, 0.5), (100, 0.5), (100, 1)} <= {tuple(corner) for corner in corners}
    assert len({line.get_linestyle() for line in axes.lines}) == 2


def test_a_strip_has_a_digit_in_its_expert_s_color_in_every_cell():
    axes = plots.strip_figure("a b", {"0": "007", "50": "123"}, "layer 1").axes[0]
    digits = {t.get_position(): t.get_text() for t in axes.texts}
    assert digits == {(x, y): d for y, row in enumerate(("007", "123")) for x, d in enumerate(row)}
    assert axes.images[0].get_array().tolist() == [[0, 0, 7], [1, 2, 3]]
    assert axes.images[0].get_clim() == (0, 7)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "␣", "b"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "50"]


def test_seeds_are_strokes_on_the_bar_of_their_mean():
    panels = {"a": {"one": [1.0, 3.0], "two": [0.0, 0.0]}, "b": {"three": [-1.0]}}
    left, right = plots.spread_figure(panels, ["nats", "bits"]).axes
    assert [bar.get_width() for bar in left.patches] == [2, 0]
    assert list(left.lines[0].get_xdata()) == [1, 3]
    assert (left.get_xlabel(), right.get_xlabel()) == ("nats", "bits")
    assert [t.get_text() for t in right.get_yticklabels()] == ["three"]


def test_removals_are_points_with_a_shape_per_layer():
    axes = plots.removal_figure({"layer 1": ([0.1, 0.2], [0.3, 0.4]), "layer 2": ([0.5], [0.6])})
    one, two = axes.axes[0].lines
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([0.1, 0.2], [0.3, 0.4])
    assert one.get_marker() != two.get_marker()
    assert one.get_linestyle() == "None"


def test_surgery_bars_are_the_load_now_and_strokes_the_load_before():
    before, now = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    left, right = plots.surgery_figure({"layer 1": (before, before), "layer 2": (before, now)}).axes
    assert [bar.get_height() for bar in right.patches] == [1, 0]
    assert list(right.lines[0].get_ydata()) == [0.5, 0.5]
    assert [bar.get_height() for bar in left.patches] == [0.5, 0.5]
    assert right.get_legend_handles_labels()[1] == ["as trained", "now"]


def test_ratios_beyond_the_edge_are_counted_in_the_last_column():
    ratios = {"own": torch.tensor([1.01, 1.02, 9.0, 0.1]), "replayed": torch.ones(4)}
    left, right = plots.ratio_figure(ratios).axes
    heights = [bar.get_height() for bar in left.patches]
    assert (heights[0], heights[-1], sum(heights)) == (1, 1, 4)
    assert max(bar.get_height() for bar in right.patches) == 4
    assert left.get_yscale() == "log"


# --- Chapter 14 ---


def test_rows_are_written_in_their_cells_and_the_diagonal_is_hatched():
    figure = plots.rows_figure(torch.tensor([[2, 0], [1, 5]]))
    axes = figure.axes[0]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "2", (1, 0): "0", (0, 1): "1", (1, 1): "5"}
    assert axes.images[0].get_array().tolist() == [[2, 0], [1, 5]]
    assert [(bar.get_x(), bar.get_y()) for bar in axes.patches] == [(-0.5, -0.5), (0.5, 0.5)]
    assert all(bar.get_hatch() for bar in axes.patches)


def test_counted_bytes_are_markers_and_the_formula_is_lines():
    by_ranks, by_experts = {1: {2: 10.0, 4: 15.0}, 2: {2: 20.0}}, {1: {8: 15.0, 16: 15.5}}
    formula = {1: {2: 11.0, 4: 14.0}, 2: {2: 22.0}}, {1: {8: 14.0, 16: 14.0}}
    left, right = plots.traffic_figure((by_ranks, by_experts), formula).axes
    drawn = [line for line in left.lines if len(line.get_ydata())]
    assert [list(line.get_ydata()) for line in drawn] == [[11, 14], [10, 15], [22], [20]]
    assert [line.get_marker() for line in drawn] == ["None", "o", "None", "s"]
    assert [line.get_linestyle() for line in drawn] == ["-", "None", "--", "None"]
    assert [list(line.get_ydata()) for line in right.lines[:2]] == [[14, 14], [15, 15.5]]
    assert list(right.lines[0].get_xdata()) == [8, 16]
    assert "bytes" in left.get_ylabel()


def test_legends_of_bytes_have_markers_and_lines_that_are_drawn_and_cover_no_point():
    counted = {k: {2: 1000.0 * k, 64: 1010.0 * k} for k in (1, 2, 4)}
    lower = {k: {8: 700.0 * k} for k in counted}  # the panels share their y axis
    figure = plots.traffic_figure((counted, lower), (counted, lower))
    figure.canvas.draw()
    for axes in figure.axes:
        legend = axes.get_legend()
        assert [t.get_text() for t in legend.get_texts()] == ["top_k 1", "top_k 2", "top_k 4"]
        kinds = [(line.get_marker(), line.get_linestyle()) for line in legend.get_lines()]
        assert kinds == [("o", "-"), ("s", "--"), ("^", ":")]
        lowest = axes.transData.inverted().transform(legend.get_window_extent())[0, 1]
        assert lowest > 4040


def test_every_rank_waits_until_the_slowest_has_ended():
    figure = plots.work_figure({"even": torch.tensor([3, 3]), "skewed": torch.tensor([1, 5])})
    even, skewed = figure.axes
    assert [bar.get_height() for bar in skewed.containers[0]] == [1, 5]
    waits = [(bar.get_y(), bar.get_height()) for bar in skewed.containers[1]]
    assert waits == [(1, 4), (5, 0)]
    assert [set(axes.lines[0].get_ydata()) for axes in figure.axes] == [{3}, {3}]
    assert [axes.get_title() for axes in (even, skewed)] == ["even", "skewed"]


def test_every_link_is_a_curve_and_every_mark_a_vertical_line():
    axes = plots.fabric_figure([10, 100], {"a": [2.0, 0.2], "b": [20, 2]}, {"ours": 96}).axes[0]
    a, b, one, ours = axes.lines
    assert [list(line.get_ydata()) for line in (a, b)] == [[2, 0.2], [20, 2]]
    assert set(one.get_ydata()) == {1}
    assert list(ours.get_xdata()) == [96, 96]
    assert axes.texts[0].get_text() == "ours"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert a.get_linestyle() != b.get_linestyle()


def test_score_figure_is_a_curve_per_score_over_the_logits():
    figure = plots.score_figure([-1, 0, 2], {"a": [0.1, 0.5, 0.9], "b": [0, 1, 2]})
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert lines[1].get_xydata().tolist() == [[-1, 0], [0, 1], [2, 2]]


def test_machines_figure_counts_from_one_machine():
    axes = plots.machines_figure({"free": [0.1, 0.9], "kept": [1.0, 0.0]}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 0.9, 1.0, 0.0]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert middles == pytest.approx([0.8, 1.8, 1.2, 2.2])
    assert axes.get_xticks().tolist() == [1, 2]


def test_scale_figure_marks_the_published_scales():
    axes = plots.scale_figure([1, 8], {"sigmoid": [1, 2.8]}, {"V3": (8, 2.5)}).axes[0]
    curve, mark = axes.lines
    assert curve.get_xydata().tolist() == [[1, 1], [8, 2.8]]
    assert (mark.get_label(), mark.get_xydata().tolist()) == ("V3", [[8, 2.5]])


def test_cards_figure_has_every_card_once_per_panel_in_its_year():
    figure = plots.cards_figure(CARDS)
    heights = (
        [c.hidden_dim / c.dim for c in CARDS],
        [c.top_k / (c.num_experts + c.zero_experts) for c in CARDS],
    )
    for axes, expected in zip(figure.axes, heights, strict=True):
        points = [point for line in axes.lines for point in line.get_xydata().tolist()]
        assert sorted(y for _, y in points) == pytest.approx(sorted(expected))
        assert sorted(round(x) for x, _ in points) == [card.year for card in CARDS]
        assert axes.get_yscale() == "log"
    assert "sigmoid + bias" in figure.axes[0].get_legend_handles_labels()[1]
