import math
from itertools import islice

import pytest
import torch
from conftest import TINY

from moe_tutorial.config import TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.training import (
    NonFiniteLoss,
    evaluate,
    learning_rate,
    next_character_loss,
    progress,
    start_training,
    steps_per_epoch,
    train,
)

SETTINGS = TrainingConfig(
    seq_len=8, batch_size=4, epochs=100, max_steps=12, warmup_steps=2, eval_steps=5,
    learning_rate=1e-2,
)  # fmt: skip
IDS = torch.arange(13).repeat(30)
HELD_OUT = torch.arange(13).repeat(3)


def fresh(config=SETTINGS, model=TINY):
    torch.manual_seed(config.seed)
    return start_training(MoELanguageModel(model, 13), config)


def records(config=SETTINGS, model=TINY):
    return list(train(fresh(config, model), IDS, HELD_OUT, config))


def test_training_lowers_the_loss():
    config = SETTINGS.model_copy(update={"max_steps": 60})
    steps = records(config)
    assert steps[0].loss == pytest.approx(math.log(13), rel=0.02)
    assert steps[-1].validation_loss < 0.5


@pytest.mark.parametrize("change", [{}, {"router": "sigmoid", "shared_expert": True}])
def test_training_under_autocast_goes_nearly_the_same_way(change):
    config = SETTINGS.model_copy(update={"max_steps": 60})
    model = TINY.model_copy(update=change)
    plain = records(config, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = records(config, model)
    assert rounded[0].loss != plain[0].loss
    assert rounded[0].loss == pytest.approx(plain[0].loss, rel=0.01)
    assert rounded[-1].validation_loss < 0.5


def test_same_seed_same_losses_and_another_seed_others():
    dropout = TINY.model_copy(update={"dropout": 0.2})
    runs = [
        [r.loss for r in records(SETTINGS.model_copy(update={"seed": seed}), dropout)]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_learning_rate_warms_up_then_falls_in_a_line_to_zero():
    config = TrainingConfig(learning_rate=1.0, warmup_steps=3)
    assert [learning_rate(s, 0.0, config) for s in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert [learning_rate(9, done, config) for done in (0.5, 1.0)] == [0.5, 0.0]


def test_progress_is_that_of_the_first_limit():
    config = TrainingConfig(epochs=2, max_steps=50, max_seconds=10)
    assert progress(5, 0.0, 100, config) == 0.1
    assert progress(5, 8.0, 100, config) == 0.8
    assert progress(5, 0.0, 10, config) == 0.25
    assert progress(500, 0.0, 10, config) == 1.0


def test_an_epoch_draws_as_many_characters_as_there_are():
    assert steps_per_epoch(1000, TrainingConfig(batch_size=5, seq_len=20)) == 10
    assert steps_per_epoch(10, TrainingConfig(batch_size=5, seq_len=20)) == 1


def test_training_ends_at_max_steps_with_a_measurement():
    steps = records()
    assert [r.step for r in steps] == list(range(1, 13))
    assert [r.step for r in steps if r.validation_loss is not None] == [5, 10, 12]
    assert steps[-1].progress == 1


def test_training_ends_after_max_seconds():
    config = SETTINGS.model_copy(update={"max_steps": None, "epochs": 1e6, "max_seconds": 0.3})
    steps = records(config)
    assert 0.3 <= steps[-1].seconds < 3
    assert steps[-1].learning_rate < steps[len(steps) // 2].learning_rate


def test_record_holds_what_its_fields_say():
    first = records()[0]
    assert first.expert_load.shape == (2, 5)
    torch.testing.assert_close(first.expert_load.sum(dim=1), torch.ones(2))
    assert first.epoch == pytest.approx(1 / (390 // 32))
    assert first.learning_rate == pytest.approx(1e-2 / 3)
    assert first.grad_norm > 0
    assert first.tokens_per_second > 0


def test_reported_losses_are_cross_entropy_alone():
    config = SETTINGS.model_copy(update={"max_steps": 1})
    without = TINY.model_copy(update={"load_balancing_loss_coef": 0.0})
    strong = TINY.model_copy(update={"load_balancing_loss_coef": 100.0})
    assert records(config, without)[0].loss == records(config, strong)[0].loss


def test_the_balance_loss_evens_the_load():
    config = SETTINGS.model_copy(update={"max_steps": 60})
    even = []
    for coefficient in (0.0, 1.0):
        model = TINY.model_copy(update={"load_balancing_loss_coef": coefficient})
        even.append(records(config, model)[-1].expert_load.max().item())
    assert even[1] < even[0]


def test_evaluation_is_the_mean_over_every_character_and_restores_the_mode(monkeypatch):
    monkeypatch.setattr("moe_tutorial.training.MOST_LOGITS", 2 * 8 * 13)  # batches of two windows
    state = fresh(model=TINY.model_copy(update={"dropout": 0.5}))
    state.model.train()
    loss = evaluate(state.model, HELD_OUT, seq_len=8)
    assert state.model.training
    state.model.eval()
    parts = [
        next_character_loss(state.model(HELD_OUT[None, s : s + 8][:, : 38 - s]).logits,
                            HELD_OUT[None, s + 1 : s + 9], "sum")
        for s in range(0, 38, 8)
    ]  # fmt: skip
    assert loss == pytest.approx(sum(parts).item() / 38, rel=1e-5)
    evaluate(state.model, HELD_OUT, seq_len=8)
    assert not state.model.training


def test_dropout_is_on_again_after_an_evaluation():
    state = fresh(model=TINY.model_copy(update={"dropout": 0.5}))
    for record in train(state, IDS, HELD_OUT, SETTINGS):
        assert state.model.training, record.step


def test_weight_decay_acts_on_matrices_only():
    config = TrainingConfig(weight_decay=0.3)
    decayed, spared = fresh(config).optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert all(p.ndim > 1 for p in decayed["params"])
    assert spared["weight_decay"] == 0
    assert len(spared["params"]) == 2 * TINY.num_layers + 1  # the gains of the norms


def test_gradients_are_clipped():
    # With the clip at 1e-9, AdamW's first step still has full size, but no gradient survives it.
    config = SETTINGS.model_copy(update={"grad_clip": 1e-9})
    state = fresh(config)
    next(iter(train(state, IDS, HELD_OUT, config)))
    moments = [s["exp_avg"].norm() for s in state.optimizer.state.values()]
    assert torch.stack(moments).norm() <= 1e-9


def test_non_finite_loss_stops_before_the_weights_are_touched():
    state = fresh()
    steps = train(state, IDS, HELD_OUT, SETTINGS)
    list(islice(steps, 3))
    state.model.head.weight.data[0, 0] = math.inf
    before = state.model.embedding.weight.clone()
    with pytest.raises(
        NonFiniteLoss, match=r"step 4: the loss is (nan|inf).* lower training\.learn"
    ):
        next(steps)
    assert torch.equal(state.model.embedding.weight, before)
    assert state.step == 3
