"""Plausible wrong answers of chapter 02, and what the check says about each."""

WRONG = {
    "ch02-exercise-1": [
        (
            """
def symbols_by_count(text):
    return sorted(set(text), key=text.count)
""",
            "the rarest comes first",
        ),
        (
            """
def symbols_by_count(text):
    return sorted(set(text))
""",
            "in code point order, as before",
        ),
        (
            """
def symbols_by_count(text):
    return sorted(sorted(set(text), reverse=True), key=text.count, reverse=True)
""",
            "ties are not",
        ),
        (
            """
from collections import Counter
def symbols_by_count(text):
    return Counter(text).most_common()
""",
            "without their counts",
        ),
        (
            """
def symbols_by_count(text):
    return sorted(text, key=lambda char: (-text.count(char), char))
""",
            "each once",
        ),
        (
            """
def symbols_by_count(text):
    return set(text)
""",
            "return a list, not a set",
        ),
        (
            """
def symbols_by_count(text):
    symbols = sorted(set(text), key=text.count)
    symbols.reverse()
""",
            "it returns None; is there a return?",
        ),
        (
            """
def symbols_by_count(text):
    return sorted(set(text), key=lambda char: (-text.count(char), char.lower()))
""",
            "the code point of 'B' is before 'a'",
        ),
        (
            """
def symbols_by_count(text):
    return sorted(set(text.lower()), key=lambda char: (-text.count(char), char))
""",
            "keep capitals as they are",
        ),
        (
            """
def symbols_by_count(text):
    return sorted(set(text), key=lambda char: (-text.lower().count(char.lower()), char))
""",
            "'A' and 'a' are two symbols; count them apart",
        ),
        (
            """
def symbols_by_count(text):
    letters = set(text) - {" "}
    return sorted(letters, key=lambda char: (-text.count(char), char))
""",
            "7 different characters, each once",
        ),
    ],
    "ch02-exercise-2": [
        (
            """
def load_tokenizer(saved_symbols, text):
    lib.CharTokenizer(saved_symbols).encode(text)
    return lib.CharTokenizer(sorted(saved_symbols))
""",
            "the file says 'd' is 2, the loaded tokenizer says 3; keep the saved order",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    return lib.CharTokenizer(saved_symbols)
""",
            "passes, but 'f' is not in the saved vocabulary",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    if len(set(text)) > len(saved_symbols):
        raise ValueError(f"unknown characters: {sorted(set(text) - set(saved_symbols))}")
    return lib.CharTokenizer(saved_symbols)
""",
            "as many symbols as saved, but not the same ones",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    return lib.CharTokenizer(sorted(set(text)))
""",
            "a text must not change the saved vocabulary",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    if set(text) != set(saved_symbols):
        raise ValueError("the vocabulary does not fit the text")
    return lib.CharTokenizer(saved_symbols)
""",
            "it refuses 'deed'; a text that uses only some of the saved symbols is fine",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    if len(saved_symbols) != len(set(text)):
        raise ValueError(f"unknown {sorted(set(text) - set(saved_symbols))}")
    return lib.CharTokenizer(saved_symbols)
""",
            "it refuses 'deed'",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    raise ValueError("never fits")
""",
            "it raised ValueError: never fits",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    extra = [char for char in set(text) if char not in saved_symbols]
    return lib.CharTokenizer(saved_symbols + sorted(extra))
""",
            "the text 'abcdef' has changed the saved vocabulary",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    for char in text:
        if char not in saved_symbols:
            raise KeyError(char)
    return lib.CharTokenizer(saved_symbols)
""",
            "must raise a ValueError, not a KeyError",
        ),
        (
            """
def load_tokenizer(saved_symbols, text):
    if not set(text) <= set(saved_symbols):
        raise ValueError("something is unknown")
    return lib.CharTokenizer(saved_symbols)
""",
            "must name the unknown character 'f'",
        ),
    ],
    "ch02-exercise-3": [
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return torch.tensor([ord(char) for char in text], dtype=torch.long)
    def decode(self, ids):
        return "".join(chr(i) for i in ids.tolist())
""",
            "ord gives code points",
        ),
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return list(text.encode("utf-8"))
    def decode(self, ids):
        return bytes(ids.tolist()).decode("utf-8", errors="replace")
""",
            "must return a tensor with dtype torch.long",
        ),
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return torch.tensor(list(text.encode("utf-8")))
    def decode(self, ids):
        return bytes(ids.tolist()).decode("utf-8", errors="replace")
""",
            "of an empty text must be torch.long too",
        ),
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return torch.tensor(list(text.encode("utf-8")), dtype=torch.long)
    def decode(self, ids):
        return "".join(chr(i) for i in ids.tolist())
""",
            "two bytes may make one",
        ),
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return torch.tensor(list(text.encode("utf-8")), dtype=torch.long)
    def decode(self, ids):
        return bytes(ids.tolist()).decode("utf-8")
""",
            "use errors='replace'",
        ),
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return torch.tensor(list(text.encode("utf-8")), dtype=torch.long)
    def decode(self, ids): ...
""",
            "decode is not written yet",
        ),
        (
            """
class ByteTokenizer:
    def encode(self, text):
        return torch.tensor(list(text.encode("ascii", errors="replace")), dtype=torch.long)
    def decode(self, ids):
        return bytes(ids.tolist()).decode("ascii")
""",
            "has 10 bytes",
        ),
    ],
}
