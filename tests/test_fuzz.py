"""Whatever is typed, downloaded or drawn by chance: it works, or one line says why not."""

import contextlib
import io
import json
import math
import re
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_RUN
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moe_tutorial.batching import check_length, random_batch
from moe_tutorial.checkpoint import load_model
from moe_tutorial.command.cli import main
from moe_tutorial.command.hocon import change_config, load_config
from moe_tutorial.config import Config, ConfigError, dump_config, load_snapshot
from moe_tutorial.corpus import load_corpus
from moe_tutorial.plots import colored_html
from moe_tutorial.sampling import next_token_probs
from moe_tutorial.tokenizer import CharTokenizer

pytestmark = pytest.mark.slow

# Text: every code point, surrogates too, and pieces that are known to go wrong.
ANY_CHARACTER = st.characters(exclude_categories=[])
AWKWARD = st.sampled_from(
    ["\r\n", "\r", "\0", "\ufeff", "\u2028", "\x85", "e\u0301", "\u05d0\u202e", "\u200d",
     "\U0001f469\u200d\U0001f52c", "\ud800", "\udfff", "\\n", "\\x41", " ", "\x1b[2J"]
)  # fmt: skip
TEXTS = st.lists(st.text(ANY_CHARACTER, max_size=20) | AWKWARD, max_size=20).map("".join)


