import hashlib
import http.server
import math
import threading
import time

import pytest
from conftest import ROOT, TINY_SHAKESPEARE

from moe_tutorial import corpus
from moe_tutorial.corpus import load_corpus, ngram_losses, split_text, tiny_shakespeare

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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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


def test_own_file_is_read_byte_for_byte(tmp_path):
    (tmp_path / "own.txt").write_bytes("zwölf\r\nBoxkämpfer\r\n".encode())
    assert "".join(load_corpus(str(tmp_path / "own.txt"))) == "zwölf\r\nBoxkämpfer\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"caf\xe9", r"is not UTF-8 text \(byte 3\); save it as UTF-8")],
)
def test_bad_file_is_one_line(tmp_path, content, message):
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(str(tmp_path / "own.txt"))


@pytest.mark.parametrize("name", ["gone.txt", "./gone", "/gone/at/all", "~/gone.md"])
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


def test_good_download_is_kept_and_not_fetched_again(tmp_path, server, monkeypatch):
    good = hashlib.sha256(b"not the plays").hexdigest()
    monkeypatch.setattr(corpus, "TINY_SHAKESPEARE_SHA256", good)
    path = tiny_shakespeare(tmp_path / "new", server)
    assert path.read_bytes() == b"not the plays"
    assert [p.name for p in path.parent.iterdir()] == ["tiny_shakespeare.txt"]
    assert tiny_shakespeare(tmp_path / "new", "http://127.0.0.1:9/") == path


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


@pytest.mark.slow
def test_unreachable_hub_is_one_clear_line_within_seconds(tmp_path, command, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    started = time.monotonic()
    config = str(ROOT / "config.hocon")
    result = command(
        "train", "--config", config, "--set", "training.dataset=wikitext", cwd=tmp_path
    )
    assert time.monotonic() - started < 20  # most of it is importing torch and datasets
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "the Hugging Face hub cannot be reached; choose fables" in result.stderr
    assert not (tmp_path / "model").exists()


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


def test_symbol_never_seen_in_training_still_has_a_probability():
    assert math.isfinite(ngram_losses("aaaa", "b", 3)[2])


def test_counted_losses_on_the_fables():
    losses = ngram_losses(*load_corpus("fables"), 5)
    assert losses == pytest.approx([3.03, 2.21, 1.65, 1.34, 1.24], abs=0.01)


@needs_tiny_shakespeare
def test_counted_losses_on_tiny_shakespeare():
    losses = ngram_losses(*load_corpus("tiny_shakespeare", ROOT / "data"), 5)
    assert losses == pytest.approx([3.35, 2.49, 2.05, 1.77, 1.67], abs=0.01)
