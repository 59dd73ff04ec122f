"""Which published architecture computes the same as a model, its settings, its tensors. Chapter 10.

Shape letters: D dim, E experts, F hidden_dim.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from moe_tutorial.config import ModelConfig
from moe_tutorial.families import (
    FAMILIES,
    KEYS,
    OUTSIDE_THE_BLOCKS,
    SAME_IN_EVERY_BLOCK,
    Family,
    Settings,
)
from moe_tutorial.layouts import Step, Tensors
from moe_tutorial.moe import default_hidden_dim
from moe_tutorial.routers import Switches, switches_of

_ROUTER = ("router_score", "router_normalize", "router_scale", "balance")


def family_of(model: ModelConfig) -> Family:
    """The architecture that is made in the same way. Raises: ValueError if there is none."""
    for family in FAMILIES:
        free = {key: getattr(model, key) for key in family.names.keys() - KEYS.keys()}
        same = ModelConfig(**{"router": model.router, **family.keys, **free})
        if _computed(same) == _computed(model):
            return family
    changed = {key: getattr(model, key) for key in _ROUTER}
    defaults = ModelConfig()
    changed = {key: value for key, value in changed.items() if value != getattr(defaults, key)}
    choices = "; ".join(f"{_words(family.keys)} as {family.architecture}" for family in FAMILIES)
    raise ValueError(
        f"{_words({'router': model.router, 'shared_expert': model.shared_expert, **changed})} is "
        f"not exported, because no class known here is made so; what can be exported is {choices}"
    )


def _computed(model: ModelConfig) -> tuple[bool, bool, Switches | None]:
    """Shared expert, bias, and the router's switches; None for sigmoids that scale inputs."""
    bias, switches = model.balance in ("bias", "quantile"), switches_of(model)
    if switches is None and model.router == "softmax":
        switches = Switches(bias=bias, normalize=True)
    return model.shared_expert, bias, switches


def _words(keys: Settings) -> str:
    return " with ".join(f"{key}={str(value).lower()}" for key, value in keys.items())


def architecture_settings(model: ModelConfig, vocab_size: int) -> Settings:
    """The keys of config.json that decide what is computed. Raises: ValueError as `family_of`."""
    family = family_of(model)
    values = model.model_dump()
    values["hidden_dim"] = model.hidden_dim or default_hidden_dim(model.dim)
    return {
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        **{theirs: values[ours] for ours, theirs in (KEYS | family.names).items()},
        "num_key_value_heads": model.num_heads,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        **family.describe(model)[0],
    }


def to_hugging_face(weights: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Their tensors, made from ours: the same numbers under other names and in other layouts.

    Shapes: the E w_gate (D, F) become the first half of (E, 2F, D) in GraniteMoeShared and of
    (E, D, 2F) in Llama 4, E times (F, D) in the others; the qkv (3D, D) becomes three times (D, D).
    Raises: KeyError if a tensor is missing; ValueError as `family_of`.
    """
    result = {}
    for ours, theirs, steps in _rules(model):
        tensors = [weights[name] for name in ours]
        for step in steps:
            tensors = step.there(tensors)
        result.update(zip(theirs, _in_order(tensors), strict=True))
    return result


def to_ours(weights: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Our tensors, made from theirs: the inverse of `to_hugging_face`, bit for bit."""
    result = {}
    for ours, theirs, steps in _rules(model):
        tensors = [weights[name] for name in theirs]
        for step in reversed(steps):
            tensors = step.back(tensors)
        result.update(zip(ours, _in_order(tensors), strict=True))
    return result


def _in_order(tensors: Tensors) -> Tensors:
    return [tensor.contiguous() for tensor in tensors]  # only such ones can be saved


def _rules(model: ModelConfig) -> Iterator[tuple[list[str], list[str], tuple[Step, ...]]]:
    """All tensors of a model, with full names."""
    for ours, theirs in OUTSIDE_THE_BLOCKS.items():
        yield [ours], [theirs], ()
    rules = [*SAME_IN_EVERY_BLOCK, *family_of(model).describe(model)[1]]
    for i in range(model.num_layers):
        for rule in rules:
            ours = [f"blocks.{i}.{name}" for name in rule.ours.split()]
            theirs = [f"model.layers.{i}.{name}" for name in rule.theirs.split()]
            yield ours, theirs, rule.steps
