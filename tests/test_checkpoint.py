import json
import math
import os
import shutil
import stat
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY
from safetensors.torch import load_file, save_file

from moe_tutorial import checkpoint as ours
from moe_tutorial.checkpoint import (
    load_checkpoint,
    load_model,
    save_checkpoint,
    start_run_folder,
)
from moe_tutorial.command.cli import main
from moe_tutorial.config import Config, TrainingConfig, dump_config
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import NonFiniteLoss, start_training, train
from moe_tutorial.trust import CheckpointError, pointed

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


# What is kept, and which is loaded


def saved_as(folder, state, step, loss):
    state.step, state.validation_loss = step, loss
    if state.best_validation_loss is None or loss < state.best_validation_loss:
        state.best_validation_loss, state.best_step = loss, step
    with torch.no_grad():
        state.model.head.weight.fill_(step)
    save_checkpoint(folder, state)


def step_of(folder, *which):
    return int(load_model(folder, *which).model.head.weight[0, 0])


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("losses", "best"), [([2.0], 7), ([2.0, 3.0], 7), ([3.0, 2.0, 4.0], 8), ([3.0, 2.0, 1.0], 9)]
)
def test_the_best_is_loaded_unless_the_latest_is_asked_for(folder, losses, best):
    state = fresh()
    load_checkpoint(folder, state)
    for step, loss in enumerate(losses, start=7):
        saved_as(folder, state, step, loss)
    last = 6 + len(losses)
    assert (step_of(folder), step_of(folder, "best")) == (best, best)
    assert step_of(folder, "latest") == last
    kept = {f"step-{step:06d}" for step in (best, last)}
    assert names(folder) == sorted({"best", "latest"} | kept)


def test_what_killed_saves_left_is_removed_and_what_a_person_put_there_is_not(folder):
    state = fresh()
    load_checkpoint(folder, state)
    theirs = ["step-000006-copy", "notes", "step-06", "mystep-000003"]
    for name in ["step-000003", "step-000004.part", "step-1000000", *theirs]:
        (folder / "checkpoints" / name).mkdir()
    saved_as(folder, state, 7, 0.0)
    assert names(folder) == sorted(["best", "latest", "step-000007", *theirs])


def test_a_checkpoint_that_was_not_pointed_to_is_replaced(folder):
    state = fresh()
    load_checkpoint(folder, state)
    (folder / "checkpoints" / "step-000007").mkdir()
    (folder / "checkpoints" / "step-000007" / "other").touch()
    saved_as(folder, state, 7, 1.0)
    found = sorted(path.name for path in (folder / "checkpoints" / "step-000007").iterdir())
    assert found == ["model.safetensors", "state.json", "training_state.safetensors"]


def test_half_a_save_of_the_same_step_is_begun_anew(folder):
    state = fresh()
    load_checkpoint(folder, state)
    (folder / "checkpoints" / "step-000007.part").mkdir()
    (folder / "checkpoints" / "step-000007.part" / "other").touch()
    saved_as(folder, state, 7, 1.0)
    assert not (folder / "checkpoints" / "step-000007" / "other").exists()


def test_what_cannot_be_removed_does_not_stop_a_save(folder):
    state = fresh()
    load_checkpoint(folder, state)
    (folder / "checkpoints" / "step-000003").touch()  # a file: no folder that could be removed
    saved_as(folder, state, 7, 1.0)
    assert step_of(folder, "latest") == 7


def test_a_text_that_is_not_known_leaves_no_hash(folder):
    state = fresh()
    load_checkpoint(folder, state)
    state.text = None
    saved_as(folder, state, 7, 1.0)
    found = json.loads((folder / "checkpoints" / "step-000007" / "state.json").read_text())
    assert "text" not in found["sha256"]