def corpus_of(content: bytes):
    """The corpus of a file with this content, or None and the line that refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.txt"
        path.write_bytes(content)
        try:
            return load_corpus(str(path)), ""
        except ValueError as error:
            line = str(error)
            assert line.startswith(f"{path} is ")
            assert "\n" not in line
            return None, line


def same_after_the_tokenizer(text: str) -> None:
    tokenizer = CharTokenizer.fit(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "vocab.txt")
        again = CharTokenizer.load(Path(folder) / "vocab.txt")
    assert again.decode(tokenizer.encode(text)) == text


@given(TEXTS.filter(bool))
@settings(max_examples=300)
@example("\ufeff\r\n\0")
@example("\n" * 1000)
@example("a")
def test_no_text_is_normalized_by_tokenizer_or_vocabulary_file(text):
    same_after_the_tokenizer(text)


@given(TEXTS)
@settings(max_examples=300)
@example("")
@example("\ufeffa\r\nb\rc\x85d\u2028e")
def test_a_corpus_is_its_file_character_by_character_or_refused(text):
    """No normalization: line ends and combining marks stay; a byte order mark goes, said aloud."""
    content = text.encode("utf-8", errors="surrogatepass")
    corpus, line = corpus_of(content)
    text = text.removeprefix("\ufeff")
    if corpus is not None:
        assert "".join(corpus) == text
        ids = CharTokenizer.fit(text).encode(corpus.train)
        if len(ids) < 9:
            with pytest.raises(ValueError, match="characters, but one window"):
                check_length(ids, 8)
        else:
            x, y = random_batch(ids, 2, 8, torch.Generator().manual_seed(0))
            assert torch.equal(x[:, 1:], y[:, :-1])
    elif text:
        assert any("\ud800" <= char <= "\udfff" for char in text)
        assert "is not UTF-8 text (byte " in line
    else:
        assert "is empty" in line


@given(TEXTS | st.text(ANY_CHARACTER, min_size=1, max_size=1).map(lambda char: char * 200))
@settings(max_examples=15)
@example("")
@example("a")
@example("\n" * 1000)
@example("\u05d0\u0301\u200d\r\n" * 40)
def test_any_text_is_trained_on_and_written_by_the_model_or_refused_in_one_line(text):
    """The whole command: training, saving, loading again, and a sample at the end."""
    out, errors = io.StringIO(), io.StringIO()
    tiny = ["model.dim=8", "model.num_layers=1", "model.num_heads=2", "model.hidden_dim=8",
            "model.max_seq_len=8", "training.seq_len=8", "training.max_steps=2",
            "inference.max_new_tokens=5", "training.dataset=own.txt"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("own.txt").write_bytes(text.encode("utf-8", errors="surrogatepass"))
        Path("config.hocon").write_text((ROOT / "config.hocon").read_text(), newline="\n")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(["train", "--set", *TINY_RUN, *tiny])
        if code == 0:
            assert load_model("model").tokenizer.vocab_size == len(set(text))
        else:
            (line,) = errors.getvalue().splitlines()
            assert line.startswith("error: ")
            assert re.search("is empty|is not UTF-8 text|characters, but", line)


@given(st.binary(max_size=200))
@settings(max_examples=300)
@example(b"\x89PNG\r\n\x1a\n")
@example("caf\xe9".encode("utf-16"))
def test_binary_files_are_text_or_refused(content):
    corpus, line = corpus_of(content)
    if corpus is not None:
        assert "".join(corpus).encode() == content
    else:
        assert "is not UTF-8 text (byte " in line or not content


def test_one_line_of_five_million_characters_is_a_corpus():
    text = "no line break " * 360_000
    corpus, _ = corpus_of(text.encode())
    assert "".join(corpus) == text
    tokenizer = CharTokenizer.fit(text)
    assert tokenizer.decode(tokenizer.encode(corpus.validation)) == text[-504_000:]


# Configuration: HOCON that a person, or a cat on the keyboard, may have typed.
KEYS = [
    f"{section}.{key}"
    for section, field in Config.model_fields.items()
    for key in field.annotation.model_fields
]
VALUES = st.one_of(
    st.sampled_from(
        ["null", "true", "-1", "0", "1e999", "-0.0", "NaN", "Infinity", "1_000", "0x10", "1e3",
         "[]", "{}", "[1, null]", '""', '"${HOME}"', "${HOME}", "${?nowhere}", "10 seconds", "5 ",
         '"""a\nb"""', "1" * 400, "a = b", "[" * 50, "include", "${paths.output_dir}", "'x'",
         "\ufeff1", "\\", '"', "//", "# c", "\u00a05", "+5", "1,2", "1\n2", "0 days", "$", "}"]
    ),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(ANY_CHARACTER, max_size=12),
)  # fmt: skip
LINES = st.one_of(
    st.tuples(st.sampled_from(KEYS), st.sampled_from([" = ", ":", " +="]), VALUES).map("".join),
    st.tuples(st.sampled_from(list(Config.model_fields)), VALUES).map(" ".join),
    st.text("{}[]=:,.$#\"\\'\n ab1-+?\t\0", max_size=12),
    st.sampled_from(['include "gone"', "include", 'include url("http://127.0.0.1:9")', "model {",
                     "}", 'include required("gone")', 'include file("/dev")', "a.b.c = 1",
                     "model = [1]", "model.dim.x = 1", '"model.dim" = 3', "model = ${model}",
                     'include "my.hocon"', "x = ${y}\ny = ${x}", "model = ${?paths} {dim = 1}"]),
)  # fmt: skip


def one_line(error: ConfigError, *names: str) -> None:
    line = str(error)
    assert "\n" not in line
    assert "\r" not in line
    assert len(line) < 1500
    assert any(name in line for name in names), (line, names)


@given(st.lists(LINES, min_size=1, max_size=4).map("\n".join))
@settings(max_examples=150)
@example('model.dim = "a\\nb"')
@example("model.dim = 5 ")
def test_any_hocon_is_a_configuration_or_one_line_with_the_file(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.hocon"
        path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        try:
            config = load_config(path)
        except ConfigError as error:
            one_line(error, "my.hocon: ")
        else:
            path.write_text(dump_config(config), encoding="utf-8")
            assert load_snapshot(path) == config


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    path = tmp_path_factory.mktemp("bare") / "bare.hocon"
    path.write_text("paths { output_dir = a }")
    return path


@given(st.sampled_from(KEYS), VALUES)
@settings(max_examples=150)
def test_any_value_of_set_is_taken_or_refused_with_the_path_of_its_key(bare, key, value):
    try:
        config = load_config(bare, [f"{key}={value}"])
    except ConfigError as error:
        one_line(error, key, "training.seq_len")
    else:
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        assert not isinstance(value, float) or math.isfinite(value)


@given(st.text(ANY_CHARACTER, max_size=30))
@settings(max_examples=200)
@example("model=1")
@example("model.dim")
def test_any_text_after_set_is_answered(bare, item):
    try:
        load_config(bare, [item])
    except ConfigError as error:
        one_line(error, "bare.hocon: ", "is not of the form section.key=value")


@given(TEXTS.map(lambda text: re.sub("[\ud800-\udfff]", "", text)).filter(str.strip))
@settings(max_examples=30)
@example("Th\u00e9 \\u0041 \\b\b\f/\\/ \x00\x7f C:\\users\\new \\")
def test_every_text_reaches_its_key_by_set_by_file_and_by_snapshot(bare, text):
    with contextlib.suppress(ValueError):  # what is JSON is not meant as text
        json.loads(text.strip())
        text = f"- {text}"
    quoted, plain = json.dumps(text), json.dumps(text, ensure_ascii=False)
    ways = {"as it is": text.strip(), "quoted": quoted, "in plain quotes": plain}
    for way, value in ways.items():
        found = load_config(bare, [f"inference.prompt={value}"]).inference.prompt
        assert found == (text.strip() if way == "as it is" else text), way
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.hocon"
        path.write_text(f"inference {{ prompt = {quoted} }}", encoding="utf-8", newline="")
        config = load_config(path)
        assert config.inference.prompt == text
        path.write_text(dump_config(config), encoding="utf-8", newline="")
        changed = change_config(load_snapshot(path), ["training.seed=3"], "here")
        assert changed.inference.prompt == text


def test_includes_that_go_in_circles_are_one_line(tmp_path):
    (tmp_path / "a.hocon").write_text('include "b.hocon"')
    (tmp_path / "b.hocon").write_text('include "a.hocon"')
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.hocon")
    one_line(caught.value, "a.hocon: ")


# Sampling.
NUMBERS = st.one_of(
    st.floats(-100, 100, width=32),
    st.sampled_from([0.0, 1.0, -math.inf, -math.inf, 3e38, -3e38, 1e-45]),
)
LOGITS = (
    st.lists(NUMBERS, min_size=1, max_size=40)
    .map(torch.tensor)
    .filter(lambda logits: logits.isfinite().any())
)
TEMPERATURES = st.sampled_from([0.0, 1e-30, 1e-9, 0.5, 1.0, 2.0, 1e30]) | st.floats(1e-30, 1e6)
TOP_KS = st.none() | st.integers(1, 45)
TOP_PS = st.none() | st.sampled_from([1e-30, 1e-9, 0.5, 1 - 1e-9, 1.0]) | st.floats(1e-6, 1)


@given(LOGITS, TEMPERATURES, TOP_KS, TOP_PS)
@settings(max_examples=500)
@example(torch.tensor([0.0, 1e-45]), 1e-30, None, 1e-30)  # a tie once they are probabilities
def test_probabilities_sum_to_1_and_forbidden_characters_stay_forbidden(logits, t, top_k, top_p):
    probs = next_token_probs(logits, t, top_k, top_p)
    assert probs.isfinite().all()
    assert (probs >= 0).all()
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.count_nonzero(probs) <= (top_k or len(probs))
    assert (probs[logits == -math.inf] == 0).all()
    kept = probs > 0
    assert kept.any()
    if not kept.all():  # what is kept is never less probable than what is dropped
        before = next_token_probs(logits, t)
        assert before[kept].min() >= before[~kept].max()


@given(LOGITS, st.floats(0.1, 10), TOP_KS)
@settings(max_examples=300)
def test_top_k_keeps_exactly_the_k_best_that_are_possible(logits, t, top_k):
    before, after = next_token_probs(logits, t), next_token_probs(logits, t, top_k)
    possible = int(torch.count_nonzero(before))
    assert torch.count_nonzero(after) == min(top_k or len(logits), possible)
    kept = after > 0
    torch.testing.assert_close(after[kept], before[kept] / before[kept].sum())


@given(LOGITS, st.floats(0.1, 10), st.floats(0.001, 1, exclude_max=True))
@settings(max_examples=300)
def test_top_p_keeps_exactly_the_smallest_set_that_reaches_p(logits, t, top_p):
    logits = logits.double()
    before, after = next_token_probs(logits, t), next_token_probs(logits, t, top_p=top_p)
    best = before.sort(descending=True).values
    reached = best.cumsum(0)
    wanted = int((reached < top_p).sum()) + 1
    close = (reached - top_p).abs().min() < 1e-9  # the sum itself is rounded
    assert close or torch.count_nonzero(after) == min(wanted, int(torch.count_nonzero(before)))
    kept = after > 0
    torch.testing.assert_close(after[kept], before[kept] / before[kept].sum())


@given(LOGITS, st.floats(0.05, 5), st.floats(1.01, 10))
@settings(max_examples=300)
def test_a_higher_temperature_flattens(logits, t, factor):
    """As chapter 09 states: it changes no order, lowers the best and raises the entropy."""
    cold, hot = (next_token_probs(logits.double(), x) for x in (t, t * factor))
    best, worst = logits.argmax(), torch.where(logits.isfinite(), logits, math.inf).argmin()
    assert hot[best] <= cold[best] + 1e-12
    assert hot[worst] >= cold[worst] - 1e-12
    assert entropy(hot) >= entropy(cold) - 1e-9
    order = logits.argsort(descending=True)
    for probs in (cold, hot):
        assert (probs[order].diff() <= 1e-12).all()


def entropy(probs):
    return -(probs[probs > 0] * probs[probs > 0].log()).sum()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error_and_never_drawn_from(bad, t):
    with pytest.raises(ValueError, match="logits"):
        next_token_probs(torch.tensor([0.0, bad]), t)
    with pytest.raises(ValueError, match="logits"):
        next_token_probs(torch.tensor([-math.inf, -math.inf]), t)


@pytest.mark.parametrize("settings", [{"temperature": 1e-300}, {"temperature": 1e300},
                                      {"top_p": 1e-300}])  # fmt: skip
def test_settings_that_float32_rounds_to_0_or_infinity_are_refused(settings):
    with pytest.raises(ValueError, match=r"^(temperature|top_p)=1e.300 must be "):
        next_token_probs(torch.tensor([0.0, -math.inf]), **settings)


# Pages.
@given(st.text(ANY_CHARACTER, max_size=20), st.text(ANY_CHARACTER, max_size=20))
@example("<script>alert('x')</script>", '"><img src=x onerror="alert(1)">')
@example("&lt;&amp;\x00", "</b><!--")
def test_colored_html_holds_the_text_and_no_tag_of_its_own(text, before):
    from html.parser import HTMLParser

    found = {"tags": set(), "attributes": set(), "text": ""}

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found["tags"].add(tag)
            found["attributes"] |= {name for name, _ in attributes}

        def handle_data(self, data):
            found["text"] += data

        def handle_comment(self, data):
            raise AssertionError(data)

        handle_decl = handle_pi = unknown_decl = handle_comment

    parser = Parser(convert_charrefs=True)
    tips = [f"tip {char}" for char in text]
    parser.feed(colored_html(text, [0] * len(text), tips, num_experts=2, before=before))
    parser.close()
    assert found["tags"] <= {"div", "span", "b", "br"}
    assert found["attributes"] <= {"style", "title"}
    assert found["text"].startswith(before)
    assert text.replace("\n", "\u21b5") in found["text"]


def test_config_of_the_course_survives_a_round_trip_through_its_dump(tmp_path):
    config = load_config(ROOT / "config.hocon")
    (tmp_path / "config.hocon").write_text(dump_config(config))
    changed = change_config(load_snapshot(tmp_path / "config.hocon"), ["training.seed=3"], "here")
    assert changed.training.seed == 3
