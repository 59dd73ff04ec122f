"""Right answers to the exercises of chapter 02 that differ from the solutions."""

RIGHT = {
    "ch02-exercise-1": [
        """
def symbols_by_count(text):
    return sorted(sorted(set(text)), key=text.count, reverse=True)
""",
        """
from collections import Counter
def symbols_by_count(text):
    return [char for char, _ in Counter(sorted(text)).most_common()]
""",
        """
def symbols_by_count(text):
    pairs = sorted((-text.count(char), ord(char)) for char in set(text))
    return [chr(code) for _, code in pairs]
""",
    ],
    "ch02-exercise-2": [
        """
def load_tokenizer(saved_symbols, text):
    for char in text:
        if char not in saved_symbols:
            raise ValueError(f"unknown character {char!r}")
    return lib.CharTokenizer(saved_symbols)
""",
        """
def load_tokenizer(saved_symbols, text):
    unknown = sorted(set(text) - set(saved_symbols))
    if unknown:
        raise ValueError(f"not in the vocabulary: {unknown}")
    return lib.CharTokenizer(saved_symbols)
""",
        """
def load_tokenizer(saved_symbols, text):
    if not set(text) <= set(saved_symbols):
        raise ValueError("unknown: " + " ".join(set(text).difference(saved_symbols)))
    return lib.CharTokenizer(list(saved_symbols))
""",
        """
def load_tokenizer(saved_symbols, text):
    unknown = set(text) - set(saved_symbols)
    if unknown:
        raise ValueError(f"the last of the unknown characters is {max(unknown)}")
    return lib.CharTokenizer(saved_symbols)
""",
    ],
    "ch02-exercise-3": [
        """
class ByteTokenizer:
    vocab_size = 256
    def encode(self, text):
        return torch.tensor([*text.encode()], dtype=torch.int64)
    def decode(self, ids):
        return str(bytes(ids.tolist()), "utf-8", "replace")
""",
        """
class ByteTokenizer:
    vocab_size = 256
    def encode(self, text):
        return torch.tensor(list(bytes(text, "utf-8"))).long()
    def decode(self, ids):
        return bytearray(int(i) for i in ids).decode(errors="replace")
""",
        """
class ByteTokenizer:
    vocab_size = 256
    @staticmethod
    def encode(text):
        return torch.LongTensor([byte for char in text for byte in char.encode("utf-8")])
    @staticmethod
    def decode(ids):
        return b"".join(bytes([i]) for i in ids.tolist()).decode("utf-8", "replace")
""",
    ],
}
