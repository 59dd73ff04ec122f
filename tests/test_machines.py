"""What people's files and machines do to it: paths, marks, encodings, defaults, sizes."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, TINY_RUN

from moe_tutorial import plots, training
from moe_tutorial.batching import evaluation_batches, random_batch
from moe_tutorial.checkpoint import load_model
from moe_tutorial.command import train as train_module
from moe_tutorial.command.cli import main
from moe_tutorial.command.hocon import load_config
from moe_tutorial.config import ConfigError, TrainingConfig
from moe_tutorial.corpus import load_corpus, ngram_losses, read_text
from moe_tutorial.hugging_face import import_
from moe_tutorial.model import ModelOutput, MoELanguageModel
from moe_tutorial.moe import Routing
from moe_tutorial.rope import rope_table
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import evaluate, sample_every, start_training, train
from moe_tutorial.trust import CheckpointError

NOT_PASSAGE = [item for item in TINY_RUN if "dataset" not in item]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with a home folder in it."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def at_model(here, trained_folder):
    shutil.copytree(trained_folder / "model", here / "model")
    return here


# Measuring


def test_a_short_text_is_measured_whole_and_a_long_one_as_a_quarter_of_what_was_trained():
    config = TrainingConfig(eval_steps=250, batch_size=6, seq_len=128)  # 192,000 characters
    assert sample_every(22_570, config) == 1
    assert sample_every(48_000, config) == 1
    assert sample_every(2_000_000, config) == 42
    rarely, often = (config.model_copy(update={"eval_steps": n}) for n in (10_000, 1))
    assert sample_every(2_000_000, rarely) == 2
    assert sample_every(2_000_000, often) == 62  # never below 32,768 characters
    assert sample_every(32_768, often) == 1


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_the_sample_is_every_nth_window_of_the_whole_text(every):
    ids = torch.arange(50)
    whole = [x for x, _ in evaluation_batches(ids, 1, 7)]
    sampled = [x for x, _ in evaluation_batches(ids, 1, 7, every)]
    assert len(whole) == 7
    assert all(map(torch.equal, sampled, whole[::every]))
    rest = [x for x, _ in evaluation_batches(torch.arange(45), 1, 7, every)][-1]
    assert len(rest[0]) == (2 if 6 % every == 0 else 7)


def test_training_on_a_long_text_reads_little_of_what_is_held_out(monkeypatch):
    """At most a quarter as many characters as are trained, whatever the length of the text."""
    config = TrainingConfig(
        seq_len=16, batch_size=2, epochs=1, max_steps=80, eval_steps=20, warmup_steps=0
    )
    monkeypatch.setattr(training, "SAMPLE", 100)
    read = []
    real = training.evaluation_batches

    def counting(*arguments):
        for x, y in real(*arguments):
            read.append(x.numel())
            yield x, y

    monkeypatch.setattr(training, "evaluation_batches", counting)
    ids = torch.arange(13).repeat(2000)
    state = start_training(MoELanguageModel(TINY, 13), config)
    losses = [r.validation_loss for r in train(state, ids, ids[:13_000], config)]
    assert sum(loss is not None for loss in losses) == 4
    assert 4 * 100 <= sum(read) <= 80 * 2 * 16 / 4 * 1.1
    assert state.validation_loss == losses[-1]


def test_measuring_ends_between_two_batches_when_somebody_asks_to_stop():
    ids = torch.arange(13).repeat(1000)
    model, asked = MoELanguageModel(TINY, 13).train(), []

    def stop() -> bool:
        asked.append(True)
        return len(asked) >= 3

    assert evaluate(model, ids, 8, stop=stop) is None
    assert len(asked) <= 4
    assert model.training


def test_a_measurement_that_was_stopped_leaves_no_loss_behind():
    config = TrainingConfig(seq_len=8, batch_size=2, epochs=9, max_steps=9, eval_steps=3)
    ids = torch.arange(13).repeat(30)
    state = start_training(MoELanguageModel(TINY, 13), config)
    steps = train(state, ids, ids, config, stop=lambda: state.step >= 6)
    measured = [record.validation_loss is not None for record in islice(steps, 6)]
    assert measured == [False, False, True, False, False, False]
    assert state.best_step == 3


@pytest.mark.parametrize("vocab_size", [61, 6000, 10**6])
def test_memory_of_measuring_is_bounded_by_characters_times_vocabulary(vocab_size):
    sizes = []

    class Counting(torch.nn.Module):
        head = torch.nn.Linear(1, 1)

        def forward(self, x):
            sizes.append(x.numel())
            logits = torch.zeros(1).expand(*x.shape, 7)
            return ModelOutput(logits, [Routing(*[torch.zeros(1, 1)] * 3)])

    model = Counting()
    model.head.out_features = vocab_size
    evaluate(model, torch.zeros(20_000, dtype=torch.long), 128)
    assert max(sizes) * vocab_size <= max(training.MOST_LOGITS, 128 * vocab_size)
    assert max(sizes) == 128 * {61: 64, 6000: 10, 10**6: 1}[vocab_size]


def test_a_sample_is_announced_once_and_the_whole_measured_at_the_end(here, capsys, monkeypatch):
    monkeypatch.setattr(training, "SAMPLE", 1000)
    quick = [*TINY_RUN, "training.dataset=fables", "training.eval_steps=5"]
    assert main(["train", "--set", *quick]) == 0
    out = capsys.readouterr().out
    assert out.count("22,570 held out (one window of 23 on the way, all at the end)") == 1
    assert out.count("measuring all 22,570 held-out characters ...") == 1
    trained = load_model("model", "latest")
    ids = trained.tokenizer.encode(load_corpus("fables").validation)
    whole, sample = (evaluate(trained.model, ids, 32, every) for every in (1, 23))
    assert whole != sample
    assert f"{whole:8.3f}  this model, held-out text\n" in out
    best = float(re.search(r"([\d.]+)  this model, held-out text, a sample, best step 20", out)[1])
    assert best == pytest.approx(sample, abs=6e-4)


def test_ctrl_c_while_counting_says_that_the_model_is_saved(here, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "ngram_losses", interrupted)
    monkeypatch.setattr(train_module, "LONG_TO_COUNT", 100)
    assert main(["train", "--set", *TINY_RUN]) == 130
    out = capsys.readouterr().out
    assert "counting 602 characters, for comparison ...\n" in out
    assert out.endswith("model is saved in model; it was not compared with counting to the end\n")
    assert load_model("model", "latest").config.training.max_steps == 20


def test_counting_equals_counting_by_hand_also_beyond_the_basic_plane():
    text = "a\U0001f98a\ud800b\U0001f98a" * 7
    by_hand = ngram_losses(text.translate({0x1F98A: "x", 0xD800: "y"}), "xyab", 3)
    assert ngram_losses(text, "\U0001f98a\ud800ab", 3) == pytest.approx(by_hand)


# Places


@pytest.mark.slow
def test_a_tilde_is_the_home_folder_everywhere(here):
    home = here / "home"
    (home / "my.hocon").write_text('training { dataset = "~/my.txt", data_dir = "~/data" }')
    (home / "my.txt").write_text("the hen and the fox sat under a tree\n" * 9)
    model = ["--model-path", "~/run"]
    settings = [*NOT_PASSAGE, "paths.output_dir=~/run"]
    assert main(["train", "--config", "~/my.hocon", "--set", *settings]) == 0
    assert main(["generate", *model, "--max-new-tokens", "3", "--prompt", "the"]) == 0
    assert main(["export", "--to", "~/hf", *model]) == 0
    assert main(["import", "--from", "~/hf", "--to", "~/back"]) == 0
    import_("~/hf", "~/again")
    assert load_model("~/again").tokenizer.int_to_char == load_model("~/run").tokenizer.int_to_char
    assert sorted(p.name for p in home.iterdir()) == ["again", "back", "hf", "my.hocon", "my.txt",
                                                      "run"]  # fmt: skip
    assert [path.name for path in here.iterdir()] == ["home"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links")
def test_a_linked_output_folder_keeps_leading_to_the_same_disk(here, capsys):
    (here / "large disk").mkdir()
    (here / "model").symlink_to(here / "large disk" / "model")
    for _ in range(2):
        assert main(["train", "--set", *TINY_RUN]) == 0
    assert (here / "model").is_symlink()
    assert sorted(p.name for p in (here / "large disk").iterdir()) == ["model", "model.old-1"]
    assert sorted(p.name for p in here.iterdir()) == ["home", "large disk", "model"]
    aside = here / "large disk" / "model.old-1"
    assert f"the earlier run in model is now in {aside}" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["training.dataset", "training.data_dir", "paths.output_dir"])
def test_a_windows_path_between_quotes_is_no_path_with_a_line_break_in_it(here, key):
    section, name = key.split(".")
    (here / "a.hocon").write_text(f'{section} {{ {name} = "D:\\new\\text.txt" }}')
    with pytest.raises(ConfigError, match=rf"a\.hocon: {key}: .* write / or .* in a path"):
        load_config("a.hocon")
    (here / "a.hocon").write_text(f'{section} {{ {name} = "D:/new/text.txt" }}')
    assert getattr(getattr(load_config("a.hocon"), section), name) == "D:/new/text.txt"


# Marks, encodings and forms


def test_a_byte_order_mark_of_a_text_is_no_symbol(here, capsys):
    (here / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_text("a.txt") == "one\r\ntwo"
    said = "a.txt: the byte order mark at its beginning is left out\n"
    assert capsys.readouterr().err == said
    (here / "b.txt").write_bytes("one\ufeff".encode())
    assert read_text("b.txt") == "one\ufeff"


def test_a_folder_of_texts_is_treated_as_its_files_are(here):
    (here / "texts" / "below").mkdir(parents=True)
    (here / "texts" / "b.txt").write_bytes("zw\u00f6lf\r\n\r\nB".encode())
    (here / "texts" / "a.txt").write_bytes(b"A \n")
    (here / "texts" / "below" / "c.txt").write_bytes(b"C")
    (here / "texts" / "notes.md").write_bytes(b"\xff")
    assert "".join(load_corpus("texts")) == "A \nzw\u00f6lf\r\n\r\nB\nC\n"
    (here / "texts" / "below" / "c.txt").write_bytes(b"C\xff")
    with pytest.raises(ValueError, match=r"texts.below.c\.txt is not UTF-8 text \(byte 1\)"):
        load_corpus("texts")


def test_accents_in_the_other_form_are_named():
    composed, decomposed = "caf\u00e9 e", "cafe\u0301 e"
    with pytest.raises(ValueError, match=r"'\u0301' .*write it as unicodedata.*\('NFC', text\)"):
        CharTokenizer.fit(composed).encode(decomposed)
    with pytest.raises(ValueError, match=r"'\u00e9' .*write it as unicodedata.*\('NFD', text\)"):
        CharTokenizer.fit(decomposed).encode(composed)
    with pytest.raises(ValueError, match="leave it out or replace it"):
        CharTokenizer.fit(composed).encode("caf\u00e8 e")


@pytest.mark.slow
def test_what_goes_to_a_file_is_utf_8_whatever_the_system_s_code_page(here, command):
    """PYTHONIOENCODING stands for a Windows code page here."""
    page = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    (here / "zh.txt").write_text("\u5927\u9053\u81f3\u7b80\u6a21\u578b\u8bad\u7ec3" * 60, "utf-8")
    settings = [*NOT_PASSAGE, "training.dataset=zh.txt", "model.max_seq_len=32"]
    trained = command("train", "--set", *settings, cwd=here, more=page)
    assert trained.returncode == 0, trained.stderr
    prompt = "\u6a21\u578b"
    result = command("generate", "--prompt", prompt, cwd=here, more=page)
    assert result.stdout.startswith(prompt)
    assert "?" not in result.stdout + trained.stdout


@pytest.mark.slow
def test_a_byte_order_mark_before_the_first_line_of_prompts_costs_nothing(at_model, command):
    result = command(
        "generate", "--stdin", "--max-new-tokens", "3", cwd=at_model,
        more={"PYTHONUTF8": "0"}, input="\ufeffthe\nhen\n",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("the")
    assert "\nhen" in result.stdout


def test_characters_that_the_font_of_the_figures_lacks_are_shown_as_code_points():
    assert [plots.tick_label(c) for c in "a \n\u6a21"] == ["a", "\u2423", "\u21b5", "U+6A21"]
    figure = plots.symbol_figure({"\u6a21": 2, "b": 1})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["U+6A21", "b"]


@pytest.mark.slow
def test_nbconvert_writes_a_script_with_the_ending_of_a_script(tmp_path):
    shutil.copy(ROOT / "notebooks" / "05_rmsnorm.ipynb", tmp_path)
    subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "script", "05_rmsnorm.ipynb"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "05_rmsnorm.py").exists()


# Configurations


def test_a_configuration_that_sets_little_is_told_what_the_rest_is(here, capsys):
    (here / "mine.hocon").write_text('training.dataset = "passage"\nmodel.dim = 24')
    small = [item for item in TINY_RUN if item != "model.dim=24"]
    few = ["model.num_heads=3", *[item for item in small if not item.startswith("model.")]]
    assert main(["train", "--config", "mine.hocon", "--set", *few, "model.max_seq_len=32"]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith("settings: mine.hocon; the defaults of the original project for model.")
    assert "num_layers" in first
    assert "dim, " not in first.replace("hidden_dim, ", "")
    place = (ROOT / "config.hocon").as_posix()
    assert second == f'  (for those of the course, begin it with: include required("{place}"))'
    (here / "mine.hocon").write_text(second.partition(": ")[2][:-1] + "\nmodel.dim = 24")
    assert main(["train", "--config", "mine.hocon", "--set", *TINY_RUN]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "settings: mine.hocon"


@pytest.mark.parametrize(("line", "advice"), [
    ("training.max_steps = None", "but it is 'None'; write null$"),
    ('training.learning_rate = ".002"', r"but it is '\.002'; write 0\.002, without quotes$"),
    ('model.dim = "64"', "but it is '64'; write 64, without quotes$"),
    ('model.dim = "wide"', "but it is 'wide'$"),
])  # fmt: skip
def test_values_in_the_spelling_of_python_are_answered_with_hocon_s(here, line, advice):
    (here / "a.hocon").write_text(line)
    with pytest.raises(ConfigError, match=advice):
        load_config("a.hocon")


def test_values_that_the_parser_understands_in_python_s_spelling_are_taken(here):
    (here / "a.hocon").write_text("model.shared_expert = False, training.learning_rate = .002\n")
    config = load_config("a.hocon")
    assert (config.model.shared_expert, config.training.learning_rate) == (False, 0.002)


# Exported folders


def test_an_exported_folder_tells_nothing_of_this_machine_and_no_words_of_the_text(here, capsys):
    (here / "secret place").mkdir()
    (here / "secret place" / "t.txt").write_text("Xylophones are private.\n\n" * 30)
    place = here / "secret place"
    data = [f"training.dataset={place / 't.txt'}", f"training.data_dir={place}"]
    more = [f"paths.output_dir={place / 'model'}", "inference.prompt=Xylo"]
    assert main(["train", "--set", *NOT_PASSAGE, *data, *more]) == 0
    assert main(["export", "--to", "hf", "--model-path", str(place / "model")]) == 0
    for path in (here / "hf").iterdir():
        content = path.read_bytes()
        assert b"secret" not in content, path.name
        assert str(here).encode() not in content, path.name
        assert b"Xylo" not in content, path.name
    assert main(["import", "--from", "hf", "--to", "back"]) == 0
    back = load_model("back").config
    assert back.model == load_model(place / "model").config.model
    assert back.training.learning_rate == load_config(ROOT / "config.hocon").training.learning_rate
    assert main(["generate", "--model-path", "back", "--max-new-tokens", "3"]) == 0


def test_weights_in_several_files_are_refused_by_name(at_model, capsys):
    assert main(["export", "--to", "hf"]) == 0
    weights = at_model / "hf" / "model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00002.safetensors"))
    (at_model / "hf" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(CheckpointError, match=r"several files .*index\.json.*max_shard_size"):
        import_("hf", "back")
    assert not (at_model / "back").exists()


def test_an_export_says_how_a_batch_is_padded(at_model, capsys):
    """The vocabulary has no token to pad with; whichever is named, the mask hides it."""
    transformers = pytest.importorskip("transformers")
    assert main(["export", "--to", "hf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("to pad a batch: "))
    advice = "; ".join(line.removeprefix("to pad a batch: ").strip() for line in lines[first:])
    tokenizer = transformers.AutoTokenizer.from_pretrained("hf")
    with pytest.raises(ValueError, match="does not have a padding token"):
        tokenizer(["the hen", "a"], padding=True)
    exec(advice, {"tokenizer": tokenizer})
    model = transformers.AutoModelForCausalLM.from_pretrained("hf")
    batch = tokenizer(["the hen", "a"], padding=True, return_tensors="pt")
    texts = model.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0)
    alone = model.generate(**tokenizer("a", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    assert texts[1, -9:].tolist() == alone[0].tolist()


# Default devices and types


@pytest.fixture
def elsewhere():
    """Tensors are made on another device by default, one that no number can be read from."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def test_batches_are_drawn_where_the_generator_is_whatever_the_default_device(elsewhere):
    ids = torch.arange(50, device="cpu")
    x, _ = random_batch(ids, 3, 4, torch.Generator("cpu").manual_seed(0))
    assert x.device.type == "cpu"


def test_a_model_trains_and_generates_where_its_weights_are(here, trained_folder):
    expected = load_model(trained_folder / "model")
    text = expected.tokenizer.encode("the hen")
    logits = expected.model(text[None]).logits
    torch.set_default_dtype(torch.float64)
    try:
        cos, _ = rope_table(8, 4)
        again = load_model(trained_folder / "model")
        found = again.model.float()(text[None]).logits
    finally:
        torch.set_default_dtype(torch.float32)
    assert cos.dtype == torch.float32
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)


def test_no_public_path_of_the_library_depends_on_the_folder_it_is_called_from(here):
    assert Path.cwd() != ROOT
    assert len(load_corpus("passage").train) == 542


@pytest.mark.slow
def test_unreachable_hub_is_one_clear_line(tmp_path, command, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = str(ROOT / "config.hocon")
    result = command(
        "train", "--config", config, "--set", "training.dataset=wikitext", cwd=tmp_path
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "the Hugging Face hub cannot be reached; choose fables" in result.stderr
    assert not (tmp_path / "model").exists()
