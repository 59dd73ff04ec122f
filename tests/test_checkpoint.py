import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from safetensors.torch import load_file

from moe_tutorial.checkpoint import (
    load_checkpoint,
    load_model,
    save_checkpoint,
    start_run_folder,
)
from moe_tutorial.command.cli import main
from moe_tutorial.config import Config, TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import start_training, train
from moe_tutorial.trust import CheckpointError

SYMBOLS = CharTokenizer("abcdefghijklm")
IDS, HELD_OUT = torch.arange(13).repeat(30), torch.arange(13).repeat(3)
CONFIG = Config(
    model=TINY.model_copy(update={"dropout": 0.1}),
    training=TrainingConfig(
        seq_len=8, batch_size=4, epochs=100, max_steps=12, warmup_steps=2, eval_steps=4
    ),
)


def fresh():
    torch.manual_seed(0)
    return start_training(MoELanguageModel(CONFIG.model, 13), CONFIG.training)


def steps_of(state):
    return train(state, IDS, HELD_OUT, CONFIG.training)


def losses(steps):
    return [(r.step, r.loss, r.grad_norm, r.validation_loss) for r in steps]


@pytest.fixture
def folder(tmp_path):
    """A run folder with the checkpoint of step 6."""
    start_run_folder(tmp_path / "run", CONFIG, SYMBOLS)
    state = fresh()
    list(islice(steps_of(state), 6))
    save_checkpoint(tmp_path / "run", state)
    return tmp_path / "run"


def checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "step-000006"


@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(tmp_path, stop):
    expected = losses(steps_of(fresh()))
    start_run_folder(tmp_path, CONFIG, SYMBOLS)
    state = fresh()
    first = losses(islice(steps_of(state), stop))
    save_checkpoint(tmp_path, state)
    torch.manual_seed(12345)
    torch.rand(7)
    resumed = start_training(MoELanguageModel(CONFIG.model, 13), CONFIG.training)
    load_checkpoint(tmp_path, resumed)
    assert first + losses(steps_of(resumed)) == expected


def test_loaded_model_gives_the_same_logits(folder):
    trained = load_model(folder)
    state = fresh()
    list(islice(steps_of(state), 6))
    tokens = torch.randint(13, (2, 9))
    assert not trained.model.training
    assert torch.equal(trained.model(tokens).logits, state.model.eval()(tokens).logits)
    assert trained.tokenizer.int_to_char == SYMBOLS.int_to_char
    assert trained.config == CONFIG


def test_latest_and_best_are_kept_and_others_removed(folder):
    state = fresh()
    load_checkpoint(folder, state)
    checkpoints = folder / "checkpoints"
    for loss, step in [(2.0, 7), (3.0, 8), (4.0, 9)]:
        state.step, state.validation_loss = step, loss
        if state.best_validation_loss is None or loss < state.best_validation_loss:
            state.best_validation_loss, state.best_step = loss, step
        save_checkpoint(folder, state)
    assert sorted(p.name for p in checkpoints.iterdir() if p.is_dir()) == [
        "step-000007",
        "step-000009",
    ]
    assert (checkpoints / "best").read_text() == "step-000007\n"
    assert (checkpoints / "latest").read_text() == "step-000009\n"


def test_saving_a_step_again_does_not_touch_what_is_there(folder):
    state = fresh()
    load_checkpoint(folder, state)
    before = (checkpoint(folder) / "state.json").stat().st_mtime_ns
    assert save_checkpoint(folder, state) == checkpoint(folder)
    assert (checkpoint(folder) / "state.json").stat().st_mtime_ns == before


def test_without_a_measurement_the_latest_is_loaded(folder):
    (folder / "checkpoints" / "best").unlink(missing_ok=True)
    assert load_model(folder, "best").config == CONFIG


def test_leftovers_of_a_killed_save_are_harmless(folder):
    part = folder / "checkpoints" / "step-000007.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")
    complete_but_not_pointed_to = folder / "checkpoints" / "step-000007"
    complete_but_not_pointed_to.mkdir()
    state = fresh()
    load_checkpoint(folder, state)
    assert state.step == 6
    next(iter(steps_of(state)))
    save_checkpoint(folder, state)
    assert load_model(folder, "latest").config == CONFIG


