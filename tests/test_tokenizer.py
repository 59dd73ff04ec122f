import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.tokenizer import CharTokenizer


@given(st.text(min_size=1))
def test_decode_undoes_encode_for_any_text(text):
    tokenizer = CharTokenizer.fit(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_save_and_load_keep_every_symbol_even_lone_surrogates(text):
    tokenizer = CharTokenizer.fit(text)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "vocab.txt")
        loaded = CharTokenizer.load(Path(folder) / "vocab.txt")
    assert loaded.int_to_char == tokenizer.int_to_char


@pytest.fixture(params=["here", "elsewhere"])
def system(request, monkeypatch):
    """A system, and one with other line ends and another encoding unless a program names them."""
    real = Path.open

    def elsewhere(path, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        if "b" not in mode:
            encoding = "utf-16" if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None else newline
        return real(path, mode, buffering, encoding, errors, newline)

    if request.param == "elsewhere":
        monkeypatch.setattr(Path, "open", elsewhere)


@pytest.mark.usefixtures("system")
def test_vocabulary_file_has_one_escaped_symbol_per_line(tmp_path):
    CharTokenizer(["\n", " ", "a", "\\", "é"]).save(tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == b"\\n\n\\x20\na\n\\\\\n\\xe9\n"


def test_symbols_are_sorted_and_counted():
    tokenizer = CharTokenizer.fit("banana")
    assert tokenizer.int_to_char == ["a", "b", "n"]
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode("nab").tolist() == [2, 0, 1]


def test_the_order_of_a_given_vocabulary_is_kept():
    assert CharTokenizer("cab").encode("abc").tolist() == [1, 2, 0]
    assert CharTokenizer(("c", "a")).int_to_char == ["c", "a"]
    assert CharTokenizer.fit("\u00e9a\U0001f414Z").int_to_char == ["Z", "a", "\u00e9", "\U0001f414"]


def test_ids_are_one_row_of_int64_even_without_a_character():
    for text in ("", "a", "aa"):
        ids = CharTokenizer(["a"]).encode(text)
        assert (ids.shape, ids.dtype) == ((len(text),), torch.int64)
    assert CharTokenizer(["a"]).decode(ids[:0]) == ""


def test_ids_may_be_a_tensor_a_list_or_come_one_by_one():
    tokenizer = CharTokenizer.fit("abc")
    for ids in (torch.tensor([2, 0]), [2, 0], (2, 0), iter([2, 0])):
        assert tokenizer.decode(ids) == "ca"


def test_the_first_unknown_character_is_named_with_its_position():
    message = (
        r"unknown character 'z' at position 2: it is not one of the 3 symbols of the "
        r"vocabulary; leave it out or replace it$"
    )
    with pytest.raises(ValueError, match=message):
        CharTokenizer.fit("abc").encode("abzaz?")


@pytest.mark.parametrize(
    ("known", "text", "form"), [("\u00e9", "e\u0301", "NFC"), ("e\u0301", "\u00e9", "NFD")]
)
def test_accents_in_the_other_form_are_named(known, text, form):
    with pytest.raises(ValueError, match=rf"write it as unicodedata.normalize\('{form}', text\)"):
        CharTokenizer.fit(known + "ab").encode(f"ab{text}")


def test_a_batch_of_ids_and_bytes_are_errors():
    tokenizer = CharTokenizer.fit("abc")
    with pytest.raises(ValueError, match=r"ids \(1, 2\) are not one row"):
        tokenizer.decode(tokenizer.encode("ab")[None])
    with pytest.raises(TypeError, match="encode takes text, not bytes"):
        tokenizer.encode(b"ab")


@pytest.mark.parametrize("bad", [-1, 3])
def test_id_outside_the_vocabulary_is_an_error(bad):
    with pytest.raises(ValueError, match=rf"id {bad} is outside the vocabulary \(0 to 2\)"):
        CharTokenizer.fit("abc").decode([0, bad])


@pytest.mark.parametrize(
    ("symbols", "reason"),
    [
        ([], "empty"),
        (["a", "b", "a"], "3 entries but only 2"),
        (["a", "bc"], "exactly one character"),
        (["a", ""], "exactly one character"),
    ],
)
def test_bad_vocabulary_is_refused(symbols, reason):
    with pytest.raises(ValueError, match=reason):
        CharTokenizer(symbols)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_vocabulary_file_may_have_the_line_ends_of_windows_or_lack_the_last(tmp_path, end):
    (tmp_path / "vocab.txt").write_bytes(b"\\n" + (end or b"\n") + b"\\xe9" + end)
    assert CharTokenizer.load(tmp_path / "vocab.txt").int_to_char == ["\n", "\u00e9"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the vocabulary is empty"),
        (b"\xff\n", "'ascii' codec can't decode byte 0xff"),
        (b"a\na\n", "2 entries but only 1"),
        (b"\\xZZ\n", "truncated"),
    ],
)
def test_damaged_vocabulary_file_is_named(tmp_path, content, reason):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"vocab\.txt is not a vocabulary file: .*{reason}"):
        CharTokenizer.load(tmp_path / "vocab.txt")
