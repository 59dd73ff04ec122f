import pytest
import torch

from moe_tutorial.plots import COLORS, history_figure, smooth

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