def test_killed_between_the_two_pointers_the_best_is_mended(folder):
    state = fresh()
    steps = steps_of(state)
    list(islice(steps, 8))  # measured at 8, the best so far
    save_checkpoint(folder, state)
    (folder / "checkpoints" / "best").unlink()
    load_checkpoint(folder, fresh())
    assert (folder / "checkpoints" / "best").read_text() == "step-000008\n"


def test_nothing_there_says_how_to_train(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no trained model; train one \(python -m"):
        load_model(tmp_path / "gone")


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors", "state.json"])
@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_file_is_named(folder, name, keep):
    path = checkpoint(folder) / name
    content = path.read_bytes()
    path.write_bytes(content[:keep].rstrip() if name == "state.json" else content[:keep])
    if name == "state.json" and keep == -1:
        path.write_bytes(content[:-3])
    with pytest.raises(CheckpointError, match=rf"{name}: (missing|cannot)"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors", "state.json"])
def test_missing_file_is_named(folder, name):
    (checkpoint(folder) / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: missing"):
        load_model(folder)


def test_flipped_bit_in_the_weights_is_noticed(folder):
    path = checkpoint(folder) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing, truncated or changed"):
        load_model(folder)


@pytest.mark.parametrize("symbols", ["abcdefghijklmn", "bacdefghijklm"])
def test_another_vocabulary_is_an_error_never_a_repair(folder, symbols):
    CharTokenizer(symbols).save(folder / "vocab.txt")
    with pytest.raises(CheckpointError, match=r"vocab\.txt is not the vocabulary that step-000006"):
        load_model(folder)


def test_weights_of_another_architecture_are_an_error(folder):
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"hidden_dim": 8})})
    from moe_tutorial.config import dump_config

    (folder / "config.hocon").write_text(dump_config(other))
    with pytest.raises(
        CheckpointError,
        match=r"tensor blocks\.0\.moe\.experts\.0\.w_down is \(16, 24\), .*ask for \(8, 24",
    ):
        load_model(folder)
    other = CONFIG.model_copy(
        update={"model": CONFIG.model.model_copy(update={"shared_expert": True})}
    )
    (folder / "config.hocon").write_text(dump_config(other))
    with pytest.raises(CheckpointError, match=r"tensor blocks\.0\.moe\.shared_expert.* is missing"):
        load_model(folder)


@pytest.mark.parametrize("pointer", ["", "step-000099", "../../secret", "step-000006/..", "\x00"])
def test_pointer_to_nowhere_is_an_error(folder, pointer):
    (folder / "checkpoints" / "latest").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"latest: names .* which is no checkpoint"):
        load_model(folder, "latest")


@pytest.mark.parametrize("change", [{"step": "6"}, {"sha256": 3}, {"seconds": [1]}])
def test_state_with_wrong_types_is_an_error(folder, change):
    path = checkpoint(folder) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"state\.json: missing or damaged"):
        load_model(folder)


STACKED = ROOT / "tests" / "data" / "stacked_experts"  # written by version 0.1


def test_a_run_of_version_0_1_loads_and_resumes_with_the_losses_it_would_have_had(
    tmp_path, monkeypatch
):
    shutil.copytree(STACKED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    stacks = load_file("model/checkpoints/step-000004/model.safetensors")
    model = load_model("model").model
    for name in ("w_gate", "w_up", "w_down"):
        ours = [getattr(expert, name) for expert in model.blocks[0].moe.experts]
        assert torch.equal(torch.stack(ours), stacks[f"blocks.0.moe.{name}"])
    assert main(["train", "--resume", "--config", str(ROOT / "config.hocon")]) == 0
    found = [json.loads(line) for line in Path("model/metrics.jsonl").read_text().splitlines()]
    lines = Path("expected.jsonl").read_text().splitlines()
    for record, expected in zip(found, map(json.loads, lines), strict=True):
        numbers = ("step", "loss", "balance_loss", "learning_rate", "grad_norm", "validation_loss")
        wanted = {key: expected[key] for key in numbers if expected[key] is not None}
        assert {key: record[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
    tensors = load_file("model/checkpoints/step-000008/training_state.safetensors")
    assert tensors["step.blocks.0.moe.experts.2.w_up"] == 8


def test_a_stack_of_more_experts_than_the_model_has_is_another_architecture(tmp_path):
    shutil.copytree(STACKED / "model", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.hocon"
    path.write_text(path.read_text().replace('"num_experts": 3', '"num_experts": 2'))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.moe\.(experts|w_)"):
        load_model(tmp_path)
