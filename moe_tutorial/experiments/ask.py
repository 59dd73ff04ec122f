"""Chapter 12: one training, then the router is asked otherwise.

`python -m moe_tutorial.experiments.ask FILE` trains the model of the chapter and writes it.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_tutorial import analysis
from moe_tutorial.experiments.base import (
    MODEL,
    RESULTS,
    TRAINING,
    Json,
    Texts,
    rounded,
    texts,
    train_once,
)
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import expert_load

ASKED = TRAINING.model_copy(update={"max_steps": 1500})
EXPERTS = range(MODEL.num_experts)
LAYERS = range(MODEL.num_layers)
SPECIALISTS = RESULTS / "specialists.safetensors"


def measure(variant: str, seed: int, quick: bool) -> Json:
    """Train once, then read the held-out text under every change of the router."""
    ids = texts()
    model = train_once(ids, seed, training=ASKED, quick=quick).model
    return rounded(ask(model, ids.validation[:513] if quick else ids.validation), 5)


def ask(model: MoELanguageModel, text: Tensor) -> Json:
    """The held-out loss of a trained model as it is, and under each change."""
    own = analysis.read(model, text)
    generator = torch.Generator().manual_seed(0)

    def loss(change: analysis.Change | dict[int, analysis.Change]) -> float:
        with analysis.rerouted(model, change):
            return analysis.read(model, text).losses.mean().item()

    first = [routing.experts[:, 0] for routing in own.routings]
    load = [expert_load(routing) for routing in own.routings]
    chance = [(y.bincount(minlength=len(EXPERTS)) / len(y)).square().sum() for y in first]
    return {
        "as trained": own.losses.mean().item(),
        **{f"k {k}": loss(analysis.top(k)) for k in (1, 2, 3, 4, 6, 8)},
        "equal weights": loss(analysis.equal_weights),
        "random choice": loss(analysis.random_choice(generator)),
        **{
            f"random choice in layer {layer + 1}": loss({layer: analysis.random_choice(generator)})
            for layer in LAYERS
        },
        "load": torch.stack(load),
        "without": [[loss({layer: analysis.without(e)}) for e in EXPERTS] for layer in LAYERS],
        "forced": [[loss({layer: analysis.forced(e)}) for e in EXPERTS] for layer in LAYERS],
        "repeats": [(y[1:] == y[:-1]).double().mean().item() for y in first],
        "repeats by chance": torch.stack(chance),
        **rounding(model, text, own),
    }


def rounding(model: MoELanguageModel, text: Tensor, own: analysis.Reading) -> Json:
    """Router in bfloat16, with its own choices and with those of float32 replayed.

    texts: the windows. ratio: probability of a whole window over that in float32.
    """
    replay = {
        layer: analysis.replayed(routing.experts) for layer, routing in enumerate(own.routings)
    }
    found: Json = {}
    for name, change in (("rounded", analysis.unchanged), ("replayed", replay)):
        with analysis.rerouted(model, change, dtype=torch.bfloat16):
            other = analysis.read(model, text)
        ratios = text_ratios(other, own, model.config.max_seq_len)
        flips = [
            (analysis.chosen_set(a) != analysis.chosen_set(b)).double().mean().item()
            for a, b in zip(own.routings, other.routings, strict=True)
        ]
        found |= {
            name: other.losses.mean().item(),
            f"{name} flips": flips,
            f"{name} lowest": ratios.min().item(),
            f"{name} highest": ratios.max().item(),
            f"{name} off": ((ratios - 1).abs() > 0.05).double().mean().item(),
        }
    return found


def text_ratios(new: analysis.Reading, old: analysis.Reading, length: int) -> Tensor:
    """Probability of each whole window under the one reading over the other. Shapes: -> (W,)."""
    gain = old.losses - new.losses  # (N,) of log-probability
    return gain[: len(gain) // length * length].view(-1, length).sum(dim=1).exp()  # (W,)


def write_specialists(path: Path) -> None:
    """Train the model of the chapter, that of `ask` with seed 0, and write it in float16."""
    model = train_once(texts(), 0, training=ASKED).model
    save_file({name: value.half() for name, value in model.state_dict().items()}, path)


def specialists() -> tuple[MoELanguageModel, Texts]:
    """The committed model of the chapter, and its text."""
    ids = texts()
    model = MoELanguageModel(MODEL, ids.tokenizer.vocab_size)
    weights = load_file(SPECIALISTS)
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval(), ids


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_specialists(Path(sys.argv[1]))
