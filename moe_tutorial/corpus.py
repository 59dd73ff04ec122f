"""Where the text comes from, and how hard it is to predict by counting. Chapter 01."""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from moe_tutorial import FILES

if TYPE_CHECKING:
    import datasets

BUILT_IN = FILES / "data"
TINY_SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
DEFAULT_SUBSETS = {"wikitext": "wikitext-2-raw-v1"}  # its subset has no default on the hub
VALIDATION_SHARE = 0.1


class Corpus(NamedTuple):
    """One text in two parts that do not overlap."""

    train: str
    validation: str


def load_corpus(dataset: str, data_dir: str | Path = "data", num_workers: int = 0) -> Corpus:
    """Read a corpus by name and split it.

    dataset: "fables" and "passage" (built in); "tiny_shakespeare" (downloaded once into data_dir,
    or put there by hand); the path of a UTF-8 text file, or of a folder of them (.txt, also in
    folders below, by name; train.txt and validation.txt alone are the two parts); the folder of a
    Hugging Face dataset, or its name on the hub, "name" or "name:subset". Line ends and all
    characters are kept as they are.
    num_workers: processes that prepare a Hugging Face dataset; 0 for none beside this one.
    Raises: ValueError or OSError, one line, saying what to do.
    """
    path = Path(os.path.expanduser(dataset))  # an unknown user is left as it is
    if dataset in ("fables", "passage"):
        return split_text(read_text(BUILT_IN / f"{dataset}.txt"))
    if dataset == "tiny_shakespeare":
        return split_text(read_text(tiny_shakespeare(Path(data_dir))))
    if path.is_file():
        return split_text(read_text(path))
    if path.is_dir():
        texts = sorted(path.rglob("*.txt"))
        if [text.name for text in texts] == ["train.txt", "validation.txt"]:
            return Corpus(*map(read_text, texts))
        if texts and not any(path.rglob("*.arrow")):
            return split_text("".join(map(_ending_with_a_line, map(read_text, texts))))
        return load_hugging_face(str(path), num_workers=num_workers)
    if path.exists():
        raise ValueError(f"dataset {dataset!r} is neither a file nor a folder; {CHOICES}")
    if path.suffix in (".txt", ".md") or path.is_absolute() or dataset.startswith((".", "~")):
        raise FileNotFoundError(f"dataset {dataset!r}: no such file; {CHOICES}")
    name, _, subset = dataset.partition(":")
    return load_hugging_face(name, subset or DEFAULT_SUBSETS.get(name), num_workers)


CHOICES = (
    "choose fables, passage, tiny_shakespeare, the path of a UTF-8 text file, "
    "or the name of a Hugging Face dataset such as wikitext"
)


