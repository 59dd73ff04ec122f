"""Chapter 12: two languages made of one text, and the span over which balance is demanded."""

import torch
from torch import Tensor

from moe_tutorial import analysis
from moe_tutorial.balance import sequence_balance_loss
from moe_tutorial.experiments.base import (
    MODEL,
    TRAINING,
    Json,
    Texts,
    rounded,
    texts,
    train_once,
)
from moe_tutorial.moe import expert_load, load_balancing_loss, load_summary

SHORT = TRAINING.model_copy(update={"max_steps": 600})
VARIANTS = ("none", "batch 0.01", "batch 0.1", "sequence 0.01", "sequence 0.1", "bias")


def cipher(symbols: list[str]) -> Tensor:
    """For every id the id of the letter half an alphabet further, in small and in capital letters.

    Other characters stay. Shapes: V symbols -> (V,).
    """
    other = torch.arange(len(symbols))
    for letters in (str.islower, str.isupper):
        places = torch.tensor([i for i, symbol in enumerate(symbols) if letters(symbol)])
        other[places] = places.roll(len(places) // 2)
    return other


def measure(variant: str, seed: int, quick: bool) -> Json:
    """Train on the fables and their ciphered copy; what the choice tells about the language."""
    plain = texts()
    other = cipher(plain.tokenizer.int_to_char)
    both = Texts(plain.tokenizer, *(torch.cat((part, other[part])) for part in plain[1:]))
    kind, _, number = variant.partition(" ")
    model = MODEL.model_copy(
        update={
            "balance": kind if kind in ("none", "bias") else "loss",
            "load_balancing_loss_coef": float(number or 0),
        }
    )
    each = SHORT.batch_size
    balance = {"sequence": lambda routings: sequence_balance_loss(routings, each)}
    trained = train_once(
        both, seed, model=model, training=SHORT, quick=quick,
        balance_loss=balance.get(kind, load_balancing_loss),
    )  # fmt: skip
    text = plain.validation[:513] if quick else plain.validation
    readings = [analysis.read(trained.model, ids) for ids in (text, other[text])]
    language = torch.arange(2).repeat_interleave(len(text) - 1)
    letters = torch.cat((text[:-1], other[text[:-1]]))
    generator = torch.Generator().manual_seed(0)
    found: Json = {"losses": [reading.losses.mean().item() for reading in readings]}
    found["loss"] = sum(found["losses"]) / 2
    found["letters"] = analysis.mutual_information(letters, language)
    for layer in range(MODEL.num_layers):
        first = torch.cat([reading.routings[layer].experts[:, 0] for reading in readings])
        mixed = analysis.shuffled(language, generator)
        found[f"bits {layer + 1}"] = analysis.mutual_information(first, language)
        found[f"shuffled {layer + 1}"] = analysis.mutual_information(first, mixed)
        found[f"beyond {layer + 1}"] = analysis.added_information(first, language, letters)
        load = sum(expert_load(reading.routings[layer]) for reading in readings) / 2
        found[f"busiest {layer + 1}"] = load_summary(load).max_over_mean
    return rounded(found)