def test_state_json_has_the_counters_and_the_hash_of_everything(folder):
    state = fresh()
    load_checkpoint(folder, state)
    state.seconds, state.text = 12.5, "hash of the text"
    saved_as(folder, state, 7, 1.25)
    text = (folder / "checkpoints" / "step-000007" / "state.json").read_text()
    found = json.loads(text)
    counters = {"step": 7, "seconds": 12.5, "validation_loss": 1.25,
                "best_validation_loss": 1.25, "best_step": 7}  # fmt: skip
    files = {name: folder / "checkpoints" / "step-000007" / name
             for name in ("model.safetensors", "training_state.safetensors")}  # fmt: skip
    files["vocab.txt"] = folder / "vocab.txt"
    hashes = {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    hashes["text"] = "hash of the text"
    # Newer than some checkpoints: they count once they are used.
    newer = {"balance", "bias_update_rate", "router_score", "router_normalize", "router_scale"}
    model = CONFIG.model.model_dump(exclude=newer)
    for name, values in (("counters", counters), ("model", model)):
        hashes[name] = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert found == {**counters, "sha256": hashes}
    assert text.endswith("\n}\n")
    assert '\n  "step": 7' in text  # indented, for people


def test_everything_that_changes_while_training_is_loaded(folder):
    state = fresh()
    load_checkpoint(folder, state)
    state.seconds, state.text = 12.5, "hash of the text"
    list(islice(steps_of(state), 3))  # to step 9
    state.best_validation_loss, state.best_step = 0.5, 3
    save_checkpoint(folder, state)
    drawn = torch.rand(3), torch.rand(3, generator=state.generator)
    torch.manual_seed(99)
    loaded = start_training(MoELanguageModel(CONFIG.model, 13), CONFIG.training)
    loaded.text = "hash of the text"
    load_checkpoint(folder, loaded)
    for key in ("step", "seconds", "validation_loss", "best_validation_loss", "best_step"):
        assert getattr(loaded, key) == getattr(state, key), key
        assert getattr(loaded, key) is not None, key
    assert torch.equal(drawn[0], torch.rand(3))  # dropout
    assert torch.equal(drawn[1], torch.rand(3, generator=loaded.generator))  # batches
    named = loaded.model.named_parameters()
    for (name, found), wanted in zip(named, state.model.parameters(), strict=True):
        assert torch.equal(found, wanted), name
        moments, wanted = loaded.optimizer.state[found], state.optimizer.state[wanted]
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(moments[key], wanted[key]), (name, key)
    decays = [group["weight_decay"] for group in loaded.optimizer.param_groups]
    assert decays == [CONFIG.training.weight_decay, 0.0]


@pytest.mark.parametrize(
    ("saved", "mine", "loads"),
    [("a", "a", True), ("a", "b", False), (None, "b", True), ("a", None, True)],
)
def test_a_checkpoint_of_another_text_does_not_resume(tmp_path, saved, mine, loads):
    start_run_folder(tmp_path, CONFIG, SYMBOLS)
    state = fresh()
    state.text = saved
    next(steps_of(state))
    save_checkpoint(tmp_path, state)
    state = fresh()
    state.text = mine
    if loads:
        load_checkpoint(tmp_path, state)
        assert state.step == 1
    else:
        with pytest.raises(CheckpointError, match="the text is not the one that the run began"):
            load_checkpoint(tmp_path, state)


def change_tensors(folder, change):
    """Change what training_state.safetensors holds, and its hash."""
    path = checkpoint(folder) / "training_state.safetensors"
    save_file(change(load_file(path)), path)
    state = checkpoint(folder) / "state.json"
    content = json.loads(state.read_text())
    content["sha256"][path.name] = sha256(path.read_bytes()).hexdigest()
    state.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["batches", "dropout"])
def test_a_random_state_that_is_none_is_named(folder, name):
    change_tensors(folder, lambda t: {**t, name: torch.zeros_like(t[name]) + 255})
    with pytest.raises(CheckpointError, match=r"training_state\.safetensors: a random state is d"):
        load_checkpoint(folder, fresh())


