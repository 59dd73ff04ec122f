import math
from copy import deepcopy
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from moe_tutorial import training
from moe_tutorial.batching import random_batch
from moe_tutorial.config import TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.training import (
    NonFiniteLoss,
    evaluate,
    learning_rate,
    measure,
    next_character_loss,
    progress,
    sample_every,
    start_training,
    steps_per_epoch,
    train,
    update,
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


def test_same_seed_same_losses_and_another_seed_others():
    dropout = TINY.model_copy(update={"dropout": 0.2})
    runs = [
        [r.loss for r in records(SETTINGS.model_copy(update={"seed": seed}), dropout)]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    ("warmup_steps", "rates"),
    [(0, [1, 1, 1]), (1, [1 / 2, 1, 1]), (3, [1 / 4, 1 / 2, 3 / 4, 1, 1])],
)
def test_learning_rate_reaches_its_height_in_the_step_after_the_warm_up(warmup_steps, rates):
    config = TrainingConfig(learning_rate=1.0, warmup_steps=warmup_steps)
    assert [learning_rate(s, 0.0, config) for s in range(len(rates))] == rates


def test_learning_rate_falls_in_a_line_to_zero():
    config = TrainingConfig(learning_rate=3.0, warmup_steps=1)
    assert [learning_rate(9, done, config) for done in (0, 0.25, 0.5, 1)] == [3, 2.25, 1.5, 0]
    assert learning_rate(0, 0.5, config) == 0.75  # both at once


@pytest.mark.parametrize(
    ("step", "seconds", "epoch_steps", "limits", "share"),
    [
        (5, 0, 100, {"epochs": 2, "max_steps": 50, "max_seconds": 10}, 0.1),
        (5, 8, 100, {"epochs": 2, "max_steps": 50, "max_seconds": 10}, 0.8),
        (5, 0, 10, {"epochs": 2, "max_steps": 50, "max_seconds": 10}, 0.25),
        (5, 8, 10, {"epochs": 2}, 0.25),  # without max_seconds the clock does not count
        (1, 0, 5, {"epochs": 0.5}, 1 / 3),  # half a step more is a whole one
        (1, 0, 5, {"epochs": 0.1}, 1),
        (0, 0, 5, {"epochs": 0.1}, 0),
        (500, 0, 10, {"epochs": 2}, 1),
        (1, 30, 10, {"epochs": 2, "max_seconds": 10}, 1),
    ],
)
def test_progress_is_that_of_the_first_limit(step, seconds, epoch_steps, limits, share):
    assert progress(step, seconds, epoch_steps, TrainingConfig(**limits)) == share


@pytest.mark.parametrize(("characters", "steps"), [(1000, 10), (1099, 10), (199, 1), (10, 1)])
def test_an_epoch_draws_as_many_characters_as_there_are(characters, steps):
    assert steps_per_epoch(characters, TrainingConfig(batch_size=5, seq_len=20)) == steps


def test_training_ends_at_max_steps_with_a_measurement():
    steps = records()
    assert [r.step for r in steps] == list(range(1, 13))
    assert [r.step for r in steps if r.validation_loss is not None] == [5, 10, 12]
    assert steps[-1].progress == 1


def by_hand(model, x, y):
    """Cross-entropy, balance loss and load of a batch, position by position."""
    logits, routings = model(x)
    probs = logits.log_softmax(-1)
    ce = -sum(probs[b, t, y[b, t]] for b in range(len(x)) for t in range(x.shape[1])) / x.numel()
    loads, balances = [], []
    for routing in routings:
        chosen = routing.experts.flatten().tolist()
        loads.append([chosen.count(e) / len(chosen) for e in range(5)])
        means = routing.probs.mean(dim=0)
        balances.append(5 * sum(f * p for f, p in zip(loads[-1], means, strict=True)))
    return ce, sum(balances) / len(balances), torch.tensor(loads)


def test_record_holds_what_its_fields_say():
    strong = TINY.model_copy(update={"load_balancing_loss_coef": 0.7})
    state = fresh(model=strong)
    model = deepcopy(state.model)
    steps = train(state, IDS, HELD_OUT, SETTINGS)
    first = next(steps)
    x, y = random_batch(IDS, 4, 8, torch.Generator().manual_seed(SETTINGS.seed))
    ce, balance, load = by_hand(model, x, y)
    (ce + 0.7 * balance).backward()
    squares = sum(p.grad.double().square().sum() for p in model.parameters())
    assert first.loss == pytest.approx(ce.item(), rel=1e-5)
    assert first.balance_loss == pytest.approx(balance.item(), rel=1e-5)
    assert first.grad_norm == pytest.approx(squares.sqrt().item(), rel=1e-4)
    torch.testing.assert_close(first.expert_load, load)
    assert (first.step, first.epoch) == (1, 1 / 12)  # 390 characters, 32 in a step
    assert first.progress == 1 / 12  # of max_steps
    assert first.learning_rate == pytest.approx(1e-2 / 3)
    second = next(steps)
    assert (second.step, second.epoch, second.progress) == (2, 2 / 12, 2 / 12)
    assert second.learning_rate == pytest.approx(2e-2 / 3 * 11 / 12)
    assert second.validation_loss is None


def test_the_balance_loss_is_reported_and_does_not_count_if_something_else_balances():
    by_nothing = TINY.model_copy(update={"balance": "none"})
    state = fresh(model=by_nothing)
    model = deepcopy(state.model)
    first = next(train(state, IDS, HELD_OUT, SETTINGS))
    x, y = random_batch(IDS, 4, 8, torch.Generator().manual_seed(SETTINGS.seed))
    ce, balance, _ = by_hand(model, x, y)
    ce.backward()
    squares = sum(p.grad.double().square().sum() for p in model.parameters())
    assert first.balance_loss == pytest.approx(balance.item(), rel=1e-5)
    assert first.grad_norm == pytest.approx(squares.sqrt().item(), rel=1e-4)


def test_two_updates_are_two_steps_of_adamw_on_the_clipped_gradient():
    config = SETTINGS.model_copy(update={"weight_decay": 0.3})
    state = fresh(config)
    model = deepcopy(state.model)
    x, y = random_batch(IDS, 4, 8, torch.Generator())
    moments = {name: (0.0, 0.0) for name, _ in model.named_parameters()}
    for step, rate in ((1, 0.01), (2, 0.05)):
        update(state, x, y, rate, 0.2, state.model)
        assert state.step == step
        ce, balance, _ = by_hand(model, x, y)
        (ce + 0.01 * balance).backward()
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        assert norm > 0.2
        with torch.no_grad():
            for name, p in model.named_parameters():
                grad = p.grad * 0.2 / norm
                m, v = moments[name]
                m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
                moments[name] = m, v
                p *= 1 - rate * (0.3 if p.ndim > 1 else 0)
                p -= rate * m / (1 - 0.9**step) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        model.zero_grad()
    for (name, ours), wanted in zip(
        state.model.named_parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4, msg=name)
        found = state.optimizer.state[ours]
        m, v = moments[name]
        torch.testing.assert_close(found["exp_avg"], m, rtol=1e-2, atol=1e-6, msg=name)
        torch.testing.assert_close(found["exp_avg_sq"], v, rtol=2e-2, atol=1e-9, msg=name)


def test_under_autocast_every_update_sees_the_weights_of_the_one_before():
    x, y = random_batch(IDS, 4, 8, torch.Generator())
    found = []
    for apart in (True, False):
        state = fresh()
        if apart:
            losses = []
            for _ in range(3):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    losses.append(update(state, x, y, 0.01, 1.0, state.model).loss)
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = [update(state, x, y, 0.01, 1.0, state.model).loss for _ in range(3)]
        found.append(losses)
    assert found[0] == found[1]


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def passes(self, seconds, result):
        def call(*arguments):
            self.now += seconds
            return result(*arguments) if callable(result) else result

        return call


def test_the_clock_counts_everything_and_the_speed_the_steps_alone(monkeypatch):
    clock, state = Clock(monkeypatch), fresh()
    state.seconds = 50.0  # before it was resumed
    monkeypatch.setattr(training, "evaluate", clock.passes(4, 2.0))
    config = SETTINGS.model_copy(update={"max_steps": 4, "eval_steps": 2})
    seconds = []
    for record in train(state, IDS, HELD_OUT, config, clock.passes(0.5, state.model)):
        assert record.tokens_per_second == 4 * 8 / 0.5
        assert state.seconds == record.seconds
        seconds.append(record.seconds)
        clock.now += 10  # what is done between two steps, such as saving
    assert seconds == [50.5, 65.0, 75.5, 90.0]


def test_training_ends_in_the_step_that_reaches_max_seconds(monkeypatch):
    clock, state = Clock(monkeypatch), fresh()
    monkeypatch.setattr(training, "evaluate", clock.passes(1, 2.0))
    config = SETTINGS.model_copy(
        update={"max_steps": None, "max_seconds": 2.0, "eval_steps": 2, "warmup_steps": 0}
    )
    steps = list(train(state, IDS, HELD_OUT, config, clock.passes(0.5, state.model)))
    assert [r.seconds for r in steps] == [0.5, 2.0, 3.5]
    assert [r.progress for r in steps] == [0.25, 0.5, 1]
    assert [r.learning_rate for r in steps] == pytest.approx([0.01, 0.0075, 0.005])
    assert [r.validation_loss for r in steps] == [None, 2.0, 2.0]


def test_what_is_finished_is_not_trained_on():
    state = fresh()
    state.step = 12
    assert list(train(state, IDS, HELD_OUT, SETTINGS)) == []
    state.step = 11
    assert [r.step for r in train(state, IDS, HELD_OUT, SETTINGS)] == [12]


def test_the_outputs_come_from_forward_if_it_is_given():
    state, asked = fresh(), []

    def forward(x):
        asked.append(x)
        return state.model(x)

    assert len(list(train(state, IDS, HELD_OUT, SETTINGS, forward))) == 12
    draws = torch.Generator().manual_seed(SETTINGS.seed)
    for x in asked:
        assert torch.equal(x, random_batch(IDS, 4, 8, draws)[0])
    assert len(asked) == 12


def test_batches_are_drawn_from_the_seed_of_the_training_alone():
    wanted = torch.Generator().manual_seed(7).get_state()
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        state = start_training(MoELanguageModel(TINY, 13), TrainingConfig(seed=7))
        assert torch.equal(state.generator.get_state(), wanted)


def test_measured_is_the_held_out_text_with_the_model_of_this_step():
    state = fresh(model=TINY.model_copy(update={"dropout": 0.3}))
    for record in train(state, IDS, HELD_OUT, SETTINGS):
        if record.validation_loss is not None:
            assert record.validation_loss == evaluate(state.model, HELD_OUT, 8)
            assert state.validation_loss == record.validation_loss


@pytest.mark.parametrize(
    ("losses", "best", "at"),
    [([3.0], 3.0, 1), ([3.0, 2.0, 4.0], 2.0, 2), ([2.0, 2.0], 2.0, 1), ([2.0, 3.0, 1.0], 1.0, 3)],
)
def test_the_best_step_is_the_first_with_the_smallest_held_out_loss(monkeypatch, losses, best, at):
    state = fresh()
    for step, loss in enumerate(losses, start=1):
        state.step = step
        monkeypatch.setattr(training, "evaluate", lambda *_, loss=loss: loss)
        assert measure(state, HELD_OUT, SETTINGS, lambda: False) == loss
        assert state.validation_loss == loss
    assert (state.best_validation_loss, state.best_step) == (best, at)


def test_a_measurement_that_was_stopped_is_none_and_changes_nothing():
    state = fresh()
    state.validation_loss, state.best_validation_loss, state.best_step = 5.0, 4.0, 1
    assert measure(state, HELD_OUT, SETTINGS, lambda: True) is None
    assert (state.validation_loss, state.best_validation_loss, state.best_step) == (5.0, 4.0, 1)
    assert state.model.training
    config = SETTINGS.model_copy(update={"eval_steps": 1, "max_steps": 1})
    (record,) = train(state, IDS, HELD_OUT, config, stop=lambda: True)
    assert record.validation_loss is None


def test_a_stop_ends_the_measurement_after_the_batch(monkeypatch):
    monkeypatch.setattr(training, "MOST_LOGITS", 8 * 13)  # one window in a batch
    state, batches = fresh(), []
    state.model.register_forward_hook(lambda *_: batches.append(1))
    assert evaluate(state.model, HELD_OUT, 8, stop=lambda: len(batches) >= 2) is None
    assert len(batches) == 2


@pytest.mark.parametrize(
    ("most_logits", "sizes"),
    [
        (3 * 8 * 13, [3, 1, 1]),  # four whole windows, and the rest
        (3 * 8 * 13 - 1, [2, 2, 1]),
        (1, [1, 1, 1, 1, 1]),
        (2**23, [4, 1]),
    ],
)
def test_an_evaluation_makes_no_more_logits_at_once_than_it_may(monkeypatch, most_logits, sizes):
    monkeypatch.setattr(training, "MOST_LOGITS", most_logits)
    state, found, grads = fresh(), [], []
    state.model.register_forward_hook(lambda _, x, y: found.append(len(x[0])))
    state.model.register_forward_hook(lambda _, x, y: grads.append(y.logits.requires_grad))
    evaluate(state.model, HELD_OUT, 8)
    assert found == sizes
    assert not any(grads)


def test_an_evaluation_has_at_most_64_windows_at_once():
    state, found = fresh(), []
    state.model.register_forward_hook(lambda _, x, y: found.append(len(x[0])))
    evaluate(state.model, torch.arange(13).repeat(80), 8)  # 1,040 ids: 129 windows and the rest
    assert found == [64, 64, 1, 1]
    assert training.MOST_LOGITS * 4 == 32 * 2**20  # bytes


def test_a_sample_measures_each_every_th_window():
    state = fresh()
    state.model.eval()
    windows = [HELD_OUT[s : s + 9] for s in (0, 24)]  # each third, of windows 0 to 4
    logits = state.model(torch.stack([w[:-1] for w in windows])).logits
    wanted = next_character_loss(logits, torch.stack([w[1:] for w in windows])).item()
    assert evaluate(state.model, HELD_OUT, 8, every=3) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("characters", "eval_steps", "every"),
    [
        (1, 10, 1),
        (32_768, 10, 1),
        (32_769, 10, 2),  # 10 steps of 32 characters are few: SAMPLE counts
        (65_537, 10, 3),
        (100_000, 12_500, 1),  # a quarter of 400,000
        (100_001, 12_500, 2),
        (33_001 * 2, 4_126, 2),  # a quarter of 132,032 is 33,008
        (33_009 * 2, 4_126, 3),
    ],
)
def test_a_text_is_measured_whole_up_to_a_quarter_of_what_is_trained(characters, eval_steps, every):
    config = SETTINGS.model_copy(update={"eval_steps": eval_steps})
    assert sample_every(characters, config) == every


