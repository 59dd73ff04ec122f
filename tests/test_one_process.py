"""What the room of processes computes, without starting any: groups of one, and a faked other."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, TINY, TINY_RUN

from moe_tutorial.command.cli import main
from moe_tutorial.config import Config, TrainingConfig
from moe_tutorial.model import ModelOutput, MoELanguageModel
from moe_tutorial.moe import Routing
from moe_tutorial.processes import distributed, launch
from moe_tutorial.processes.launch import LaunchFailed, processes_to_launch
from moe_tutorial.training import start_training, update

PARALLEL = ["device.use_data_parallel=true", "device.num_processes=2", "device.type=cpu"]


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def second_of_two(monkeypatch):
    """This process is rank 1; rank 0 sends tensors of tens."""

    def all_gather(parts, own):
        parts[0].fill_(10)
        parts[1].copy_(own)

    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "all_gather", all_gather)


def test_rows_are_gathered_in_the_order_of_the_ranks(second_of_two):
    own = torch.arange(6.0).view(2, 3)
    assert distributed.gather(own).tolist() == [[10] * 3, [10] * 3, [0, 1, 2], [3, 4, 5]]


def test_what_flows_back_into_the_own_rows_is_multiplied_by_the_number_of_processes(second_of_two):
    own = torch.ones(2, 3, requires_grad=True)
    (distributed.gather(own) ** 2).sum().backward()
    assert own.grad.tolist() == [[4.0] * 3] * 2  # 2 processes times 2 x, where x = 1


def test_all_parts_of_an_output_are_gathered(second_of_two):
    routing = Routing(torch.ones(4, 3), torch.ones(4, 2), torch.ones(4, 2, dtype=torch.int64))
    output = distributed.gather_output(ModelOutput(torch.ones(2, 2, 5), [routing, routing]))
    assert output.logits.shape == (4, 2, 5)
    assert [part.shape[0] for r in output.routings for part in r] == [8] * 6
    assert output.routings[1].experts[:, 0].tolist() == [10] * 4 + [1] * 4


def fresh(dropout=0.0):
    torch.manual_seed(0)
    config = TrainingConfig(max_steps=10)
    model = MoELanguageModel(TINY.model_copy(update={"dropout": dropout}), vocab_size=13)
    return start_training(model, config), config


def test_a_group_of_one_makes_the_step_of_no_group(group_of_one):
    x, y = torch.randint(13, (2, 4, 8))
    alone, _ = fresh()
    together, _ = fresh()
    updates = [
        update(state, x, y, 1e-3, 1.0, forward)
        for state, forward in (
            (alone, alone.model),
            (together, distributed.shared_forward(together, seed=0)),
        )
    ]
    assert updates[0].loss == pytest.approx(updates[1].loss)
    for one, other in zip(alone.model.parameters(), together.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_drawn_from_the_seed_and_the_step(group_of_one):
    x = torch.randint(13, (2, 8))

    def logits(seed, step):
        state, _ = fresh(dropout=0.5)
        state.model.train()
        state.step = step
        torch.manual_seed(99)
        return distributed.shared_forward(state, seed)(x).logits

    assert torch.equal(logits(0, 3), logits(0, 3))
    assert not torch.equal(logits(0, 3), logits(0, 4))
    assert not torch.equal(logits(0, 3), logits(1, 3))


def test_without_a_group_nothing_is_shared(monkeypatch):
    state, _ = fresh()
    assert (distributed.processes(), distributed.is_first()) == (1, True)
    assert distributed.share(state, batch_size=5, seed=0) == (state, state.model)
    assert distributed.agree(15) == 15
    assert distributed.agree(None) is None
    with pytest.raises(KeyError):
        distributed.from_first(lambda: {}["gone"])


@pytest.mark.parametrize(("batch", "number", "tried"), [(5, 2, 4), (2, 3, 3), (7, 4, 4), (9, 5, 5)])
def test_a_batch_is_divided_evenly_or_the_nearest_size_is_named(batch, number, tried):
    for whole in (number, 3 * number):
        distributed.check_divisible(whole, number)
    with pytest.raises(
        ValueError, match=rf"={batch} is not divisible by {number} .*; try {tried}$"
    ):
        distributed.check_divisible(batch, number)


def failure(rank, code, message):
    return SimpleNamespace(local_rank=rank, exitcode=code, message=message)


def said(text):
    return {"message": f"RuntimeError: {text}"}


def test_the_first_cause_is_explained_and_not_what_followed_from_it():
    lost, cause = failure(0, 1, said(launch.LOST)), failure(1, 2, said("model.dim: wrong"))
    with pytest.raises(LaunchFailed, match=r"^model\.dim: wrong$") as raised:
        launch._explain({0: lost, 1: cause}, 2)
    assert raised.value.code == 2
    with pytest.raises(LaunchFailed, match="--resume continues from the last checkpoint"):
        launch._explain({0: lost}, 2)


def test_a_killed_process_is_named_with_its_signal():
    ended = failure(0, -15, "Signal 15"), failure(1, -9, "Signal 9")
    with pytest.raises(LaunchFailed, match="process 1 of 0 to 2 was ended by SIGKILL"):
        launch._explain(dict(enumerate(ended)), 3)


@pytest.mark.parametrize(("code", "shell"), [(130, 130), (143, 143), (-15, 143)])
def test_a_stopped_training_ends_with_the_code_of_its_signal(code, shell):
    assert launch._explain({0: failure(0, code, "torch's words")}, 2) == shell


def test_a_process_that_left_no_message_is_named_with_its_code():
    with pytest.raises(LaunchFailed, match=r"^process 1 ended with code 7$"):
        launch._explain({1: failure(1, 7, "torch's words")}, 2)


def test_a_batch_that_cannot_be_divided_is_one_line(tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "config.hocon", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--set", *TINY_RUN, *PARALLEL, "training.batch_size=5"]) == 2
    err = capsys.readouterr().err
    assert err == "error: training.batch_size=5 is not divisible by 2 processes; try 4\n"


def test_the_number_of_processes_is_as_configured(monkeypatch):
    def number(**device: object) -> int:
        return processes_to_launch(
            Config.model_validate({"device": device, "training": {"batch_size": 12}})
        )

    assert number() == 1
    assert number(type="cpu", use_data_parallel=True, gpu_ids=[0, 1]) == 1
    assert number(type="cpu", use_data_parallel=True, num_processes=3) == 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert number(type="cuda", use_data_parallel=True, gpu_ids=[0, 1]) == 2
    for refused in (
        {"type": "cuda", "gpu_ids": [0, 1, 2]},
        {"type": "cuda", "gpu_ids": [0, 0]},
        {"type": "cuda", "gpu_ids": [2]},
    ):
        with pytest.raises(
            ValueError, match=r"^device\.(type|gpu_ids)=.*, but PyTorch sees 2|once"
        ):
            number(use_data_parallel=True, **refused)
    with pytest.raises(ValueError, match=r"^device\.num_processes=2 .* device\.gpu_ids=\[0, 1\]"):
        number(type="cuda", use_data_parallel=True, gpu_ids=[0, 1], num_processes=2)
    with pytest.raises(ValueError, match=r"^device\.num_processes=2 needs device\.use_data_para"):
        number(num_processes=2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "someone's")
    assert number(type="cpu", use_data_parallel=True, num_processes=3) == 1
