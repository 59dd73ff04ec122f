import hashlib
import http.server
import math
import os
import sys
import threading
import types
import urllib.error
import urllib.request
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pytest
from conftest import ROOT, TINY_SHAKESPEARE

from moe_tutorial import corpus
from moe_tutorial.corpus import (
    VALIDATION_SHARE,
    Corpus,
    load_corpus,
    load_hugging_face,
    ngram_losses,
    read_text,
    split_text,
    tiny_shakespeare,
)

needs_tiny_shakespeare = pytest.mark.skipif(
    not TINY_SHAKESPEARE.exists(), reason="put tiny_shakespeare.txt into data/ to run this test"
)


@pytest.fixture
def server(tmp_path):
    """A local web server that answers every request with b"not the plays"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not the plays")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_built_in_corpora_are_what_the_documentation_says():
    fables = "".join(load_corpus("fables"))
    assert (len(fables), len(set(fables))) == (225_703, 61)
    assert len("".join(load_corpus("passage"))) == 602


def test_fables_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_corpus("fables").train


def test_text_is_split_once_and_nothing_is_lost():
    train, validation = split_text("abcdefghij" * 10)
    assert train + validation == "abcdefghij" * 10
    assert len(validation) == 10


@pytest.mark.parametrize(("length", "validation"), [(11, 1), (14, 1), (16, 2), (0, 0), (1, 0)])
def test_the_validation_part_is_a_tenth_rounded_to_whole_characters(length, validation):
    assert len(split_text("x" * length).validation) == validation
    assert VALIDATION_SHARE == 0.1


def test_another_share_can_be_held_out():
    assert split_text("abcdefgh", 0.25) == Corpus("abcdef", "gh")


@pytest.mark.parametrize("name", ["own.txt", "./own.txt", "~/own.txt", "own"])
def test_a_file_is_found_by_its_path_and_from_the_home(tmp_path, monkeypatch, name):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / Path(name).name).write_text("0123456789")
    assert load_corpus(name) == ("012345678", "9")


def test_a_folder_is_its_texts_by_name_each_ending_its_line(tmp_path):
    texts = {"b.txt": "B", "a/z.txt": "A\n", "c.txt": "C\r", "d.txt": "D\r\n", "e.md": "no"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    assert "".join(load_corpus(str(tmp_path))) == "A\nB\nC\rD\r\n"


def test_train_and_validation_alone_are_the_two_parts(tmp_path):
    (tmp_path / "train.txt").write_text("to learn")
    (tmp_path / "validation.txt").write_text("to ask")
    assert load_corpus(str(tmp_path)) == ("to learn", "to ask")
    (tmp_path / "more.txt").write_text("more")
    assert "".join(load_corpus(str(tmp_path))) == "more\nto learn\nto ask\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe' is neither a file nor a folder; choose fables"):
        load_corpus(str(tmp_path / "pipe"))


def test_a_byte_order_mark_is_left_out_aloud_and_only_at_the_beginning(tmp_path, capsys):
    (tmp_path / "own.txt").write_bytes("\ufeffa\ufeffb".encode())
    assert read_text(tmp_path / "own.txt") == "a\ufeffb"
    assert capsys.readouterr().err.endswith(
        "own.txt: the byte order mark at its beginning is left out\n"
    )
    (tmp_path / "own.txt").write_bytes(b"ab")
    assert (read_text(tmp_path / "own.txt"), capsys.readouterr().err) == ("ab", "")


def test_own_file_is_read_byte_for_byte(tmp_path):
    (tmp_path / "own.txt").write_bytes("zwölf\r\nBoxkämpfer\r\n".encode())
    assert "".join(load_corpus(str(tmp_path / "own.txt"))) == "zwölf\r\nBoxkämpfer\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ("\ufeff".encode(), "is empty"),
        (b"caf\xe9", r"is not UTF-8 text \(byte 3\); save it as UTF-8"),
    ],
)
def test_bad_file_is_one_line(tmp_path, content, message):
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(str(tmp_path / "own.txt"))


@pytest.mark.parametrize(
    "name", ["gone.txt", "gone.md", "./gone", "/gone/at/all", "~/gone", "~gone"]
)
def test_missing_file_lists_the_choices(name):
    with pytest.raises(FileNotFoundError, match="no such file; choose fables, passage"):
        load_corpus(name)


@needs_tiny_shakespeare
def test_tiny_shakespeare_put_there_by_hand_is_taken():
    train, validation = load_corpus("tiny_shakespeare", ROOT / "data")
    assert len(train) + len(validation) == 1_115_394
    assert len(set(train + validation)) == 65


def test_wrong_tiny_shakespeare_is_refused_but_a_hand_placed_file_is_kept(tmp_path):
    path = tmp_path / "tiny_shakespeare.txt"
    path.write_text("not the plays")
    with pytest.raises(ValueError, match="is not Tiny Shakespeare: its SHA-256 differs; remove it"):
        tiny_shakespeare(tmp_path)
    assert path.exists()


def test_download_with_a_wrong_checksum_is_refused_and_removed(tmp_path, server):
    with pytest.raises(ValueError, match="wrong SHA-256 and was not kept; put the file at"):
        tiny_shakespeare(tmp_path, server)
    assert list(tmp_path.iterdir()) == []


def test_a_good_download_is_kept_and_not_fetched_again(tmp_path, server, monkeypatch):
    good = hashlib.sha256(b"not the plays").hexdigest()
    monkeypatch.setattr(corpus, "TINY_SHAKESPEARE_SHA256", good)
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "not" / "yet"):
        path = tiny_shakespeare(folder, server)
        assert path.read_bytes() == b"not the plays"
        assert [p.name for p in folder.iterdir()] == ["tiny_shakespeare.txt"]
        assert tiny_shakespeare(folder, "http://127.0.0.1:9/") == path


def test_a_half_written_download_is_never_taken_for_the_text(tmp_path, server, monkeypatch):
    good = hashlib.sha256(b"not the plays").hexdigest()
    monkeypatch.setattr(corpus, "TINY_SHAKESPEARE_SHA256", good)
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda path, _: written.append(path.name))
    with pytest.raises(FileNotFoundError):
        tiny_shakespeare(tmp_path, server)
    assert written == [f"tiny_shakespeare.{os.getpid()}.part"]


def test_tiny_shakespeare_comes_from_its_author_into_the_folder_of_the_data(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        urllib.request,
        "urlopen",
        lambda url, timeout: asked.append((url, timeout)) or BytesIO(b"plays"),
    )
    monkeypatch.setattr(corpus, "TINY_SHAKESPEARE_SHA256", hashlib.sha256(b"plays").hexdigest())
    monkeypatch.chdir(tmp_path)
    assert "".join(load_corpus("tiny_shakespeare")) == "plays"
    assert (tmp_path / "data" / "tiny_shakespeare.txt").exists()
    assert "".join(load_corpus("tiny_shakespeare", tmp_path / "own")) == "plays"
    assert (tmp_path / "own" / "tiny_shakespeare.txt").exists()
    url = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    )
    assert asked == [(url, 20), (url, 20)]


def test_unreachable_download_says_where_to_put_the_file(tmp_path):
    with pytest.raises(ConnectionError, match=r"put the file at .*tiny_shakespeare\.txt by hand"):
        tiny_shakespeare(tmp_path, "http://127.0.0.1:9/")


@pytest.mark.parametrize("saved", ["save_to_disk", "text files", "train split only"])
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_dataset_on_disk(tmp_path, saved):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "rows"
    rows = {"text": ["one line", "two lines\n", ""] * 20}
    if saved == "save_to_disk":
        one = datasets.Dataset.from_dict(rows)
        datasets.DatasetDict({"train": one, "validation": one.select([0])}).save_to_disk(folder)
    elif saved == "train split only":
        datasets.Dataset.from_dict(rows).save_to_disk(folder)
    else:
        folder.mkdir()
        (folder / "train.txt").write_text("one line\ntwo lines\n\n" * 20)
        (folder / "validation.txt").write_text("one line\n")
    train, validation = load_corpus(str(folder), num_workers=1)
    if saved == "train split only":
        assert train + validation == "one line\ntwo lines\n\n" * 20
    else:
        assert (train, validation) == ("one line\ntwo lines\n\n" * 20, "one line\n")


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"words": ["a"]}, "no column named text, only words"), ({"text": [""]}, "is empty")],
)
@pytest.mark.filterwarnings("ignore")
def test_unusable_hugging_face_dataset_is_one_line(tmp_path, columns, message):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "rows")
    with pytest.raises(ValueError, match=message):
        load_corpus(str(tmp_path / "rows"))


class Rows(dict):
    """Columns of a dataset."""

    column_names = property(list)


class Datasets(types.ModuleType):
    """A stand-in for Hugging Face's library that notes what it is asked for."""

    def __init__(self, answer):
        super().__init__("datasets")
        self.answer, self.asked = answer, []

    def load_dataset(self, *arguments, **options):
        self.asked.append((*arguments, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def load_from_disk(self, name):
        return self.load_dataset("from disk", name)


@pytest.fixture
def pretend(monkeypatch):
    """Put the stand-in where `import datasets` finds it; the hub is reachable or not."""

    def put(answer, reachable=True):
        fake = Datasets(answer)
        monkeypatch.setitem(sys.modules, "datasets", fake)
        monkeypatch.setattr(corpus, "_hub_is_reachable", lambda: reachable)
        monkeypatch.setenv("HF_HUB_OFFLINE", "")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        return fake

    return put


@pytest.mark.parametrize(
    ("dataset", "num_workers", "asked"),
    [
        ("poems", 0, ("poems", None, {"num_proc": None})),
        ("poems:long", 3, ("poems", "long", {"num_proc": 3})),
        ("wikitext", 0, ("wikitext", "wikitext-2-raw-v1", {"num_proc": None})),
        ("wikitext:wikitext-103-v1", 0, ("wikitext", "wikitext-103-v1", {"num_proc": None})),
    ],
)
def test_a_name_on_the_hub_may_have_a_subset(
    pretend, tmp_path, monkeypatch, dataset, num_workers, asked
):
    fake = pretend({"train": Rows(text=["0123456789"] * 10)})
    monkeypatch.chdir(tmp_path)
    assert len(load_corpus(dataset, num_workers=num_workers).validation) == 11
    assert fake.asked == [asked]
    assert "HF_HUB_OFFLINE" not in os.environ


def test_no_processes_are_started_for_a_dataset_unless_asked_for(pretend, tmp_path, monkeypatch):
    fake = pretend({"train": Rows(text=["a"])})
    monkeypatch.chdir(tmp_path)
    load_corpus("poems")
    load_hugging_face("poems")
    assert fake.asked == [("poems", None, {"num_proc": None})] * 2


@pytest.mark.parametrize("file", ["dataset_dict.json", "state.json", "rows.arrow"])
def test_a_saved_dataset_is_loaded_as_it_was_saved(pretend, tmp_path, file):
    fake = pretend({"train": Rows(text=["a"]), "test": Rows(text=["b"])}, reachable=None)
    (tmp_path / file).write_text("")
    (tmp_path / "notes.txt").write_text("not the dataset")
    load_corpus(str(tmp_path), num_workers=2) if file == "rows.arrow" else load_hugging_face(
        str(tmp_path)
    )
    name = str(tmp_path)
    saved = ("from disk", name, {})
    assert fake.asked == [(name, None, {"num_proc": 2}) if file == "rows.arrow" else saved]
    assert "HF_HUB_OFFLINE" not in os.environ  # the hub is not needed


@pytest.mark.parametrize("setting", [None, "0"])
def test_without_the_hub_the_library_is_told_not_to_wait_for_it(pretend, monkeypatch, setting):
    pretend(ConnectionError("many\nlines"), reachable=False)
    if setting is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", setting)
    with pytest.raises(ConnectionError, match=r"poems.* hub cannot be reached; choose fables"):
        load_hugging_face("poems")
    assert os.environ["HF_HUB_OFFLINE"] == (setting or "1")


def test_what_the_library_says_over_many_lines_becomes_one_that_is_not_endless(pretend):
    pretend(RuntimeError("no\n  such " + "x" * 1000))
    with pytest.raises(ValueError, match=r"cannot be loaded: no such x{292}; choose fables"):
        load_hugging_face("poems")


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="python -m pip install datasets"):
        load_hugging_face(str(tmp_path))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"test": Rows(text=["a"]), "dev": Rows(text=["b"])}, "no train split, only test, dev"),
        ({"train": Rows(words=["a"], id=["b"])}, "no column named text, only words, id"),
        ({"train": Rows(text=[" ", "\n"])}, "'poems' is empty"),
        ({"train": Rows(text=["a"]), "validation": Rows(text=[])}, "'poems' is empty"),
    ],
)
def test_a_dataset_without_what_is_needed_is_one_line(pretend, answer, message):
    pretend(answer)
    with pytest.raises(ValueError, match=message):
        load_hugging_face("poems")


