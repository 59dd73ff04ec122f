import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.tokenizer import CharTokenizer


@given(st.text(min_size=1))
def test_decode_undoes_encode_for_any_text(text):
    tokenizer = CharTokenizer.fit(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_save_and_load_keep_every_symbol_even_lone_surrogates(text):
    import tempfile
    from pathlib import Path

    tokenizer = CharTokenizer.fit(text)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "vocab.txt")
        loaded = CharTokenizer.load(Path(folder) / "vocab.txt")
    assert loaded.int_to_char == tokenizer.int_to_char


def test_vocabulary_file_has_one_escaped_symbol_per_line(tmp_path):
    CharTokenizer(["\n", " ", "a", "\\", "é"]).save(tmp_path / "vocab.txt")
    assert (tmp_path / "vocab.txt").read_bytes() == b"\\n\n\\x20\na\n\\\\\n\\xe9\n"


def test_symbols_are_sorted_and_counted():
    tokenizer = CharTokenizer.fit("banana")
    assert tokenizer.int_to_char == ["a", "b", "n"]
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode("nab").tolist() == [2, 0, 1]


def test_unknown_character_is_named_with_its_position():
    with pytest.raises(ValueError, match=r"unknown character 'z' at position 2"):
        CharTokenizer.fit("abc").encode("abz")


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
    [([], "empty"), (["a", "a"], "2 entries but only 1"), (["ab"], "exactly one character")],
)
def test_bad_vocabulary_is_refused(symbols, reason):
    with pytest.raises(ValueError, match=reason):
        CharTokenizer(symbols)


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"a\na\n", b"\\xZZ\n"])
def test_damaged_vocabulary_file_is_named(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocab\.txt is not a vocabulary file"):
        CharTokenizer.load(tmp_path / "vocab.txt")
