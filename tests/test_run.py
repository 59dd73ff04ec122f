"""One training in its folder: what is read, written, kept and resumed."""

import copy
import hashlib
import json
import os
import re
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from moe_tutorial import checkpoint, training
from moe_tutorial.batching import random_batch
from moe_tutorial.checkpoint import load_model
from moe_tutorial.command import log, run
from moe_tutorial.command.run import _first_words, describe, open_run, train_in_folder
from moe_tutorial.config import Config, load_snapshot
from moe_tutorial.corpus import Corpus
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import NonFiniteLoss, StepRecord

MODEL = {"dim": 8, "num_layers": 2, "num_heads": 2, "num_experts": 3, "top_k": 2, "hidden_dim": 4,
         "max_seq_len": 8, "shared_expert": False, "dropout": 0.2}  # fmt: skip
TRAINING = {"dataset": "passage", "seq_len": 8, "batch_size": 2, "max_steps": 6, "eval_steps": 2,
            "save_steps": 4, "warmup_steps": 2, "seed": 5}  # fmt: skip


def settings(model=(), inference=(), **changes):
    return Config.model_validate(
        {
            "model": {**MODEL, **dict(model)},
            "training": {**TRAINING, **changes},
            "inference": dict(inference),
        }
    )


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(monkeypatch):
    """The steps that are saved."""
    steps, save = [], checkpoint.save_checkpoint
    monkeypatch.setattr(
        checkpoint, "save_checkpoint",
        lambda folder, state: (steps.append(state.step), save(folder, state))[1],
    )  # fmt: skip
    return steps


def complete(config, *, resume=False):
    with open_run(config, resume=resume) as run:
        return list(train_in_folder(run))


def numbers(records):
    return [(r.step, r.loss, r.grad_norm, r.validation_loss, r.learning_rate) for r in records]


def metrics():
    return [json.loads(line) for line in Path("model/metrics.jsonl").read_text().splitlines()]


def measured(monkeypatch, losses):
    """The held-out losses, one after the other."""
    losses = iter(losses)
    monkeypatch.setattr(training, "evaluate", lambda *_: next(losses))


def test_a_fresh_run_holds_the_text_as_numbers_and_the_model_of_its_seed(here):
    text = (ROOT / "data" / "passage.txt").read_text(encoding="utf-8")
    cut = round(len(text) * 0.9)
    symbols = sorted(set(text))
    torch.manual_seed(5)
    model = MoELanguageModel(settings().model, len(symbols))
    torch.manual_seed(99)  # what was drawn before does not count
    with open_run(settings(), resume=False) as run:
        assert run.corpus == (text[:cut], text[cut:])
        assert "".join(symbols[i] for i in run.train_ids) == text[:cut]
        assert "".join(symbols[i] for i in run.validation_ids) == text[cut:]
        for ours, wanted in zip(run.state.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(ours, wanted)
        assert run.forward is run.state.model
        assert (run.folder, run.state.step, run.notice) == (Path("model"), 0, "")
        whole = (text[:cut] + "\0" + text[cut:]).encode()
        assert run.state.text == hashlib.sha256(whole).hexdigest()
        drawn = torch.Generator().manual_seed(5).get_state()
        assert torch.equal(run.state.generator.get_state(), drawn)
        assert load_snapshot("model/config.hocon") == run.config
    assert Path("model/checkpoints").is_dir()


def test_everything_of_a_run_is_on_its_device_and_any_text_has_a_hash(monkeypatch):
    moved = torch.device("meta")  # a device that every machine has
    monkeypatch.setattr(
        training, "start_training", lambda model, config: SimpleNamespace(model=model)
    )
    corpus = Corpus("ab\ud800" * 9, "ba")  # half of a pair, as datasets have it
    tokenizer = CharTokenizer.fit(corpus.train)
    opened = run._fresh_run(settings(), corpus, tokenizer, moved)
    weights = opened.state.model.parameters()
    tensors = [opened.train_ids, opened.validation_ids, *weights]
    assert {tensor.device for tensor in tensors} == {moved}
    assert opened.forward is opened.state.model
    whole = b"ab\xed\xa0\x80" * 9 + b"\0ba"
    assert opened.state.text == hashlib.sha256(whole).hexdigest()
    opened.state.step = 0
    assert " active per character; meta; from the start" in describe(opened)


def test_a_symbol_that_only_the_held_out_text_has_is_in_the_vocabulary(here):
    Path("a.txt").write_text("ab" * 45 + "z" * 10)
    with open_run(settings(dataset="a.txt"), resume=False) as run:
        assert run.state.model.head.out_features == 3
        assert run.validation_ids.tolist() == [2] * 10


def test_dropout_and_batches_come_from_the_seed_alone(here):
    runs = []
    for seed, before in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(before)
        runs.append(numbers(complete(settings(seed=seed))))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    ("train", "validation", "fits"), [(9, 2, True), (8, 2, False), (9, 1, False)]
)
def test_both_parts_must_be_long_enough_before_anything_is_written(train, validation, fits):
    """To train on: a window of 8 and its target. Held out: a character and its target."""
    Path("a").mkdir()
    Path("a/train.txt").write_text("abcabcabc"[:train])
    Path("a/validation.txt").write_text("abc"[:validation])
    if fits:
        assert len(complete(settings(dataset="a", epochs=9))) == 6
        return
    with pytest.raises(ValueError, match=r"the text has \d characters, but one window of"):
        complete(settings(dataset="a"))
    assert not Path("model").exists()


