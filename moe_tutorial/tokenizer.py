"""Characters to numbers and back. Chapter 02.

Shape letters: T characters, V symbols in the vocabulary.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor


class CharTokenizer:
    """One id per character, in the order of the vocabulary.

    encode: text -> ids (T,) int64; decode: ids -> text. decode(encode(text)) == text for every text
    over the vocabulary; no normalization is done. A character outside it is an error.
    Raises: ValueError if the vocabulary is empty, repeats a symbol or holds longer strings.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.int_to_char = list(symbols)
        self.char_to_int = {char: i for i, char in enumerate(self.int_to_char)}
        if not self.int_to_char:
            raise ValueError(
                "the vocabulary is empty; fit it on a text with at least one character"
            )
        if len(self.char_to_int) != len(self.int_to_char):
            raise ValueError(
                f"the vocabulary has {len(self.int_to_char)} entries but only "
                f"{len(self.char_to_int)} different symbols; every symbol may appear once"
            )
        if any(len(char) != 1 for char in self.int_to_char):
            raise ValueError("every symbol of the vocabulary must be exactly one character")

    @classmethod
    def fit(cls, text: str) -> Self:
        """The vocabulary of a text: its different characters, sorted by code point."""
        return cls(sorted(set(text)))

    @property
    def vocab_size(self) -> int:
        """V, always counted from the text, never typed in."""
        return len(self.int_to_char)

    def encode(self, text: str) -> Tensor:
        """Ids (T,) int64 of a text. Raises ValueError naming the first unknown character."""
        if not isinstance(text, str):
            raise TypeError(f"encode takes text, not {type(text).__name__}; bytes have .decode()")
        try:
            ids = [self.char_to_int[char] for char in text]
        except KeyError as error:
            char, advice = error.args[0], "leave it out or replace it"
            for form in ("NFC", "NFD"):  # two ways to write accents, which look the same
                if set(unicodedata.normalize(form, text)) <= self.char_to_int.keys():
                    advice = (
                        f"write it as unicodedata.normalize({form!r}, text), as the corpus does"
                    )
            raise ValueError(
                f"unknown character {char!r} at position {text.index(char)}: it is not one of the "
                f"{self.vocab_size} symbols of the vocabulary; {advice}"
            ) from None
        return torch.tensor(ids, dtype=torch.long)

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Text of ids (T,). Raises ValueError naming the first id outside 0 .. V-1."""
        if isinstance(ids, Tensor) and ids.ndim != 1:
            raise ValueError(f"ids {tuple(ids.shape)} are not one row (T,); decode row by row")
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is outside the vocabulary (0 to {self.vocab_size - 1})")
        return "".join(self.int_to_char[i] for i in ids)

    def save(self, path: str | Path) -> None:
        """Write one symbol per line; line number = id."""
        lines = [_escape(char) + "\n" for char in self.int_to_char]
        Path(path).write_text("".join(lines), encoding="ascii", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ValueError naming the file and the reason."""
        try:
            text = Path(path).read_bytes().decode("ascii")
            return cls([_unescape(line) for line in text.splitlines()])
        except ValueError as error:  # UnicodeDecodeError is one too
            raise ValueError(f"{path} is not a vocabulary file: {error}") from None


def _escape(char: str) -> str:
    # A bare space at the end of a line is what editors strip, so it is escaped as well.
    return "\\x20" if char == " " else char.encode("unicode_escape").decode("ascii")


def _unescape(line: str) -> str:
    return line.encode("ascii").decode("unicode_escape")