def test_rows_keep_their_spaces_and_end_in_one_line_end(pretend):
    rows = Rows(text=["  two spaces  ", "ends in X\n", "twice\n\n", "", "\ttab\t\r"])
    pretend({"train": rows, "validation": Rows(text=["v"])})
    text = "  two spaces  \nends in X\ntwice\n\n\ttab\t\r\n"
    assert load_hugging_face("poems") == Corpus(text, "v\n")


def test_a_dataset_without_splits_is_split(pretend):
    class Dataset:  # no dictionary of splits
        column_names = ("text",)

        def __getitem__(self, column):
            return ["0123456789"] * 10

    pretend(Dataset())
    assert load_hugging_face("poems") == split_text("0123456789\n" * 10)


@pytest.mark.parametrize(
    ("answer", "reachable"),
    [
        (BytesIO(b""), True),
        (urllib.error.HTTPError("", 404, "", None, None), True),
        (urllib.error.URLError("down"), False),
        (TimeoutError(), False),
        (ValueError("unknown url type"), False),
    ],
)
@pytest.mark.parametrize("endpoint", [None, "http://mirror"])
def test_the_hub_is_reachable_if_anything_answers(monkeypatch, answer, reachable, endpoint):
    asked = []

    def urlopen(url, timeout):
        asked.append((url, timeout))
        if isinstance(answer, Exception):
            raise answer
        return nullcontext(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    if endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert corpus._hub_is_reachable() is reachable
    assert asked == [(endpoint or "https://huggingface.co", 5)]


def test_unigram_loss_by_hand():
    # train "aab": n = 3, two kinds; p(a) = (2 + 2 * 1/2) / (3 + 2), p(b) = (1 + 1) / 5
    expected = -(math.log(3 / 5) + math.log(2 / 5)) / 2
    assert ngram_losses("aab", "ab", 1) == pytest.approx([expected])


def test_bigram_loss_by_hand():
    # "aab": after a came a and b, once each (2 kinds); after b nothing, so p falls back.
    p_a, p_b = 3 / 5, 2 / 5
    b_after_a = (1 + 2 * p_b) / (2 + 2)
    a_after_b = p_a
    expected = -(math.log(p_a) + math.log(b_after_a) + math.log(a_after_b)) / 3
    assert ngram_losses("aab", "aba", 2)[1] == pytest.approx(expected)


def loss_by_definition(train, validation, order):
    """Every probability from the formula, counted anew for every character."""
    symbols = set(train + validation)

    def probability(c, history, n):
        if n == 0:
            return 1 / len(symbols)
        lower = probability(c, history[1:], n - 1)
        if len(history) > n - 1:
            return lower
        starts = [i for i in range(len(train) - n + 1) if train.startswith(history, i)]
        after = [train[i + n - 1] for i in starts]
        kinds = len(set(after))
        return (after.count(c) + kinds * lower) / (len(after) + kinds) if after else lower

    logs = []
    for i, c in enumerate(validation):
        n = min(order, i + 1)
        logs.append(math.log(probability(c, validation[i - n + 1 : i], n)))
    return -sum(logs) / len(logs)


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("abracadabra", "abacab"),
        ("aabab" * 3, "babbaac"),
        ("ab", "a"),
        ("", "ab"),
        ("abc" * 5, "cba"),
    ],
)
def test_losses_equal_the_formula_counted_character_by_character(train, validation):
    expected = [loss_by_definition(train, validation, order) for order in range(1, 6)]
    assert ngram_losses(train, validation, 5) == pytest.approx(expected, rel=1e-12)