def test_a_quarter_of_the_trained_characters_is_rounded_down():
    config = TrainingConfig(eval_steps=200_003, batch_size=1, seq_len=1)
    assert sample_every(100_000, config) == 2  # times 50,000
    assert sample_every(100_001, config) == 3


def test_a_long_text_is_measured_by_its_sample(monkeypatch):
    monkeypatch.setattr(training, "SAMPLE", 13)  # each third window of 39 characters
    state = fresh()
    found = measure(state, HELD_OUT, SETTINGS.model_copy(update={"eval_steps": 1}), lambda: False)
    assert found == evaluate(state.model, HELD_OUT, 8, every=3)
    assert found != evaluate(state.model, HELD_OUT, 8)


def test_reported_losses_are_cross_entropy_alone():
    config = SETTINGS.model_copy(update={"max_steps": 1})
    without = TINY.model_copy(update={"load_balancing_loss_coef": 0.0})
    strong = TINY.model_copy(update={"load_balancing_loss_coef": 100.0})
    assert records(config, without)[0].loss == records(config, strong)[0].loss


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


def test_dropout_is_on_in_every_step_also_after_an_evaluation():
    state = fresh(model=TINY.model_copy(update={"dropout": 0.5}))
    state.model.eval()
    for record in train(state, IDS, HELD_OUT, SETTINGS):
        assert state.model.training, record.step


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