def test_settings_of_the_sample_are_checked_before_the_training(here):
    for inference, words in (
        ({"prompt": "Zebra"}, "section inference of the configuration: unknown character 'Z'"),
        ({"temperature": 1e-40}, "section inference of the configuration: temperature=1e-40 must"),
        ({"top_p": 1e-40}, "section inference of the configuration: top_p=1e-40 must"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            open_run(settings(inference=inference), resume=False).__enter__()
    assert not Path("model").exists()


def test_the_prompt_of_the_settings_is_kept_and_else_is_a_held_out_beginning(here):
    with open_run(settings(inference={"prompt": "The"}), resume=False) as run:
        assert run.config.inference.prompt == "The"
    with open_run(settings(inference={"top_k": 3}), resume=False) as run:
        beginning = run.config.inference.prompt
        assert len(beginning) > 10
        assert run.corpus.validation.strip().startswith(beginning)
        assert run.config.inference.top_k == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("first\n\n" + "the second paragraph goes on " * 4, "the second paragraph"),
        ("first\n\nshort\n\n" + "the third paragraph goes on " * 4, "the third paragraph"),
        ("one\n\n" + "abcdefghijklmnopqrstuvwxyz" * 4, "abcdefghijklmnopqrstuvwx"),  # one word
        ("one\n\nA title\n" + "and what is below it " * 9, "A"),  # the first line, to a word's end
        ("  only one paragraph, of some length  ", "only one paragraph, of"),
        ("one\n\n" + "x y" * 32, "one"),  # 96 characters are not more than 96
        ("one\n\n" + "x y" * 32 + "z", "x yx yx yx yx yx yx yx"),
        ("\n\n\n", "\n"),
        ("a", "a"),
    ],
)
def test_the_default_prompt_is_how_the_first_long_paragraph_after_a_break_begins(text, words):
    assert _first_words(text) == words


def test_the_description_says_what_is_trained_on_what_with_how_much(here, monkeypatch):
    with open_run(settings(), resume=False) as run:
        layer = 8 * 3 * 8 + 8 * 8 + 2 * 8 + 8 * 3  # attention, norms, router
        total = 31 * 8 + 2 * (layer + 3 * 3 * 8 * 4) + 8 + 8 * 31  # embedding, 2 layers, norm, head
        active = total - 2 * 3 * 8 * 4  # in both layers one expert of three rests
        assert describe(run) == (
            f"passage: 542 characters to train on, 60 held out, 31 symbols; {total:,} parameters, "
            f"{active:,} active per character; cpu, 1 threads; from the start"
        )
        run.state.step = 3
        assert describe(run).endswith("; resumed after step 3")
        monkeypatch.setattr(training, "SAMPLE", 25)
        assert " 60 held out (one window of 3 on the way, all at the end), 31" in describe(run)
        monkeypatch.setattr(training, "SAMPLE", 59)
        assert " 60 held out (one window of 2 on the way" in describe(run)
        for number, words in ((1, "1 threads; "), (2, "1 threads in each of 2 processes; ")):
            monkeypatch.setattr("moe_tutorial.command.run.processes", lambda n=number: n)
            assert words in describe(run)
        run.config = settings(dataset="a\x1b[31m.txt")
        assert "\x1b" not in describe(run)