def read_text(path: str | Path) -> str:
    """A whole UTF-8 file, byte for byte, but for a byte order mark, which is left out aloud.

    Raises: ValueError if it is empty or not UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 in a text editor"
        ) from None
    if text.startswith("\ufeff"):
        print(f"{path}: the byte order mark at its beginning is left out", file=sys.stderr)
        text = text[1:]
    if not text:
        raise ValueError(f"{path} is empty; a corpus needs some text")
    return text


def _ending_with_a_line(text: str) -> str:
    return text if text.endswith(("\n", "\r")) else text + "\n"


def split_text(text: str, validation_share: float = VALIDATION_SHARE) -> Corpus:
    """Split the text once: the last part is for validation.

    The text is split before windows are taken from it. Windows that overlap share almost all of
    their characters, so splitting windows would show the model its own examination.
    """
    split = round(len(text) * (1 - validation_share))
    return Corpus(text[:split], text[split:])


def tiny_shakespeare(data_dir: Path, url: str = TINY_SHAKESPEARE_URL) -> Path:
    """The path of Tiny Shakespeare (1,115,394 characters), downloaded if it is not in data_dir.

    Raises: ValueError if its SHA-256 is wrong (a download is removed, a file put there by hand is
    not); ConnectionError if it cannot be reached.
    """
    path = data_dir / "tiny_shakespeare.txt"
    by_hand = f'put the file at {path} by hand, or choose dataset = "fables"'
    if path.exists():
        if hashlib.sha256(path.read_bytes()).hexdigest() != TINY_SHAKESPEARE_SHA256:
            raise ValueError(f"{path} is not Tiny Shakespeare: its SHA-256 differs; remove it")
        return path
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            content = response.read()
    except OSError as error:
        raise ConnectionError(
            f"Tiny Shakespeare cannot be downloaded ({error}); {by_hand}"
        ) from None
    if hashlib.sha256(content).hexdigest() != TINY_SHAKESPEARE_SHA256:
        raise ValueError(f"the download from {url} has a wrong SHA-256 and was not kept; {by_hand}")
    data_dir.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)
    return path


def load_hugging_face(name: str, subset: str | None = None, num_workers: int = 0) -> Corpus:
    """The "text" column of a dataset, one row a line, from a local folder or from the hub.

    Its own train and validation splits are used where it has both; else the train text is split.
    Raises: ValueError or ConnectionError, one line, saying what to do.
    """
    if not Path(name).is_dir() and not _hub_is_reachable():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # use the library's cache, and fail at once
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"dataset {name!r} needs the Hugging Face library: python -m pip install datasets"
        ) from None
    try:
        if any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json")):
            data = datasets.load_from_disk(name)
        else:
            data = datasets.load_dataset(name, subset, num_proc=num_workers or None)
    except ConnectionError:
        raise ConnectionError(
            f"dataset {name!r}: no such file, and the Hugging Face hub cannot be reached; {CHOICES}"
        ) from None
    except Exception as error:  # the library raises many kinds, some over several lines
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"dataset {name!r} cannot be loaded: {reason}; {CHOICES}") from None
    splits = data if isinstance(data, dict) else {"train": data}
    if "train" not in splits:
        raise ValueError(f"dataset {name!r} has no train split, only {', '.join(splits)}")
    train = _join_rows(splits["train"], name)
    if "validation" in splits:
        return Corpus(train, _join_rows(splits["validation"], name))
    return split_text(train)


def _join_rows(rows: "datasets.Dataset", name: str) -> str:
    if "text" not in rows.column_names:
        raise ValueError(
            f"dataset {name!r} has no column named text, only {', '.join(rows.column_names)}"
        )
    text = "".join(row.rstrip("\n") + "\n" for row in rows["text"])
    if not text.strip():
        raise ValueError(f"dataset {name!r} is empty; a corpus needs some text")
    return text


def _hub_is_reachable() -> bool:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(endpoint, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False


def ngram_losses(train: str, validation: str, max_order: int) -> list[float]:
    """Validation loss, in nats per character, of predicting by counting, for orders 1 .. max_order.

    Order n looks n - 1 characters back. Counts of all lower orders are interpolated:
        p_n(c | h) = (count(h c) + kinds(h) * p_(n-1)(c | h')) / (count(h) + kinds(h))
    where h' is h without its oldest character, kinds(h) the number of different characters seen
    after h, and p_0 is uniform.
    The first characters of the validation text are scored with what little precedes them.
    Raises: ValueError if the validation text is empty.
    Source: Witten & Bell 1991, IEEE Trans. Inf. Theory 37(4). Chapter 01.
    """
    if not validation:
        raise ValueError("the validation text is empty; use a longer corpus")
    code_points = bytearray((train + validation).encode("utf-32-le", "surrogatepass"))
    symbols, chars = torch.unique(
        torch.frombuffer(code_points, dtype=torch.int32), return_inverse=True
    )
    split, size = len(train), len(symbols)
    history = torch.zeros_like(chars)  # id of the n - 1 characters before each position
    probs = torch.full((len(validation),), 1 / size, dtype=torch.float64)
    losses = []
    for order in range(1, max_order + 1):
        if order > 1:  # one character further back: a new id for each different history
            history = torch.unique(history * size + chars.roll(order - 1), return_inverse=True)[1]
        pairs, pair = torch.unique(history * size + chars, return_inverse=True)
        # A history must not reach back across the start of its own text.
        pair_count = pair[order - 1 : split].bincount(minlength=len(pairs))
        history_of_pair = pairs // size
        different = int(history.max()) + 1
        history_count = torch.zeros(different).long().index_add_(0, history_of_pair, pair_count)
        kinds = history_of_pair[pair_count > 0].bincount(minlength=different)
        seen = history_count[history[split:]] > 0
        seen[: order - 1] = False
        h, c = history[split:][seen], pair[split:][seen]
        probs[seen] = (pair_count[c] + kinds[h] * probs[seen]) / (history_count[h] + kinds[h])
        losses.append(-float(probs.log().mean()))
    return losses
