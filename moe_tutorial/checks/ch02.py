"""Checks of the exercises of chapter 02."""

import torch
from torch import Tensor

from moe_tutorial.checks.base import NotAttempted, NotYet, StillBuggy, call, check, is_stub, refuse


@check
def check_symbols_by_count(answer: object) -> str:
    """Exercise 2.1: symbols_by_count(text) -> symbols, the most frequent first."""
    text = "to be or not to be"
    symbols = call(answer, text)
    if not isinstance(symbols, list):
        raise NotYet(f"return a list, not a {type(symbols).__name__}: its order gives the ids")
    if not all(isinstance(symbol, str) for symbol in symbols):
        raise NotYet("the list must hold characters only, without their counts")
    if sorted(symbols) != sorted(set(text)):
        raise NotYet(f"{len(set(text))} different characters, each once; yours: {symbols}")
    right = sorted(set(text), key=lambda char: (-text.count(char), char))
    counts = [text.count(symbol) for symbol in symbols]
    along = f"the counts along your list are {counts}"
    if symbols == sorted(symbols):
        raise NotYet("the symbols are in code point order, as before; sort by their counts")
    refuse(counts == sorted(counts), f"the rarest comes first; {along}")
    refuse(counts != sorted(counts, reverse=True), f"{along}; they must never grow")
    refuse(symbols != right, "the counts are in order, but ties are not: sort ties by code point")
    if call(answer, "cbabac") != ["a", "b", "c"]:
        raise NotYet("three characters with equal counts must come in code point order")
    symbols = call(answer, "abBA")
    refuse(set(symbols) != set("abBA"), "'A' and 'a' are two symbols; keep capitals as they are")
    if symbols != list("ABab"):
        raise NotYet("sort ties by the character itself: the code point of 'B' is before 'a'")
    refuse(call(answer, "aaAB") != list("aAB"), "'A' and 'a' are two symbols; count them apart")
    return "most frequent first, ties by code point, every symbol once"


@check
def check_load_tokenizer(answer: object) -> str:
    """Exercise 2.2: load_tokenizer(saved_symbols, text), which must not change the vocabulary."""
    saved = list("badce")  # in no order, as a saved vocabulary may be
    try:
        symbols = list(call(answer, list(saved), "deed").int_to_char)
    except NotYet:
        call(answer, list(saved), "badce")  # raises again if every text is refused
        raise NotYet(
            "it refuses 'deed'; a text that uses only some of the saved symbols is fine"
        ) from None
    if symbols != saved:
        ours, right = symbols.index("d"), saved.index("d")
        ids = f"the file says 'd' is {right}, the loaded tokenizer says {ours}"
        refuse(set(symbols) == set(saved), f"{ids}; keep the saved order, without sorting")
        raise StillBuggy(f"{ids}; a text must not change the saved vocabulary")
    for text in ("abcdef", "fabled", "vwxyz"):
        unknown = [char for char in text if char not in saved]
        try:
            symbols = answer(list(saved), text).int_to_char
        except ValueError as error:
            said = str(error)
            named = any(repr(char) in said or char in said.split() for char in unknown)
            refuse(not named, f"the error must name the unknown character {unknown[0]!r}")
            continue
        except Exception as error:
            kind = type(error).__name__
            raise NotYet(f"an unknown character must raise a ValueError, not a {kind}") from None
        if list(symbols) != saved:
            raise NotYet(f"the text {text!r} has changed the saved vocabulary to {symbols}")
        if len(set(text)) == len(saved):
            raise NotYet(f"{text!r} passes: as many symbols as saved, but not the same ones")
        raise NotYet(f"the text {text!r} passes, but {unknown[0]!r} is not in the saved vocabulary")
    return "the saved vocabulary stays, and a text with another character is refused"


@check
def check_byte_tokenizer(answer: object) -> str:
    """Exercise 2.3: a class with encode(text) -> ids of UTF-8 bytes and decode(ids) -> text."""
    names = ("encode", "decode") if callable(answer) else ()
    stubs = {name: is_stub(vars(answer).get(name)) for name in names}
    if stubs and all(stubs.values()):
        raise NotAttempted
    tokenizer = call(answer)
    for name in names:
        refuse(stubs[name], f"{name} is not written yet")
    text = "na\u00efve \u03a9\n"
    ids = call(tokenizer.encode, text)
    if not isinstance(ids, Tensor) or ids.dtype != torch.long:
        raise NotYet("encode must return a tensor with dtype torch.long")
    ours, right = ids.tolist(), list(text.encode("utf-8"))
    if ours == [ord(char) for char in text]:
        top = max(ours)
        raise NotYet(f"the id {top} is no byte: ord gives code points, text.encode gives bytes")
    refuse(ours != right, f"{text!r} has {len(right)} bytes, {right}; yours: {ours}")
    decoded = call(tokenizer.decode, torch.tensor(right))
    if decoded == "".join(map(chr, right)):
        raise NotYet("decode turns each byte into a character alone; two bytes may make one")
    refuse(decoded != text, f"decode(encode(text)) must be {text!r}; yours is {decoded!r}")
    if call(tokenizer.encode, "").dtype != torch.long:
        raise NotYet("the ids of an empty text must be torch.long too; give the dtype")
    try:
        half = tokenizer.decode(torch.tensor([97, 206]))
    except UnicodeDecodeError:
        raise NotYet("half a character raises an error in decode; use errors='replace'") from None
    refuse(half != "a\ufffd", f"half a character must decode to {chr(0xFFFD)!r}; yours: {half!r}")
    return "any text goes round, and half a character does not stop decode"