def test_every_record_is_a_line_and_every_measurement_a_line_for_people(here, monkeypatch):
    monkeypatch.setattr(log, "_peak_memory", lambda: "7 MiB")
    with open_run(settings(), resume=False) as run:
        first = describe(run)
        records = list(train_in_folder(run))
    for record, line in zip(records, metrics(), strict=True):
        assert list(line) == [*StepRecord._fields, "token_entropy", "mean_entropy"]
        loads = torch.tensor(line.pop("expert_load"))
        torch.testing.assert_close(loads, record.expert_load, atol=5.01e-5, rtol=0)
        assert loads.tolist() != record.expert_load.tolist()  # four digits are enough
        assert {len(line.pop(name)) for name in log.ENTROPIES} == {2}  # layers
        assert line == {key: getattr(record, key) for key in line}
    groups = records[:2], records[2:4], records[4:]
    lines = Path("model/train.log").read_text().splitlines()
    assert lines == [first, *map(log.log_line, groups)]


def test_the_entropies_of_a_step_are_those_of_its_batch_before_it():
    with open_run(settings({"dropout": 0.0}), resume=False) as run:
        steps = train_in_folder(run)
        model, generator = run.state.model, run.state.generator
        for _ in range(2):
            before = copy.deepcopy(model)
            again = torch.Generator()
            again.set_state(generator.get_state())
            size = run.config.training.batch_size, run.config.training.seq_len
            x, _ = random_batch(run.train_ids, *size, again)
            next(steps)
            line = metrics()[-1]
            for layer, routing in enumerate(before(x).routings):
                p = routing.probs
                per_token = -(p * p.log()).sum(-1).mean().item()
                of_mean = -(p.mean(0) * p.mean(0).log()).sum().item()
                assert line["token_entropy"][layer] == pytest.approx(per_token, abs=1e-4)
                assert line["mean_entropy"][layer] == pytest.approx(of_mean, abs=1e-4)


def test_saved_are_multiples_of_save_steps_every_best_step_and_the_last(monkeypatch, saved):
    measured(monkeypatch, [3.0, 4.0, 2.0, 2.5, 5.0])
    complete(settings(max_steps=9, save_steps=5))
    assert saved == [2, 5, 6, 9]
    names = sorted(path.name for path in Path("model/checkpoints").iterdir())
    assert names == ["best", "latest", "step-000006", "step-000009"]
    state = json.loads(Path("model/checkpoints/step-000009/state.json").read_text())
    assert (state["best_step"], state["best_validation_loss"]) == (6, 2.0)
    assert state["validation_loss"] == 5.0


def test_the_lines_of_the_steps_are_on_the_disk_before_their_checkpoint(monkeypatch):
    events, fsync, write = [], os.fsync, checkpoint._write_checkpoint

    def sync(number):
        path = Path("model/metrics.jsonl")
        if path.exists() and os.fstat(number).st_ino == path.stat().st_ino:
            events.append(("on the disk", len(metrics())))
        fsync(number)

    def save(folder, part, state):
        events.append(("saved", state.step))
        write(folder, part, state)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(checkpoint, "_write_checkpoint", save)
    measured(monkeypatch, [3.0, 4.0, 5.0])
    complete(settings())
    assert events == [(what, step) for step in (2, 4, 6) for what in ("on the disk", "saved")]