def test_a_gpu_has_a_random_state_of_its_own_and_a_run_goes_on_without_one(folder, monkeypatch):
    drawn, put_back = torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: drawn)
    monkeypatch.setattr(torch.cuda, "set_rng_state", put_back.append)
    model = SimpleNamespace(
        head=SimpleNamespace(weight=SimpleNamespace(is_cuda=True)), named_parameters=list
    )
    optimizer = SimpleNamespace(param_groups=[])
    state = SimpleNamespace(model=model, optimizer=optimizer, generator=torch.Generator())
    saved = ours._training_tensors(state)
    assert saved.keys() == {"batches", "dropout", "dropout_cuda"}
    change_tensors(folder, lambda tensors: {**tensors, "dropout_cuda": saved["dropout_cuda"]})
    for there, times in ((False, 0), (True, 1)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        load_checkpoint(folder, fresh())
        assert len(put_back) == times
    assert torch.equal(put_back[0], drawn)


def test_a_random_state_that_nobody_asked_for_is_refused(folder):
    change_tensors(folder, lambda t: {**t, "dropout_more": torch.zeros(16, dtype=torch.uint8)})
    with pytest.raises(CheckpointError, match=r"tensor dropout_more belongs to another arch"):
        load_checkpoint(folder, fresh())


def test_the_tensors_have_the_names_of_their_parameters(folder):
    tensors = load_file(checkpoint(folder) / "training_state.safetensors")
    parameters = dict(fresh().model.named_parameters())
    moments = [f"{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in parameters]
    assert tensors.keys() == {"batches", "dropout", *moments}
    for name, parameter in parameters.items():
        assert tensors[f"exp_avg_sq.{name}"].shape == parameter.shape
        assert (tensors[f"exp_avg_sq.{name}"] >= 0).all()
        assert tensors[f"step.{name}"] == 6


def test_weights_that_are_not_finite_are_not_saved(folder):
    state = fresh()
    load_checkpoint(folder, state)
    state.step = 7
    for value in (math.inf, math.nan):
        state.model.head.weight.data[3, 3] = value
        with pytest.raises(NonFiniteLoss, match=r"^step 7: weights became infinite or NaN and are"):
            save_checkpoint(folder, state)
    assert "step-000007.part" not in names(folder)
    assert load_model(folder, "latest").config == CONFIG


@pytest.mark.parametrize(
    ("first", "words"),
    [(True, "there is no checkpoint yet"), (False, "the checkpoint before it is kept; mend it,")],
)
def test_a_folder_that_cannot_be_written_says_what_is_left(folder, monkeypatch, first, words):
    state = fresh()
    load_checkpoint(folder, state)
    if first:
        shutil.rmtree(folder / "checkpoints")
        (folder / "checkpoints").mkdir()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("moe_tutorial.checkpoint._sync", full)
    state.step = 7
    message = rf"step-000007\.part cannot be written \(no space left\); {words}"
    with pytest.raises(OSError, match=message):
        save_checkpoint(folder, state)
    assert "step-000007.part" not in names(folder)


def test_a_run_folder_that_vanished_does_not_come_back_half(folder):
    state = fresh()
    load_checkpoint(folder, state)
    shutil.rmtree(folder)
    state.step = 7
    with pytest.raises(OSError, match=r"step-000007\.part cannot be written"):
        save_checkpoint(folder, state)
    assert not folder.exists()


def test_an_exported_folder_says_how_to_import_it(tmp_path):
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(CheckpointError, match="holds an exported model; make it a run folder with"):
        load_model(tmp_path)


def test_a_folder_may_be_given_by_its_place_below_the_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert load_model("~/run").config == CONFIG


def test_the_home_of_an_unknown_user_is_an_error_with_the_place():
    with pytest.raises(ValueError, match="~no-such-user/run: ~no-such-user is no user's home"):
        load_model("~no-such-user/run")


@pytest.mark.parametrize(("saves", "loads"), [(0, False), (1, True), (9, True), (10, False)])
def test_loading_is_tried_again_while_a_training_saves(folder, monkeypatch, saves, loads):
    """Each save moves what is just being read away; after ten tries it is an error."""
    tries, real = [], ours._load_model
    monkeypatch.setattr(ours.trust, "last_save", lambda folder: len(tries) if saves else 0)

    def load(*arguments):
        tries.append(1)
        if len(tries) <= max(saves, 1):
            raise CheckpointError("moved away")
        return real(*arguments)

    monkeypatch.setattr(ours, "_load_model", load)
    if loads:
        assert load_model(folder).config == CONFIG
    else:
        with pytest.raises(CheckpointError, match="moved away"):
            load_model(folder)
    assert len(tries) == min(saves + 1, 10)


@pytest.mark.parametrize(("name", "most"), [("config.hocon", 2**20), ("vocab.txt", 16 * 2**20)])
def test_text_files_of_any_size_are_not_read(folder, monkeypatch, name, most):
    real = ours.trust.check_small
    asked = {}
    monkeypatch.setattr(
        ours.trust, "check_small",
        lambda path, most=2**20: (asked.update({path.name: most}), real(path, most)),
    )  # fmt: skip
    load_model(folder)
    assert asked[name] == most


def test_both_files_of_weights_may_be_read_by_whoever_may_read_the_vocabulary(folder):
    state = fresh()
    load_checkpoint(folder, state)
    (folder / "vocab.txt").chmod(0o640)
    saved_as(folder, state, 7, 1.0)
    files = (folder / "checkpoints" / "step-000007").glob("*.safetensors")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    wanted = stat.S_IMODE((folder / "vocab.txt").stat().st_mode)
    assert modes == {"model.safetensors": wanted, "training_state.safetensors": wanted}


# The order of writing


class Killed(BaseException):
    """No handler of errors runs when a process is killed."""


WRITES = [(Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "write_text"),
          (shutil, "rmtree"), (shutil, "copymode"), (os, "fsync"), (ours, "save_file")]  # fmt: skip


def counting(monkeypatch, kill_at=None):
    """Every call that writes; the one numbered kill_at is not done any more."""
    calls = []

    def wrap(module, name):
        real = getattr(module, name)

        def write(*arguments, **options):
            target = next((a for a in arguments if isinstance(a, Path)), None)
            calls.append((name, target and target.name))
            if len(calls) - 1 == kill_at:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, write)

    for module, name in WRITES:
        wrap(module, name)
    return calls


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """A run folder with a checkpoint of step 6, and the state of step 8, the best so far."""
    folder = tmp_path_factory.mktemp("six") / "run"
    start_run_folder(folder, CONFIG, SYMBOLS)
    state = fresh()
    steps = steps_of(state)
    list(islice(steps, 6))
    save_checkpoint(folder, state)
    list(islice(steps, 2))
    assert state.best_step == 8
    return folder, state


def test_killed_before_any_write_the_folder_holds_the_old_or_the_new_checkpoint_whole(
    six, tmp_path
):
    whole, state = six
    shutil.copytree(whole, tmp_path / "first")
    with pytest.MonkeyPatch.context() as patch:
        calls = counting(patch)
        save_checkpoint(tmp_path / "first", state)
    assert len(calls) > 12
    found = []
    for number in range(len(calls)):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        with pytest.MonkeyPatch.context() as patch:
            counting(patch, number)
            with pytest.raises(Killed):
                save_checkpoint(folder, state)
        load_model(folder, "best")
        load_model(folder, "latest")
        loaded = start_training(MoELanguageModel(CONFIG.model, 13), CONFIG.training)
        load_checkpoint(folder, loaded)
        found.append(loaded.step)
        assert pointed(folder, "best").name == f"step-{loaded.step:06d}"  # 4 was never saved
        save_checkpoint(folder, state)  # and a save then is complete
        assert names(folder) == ["best", "latest", "step-000008"]
        assert load_model(folder).config == CONFIG
    assert found == sorted(found)  # first always the old, then always the new one
    assert {6, 8} == set(found)


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name_and_the_pointers_last(
    six, tmp_path, monkeypatch
):
    whole, state = six
    shutil.copytree(whole, tmp_path / "run")
    events = []
    monkeypatch.setattr(ours, "_sync", lambda path: events.append(("on the disk", path.name)))
    for name in ("rename", "replace"):
        real = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda a, b, real=real: (events.append(("named", b.name)), real(a, b))[1]
        )
    save_checkpoint(tmp_path / "run", state)
    files = {("on the disk", name) for name in ("model.safetensors", "training_state.safetensors")}
    assert events[:2] == [("on the disk", "state.json.part"), ("named", "state.json")]
    assert set(events[2:5]) == files | {("on the disk", "state.json")}
    assert events[5:] == [
        ("named", "step-000008"),
        ("on the disk", "latest.part"), ("named", "latest"),
        ("on the disk", "best.part"), ("named", "best"),
    ]  # fmt: skip


