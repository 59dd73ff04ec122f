"""The command line as its users meet it: real processes, real folders."""

import json
import re
import shutil
from io import StringIO

import pytest
import torch
from conftest import ROOT, TINY_RUN, TINY_SHAKESPEARE
from test_config import ORIGINAL

from moe_tutorial.command.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A fresh current folder with the default config.hocon."""
    shutil.copy(ROOT / "config.hocon", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def at_model(trained_folder, monkeypatch):
    monkeypatch.chdir(trained_folder)
    return trained_folder


def fails(capsys, code, *arguments):
    """Run a command that must fail with one line on stderr; return that line."""
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_training_prints_losses_baselines_and_a_sample(trained_folder):
    out = (trained_folder / "train.stdout").read_text()
    assert "passage: 542 characters to train on, 60 held out, 31 symbols" in out
    for name in ("this model, held-out text", "unigram counts", "interpolated 5-gram counts"):
        assert re.search(rf"^ +\d\.\d{{3}}  {name}", out, re.MULTILINE), name
    sample = out.split("a sample of it:\n\n")[1].split("\n\nmore: ")[0]
    assert len(sample) > 400


def test_run_folder_holds_everything(trained_folder):
    folder = trained_folder / "model"
    for name in ("config.hocon", "vocab.txt", "metrics.jsonl", "train.log", "history.png"):
        assert (folder / name).stat().st_size > 0, name
    latest = (folder / "checkpoints" / "latest").read_text().strip()
    for name in ("model.safetensors", "training_state.safetensors", "state.json"):
        assert (folder / "checkpoints" / latest / name).stat().st_size > 0, name


def test_metrics_have_one_json_object_per_step(trained_folder):
    lines = (trained_folder / "model" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    keys = {"epoch", "loss", "balance_loss", "learning_rate", "grad_norm", "tokens_per_second",
            "seconds", "expert_load", "validation_loss"}  # fmt: skip
    assert keys <= steps[0].keys()
    assert sum(steps[0]["expert_load"][0]) == pytest.approx(1, abs=1e-3)


def test_log_names_what_the_documents_promise(trained_folder):
    log = (trained_folder / "model" / "train.log").read_text()
    for part in (r"epoch \d", r"step 4 ", r"train \d\.\d+", r"validation \d\.\d+", "tokens/s",
                 "peak memory", "load max/mean", r"idle \d+", "layer 2: "):  # fmt: skip
        assert re.search(part, log), part


def test_history_is_a_picture(trained_folder):
    assert (trained_folder / "model" / "history.png").read_bytes()[:4] == b"\x89PNG"


def test_progress_is_plain_lines_when_redirected(trained_folder):
    out = (trained_folder / "train.stdout").read_text()
    assert "\r" not in out
    assert len(re.findall(r"^epoch .* validation", out, re.MULTILINE)) >= 1


def test_without_a_command_it_trains(here, capsys):
    assert main(["--set", *TINY_RUN, "training.max_steps=2"]) == 0
    assert (here / "model" / "checkpoints" / "latest").exists()


def test_a_second_training_moves_the_first_aside(here, capsys):
    small = ["train", "--set", *TINY_RUN, "training.max_steps=2"]
    assert main(small) == 0
    first = (here / "model" / "metrics.jsonl").read_bytes()
    assert main(small) == 0
    assert "the earlier run in model is now in model.old-1" in capsys.readouterr().out
    assert (here / "model.old-1" / "metrics.jsonl").read_bytes() == first


@pytest.mark.slow
def test_the_documents_configuration_trains_unchanged(here, capsys):
    """With its own 20 million parameters; on the passage for one step, to save time."""
    (here / "config.hocon").write_text(ORIGINAL)
    limits = ["training.dataset=passage", "training.max_steps=1"]
    assert main(["train", "--set", *limits]) == 0
    assert main(["generate", "--max-new-tokens", "3"]) == 0  # model_path is not there: output_dir


@pytest.mark.slow
@pytest.mark.skipif(not TINY_SHAKESPEARE.exists(), reason="put tiny_shakespeare.txt into data/")
def test_tiny_shakespeare_trains(here, capsys):
    config = str(ROOT / "configs" / "tiny_shakespeare.hocon")
    tiny = [item for item in TINY_RUN if "dataset" not in item]
    changes = [*tiny, f"training.data_dir={ROOT / 'data'}", "training.max_steps=3"]
    assert main(["train", "--config", config, "--set", *changes]) == 0
    assert "tiny_shakespeare: 1,003,855 characters" in capsys.readouterr().out


def test_one_completion_per_prompt(at_model, capsys):
    assert main(["generate", "--prompt", "The cat", "The dog", "--max-new-tokens", "5"]) == 0
    first, second = capsys.readouterr().out.split("\n\n")[:2]
    assert first.startswith("The cat")
    assert second.startswith("The dog")


def test_the_default_prompt_comes_from_the_run_folder(at_model, capsys):
    saved = json.loads((at_model / "model" / "config.hocon").read_text())["inference"]["prompt"]
    assert main(["generate", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith(saved)


def test_generate_needs_nothing_but_the_run_folder(at_model, tmp_path, monkeypatch, capsys):
    shutil.copytree(at_model / "model", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--model-path", "elsewhere", "--max-new-tokens", "5"]) == 0


def generated(capsys, *flags):
    assert main(["generate", "--prompt", "The", *flags]) == 0
    return capsys.readouterr().out


def test_every_flag_reaches_the_sampler(at_model, capsys):
    greedy = generated(capsys, "--temperature", "0", "--max-new-tokens", "30")
    assert len(greedy) == len("The") + 30 + 1
    assert generated(capsys, "--top-k", "1", "--max-new-tokens", "30", "--seed", "5") == greedy
    assert generated(capsys, "--top-p", "0.0001", "--max-new-tokens", "30") == greedy
    wild = [generated(capsys, "--temperature", "9", "--seed", str(s)) for s in (1, 1, 2)]
    assert wild[0] == wild[1]
    assert wild[0] != wild[2]


def test_verbose_shows_probability_rivals_and_experts(at_model, capsys):
    out = generated(capsys, "--verbose", "--max-new-tokens", "3", "--temperature", "1")
    lines = out.splitlines()
    assert lines[0] == "The"
    assert len(lines) == 1 + 3 + 1
    for line in lines[1:4]:
        form = r"'.+' +\d\.\d{3} \| rivals ('.+' \d\.\d{3} *){5}\| experts"
        form += r" layer 1: \d,\d  layer 2: \d,\d"
        assert re.fullmatch(form, line), line


@pytest.mark.slow
def test_stdin_takes_one_prompt_per_line_and_reports_bad_ones(command, trained_folder):
    result = command("generate", "--stdin", "--max-new-tokens", "4", cwd=trained_folder,
                     input="The cat\nZ\n\nThe dog\n")  # fmt: skip
    assert result.returncode == 2
    assert len(re.findall(r"^The (cat|dog).", result.stdout, re.MULTILINE)) == 2
    assert result.stderr.count("\n") == 2
    assert "error: line 2: unknown character 'Z' at position 0" in result.stderr
    assert "error: line 3: the prompt is empty" in result.stderr


@pytest.mark.slow
def test_interactive_session_is_that_of_the_documents(command, trained_folder):
    answers = ["The dog", "12", "0.85", "50", "0.9", "exit"]
    result = command("generate", "-i", cwd=trained_folder, input="\n".join(answers) + "\n")
    assert result.returncode == 0, result.stderr
    out = result.stdout
    questions = ["Starting interactive inference session. Type 'exit' to quit.", "Prompt: ",
                 "Max new tokens (default 400): ", "Temperature (default 0.6): ",
                 "Top-k (default None): ", "Top-p (default None): ", "Generating...",
                 "=== Generated Text ===\nThe dog", "=== New Completion ===\n"]  # fmt: skip
    positions = [out.index(question) for question in questions]
    assert positions == sorted(positions)
    assert re.search(r"\nStats: 19 total tokens, \d+\.\d\d tokens/sec\n", out)


def test_interactive_session_asks_again_after_a_bad_answer(at_model, monkeypatch, capsys):
    lines = ["", "Z", "The", "0", "many", "7", "-1", "0.5", "none", "2", "1"]
    monkeypatch.setattr("sys.stdin", StringIO("\n".join(lines) + "\n"))
    assert main(["generate", "-i"]) == 0
    printed = capsys.readouterr().out
    for message in ("the prompt is empty", "unknown character 'Z'", "max_new_tokens: ",
                    "'many' is not a number", "temperature: ", "top_p: "):  # fmt: skip
        assert message in printed, message
    assert "Stats: 10 total tokens" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "The Z"], "unknown character 'Z' at position 4"),
        (["--prompt", ""], "the prompt is empty; give the model at least one character"),
        (["--temperature", "-1"], "temperature: input should be greater than or equal to 0"),
        (["--top-p", "1.5"], "top_p: input should be less than or equal to 1"),
        (["--top-p", "0"], "top_p: input should be greater than 0"),
        (["--top-k", "0"], "top_k: input should be greater than 0"),
        (["--max-new-tokens", "0"], "max_new_tokens: input should be greater than 0"),
    ],
)
def test_wrong_use_of_generate_is_one_line(at_model, capsys, flags, message):
    assert message in fails(capsys, 2, "generate", *flags)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.dim=130", "dim=130 cannot be split into num_heads=4 heads of an even size"),
        ("model.dim=12", "as RoPE needs them; try num_heads=3"),
        ("model.top_k=9", "top_k=9 is not between 1 and num_experts=8"),
        ("training.seq_len=129", "training.seq_len=129 is longer than model.max_seq_len=128"),
        ("training.dataset=gone.txt", "no such file; choose fables"),
        ("training.sed=1", "unknown key training.sed; did you mean training.seed?"),
        ("device.type=cuda", "but PyTorch sees 0; set device.type=cpu"),
        ("device.num_processes=2", "device.num_processes=2 needs device.use_data_parallel=true"),
    ],
)
def test_wrong_use_of_train_is_one_line_and_leaves_no_folder(here, capsys, change, message):
    if "cuda" in change and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code = 1 if "gone" in change else 2
    assert message in fails(capsys, code, "train", "--set", "training.dataset=passage", change)
    assert not (here / "model").exists()


def test_corpus_shorter_than_a_window(here, capsys):
    (here / "short.txt").write_text("too short")
    line = fails(capsys, 2, "train", "--set", "training.dataset=short.txt")
    assert "8 characters, but one window of seq_len=128 and its target need 129" in line


def test_missing_configuration_file(here, capsys):
    assert "gone.hocon: no such file" in fails(capsys, 2, "train", "--config", "gone.hocon")


def test_missing_model(here, capsys):
    assert "model holds no trained model; train one" in fails(capsys, 1, "generate")


def test_output_folder_that_cannot_be_written(here, capsys):
    (here / "model").write_text("a file is in the way")
    assert "model" in fails(capsys, 1, "train", "--set", *TINY_RUN)


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(here, capsys):
    wild = [*TINY_RUN, "training.learning_rate=1e30", "training.grad_clip=1e30",
            "training.warmup_steps=0", "training.save_steps=1"]  # fmt: skip
    line = fails(capsys, 1, "train", "--set", *wild)
    assert re.search(
        r"step \d+: the loss is \S+ and the gradient norm \S+; lower training\.lear", line
    )
    assert "the last good checkpoint is in model" in line
    assert (here / "model" / "checkpoints" / "latest").exists()


def test_resume_refuses_another_architecture_or_corpus(here, capsys):
    assert main(["train", "--set", *TINY_RUN, "training.max_steps=2"]) == 0
    capsys.readouterr()
    for change, words in (
        ("model.num_experts=3", "cannot become"),
        ("training.dataset=fables", "has 31 symbols, but the corpus has 61"),
    ):
        assert words in fails(capsys, 2, "train", "--resume", "--set", change)


def test_resume_goes_on_where_the_run_ended_when_the_limit_is_raised(here, capsys):
    assert main(["train", "--set", *TINY_RUN, "training.max_steps=2"]) == 0
    assert main(["train", "--resume", "--set", "training.max_steps=4"]) == 0
    assert "resumed after step 2" in capsys.readouterr().out
    assert len((here / "model" / "metrics.jsonl").read_text().splitlines()) == 4


def test_export_and_import_bring_the_same_text_back(at_model, tmp_path, capsys):
    there, back = str(tmp_path / "hf"), str(tmp_path / "back")
    assert main(["export", "--to", there]) == 0
    assert f"saved in {there} as MixtralForCausalLM" in capsys.readouterr().out
    assert main(["import", "--from", there, "--to", back]) == 0
    assert f"generate --model-path {back}\n" in capsys.readouterr().out
    greedy = ("--temperature", "0", "--max-new-tokens", "30")
    assert generated(capsys, *greedy, "--model-path", back) == generated(capsys, *greedy)


def test_an_imported_model_has_nothing_to_resume(at_model, tmp_path, capsys):
    there, back = str(tmp_path / "hf"), str(tmp_path / "back")
    assert main(["export", "--to", there, "--model-path", "model"]) == 0
    assert main(["import", "--from", there, "--to", back]) == 0
    capsys.readouterr()
    line = fails(capsys, 1, "train", "--resume", "--set", f"paths.output_dir={back}")
    assert "was imported and has no training state to resume; generate with it, or train" in line


def test_wrong_use_of_export_and_import_is_one_line(at_model, tmp_path, capsys):
    new = str(tmp_path / "new")
    assert "no trained model" in fails(capsys, 1, "export", "--to", new, "--model-path", "gone")
    assert "model exists and is not empty" in fails(capsys, 2, "export", "--to", "model")
    line = fails(capsys, 1, "import", "--from", "gone", "--to", new)
    assert re.search(r"tokenizer\.json: cannot be read .*No such file", line)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(here):
    with pytest.raises(ValueError, match="an even size"):
        main(["train", "--debug", "--set", "model.dim=12"])
