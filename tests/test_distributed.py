"""Training on several processes: the same losses, the same files, and an end when one dies."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import ROOT, TINY, TINY_RUN, environment
from safetensors.torch import load_file

from moe_tutorial.checkpoint import save_checkpoint
from moe_tutorial.command.cli import main
from moe_tutorial.command.hocon import load_config
from moe_tutorial.command.run import open_run, train_in_folder
from moe_tutorial.config import Config, ModelConfig, TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import expert_load, load_balancing_loss
from moe_tutorial.processes.distributed import agree, from_first, share
from moe_tutorial.training import (
    Forward,
    TrainingState,
    next_character_loss,
    start_training,
    train,
)

STEPS = 12
LIMITS = [f"training.max_steps={STEPS}", "training.epochs=1000", "inference.max_new_tokens=5"]
RUN = [*(item for item in TINY_RUN if "dropout" not in item), "model.dropout=0", *LIMITS]
PARALLEL = ["device.use_data_parallel=true", "device.num_processes=2", "device.type=cpu"]
DEADLINE = 120  # seconds that any command may take on a busy machine before it counts as stuck
KEYS = ("loss", "balance_loss", "grad_norm", "learning_rate", "validation_loss")

TELL_OF_FINALIZATION = """
import atexit, os, pathlib
name = "finalized-" + os.environ.get("RANK", "launcher")
atexit.register(pathlib.Path(name).touch)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="tested on Linux and macOS only"),
]


def losses(folder: Path) -> torch.Tensor:
    lines = (folder / "model" / "metrics.jsonl").read_text().splitlines()
    rows = [[json.loads(line)[key] or 0.0 for key in KEYS] for line in lines]
    return torch.tensor(rows, dtype=torch.float64)  # (steps, 5)


def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(ROOT / "config.hocon", folder)
    return folder


@pytest.fixture(scope="module")
def start():
    """A function that starts `python [launcher] -m moe_tutorial train`; nothing outlives it."""
    started = []

    def start(folder: Path, *arguments: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(folder), str(ROOT)])
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "moe_tutorial", "train", *arguments],
            cwd=folder, env=environment() | {"PYTHONPATH": path}, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:  # its test has failed; a launcher ends its processes on SIGTERM
            process.terminate()
            process.communicate(timeout=DEADLINE)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    return out


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    path, deadline = folder / "model" / "metrics.jsonl", time.monotonic() + DEADLINE
    while not (path.exists() and path.read_bytes().count(b"\n") >= step):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the children, the first process first."""
    found = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True).split()
    pairs = zip(found[::2], found[1::2], strict=True)
    return sorted(int(pid) for pid, parent in pairs if int(parent) == process.pid)


@pytest.fixture(scope="module")
def folder_of_one(tmp_path_factory) -> Path:
    """The folder of a plain `train` command on one process."""
    folder = new_folder(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--set", *RUN]) == 0
    return folder


@pytest.fixture(scope="module")
def on_one(folder_of_one) -> torch.Tensor:
    """What one process measures at every step."""
    return losses(folder_of_one)


@pytest.fixture(scope="module")
def on_two(start, tmp_path_factory) -> Path:
    """The folder of a plain `train` command on two processes."""
    folder = new_folder(tmp_path_factory)
    (folder / "sitecustomize.py").write_text(TELL_OF_FINALIZATION)
    out = finish(start(folder, "--set", *RUN, *PARALLEL))
    (folder / "stdout").write_text(out)
    return folder


def test_two_processes_give_the_loss_sequence_of_one(on_one, on_two):
    torch.testing.assert_close(losses(on_two), on_one, atol=1e-5, rtol=0)
    assert len(on_one) == STEPS


def test_one_process_writes_and_prints(on_two):
    out = (on_two / "stdout").read_text()
    assert out.count("1 threads in each of 2 processes; from the start") == 1
    assert out.count("saved in model") == 1
    assert len(re.findall(rf"^epoch .* step {STEPS} ", out, re.MULTILINE)) == 1


def test_no_process_waits_for_the_finalization_that_gloos_threads_can_abort(on_two):
    assert [path.name for path in on_two.glob("finalized-*")] == ["finalized-launcher"]


def test_checkpoints_are_the_same_files_whatever_the_number_of_processes(folder_of_one, on_two):
    one, two = folder_of_one / "model", on_two / "model"
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, two)]
    assert names[0] == names[1]
    for path in one.glob(f"checkpoints/step-{STEPS:06d}/*.safetensors"):
        mine, theirs = load_file(path), load_file(two / path.relative_to(one))
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"dropout"}:  # random states, but without dropout never used
            torch.testing.assert_close(mine[name], theirs[name], atol=1e-4, rtol=0)


def test_a_run_begun_on_one_process_resumes_on_two_of_torchrun(
    start, on_one, tmp_path_factory, monkeypatch
):
    folder = new_folder(tmp_path_factory)
    monkeypatch.chdir(folder)
    with open_run(load_config("config.hocon", RUN), resume=False) as run:
        for record in train_in_folder(run):
            if record.step == 5:
                save_checkpoint(run.folder, run.state)
                break
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    out = finish(start(folder, "--resume", launcher=torchrun))
    assert "resumed after step 5" in out
    torch.testing.assert_close(losses(folder), on_one, atol=1e-5, rtol=0)


def free_port() -> int:
    """A port below those that systems hand out by themselves, so that nobody takes it meanwhile."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(20_000, 30_000)))
            return port


