"""Typed, validated configuration. `command/hocon.py` reads it from files and from `--set`.

The keys are those of the project's documents; every key has one meaning and one place. The defaults
in these classes are what a missing key means (the original project's architecture);
config.hocon in the repository root sets every key to what was measured to work best.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

# The upper bounds are far above what trains here; they answer a typing error, or a stranger's file,
# before memory is used.
Size = Annotated[int, Field(gt=0, le=65_536)]
Layers = Annotated[int, Field(gt=0, le=256)]
Experts = Annotated[int, Field(gt=0, le=1024)]
Threads = Annotated[int, Field(gt=0, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MOST_EXPERTS = 4096  # in all layers together; each takes some KB however small its matrices are
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(gt=0, le=1)]


def _without_controls(value: str) -> str:
    if set(value) & set("\n\t\r\b\f"):
        raise ValueError(
            f"{value!r} holds a line break, a tab or the like: between quotes \\n and \\t mean "
            f"these; write / or \\\\ in a path"
        )
    return value


Name = Annotated[str, Field(min_length=1), AfterValidator(_without_controls)]
Place = Annotated[Name, AfterValidator(os.path.expanduser)]  # ~ is the home


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("0 threads cannot compute; use -1 (all cores but two), null or a number")
    return value


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and what to do."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class ModelConfig(_Section):
    """The architecture; see config.hocon for the meaning, unit and range of every key."""

    dim: Size = 256
    num_layers: Layers = 4
    num_heads: Size = 8
    num_experts: Experts = 8
    top_k: Experts = 2
    hidden_dim: Size | None = None
    router: Literal["softmax", "sigmoid"] = "softmax"
    shared_expert: bool = True
    max_seq_len: Size = 128
    rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-5
    dropout: Share = 0.1
    load_balancing_loss_coef: NonNegativeFloat = 0.01
    balance: Literal["loss", "bias", "quantile", "none"] = "loss"
    bias_update_rate: PositiveFloat = 0.01
    router_score: Literal["softmax", "sigmoid", "sqrtsoftplus"] | None = None
    router_normalize: bool | None = None
    router_scale: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _balance_fits(self) -> Self:
        if self.balance == "quantile" and self.router == "sigmoid":
            raise ValueError('balance="quantile" needs router="softmax"; with "sigmoid" use "bias"')
        if self.balance == "quantile" and self.router_score not in (None, "softmax"):
            raise ValueError(
                f'balance="quantile" needs router_score="softmax" or null; with '
                f'"{self.router_score}" use "bias"'
            )
        return self


class DeviceConfig(_Section):
    """Where and with how many threads to compute."""

    type: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    num_cpu_threads: Annotated[int, Field(ge=-1, le=1024), AfterValidator(_not_zero)] | None = None
    num_cpu_interop_threads: Threads | None = None
    gpu_ids: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0]
    use_mps: bool = True
    use_data_parallel: bool = False
    num_processes: PositiveInt | None = None


class TrainingConfig(_Section):
    """The data and the optimization."""

    dataset: Name = "fables"
    data_dir: Place = "data"
    num_workers: NonNegativeInt = 0
    seq_len: PositiveInt = 128
    batch_size: Size = 16
    learning_rate: PositiveFloat = 3e-4
    weight_decay: NonNegativeFloat = 0.1
    warmup_steps: NonNegativeInt = 100
    grad_clip: PositiveFloat = 1.0
    epochs: Annotated[float, Field(gt=0, le=1e9)] = 3.0
    max_steps: PositiveInt | None = None
    max_seconds: PositiveFloat | None = None
    eval_steps: PositiveInt = 100
    save_steps: PositiveInt = 500
    seed: Seed = 0


class InferenceConfig(_Section):
    """The sampling defaults of `generate`."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    max_new_tokens: PositiveInt = 50
    temperature: NonNegativeFloat = 0.7
    top_k: PositiveInt | None = None
    top_p: Probability | None = None
    draft_length: Annotated[int, Field(ge=0, le=64)] = 0


class PathsConfig(_Section):
    """Folders, relative to the current directory."""

    output_dir: Place = "model"
    model_path: Place | None = None


class Config(_Section):
    """Everything that decides a run."""

    model: ModelConfig = ModelConfig()
    device: DeviceConfig = DeviceConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    paths: PathsConfig = PathsConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        layers, experts = self.model.num_layers, self.model.num_experts
        if layers * experts > MOST_EXPERTS:
            raise ValueError(
                f"model.num_layers={layers} times model.num_experts={experts} is above "
                f"{MOST_EXPERTS:,}; lower one of them"
            )
        if self.training.seq_len > self.model.max_seq_len:
            raise ValueError(
                f"training.seq_len={self.training.seq_len} is longer than "
                f"model.max_seq_len={self.model.max_seq_len}; lower the one or raise the other"
            )
        return self


def validate_config(values: Mapping[str, object], source: str) -> Config:
    """Check plain nested values. Raises: ConfigError, one line, naming source and key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from None


def change_inference(settings: InferenceConfig, changes: Mapping[str, object]) -> InferenceConfig:
    """The sampling settings with some of them replaced. Raises: ConfigError naming the key."""
    try:
        return InferenceConfig.model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as JSON, which is HOCON too, with nothing left to look up."""
    return json.dumps(config.model_dump(), indent=2) + "\n"


def load_snapshot(path: str | Path) -> Config:
    """Read what `dump_config` wrote, strictly as JSON: a run folder never includes other files.

    Raises: ConfigError, one line, naming the file and the reason.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not the snapshot of a run ({error})") from None
    return validate_config(values, str(path))


def _explain(error: ValidationError) -> str:
    """The first problem in one line: the key's path, what is wrong, and what was given."""
    first, *others = error.errors()
    # A key may hold anything, even a line break or what a terminal obeys; an input may be endless.
    key = ".".join(repr(str(part)[:80])[1:-1] for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            text = f"unknown key {key}; {_nearest(first['loc'])}"
        case "value_error":
            text = (f"{key}: " if key else "") + str(first["ctx"]["error"])
        case _:
            reason = first["msg"][:1].lower() + first["msg"][1:]
            given = repr(first["input"])
            given = given if len(given) <= 80 else f"{given[:80]} ..."
            text = (f"{key}: " if key else "") + f"{reason}, but it is {given}"
            text += "; write it in quotes" if first["type"] == "string_type" else ""
            text += _spelling(first["input"])
    return text + (f" (and {len(others)} more)" if others else "")


def _spelling(value: object) -> str:
    """How HOCON writes what was meant: true, null, 0.5."""
    meant = {"True": "true", "False": "false", "None": "null"}.get(str(value), "")
    if isinstance(value, str) and re.fullmatch(r"[+-]?\.?\d+\.?\d*(e[+-]?\d+)?", value):
        meant = f"{float(value):g}, without quotes"
    return f"; write {meant}" if meant else ""


def _nearest(location: tuple[str | int, ...]) -> str:
    *sections, key = map(str, location)
    fields = Config.model_fields
    homes = [name for name, field in fields.items() if key in field.annotation.model_fields]
    if not sections and homes:
        return f"did you mean {homes[0]}.{key}?"
    for part in sections:
        fields = fields[part].annotation.model_fields
    names = [".".join([*sections, name]) for name in fields]
    close = difflib.get_close_matches(".".join([*sections, key]), names, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(names)}"