def test_an_expert_is_reported_once_when_it_was_idle_in_so_many_steps_on_end(here, monkeypatch):
    monkeypatch.setattr(log, "IDLE_STEPS", 3)
    some = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])

    def load(*idle):
        rested = some.clone()
        for layer, expert in idle:
            rested[layer, expert] = 0
        return rested

    a, b = (0, 1), (1, 2)
    loads = [load(a), load(a), load(), load(a), load(a, b), load(a, b), load(a, b), load(a, b)]
    records = [
        StepRecord(i, 0.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 0.5, each, None)
        for i, each in enumerate(loads, start=1)
    ]
    monkeypatch.setattr(training, "train", lambda *_: iter(records))
    told = []
    with open_run(settings(save_steps=100), resume=False) as run:
        told.extend(run.notice for _ in train_in_folder(run))
    lines = Path("model/train.log").read_text().splitlines()[1:]
    end = "got no token for 3 steps; a larger model.load_balancing_loss_coef spreads the tokens"
    assert lines == [f"step {step}: expert {expert} of layer {layer} {end}"
                     for step, expert, layer in ((6, 1, 1), (7, 2, 2))]  # fmt: skip
    assert told == ["", "", "", "", "", lines[0], lines[0], lines[0]]


@pytest.mark.parametrize(("good", "kept"), [(0, "no"), (2, "the last")])
def test_a_loss_that_is_not_finite_says_whether_a_checkpoint_is_there(monkeypatch, good, kept):
    def steps(state, *_):
        real = training_train(state, *_)
        yield from islice(real, good)
        raise NonFiniteLoss("step 3: bad")

    training_train = training.train
    monkeypatch.setattr(training, "train", steps)
    with pytest.raises(NonFiniteLoss, match=f"^step 3: bad; {kept} good checkpoint is in model$"):
        complete(settings())


@pytest.mark.parametrize("stop_after", [3, 4, 5])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(here, stop_after):
    whole = numbers(complete(settings()))
    with open_run(settings(), resume=False) as first:
        begun = numbers(islice(train_in_folder(first), stop_after))
        checkpoint.save_checkpoint(first.folder, first.state)
    torch.manual_seed(77)
    with open_run(settings(), resume=True) as second:
        assert second.state.step == stop_after
        assert second.state.seconds == first.state.seconds
        assert second.state.best_step == first.state.best_step
        assert second.state.best_validation_loss == first.state.best_validation_loss
        assert second.state.validation_loss == first.state.validation_loss
        ended = numbers(train_in_folder(second))
    assert begun + ended == whole
    assert [line["step"] for line in metrics()] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in metrics()] == [loss for _, loss, *_ in whole]
    seconds = [line["seconds"] for line in metrics()]
    assert seconds == sorted(seconds)
    lines = Path("model/train.log").read_text().splitlines()
    begins = [line.rpartition("; ")[2] for line in lines if line.startswith("passage: ")]
    assert begins == ["from the start", f"resumed after step {stop_after}"]


def test_lines_beyond_the_checkpoint_are_dropped_before_their_steps_are_done_again(monkeypatch):
    measured(monkeypatch, [3.0, 4.0, 5.0, 6.0])
    with open_run(settings(), resume=False) as run:
        list(islice(train_in_folder(run), 5))  # saved at 2 and 4
    assert len(metrics()) == 5
    with open_run(settings(), resume=True) as run:
        assert run.state.step == 4
        assert [line["step"] for line in metrics()] == [1, 2, 3, 4]


def test_resuming_with_a_new_limit_writes_it_into_the_snapshot_and_trains_to_it(here):
    complete(settings())
    records = complete(settings(max_steps=8), resume=True)
    assert [record.step for record in records] == [7, 8]
    assert load_snapshot("model/config.hocon").training.max_steps == 8
    assert not Path("model.old-1").exists()


def test_without_resume_an_earlier_run_is_moved_and_a_new_one_begins(here, capsys):
    complete(settings())
    old = Path("model/metrics.jsonl").read_bytes()
    assert [record.step for record in complete(settings())] == [1, 2, 3, 4, 5, 6]
    assert Path("model.old-1/metrics.jsonl").read_bytes() == old
    assert len(metrics()) == 6
    assert capsys.readouterr().out == "the earlier run in model is now in model.old-1\n"


def test_resuming_needs_a_folder_but_no_checkpoint(here):
    with pytest.raises(ValueError, match="model is no folder that could be resumed; train with"):
        complete(settings(), resume=True)
    assert not Path("model").exists()
    Path("model").mkdir()
    assert [record.step for record in complete(settings(), resume=True)] == [1, 2, 3, 4, 5, 6]


