"""A checkpoint as a folder of Hugging Face's transformers, there and back. Chapter 10.

Written are config.json, model.safetensors, tokenizer.json and tokenizer_config.json: numbers and
text, no code. transformers is not needed here.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from moe_tutorial.checkpoint import load_model, save_checkpoint, start_run_folder
from moe_tutorial.config import Config, TrainingConfig, change_inference, validate_config
from moe_tutorial.families import FAMILIES, KEYS, Settings
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import start_training
from moe_tutorial.translation import architecture_settings, family_of, to_hugging_face, to_ours
from moe_tutorial.trust import CheckpointError, at_home, read_tensors

_LARGEST_CONFIG = 2**20  # bytes of a JSON file that is read
_LARGEST_TOKENIZER = 2**24
# What config.json does not tell: where things lie on this machine, and words of the text.
PRIVATE = {"paths": True, "training": {"dataset", "data_dir"}, "inference": {"prompt"}}
REASONS = {
    "num_key_value_heads": "every query head has its own keys and values, no grouped queries",
    "rope_parameters": "RoPE is not stretched",
    "no_rope_layers": "every layer uses RoPE",
    "layer_types": "every position attends to all earlier ones",
    "sliding_window": "every position attends to all earlier ones",
    "moe_layers": "every layer is a mixture",
    "mlp_layer_types": "every layer is a mixture",
    "moe_layer_start_index": "every layer is a mixture",
    "first_k_dense_replace": "every layer is a mixture",
    "moe_num_shared_experts": "one shared expert or none",
    "n_shared_experts": "one shared expert",
    "n_group": "the experts are not divided into groups",
    "shared_intermediate_size": "the shared expert is as wide as the others",
    "tie_word_embeddings": "embedding and head are two matrices",
    "vocab_size": "as many as tokenizer.json has characters",
}


def export(run_folder: str | Path, out_folder: str | Path) -> str:
    """Write the model of a run folder as transformers reads it; return the name of the class.

    The folder gets config.json, model.safetensors, tokenizer.json and tokenizer_config.json, all or
    nothing. AutoModelForCausalLM and AutoTokenizer load them. The configuration goes along in
    config.json under "moe_tutorial", so that `import_` can restore it, but for paths and prompt.
    Their `generate` has no sliding window: the texts agree up to max_seq_len + 1 characters.
    Raises: CheckpointError if the run folder cannot be loaded; ValueError if no class is
    made as the model is, or out_folder is not empty. Chapter 10.
    """
    model, tokenizer, config = load_model(run_folder)
    family = family_of(config.model)
    weights = to_hugging_face(model.state_dict(), config.model)
    by_loss = config.model.balance == "loss"
    coefficient = config.model.load_balancing_loss_coef if by_loss else 0.0
    settings = {
        "architectures": [family.architecture],
        **architecture_settings(config.model, tokenizer.vocab_size),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "dtype": "float32",
        "experts_implementation": "eager",  # their grouped kernel needs widths divisible by 4
        # Their f sums to top_k, ours to 1. They pool the layers, so one layer alone is the same.
        "router_aux_loss_coef": coefficient / config.model.top_k,
        "moe_tutorial": config.model_dump(exclude=PRIVATE),
    }
    tokenizer_settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.model.max_seq_len,
    }
    with _all_or_nothing(Path(out_folder)) as folder:
        _write_json(folder / "config.json", settings)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        # safetensors lets nobody but its owner read what it writes
        shutil.copymode(folder / "config.json", folder / "model.safetensors")
        _write_json(folder / "tokenizer.json", tokenizer_json(tokenizer))
        _write_json(folder / "tokenizer_config.json", tokenizer_settings)
    return family.architecture


def import_(hf_folder: str | Path, run_folder: str | Path) -> None:
    """Write a run folder for a model that `export` or transformers 5 (save_pretrained) wrote.

    `load_model` and `generate` open it. There is no training state in it: resuming is refused.
    Of a model from elsewhere, keys without a counterpart (dropout, training) get the defaults.
    Raises: CheckpointError naming what cannot be read or is not built here; ValueError if
    run_folder is not empty. Chapter 10.
    """
    folder = at_home(hf_folder)
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    config = _read_config(folder / "config.json", tokenizer)
    with torch.device("meta"):  # names and shapes only
        model = MoELanguageModel(config.model, tokenizer.vocab_size)
    wanted = to_hugging_face(model.state_dict(), config.model)
    if (folder / "model.safetensors.index.json").exists():
        raise CheckpointError(
            f"{folder}: its weights are in several files (model.safetensors.index.json); save the "
            f'model again with max_shard_size="50GB"'
        )
    weights = read_tensors(folder / "model.safetensors", wanted)
    weights = {name: tensor.float() for name, tensor in weights.items()}
    model.load_state_dict(to_ours(weights, config.model), assign=True)
    with _all_or_nothing(Path(run_folder)) as part:
        start_run_folder(part, config, tokenizer)
        save_checkpoint(part, start_training(model, config.training))


def tokenizer_json(tokenizer: CharTokenizer) -> Settings:
    """What the tokenizers library reads: one token per character, nothing added or normalized.

    A character outside the vocabulary is an error there as well, because the token for unknown
    ones is not in the vocabulary.
    """
    every_character = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**every_character, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": tokenizer.char_to_int, "unk_token": "<unk>"},
    }


def _read_config(path: Path, tokenizer: CharTokenizer) -> Config:
    """The configuration that config.json describes, if `export` would describe it the same way."""
    found = _read_json(path, _LARGEST_CONFIG)
    values = found.get("moe_tutorial") or _described(found, path)
    config = validate_config(values, str(path))
    wanted = architecture_settings(config.model, tokenizer.vocab_size)
    chunk = found.get("attention_chunk_size")
    if isinstance(chunk, int) and chunk >= config.model.max_seq_len:  # one chunk holds everything
        found |= {key: wanted.get(key) for key in ("attention_chunk_size", "layer_types")}
    for key, value in wanted.items():
        if not _agree(found.get(key), value):
            reason = f" ({REASONS[key]})" if key in REASONS else ""
            raise CheckpointError(
                f"{path}: {key}={_short(found.get(key))} cannot be imported; this library's model "
                f"has {value!r} there{reason}"
            )
    if config.inference.prompt is not None:
        return config
    symbols = tokenizer.int_to_char
    prompt = {"prompt": next(filter(str.isalpha, symbols), symbols[0])}
    return config.model_copy(update={"inference": change_inference(config.inference, prompt)})


def _described(found: Settings, path: Path) -> dict[str, Settings]:
    """The configuration of a model from elsewhere; what transformers does not know by default."""
    family = next((f for f in FAMILIES if f.model_type == found.get("model_type")), None)
    if family is None:
        types = ", ".join(f.model_type for f in FAMILIES)
        raise CheckpointError(
            f"{path}: model_type={_short(found.get('model_type'))} cannot be imported, only {types}"
        )
    try:
        model = {ours: found[theirs] for ours, theirs in (KEYS | family.names).items()}
        rope = found["rope_parameters"]
        model["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
        seq_len = min(TrainingConfig().seq_len, model["max_seq_len"])
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not as transformers 5 writes it ({error!r}); load and save the model there"
        ) from None
    if "shared_expert" in model:
        model["shared_expert"] = bool(model["shared_expert"])  # theirs is a number of experts
    model |= {**family.keys, "dropout": 0.0}
    return {"model": model, "training": {"seq_len": seq_len}}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _agree(found: object, wanted: object) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-6)  # 1 / sqrt(Dh) may be rounded either way
    return found == wanted


def _read_tokenizer(path: Path) -> CharTokenizer:
    found = _read_json(path, _LARGEST_TOKENIZER)
    try:
        vocab = found["model"]["vocab"]
        tokenizer = CharTokenizer(sorted(vocab, key=vocab.get))
        wanted = tokenizer_json(tokenizer)
        if (found.get("post_processor") or {}).get("special_tokens") == {}:
            found["post_processor"] = None  # transformers saves a template that adds nothing
        for key in wanted.keys() - {"version"}:
            if found.get(key) != wanted[key]:
                raise ValueError(f"{key} is not as expected")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: only a tokenizer of single characters, numbered from 0, with nothing added "
            f"can be imported ({error})"
        ) from None
    return tokenizer


def _read_json(path: Path, most: int) -> Settings:
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= most):
            raise ValueError("it is no file, or too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object {...}")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    return content


def _write_json(path: Path, content: Settings) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, moved into its place when everything is written."""
    folder = at_home(folder)
    if folder.resolve() == Path.cwd():
        raise ValueError(f"{folder} is the current folder; name a new folder")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; name a new folder")
    folder = folder.resolve()  # what a link leads to
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
        part = Path(beside) / folder.name
        part.mkdir()
        yield part
        if folder.exists():
            folder.rmdir()  # Windows does not move onto an empty folder
        part.rename(folder)
