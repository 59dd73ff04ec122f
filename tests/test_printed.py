"""What the lines say: every number computed a second way."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from moe_tutorial.balance import RouterHealth
from moe_tutorial.checkpoint import TrainedModel
from moe_tutorial.command import generation, log, progress, train
from moe_tutorial.command.generation import Writer, ask_settings, explain
from moe_tutorial.command.progress import Interrupt, progress_bar
from moe_tutorial.config import Config, ConfigError, InferenceConfig
from moe_tutorial.corpus import Corpus, ngram_losses
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import GeneratedToken, generate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import StepRecord

SYMBOLS = CharTokenizer("abcdefghijklm")


def record(step, loss=1.0, balance=1.0, speed=100.0, load=((0.5, 0.5),), validation=None):
    return StepRecord(
        step=step, epoch=step / 8, loss=loss, balance_loss=balance, learning_rate=step / 1000,
        grad_norm=9.0, tokens_per_second=speed, seconds=77.0, progress=step / 10,
        expert_load=torch.tensor(load), validation_loss=validation,
    )  # fmt: skip


RECORDS = [
    record(3, 1.0, 1.5, 1000.0, [[1.0, 0.0, 0.0], [0.5, 0.25, 0.25]]),
    record(4, 2.0, 2.5, 3000.0, [[0.4, 0.6, 0.0], [0.5, 0.25, 0.25]], validation=1.23456),
]


def test_a_short_line_has_the_means_since_the_last_and_ends_with_the_held_out_loss():
    assert log.short_line(RECORDS) == (
        "epoch 0.50 step 4 train 1.5000 validation 1.2346 2,000 tokens/s "
        "load max/mean 2.10 idle 1"  # layer 1: 0.7 of a mean of 1/3; its third expert
    )


def test_a_line_of_the_log_adds_balance_learning_rate_memory_and_every_expert(monkeypatch):
    monkeypatch.setattr(log, "_peak_memory", lambda: "7 MiB")
    assert log.log_line(RECORDS) == (
        log.short_line(RECORDS) + " balance 2.000 lr 4.00e-03 peak memory 7 MiB percent per "
        "expert: layer 1: 70 30 0 | layer 2: 50 25 25"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no module resource")
@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_peak_memory_is_in_mebibytes(monkeypatch, platform, unit):
    import resource

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=300 * unit))
    assert log._peak_memory() == "300 MiB"


def test_without_the_module_resource_the_memory_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert log._peak_memory() == "unknown"


def test_idle_experts_are_named_by_number_and_layer():
    idle = torch.tensor([[False, True, False], [True, False, True]])
    assert log.idle_line(700, idle).startswith(
        "step 700: expert 1 of layer 1, expert 0 of layer 2, expert 2 of layer 2 got no token for "
        "500 steps; a larger"
    )


def line(step, **fields):
    fields = {"loss": 1.0, "validation_loss": None, "expert_load": [], **fields}
    return json.dumps({"step": step, **fields}) + "\n"


@pytest.mark.parametrize(
    ("steps", "last", "kept"),
    [
        ([1, 2, 3], 2, [1, 2]),
        ([1, 2, 3], 3, [1, 2, 3]),
        ([1, 2, 3], 0, []),
        ([1, 2, 4, 5], 3, [1, 2]),
        ([], 5, []),
        ([1], 5, [1]),
    ],
)
def test_lines_after_the_last_checkpoint_are_cut(tmp_path, steps, last, kept):
    (tmp_path / "metrics.jsonl").write_text("".join(map(line, steps)))
    log.cut_metrics(tmp_path, last)
    assert [found["step"] for found in log.read_metrics(tmp_path)] == kept
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_half_a_line_is_cut_and_no_file_becomes_an_empty_one(tmp_path):
    log.cut_metrics(tmp_path, 3)
    assert log.read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(line(1) + line(2)[:-5])
    log.cut_metrics(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == line(1)


@pytest.mark.parametrize(
    "damaged", ["x\n", "3\n", "{}\n", '{"step": null}\n', '{"step": 1}\n', line(1)[:-2] + "\n"]
)
def test_a_damaged_line_before_the_checkpoint_is_an_error_after_it_is_not(tmp_path, damaged):
    (tmp_path / "metrics.jsonl").write_text(damaged + line(2))
    with pytest.raises(ValueError, match=r"metrics\.jsonl: damaged; mend it, or remove it"):
        log.cut_metrics(tmp_path, 2)
    (tmp_path / "metrics.jsonl").write_text(line(2) + damaged)
    log.cut_metrics(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == line(2)


def test_loads_in_metrics_have_four_digits_and_everything_else_is_kept():
    found = log.as_json(record(3, load=[[1 / 3, 2 / 3]], validation=1.23456789))
    assert found == {**record(3)._asdict(), "expert_load": [[0.3333, 0.6667]],
                     "validation_loss": 1.23456789}  # fmt: skip
    health = [RouterHealth(torch.ones(1), 0.0, 0, 1 / 3, 2.0)]
    with_entropies = log.as_json(record(3, load=[[1 / 3, 2 / 3]], validation=1.23456789), health)
    assert with_entropies == found | {"token_entropy": [0.3333], "mean_entropy": [2.0]}


# The progress of a training


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(progress, "describe", lambda run: "what is trained")
    return SimpleNamespace(notice="", state=SimpleNamespace(validation_loss=None))


MEASURED = [
    record(1, 1.0),
    record(2, 2.0, validation=5.0),
    record(3, 3.0),
    record(4, 5.0, validation=4.0),
]


def test_redirected_progress_is_a_line_per_measurement_over_the_steps_since_the_last(run, capsys):
    interrupt = Interrupt()
    assert list(progress_bar(iter(MEASURED), run, interrupt)) == MEASURED
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "what is trained"
    assert lines == [log.short_line(MEASURED[:2]), log.short_line(MEASURED[2:])]
    assert " train 1.5000 " in lines[0]
    assert " train 4.0000 " in lines[1]
    assert interrupt.signal is None


def test_on_a_terminal_a_bar_shows_step_loss_and_the_last_held_out_loss(run, monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    shown, updates = [], []

    class Bar(progress.tqdm):
        def set_description_str(self, desc=None, refresh=True):
            shown.append(desc)
            super().set_description_str(desc, refresh)

        def update(self, n=1):
            updates.append(n)
            return super().update(n)

    monkeypatch.setattr(progress, "tqdm", Bar)
    for found in progress_bar(iter(MEASURED), run, Interrupt()):
        run.state.validation_loss = found.validation_loss or run.state.validation_loss
    assert shown == ["step 1 loss 1.000", "step 2 loss 2.000", "step 3 loss 3.000 validation 5.000",
                     "step 4 loss 5.000 validation 5.000"]  # fmt: skip
    assert updates == [0, *[pytest.approx(0.1)] * 4]  # tenths of the whole
    assert capsys.readouterr().out == "what is trained\n"
    assert "0% |" in screen.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_notice_is_written_once_beside_the_bar(run, monkeypatch, capsys, terminal):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    for found in progress_bar(iter(MEASURED), run, Interrupt()):
        run.notice = "expert 3 is idle" if found.step >= 2 else ""
    out = capsys.readouterr().out
    assert (out.count("expert 3 is idle"), screen.getvalue().count("expert 3 is idle")) == (
        (0, 1) if terminal else (1, 0)
    )


@pytest.mark.parametrize(("before", "after"), [(None, progress.OUTPUT_LOST), (2, 2)])
def test_when_nobody_reads_the_lines_the_training_is_asked_to_stop(run, monkeypatch, before, after):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    interrupt = Interrupt()
    interrupt.signal = before
    assert list(progress_bar(iter(MEASURED), run, interrupt)) == MEASURED
    assert interrupt.signal == after


# The table at the end


class Folder:
    def __init__(self, tmp_path, losses, state):
        lines = (line(i, loss=loss) for i, loss in enumerate(losses, start=1))
        (tmp_path / "metrics.jsonl").write_text("".join(lines))
        self.folder, self.state = tmp_path, SimpleNamespace(**state)


def test_the_table_has_the_model_and_then_counting_each_with_its_loss(tmp_path):
    state = {"validation_loss": 2.5, "best_validation_loss": 2.25, "best_step": 70}
    run = Folder(tmp_path, [50.0] * 20 + [1.0] * 50 + [2.0] * 50, state)
    counted = {"unigram": 3.0, "bigram": 2.75}
    assert train.compare_losses(run, 2.5, counted).splitlines() == [
        "   1.500  this model, training text, last 100 steps",
        "   2.500  this model, held-out text",
        "   2.250  this model, held-out text, best step 70",
        "   3.000  unigram counts, held-out text",
        "   2.750  bigram counts, held-out text",
    ]
    lines = train.compare_losses(run, 2.125, counted).splitlines()  # 2.5 was of a sample
    assert lines[1] == "   2.125  this model, held-out text"
    assert lines[2] == "   2.250  this model, held-out text, a sample, best step 70"


def test_the_table_leaves_out_what_was_not_measured(tmp_path):
    run = Folder(tmp_path, [2.0, 4.0], {"validation_loss": None})
    lines = train.compare_losses(run, None, {}).splitlines()
    assert lines == ["   3.000  this model, training text, last 2 steps"]
    assert train.compare_losses(Folder(tmp_path, [], {}), None, {}) == ""


def test_counted_losses_are_those_of_one_two_and_five_characters():
    corpus = Corpus("abcabcabd" * 20, "abcabd" * 5)
    run = SimpleNamespace(corpus=corpus)
    losses = ngram_losses(*corpus, 5)
    wanted = {"unigram": losses[0], "bigram": losses[1], "interpolated 5-gram": losses[4]}
    assert train.baseline_losses(run) == wanted
    assert list(train.baseline_losses(run)) == list(wanted)


def test_a_long_text_is_measured_whole_and_counted_aloud(monkeypatch, capsys):
    ids, asked = torch.arange(60), []
    run = SimpleNamespace(
        state=SimpleNamespace(validation_loss=1.5, model="the model"), validation_ids=ids,
        config=Config(), corpus=Corpus("a" * 90, "b" * 10),
    )  # fmt: skip
    monkeypatch.setattr(train, "evaluate", lambda *a: (asked.append(a), 1.25)[1])
    monkeypatch.setattr(train, "baseline_losses", lambda run: {"unigram": 3.0})
    monkeypatch.setattr(train, "compare_losses", lambda run, whole, counted: f"{whole} {counted}")
    monkeypatch.setattr(train, "draw_history", lambda run, counted: f"drawn {counted}")
    assert train._finish(run) == "drawn {'unigram': 3.0}"
    assert capsys.readouterr().out == "1.5 {'unigram': 3.0}\n"
    monkeypatch.setattr(train, "sample_every", lambda number, settings: 1 + number // 60)
    monkeypatch.setattr(train, "LONG_TO_COUNT", 99)
    train._finish(run)
    assert capsys.readouterr().out == (
        "measuring all 60 held-out characters ...\ncounting 100 characters, for comparison ...\n"
        "1.25 {'unigram': 3.0}\n"
    )
    assert asked == [("the model", ids, 128)]
    monkeypatch.setattr(train, "LONG_TO_COUNT", 100)
    train._finish(run)
    assert "counting" not in capsys.readouterr().out


def test_the_picture_is_of_the_metrics_and_its_failure_is_said(tmp_path, monkeypatch):
    from moe_tutorial import plots

    asked = []

    class Figure:
        def savefig(self, path, dpi):
            asked.append((path, dpi))

    monkeypatch.setattr(plots, "history_figure", lambda *a: (asked.append(a), Figure())[1])
    run = Folder(tmp_path, [2.0, 4.0], {})
    assert train.draw_history(run, {"unigram": 3.0}) == "with its history drawn in history.png"
    records = log.read_metrics(tmp_path)
    assert asked == [(records, {"unigram": 3.0}), (tmp_path / "history.png", 100)]

    def fails(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "history_figure", fails)
    assert train.draw_history(run, {}) == "but history.png could not be drawn (no font)"
    none = "without a history, because no step is recorded in metrics.jsonl"
    assert train.draw_history(Folder(tmp_path, [], {}), {}) == none


# Generated text


def token(number, probs, experts=((0, 1), (2, 0))):
    return GeneratedToken(number, torch.tensor(probs), torch.tensor(experts))


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            token(2, [0.05, 0.2, 0.4, 0.1, 0.15, 0.04, 0.06]),
            "'c'    0.400 | rivals 'b' 0.200  'e' 0.150  'd' 0.100  'g' 0.060  'a' 0.050 "
            "| experts layer 1: 0,1  layer 2: 2,0",
        ),
        (
            token(0, [0.25, 0.0, 0.75], [[3]]),  # the best is a rival, what cannot come is none
            "'a'    0.250 | rivals 'c' 0.750 | experts layer 1: 3",
        ),
        (token(1, [0.0, 1.0], [[3]]), "'b'    1.000 | rivals none | experts layer 1: 3"),
    ],
)
def test_a_token_is_explained_by_its_probability_five_rivals_and_its_experts(found, line):
    assert explain(found, SYMBOLS) == line


@pytest.fixture
def writer():
    model = MoELanguageModel(TINY, 13).eval()
    return Writer(TrainedModel(model, SYMBOLS, Config()), torch.Generator().manual_seed(3))


def completion(writer, prompt, seed, **sampling):
    tokens = generate(writer.trained.model, SYMBOLS.encode(prompt),
                      generator=torch.Generator().manual_seed(seed), **sampling)  # fmt: skip
    return list(tokens)


def test_a_completion_prints_the_prompt_and_what_the_seed_draws(writer, capsys):
    sampling = {"max_new_tokens": 9, "temperature": 1.5, "top_k": 7, "top_p": 0.9}
    tokens = completion(writer, "abc", 3, **sampling)
    text = SYMBOLS.decode([each.token for each in tokens])
    assert writer.complete("abc", InferenceConfig(**sampling)) == text
    assert capsys.readouterr().out == f"abc{text}\n"
    writer.verbose, writer.generator = True, torch.Generator().manual_seed(3)
    writer.complete("abc", InferenceConfig(**sampling))
    lines = ["abc", *(explain(each, SYMBOLS) for each in tokens), ""]
    assert capsys.readouterr().out.split("\n") == [*lines, ""]


def test_two_completions_are_one_random_stream_and_an_empty_line_apart(writer, capsys):
    settings = InferenceConfig(max_new_tokens=5, temperature=2.0)
    texts = [writer.complete("a", settings), writer.complete("b", settings)]
    capsys.readouterr()
    writer.generator = torch.Generator().manual_seed(3)
    writer.complete_all(["a", "b"], settings)
    assert capsys.readouterr().out == f"a{texts[0]}\n\nb{texts[1]}\n"


def test_lines_keep_their_spaces_and_bad_ones_are_numbered(writer, monkeypatch, capsys):
    prompts = []

    def complete(prompt, settings):
        prompts.append(prompt)
        SYMBOLS.encode(prompt)

    monkeypatch.setattr(writer, "complete", complete)
    assert writer.complete_lines(["ab\r\n", "abc\n", "c"], InferenceConfig()) == 0
    assert capsys.readouterr().out == "\n\n\n"
    assert writer.complete_lines(["a\n", " a \n", "b\n"], InferenceConfig()) == 2
    assert prompts == ["ab", "abc", "c", "a", " a ", "b"]
    assert capsys.readouterr().err.startswith("error: line 2: unknown character ' ' at position 0")


def test_the_statistics_count_prompt_and_answer_and_time_the_answer_alone(
    writer, monkeypatch, capsys
):
    times = iter([10.0, 12.0])
    monkeypatch.setattr(generation, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    writer._answer("abcde", InferenceConfig(max_new_tokens=5))
    out = capsys.readouterr().out
    assert out.endswith("\nStats: 10 total tokens, 2.50 tokens/sec\n")
    new = out.split("=== Generated Text ===\nabcde")[1].split("\n")[0]
    assert f"\n=== New Completion ===\n{new}\n\nStats" in out


def test_answers_change_the_settings_and_empty_ones_keep_them(monkeypatch, capsys):
    asked, answers = [], iter(["7", "", " 3 ", "none"])
    monkeypatch.setattr(
        "builtins.input", lambda question: (asked.append(question), next(answers))[1]
    )
    before = InferenceConfig(max_new_tokens=9, temperature=0.5, top_k=None, top_p=0.25)
    assert ask_settings(before) == InferenceConfig(
        max_new_tokens=7, temperature=0.5, top_k=3, top_p=None
    )
    assert asked == ["Max new tokens (default 9): ", "Temperature (default 0.5): ",
                     "Top-k (default None): ", "Top-p (default 0.25): "]  # fmt: skip


@pytest.mark.parametrize(("seed", "wanted"), [(None, 11), (4, 4), (0, 0)])
def test_samples_are_seeded_by_the_flag_or_else_by_the_seed_of_the_training(
    monkeypatch, tmp_path, seed, wanted
):
    config = Config.model_validate(
        {"training": {"seed": 11}, "inference": {"top_k": 5, "temperature": 0.25}}
    )
    loaded = []
    trained = TrainedModel(MoELanguageModel(TINY, 13), SYMBOLS, config)
    monkeypatch.setattr(generation, "load_model", lambda *a: (loaded.append(a), trained)[1])
    writer, settings = generation.open_writer(tmp_path, {"temperature": 2.0}, seed, True)
    assert loaded == [(tmp_path,)]  # the best
    state = torch.Generator().manual_seed(wanted).get_state()
    assert torch.equal(writer.generator.get_state(), state)
    assert settings == InferenceConfig(top_k=5, temperature=2.0)
    assert (writer.trained, writer.verbose) == (trained, True)
    assert generation.open_writer(tmp_path)[0].verbose is False
    with pytest.raises(ConfigError, match="top_p: "):
        generation.open_writer(tmp_path, {"top_p": 2.0})