def test_a_gradient_that_is_not_finite_stops_too():
    state = fresh()

    def forward(x):
        logits, routings = state.model(x)
        return logits + (0 * state.model.head.weight[0, 0]).sqrt(), routings  # slope: infinite

    config = SETTINGS.model_copy(update={"learning_rate": 0.5, "warmup_steps": 3})
    message = r"step 1: the loss is 2\.\d+ and the gradient norm nan; lower training\.learning_rate"
    with pytest.raises(NonFiniteLoss, match=message + r" \(it is 0\.125 in this step\)"):
        next(train(state, IDS, HELD_OUT, config, forward))
    assert state.step == 0


FAST = SETTINGS.model_copy(update={"max_steps": 30, "learning_rate": 2e-2})


@pytest.mark.parametrize("change", [{}, {"router": "sigmoid", "shared_expert": True}])
def test_training_lowers_the_loss_and_under_autocast_goes_nearly_the_same_way(change):
    model = TINY.model_copy(update=change)
    plain = records(FAST, model)
    assert plain[0].loss == pytest.approx(math.log(13), rel=0.03)
    assert plain[-1].validation_loss < 0.2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = records(FAST, model)
    assert rounded[0].loss != plain[0].loss
    assert rounded[0].loss == pytest.approx(plain[0].loss, rel=0.01)
    assert rounded[-1].validation_loss < 0.2


def test_the_balance_loss_evens_the_load():
    uneven = []
    for coefficient in (0.0, 1.0):
        model = TINY.model_copy(update={"load_balancing_loss_coef": coefficient})
        loads = torch.stack([r.expert_load for r in records(FAST, model)[10:]])
        uneven.append(loads.amax(dim=-1).mean())
    assert uneven[1] - 0.2 < 0.8 * (uneven[0] - 0.2)  # 0.2 would be even