def test_two_nodes_on_loopback_give_the_loss_sequence_of_one(start, on_one, tmp_path_factory):
    nodes = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
             "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}",
             "--rdzv-id", "test", "--local-addr", "127.0.0.1")  # fmt: skip
    folders = [new_folder(tmp_path_factory) for _ in range(2)]  # they share no files
    started = [start(folder, "--set", *RUN, launcher=nodes) for folder in folders]
    for process in started:
        finish(process)  # both launchers with code 0: neither saw its process fail
    written = [folder for folder in folders if (folder / "model").exists()]
    assert len(written) == 1
    torch.testing.assert_close(losses(written[0]), on_one, atol=1e-5, rtol=0)


LONG = [*RUN, "training.max_steps=2000", "training.save_steps=5", "training.eval_steps=1000"]


def test_a_killed_worker_ends_all_with_one_line_and_the_run_resumes_on_one(
    start, tmp_path_factory, monkeypatch
):
    folder, victim = new_folder(tmp_path_factory), 1
    process = start(folder, "--set", *LONG, *PARALLEL)
    wait_for_step(process, folder, 12)
    pids = workers(process)
    os.kill(pids[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert err.count("\n") == 1, err
    assert re.match(rf"error: process {victim} of 0 to 1 was ended by SIGKILL.*--resume", err)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    done = int((folder / "model" / "checkpoints" / "latest").read_text().strip()[-6:])
    config = load_config(folder / "model" / "config.hocon")
    reference = config.model_copy(
        update={"paths": config.paths.model_copy(update={"output_dir": "reference"})}
    )
    monkeypatch.chdir(folder)
    found = []
    for each, resume in ((config, True), (reference, False)):
        with open_run(each, resume=resume) as run:
            assert run.state.step == (done if resume else 0)
            for record in train_in_folder(run):
                if record.step > done:
                    found.append(record.loss)
                if record.step == done + 5:
                    break
    assert done >= 10
    # Not 1e-5: on a busy machine, the kill may come a hundred steps later.
    assert found[:5] == pytest.approx(found[5:], abs=1e-3)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
@pytest.mark.usefixtures("no_nohup")
def test_a_stopped_training_saves_once_and_ends_together(start, tmp_path_factory, name):
    folder, number = new_folder(tmp_path_factory), getattr(signal, name)
    process = start(folder, "--set", *LONG, *PARALLEL)
    wait_for_step(process, folder, 3)
    for pid in [process.pid, *workers(process)]:  # the launcher passes it on besides
        os.kill(pid, number)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + number
    assert err == ""
    assert out.count("stopped and saved after step") == 1
    step = int(re.search(r"saved after step (\d+)", out)[1])
    assert (folder / "model" / "checkpoints" / "latest").read_text() == f"step-{step:06d}\n"


def test_when_the_launcher_is_killed_its_processes_save_and_end(start, tmp_path_factory):
    folder = new_folder(tmp_path_factory)
    process = start(folder, "--set", *LONG, *PARALLEL)
    wait_for_step(process, folder, 3)
    process.kill()
    out, err = process.communicate(timeout=DEADLINE)  # until nobody holds the pipes any more
    assert err == ""
    step = int(re.search(r"stopped and saved after step (\d+)", out)[1])
    assert step < 2000
    assert len(losses(folder)) == step
    assert (folder / "model" / "checkpoints" / "latest").read_text() == f"step-{step:06d}\n"


def test_an_error_of_the_first_process_is_one_line(start, folder_of_one, tmp_path_factory):
    folder = new_folder(tmp_path_factory)
    shutil.copytree(folder_of_one / "model", folder / "model")
    (folder / "model" / "checkpoints" / "latest").write_text("step-000001\n")
    process = start(folder, "--resume", "--set", *PARALLEL)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert out == "settings: model/config.hocon, the run's own\n"
    assert err.count("\n") == 1, err
    assert err.startswith("error: model/checkpoints/latest: names 'step-000001', which is no")


# Facts about single steps: computed once in two processes, then looked at.


def one_sided_tokens() -> torch.Tensor:
    """Four windows; those of each process hold other symbols than those of the other."""
    rows = [torch.randint(low, low + 2, (2, 16)) for low in (0, 11)]
    return torch.cat(rows)  # (4, 16)


def loss_of(logits, routings, x):
    return next_character_loss(logits, x.roll(-1, 1)) + 0.5 * load_balancing_loss(routings)


MODELS = {
    router: TINY.model_copy(
        update={"router": router, "shared_expert": shared, "load_balancing_loss_coef": 0.5}
    )
    for router, shared in (("softmax", False), ("sigmoid", True))
} | {balance: TINY.model_copy(update={"balance": balance}) for balance in ("bias", "quantile")}


def fresh(model_config: ModelConfig, **settings: object) -> tuple[TrainingState, Config]:
    """A model of 13 symbols and its optimizer; the weights are those of PyTorch's generator."""
    training = TrainingConfig(batch_size=4, seq_len=16, epochs=1000, **settings)
    config = Config(model=model_config, training=training)
    return start_training(MoELanguageModel(model_config, vocab_size=13), training), config


def shared(state: TrainingState, config: Config) -> tuple[TrainingState, Forward]:
    return share(state, config.training.batch_size, config.training.seed)


def train_ten_steps(
    state: TrainingState, config: Config, forward: Forward | None = None
) -> list[list[float]]:
    text = torch.randint(13, (600,), generator=torch.Generator().manual_seed(1))
    rows = []
    for record in train(state, text, text[:100], config.training, forward):
        losses = [record.loss, record.balance_loss, record.grad_norm, record.validation_loss or 0.0]
        rows.append([*losses, *record.expert_load.flatten().tolist()])
    return rows


TEN = {"max_steps": 10, "eval_steps": 5}


def compute_facts(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    state, config = fresh(TINY)
    model, x = state.model, one_sided_tokens()
    own = model(x.chunk(2)[rank])
    _, forward = shared(state, config)
    logits, routings = forward(x)
    loss_of(logits, routings, x).backward()
    facts = {
        "gradients": {name: p.grad.tolist() for name, p in model.named_parameters()},
        "own_load": [expert_load(routing).tolist() for routing in own.routings],
        "own_balance": load_balancing_loss(own.routings).item(),
        "balance": load_balancing_loss(routings).item(),
        "agreed": [agree(None), agree(2 if rank == 1 else None)],
        "first": from_first(lambda: f"made by {rank}"),
    }
    try:
        from_first(lambda: 1 // 0)
    except (ZeroDivisionError, ValueError) as error:
        facts["error"] = str(error)

    torch.manual_seed(rank)  # the state of the first process becomes that of both
    state, config = fresh(TINY.model_copy(update={"dropout": 0.5}))
    state.seconds = 10.0 + rank
    state, forward = shared(state, config)
    facts["clock"] = [state.seconds]
    state.seconds = 20.0 + rank
    facts["clock"].append(state.seconds)
    facts["weights"] = sum(p.sum().item() for p in state.model.parameters())
    same = x[:1].repeat(4, 1)  # without dropout, every window would have the same logits
    facts["dropped"] = []
    for state.step in (0, 0, 1):
        logits = forward(same).logits
        logits.sum().backward()
        facts["dropped"].append(logits[:, -1, 0].tolist())
    state.model.eval()
    facts["evaluated"] = list(state.model(same).logits.shape)
    facts["names"] = list(state.model.state_dict())

    facts["ten steps"] = {}
    for router, model_config in MODELS.items():
        torch.manual_seed(rank)
        state, config = fresh(model_config, **TEN)
        state, forward = shared(state, config)
        facts["ten steps"][router] = train_ten_steps(state, config, forward)
    dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("facts")
    mp.spawn(compute_facts, (folder,), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def whole():
    """Model, tokens and outputs of one process with the whole batch."""
    torch.manual_seed(0)
    model, x = MoELanguageModel(TINY, vocab_size=13), one_sided_tokens()
    return model, x, model(x)


def test_gradients_are_those_of_one_process_also_when_an_expert_is_idle_on_one(facts, whole):
    loads = [torch.tensor(fact["own_load"]) for fact in facts]
    assert ((loads[0] == 0) != (loads[1] == 0)).any(), "an expert is idle on one process only"
    model, x, (logits, routings) = whole
    loss_of(logits, routings, x).backward()
    for name, parameter in model.named_parameters():
        for fact in facts:
            gradient = torch.tensor(fact["gradients"][name])
            torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_balance_loss_is_that_of_the_whole_batch_and_not_a_mean_over_processes(facts, whole):
    expected = load_balancing_loss(whole[2].routings).item()
    for fact in facts:
        assert fact["balance"] == pytest.approx(expected, abs=1e-6)
    assert abs(sum(fact["own_balance"] for fact in facts) / 2 - expected) > 0.01


def test_processes_drop_different_numbers_and_a_step_repeats_its_own(facts):
    again, step_0, step_1 = facts[0]["dropped"][1], *facts[0]["dropped"][::2]
    assert facts[1]["dropped"] == facts[0]["dropped"], "all gather the same"
    assert step_0 == again
    assert step_0 != step_1
    assert len(set(step_0)) == 4, "rows 0, 1 are of the first process, 2, 3 of the second"


@pytest.mark.parametrize("router", MODELS)
def test_any_router_gives_the_losses_and_loads_of_one_process(facts, router):
    torch.manual_seed(0)  # as in the first process; the second began with other weights
    expected = train_ten_steps(*fresh(MODELS[router], **TEN))
    for fact in facts:
        found = torch.tensor(fact["ten steps"][router])
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def test_weights_keep_their_names(facts, whole):
    assert facts[0]["names"] == list(whole[0].state_dict())


def test_all_processes_start_from_the_weights_of_the_first(facts):
    assert facts[0]["weights"] == facts[1]["weights"]


def test_all_processes_read_the_clock_of_the_first(facts):
    assert [fact["clock"] for fact in facts] == [[10.0, 20.0]] * 2


def test_a_signal_to_one_process_stops_all(facts):
    assert [fact["agreed"] for fact in facts] == [[None, 2]] * 2


def test_what_the_first_process_makes_or_fails_to_make_reaches_all(facts):
    assert [fact["first"] for fact in facts] == ["made by 0"] * 2
    assert "division" in facts[0]["error"]
    assert facts[1]["error"] == facts[0]["error"]


def test_evaluation_is_not_divided(facts):
    assert [fact["evaluated"] for fact in facts] == [[4, 16, 13]] * 2