def test_on_the_disk_means_an_fsync_of_that_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    ours._sync(tmp_path / "a")
    assert synced == [(tmp_path / "a").stat().st_ino]


def test_a_run_folder_begins_with_the_settings_and_the_vocabulary(tmp_path):
    start_run_folder(tmp_path / "a" / "b", CONFIG, SYMBOLS)
    start_run_folder(tmp_path / "a" / "b", CONFIG, SYMBOLS)  # after a first one that was killed
    assert (tmp_path / "a" / "b" / "config.hocon").read_text() == dump_config(CONFIG)
    assert CharTokenizer.load(tmp_path / "a" / "b" / "vocab.txt").int_to_char == [*"abcdefghijklm"]
    found = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert found == ["checkpoints", "config.hocon", "vocab.txt"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"dim": 24', '"dim": 25', "dim=25 "),  # no model has this size
        ('"dim": 24', '"dim": 0', "model.dim: input should be greater than 0"),
        ("{", "", "not the snapshot of a run"),
    ],
)
def test_an_error_in_the_settings_begins_with_their_file_once(folder, old, new, reason):
    path = folder / "config.hocon"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_weights_of_the_same_shapes_but_another_section_model_are_refused(folder):
    path = folder / "config.hocon"
    other = CONFIG.model.model_copy(update={"top_k": 1})
    state = start_training(MoELanguageModel(other, 13), CONFIG.training)
    refusals = [lambda: load_checkpoint(folder, state), lambda: load_model(folder)]
    path.write_text(path.read_text().replace('"top_k": 2', '"top_k": 1'))
    for refuse in refusals:
        with pytest.raises(CheckpointError) as caught:
            refuse()
        assert str(caught.value).startswith(f"{path}: the section model is not the one that the")
    assert state.step == 0