def test_other_peoples_files_stop_a_new_run(here):
    Path("model").mkdir()
    Path("model/thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"model holds 'thesis\.tex', which is not of a run"):
        complete(settings())
    assert not Path("model/vocab.txt").exists()


def test_two_trainings_do_not_share_a_folder(here):
    with open_run(settings(), resume=False), pytest.raises(OSError, match="another training is"):
        open_run(settings(), resume=False).__enter__()
    with open_run(settings(), resume=False):  # the first one is closed
        pass


def test_resuming_on_a_text_with_other_symbols_or_another_order_is_refused(here):
    Path("a.txt").write_text("ab" * 50)
    complete(settings(dataset="a.txt"))
    Path("a.txt").write_text("abc" * 50)
    with pytest.raises(ValueError, match="has 2 symbols, but the corpus has 3"):
        complete(settings(dataset="a.txt"), resume=True)
    Path("a.txt").write_text("ba" * 50)
    with pytest.raises(checkpoint.CheckpointError, match="the text is not the one that the run"):
        complete(settings(dataset="a.txt"), resume=True)
    Path("b.txt").write_text("ab" * 50)  # the same text elsewhere
    assert complete(settings(dataset="b.txt", max_steps=7), resume=True)


def test_the_same_characters_cut_elsewhere_are_another_text(here):
    Path("a").mkdir()
    hashes = set()
    for cut in (38, 40):
        Path("a/train.txt").write_text("ab" * (cut // 2))
        Path("a/validation.txt").write_text("ab" * (25 - cut // 2))
        with open_run(settings(dataset="a"), resume=False) as run:
            hashes.add(run.state.text)
    assert len(hashes) == 2


def test_a_stop_reaches_the_measurement(here):
    with open_run(settings(), resume=False) as run:
        records = list(train_in_folder(run, stop=lambda: True))
    assert {record.validation_loss for record in records} == {None}


def test_the_steps_are_computed_by_the_runs_own_forward(here):
    with open_run(settings(), resume=False) as run:
        asked, model = [], run.state.model
        run.forward = lambda x: (asked.append(x.shape), model(x))[1]
        list(train_in_folder(run))
    assert asked == [(2, 8)] * 6


def test_what_the_processes_share_is_what_is_trained(monkeypatch):
    asked, shared = [], SimpleNamespace(step=0)
    monkeypatch.setattr(run, "share", lambda *a: (asked.append(a), (shared, "forward"))[1])
    with open_run(settings(), resume=False) as opened:
        assert (opened.state, opened.forward) == (shared, "forward")
    assert [arguments[1:] for arguments in asked] == [(2, 5)]  # batch_size and seed
    assert isinstance(asked[0][0], training.TrainingState)


def test_of_several_processes_the_first_alone_touches_the_folder(here, monkeypatch):
    monkeypatch.setattr("moe_tutorial.command.run.is_first", lambda: False)
    wanted = 6
    for resume in (False, True):
        assert len(complete(settings(), resume=resume)) == wanted
    assert not Path("model").exists()


def test_loaded_to_generate_is_the_step_with_the_smallest_held_out_loss(here, monkeypatch):
    measured(monkeypatch, [3.0, 2.0, 4.0])
    with open_run(settings(), resume=False) as run:
        for record in train_in_folder(run):
            if record.step == 4:
                best = run.state.model.head.weight.clone()
        last = run.state.model.head.weight.clone()
    assert torch.equal(load_model("model").model.head.weight, best)
    assert torch.equal(load_model("model", "latest").model.head.weight, last)
    assert not torch.equal(best, last)


def test_the_dataset_is_read_from_where_the_settings_say(here, monkeypatch):
    asked = []
    load = run.load_corpus
    monkeypatch.setattr(run, "load_corpus", lambda *a: (asked.append(a), load(*a))[1])
    with open_run(settings(data_dir="texts", num_workers=3), resume=False):
        assert asked == [("passage", "texts", 3)]


def test_the_logs_are_utf_8_whatever_the_machine_writes_otherwise(monkeypatch):
    real, opened = Path.open, {}

    def note(path, mode="r", **options):
        if mode == "a":
            opened[path.name] = options["encoding"]
        return real(path, mode, **options)

    monkeypatch.setattr(Path, "open", note)
    complete(settings(max_steps=1))
    assert opened == {"metrics.jsonl": "utf-8", "train.log": "utf-8"}
