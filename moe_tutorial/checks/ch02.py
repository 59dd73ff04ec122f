"""Checks of the exercises of chapter 02."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotAttempted, NotYet, StillBuggy, call, check, is_stub


@check
def check_symbols_by_count(answer: object) -> str:
    """Exercise 2.1: symbols_by_count(text) -> symbols, the most frequent first."""
    text = "to be or not to be"
    symbols = call(answer, text)
    if not isinstance(symbols, list):
        raise NotYet(f"return a list, not a {type(symbols).__name__}: its order gives the ids")
    if any(not isinstance(symbol, str) for symbol in symbols):
        raise NotYet("the list must hold characters only, without their counts")
    if sorted(symbols) != sorted(set(text)):
        raise NotYet(f"{len(set(text))} different characters, each once; yours: {symbols}")
    expected = sorted(set(text), key=lambda char: (-text.count(char), char))
    if symbols != expected:
        counts = [text.count(symbol) for symbol in symbols]
        if symbols == sorted(symbols):
            raise NotYet("the symbols are in code point order, as before; sort by their counts")
        if counts == sorted(counts):
            raise NotYet(f"the rarest comes first; the counts along your list are {counts}")
        if counts == sorted(counts, reverse=True):
            raise NotYet("the counts are in order, but ties are not: sort ties by code point")
        raise NotYet(f"the counts along your list are {counts}; they must never grow")
    if call(answer, "cbabac") != ["a", "b", "c"]:
        raise NotYet("three characters with equal counts must come in code point order")
    return "most frequent first, ties by code point, every symbol once"


@check
def check_load_tokenizer(answer: object) -> str:
    """Exercise 2.2: load_tokenizer(saved_symbols, text), which must not change the vocabulary."""
    saved = list("badce")  # in no order, as a saved vocabulary may be
    symbols = list(call(answer, list(saved), "deed").int_to_char)
    if symbols != saved:
        raise StillBuggy(
            f"the file says 'd' is {saved.index('d')}, the loaded tokenizer says "
            f"{symbols.index('d')}; a text must not change the saved vocabulary"
        )
    for text in ("abcdef", "bad fed", "vwxyz"):
        unknown = next(char for char in text if char not in saved)
        try:
            symbols = answer(list(saved), text).int_to_char
        except ValueError as error:
            if repr(unknown) not in str(error) and unknown not in str(error).split():
                raise NotYet(f"the error must name the unknown character {unknown!r}") from None
            continue
        except Exception as error:
            raise NotYet(
                f"an unknown character must raise a ValueError, not a {type(error).__name__}"
            ) from None
        if list(symbols) != saved:
            raise NotYet(f"the text {text!r} has changed the saved vocabulary to {symbols}")
        if len(set(text)) == len(saved):
            raise NotYet(f"{text!r} passes: as many symbols as saved, but not the same ones")
        raise NotYet(f"the text {text!r} passes, but {unknown!r} is not in the saved vocabulary")
    return "the saved vocabulary stays, and a text with another character is refused"


@check
def check_byte_tokenizer(answer: object) -> str:
    """Exercise 2.3: a class with encode(text) -> ids of UTF-8 bytes and decode(ids) -> text."""
    methods = [vars(answer).get(name) for name in ("encode", "decode")] if callable(answer) else []
    if methods and all(is_stub(method) for method in methods):
        raise NotAttempted
    tokenizer = call(answer)
    for name, method in zip(("encode", "decode"), methods, strict=False):
        if is_stub(method):
            raise NotYet(f"{name} is not written yet")
    text = "na\u00efve \u03a9\n"
    ids = call(tokenizer.encode, text)
    if not isinstance(ids, Tensor) or ids.dtype != torch.long:
        raise NotYet("encode must return a tensor with dtype torch.long")
    expected = list(text.encode("utf-8"))
    if ids.tolist() == [ord(char) for char in text]:
        raise NotYet(
            f"the id {int(ids.max())} is no byte: ord gives code points, text.encode gives bytes"
        )
    if ids.tolist() != expected:
        raise NotYet(f"{text!r} has {len(expected)} bytes, {expected}; yours: {ids.tolist()}")
    decoded = call(tokenizer.decode, torch.tensor(expected))
    if decoded == "".join(chr(byte) for byte in expected):
        raise NotYet("decode turns each byte into a character alone; two bytes may make one")
    if decoded != text:
        raise NotYet(f"decode(encode(text)) must be {text!r}; yours is {decoded!r}")
    if call(tokenizer.encode, "").dtype != torch.long:
        raise NotYet("the ids of an empty text must be torch.long too; give the dtype")
    try:
        half = tokenizer.decode(torch.tensor([97, 206]))
    except UnicodeDecodeError:
        raise NotYet("half a character raises an error in decode; use errors='replace'") from None
    if half != "a\ufffd":
        raise NotYet(f"half a character must decode to {chr(0xFFFD)!r}; yours: {half!r}")
    return "any text goes round, and half a character does not stop decode"