def test_any_characters_are_counted_even_half_ones():
    train, validation = "\U0001f414\ud800\x00" * 4, "\x00\U0001f414\U0001f414"
    plain = str.maketrans({"\U0001f414": "h", "\ud800": "d", "\x00": "z"})
    losses = ngram_losses(train.translate(plain), validation.translate(plain), 3)
    assert ngram_losses(train, validation, 3) == losses


def test_a_validation_text_without_characters_is_an_error():
    with pytest.raises(ValueError, match="the validation text is empty; use a longer corpus"):
        ngram_losses("abc", "", 2)


def test_symbol_never_seen_in_training_still_has_a_probability():
    assert math.isfinite(ngram_losses("aaaa", "b", 3)[2])


def test_counted_losses_on_the_fables():
    losses = ngram_losses(*load_corpus("fables"), 7)
    assert losses == pytest.approx([3.03, 2.21, 1.65, 1.34, 1.245, 1.251, 1.297], abs=0.005)


def test_best_order_grows_with_the_text_and_is_5_on_every_tenth_of_the_fables():
    train, validation = load_corpus("fables")
    parts = [train[: round(share * len(train))] for share in (0.003, 0.03, 0.3, 1)]
    assert [best_order(part, validation) for part in parts] == [3, 4, 5, 5]
    text = train + validation
    tenths = [text[i : i + 22_570] for i in range(0, 225_700, 22_570)]
    assert [best_order(text.replace(tenth, ""), tenth) for tenth in tenths] == [5] * 10


def best_order(train, validation):
    losses = ngram_losses(train, validation, 7)
    return 1 + losses.index(min(losses))


@needs_tiny_shakespeare
def test_counted_losses_on_tiny_shakespeare():
    losses = ngram_losses(*load_corpus("tiny_shakespeare", ROOT / "data"), 5)
    assert losses == pytest.approx([3.35, 2.49, 2.05, 1.77, 1.67], abs=0.01)
