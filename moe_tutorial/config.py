"""Typed, validated configuration from HOCON.

The keys are those of the project's documents; every key has one meaning and one place. The defaults
in these classes are what a missing key means (the original project's architecture);
config.hocon in the repository root sets every key to what was measured to work best.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

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
Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]  # ~ is the home


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

    @model_validator(mode="after")
    def _few_enough(self) -> ModelConfig:
        if self.num_layers * self.num_experts > MOST_EXPERTS:
            raise ValueError(
                f"num_layers={self.num_layers} times num_experts={self.num_experts} is above "
                f"{MOST_EXPERTS:,}; lower one of them"
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

    dataset: Annotated[str, Field(min_length=1)] = "fables"
    data_dir: Place = "data"
    num_workers: NonNegativeInt = 0
    seq_len: PositiveInt = 128
    batch_size: Size = 16
    learning_rate: PositiveFloat = 3e-4
    weight_decay: NonNegativeFloat = 0.1
    warmup_steps: NonNegativeInt = 100
    grad_clip: PositiveFloat = 1.0
    epochs: Annotated[float, Field(gt=0, le=1e9)] = 3
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
    def _windows_fit(self) -> Config:
        if self.training.seq_len > self.model.max_seq_len:
            raise ValueError(
                f"training.seq_len={self.training.seq_len} is longer than "
                f"model.max_seq_len={self.model.max_seq_len}; lower the one or raise the other"
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a HOCON file; then each override "section.key=value" replaces one key.

    Overrides are merged before substitutions such as ${paths.output_dir} are resolved.
    Raises: ConfigError, one line, naming the file and the key.
    """
    path = Path(path)
    if path.is_char_device() or path.is_block_device():  # some never end
        raise ConfigError(f"{path}: is no file; name an existing configuration file")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name an existing configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return validate_config(_parse(text, _changes(overrides), path), source=str(path))


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


def load_snapshot(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read what `dump_config` wrote, strictly as JSON: a run folder never includes other files.

    Raises: ConfigError, one line, naming the file and the reason.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not the snapshot of a run ({error})") from None
    config = validate_config(values, str(path))
    if not overrides:
        return config
    return validate_config(_parse(dump_config(config), _changes(overrides), path), str(path))


def _changes(overrides: Sequence[str]) -> str:
    return "\n".join(_override_line(item) for item in overrides)


def _override_line(item: str) -> str:
    key, equals, value = item.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not all(part.isidentifier() for part in key.split(".")):
        raise ConfigError(f"{item!r} is not of the form section.key=value, as in training.epochs=1")
    try:
        json.loads(value)  # a number, true, false, null, a list or a quoted string stays as it is
    except ValueError:
        if value in ("True", "False", "None"):  # as Python spells them
            value = {"True": "true", "False": "false", "None": "null"}[value]
        elif re.fullmatch(r"-?\.\d+", value):  # .5
            value = repr(float(value))
        else:
            value = json.dumps(value)  # anything else is meant as text
    return f"{key} = {value}"


def _parse(text: str, changes: str, path: Path) -> dict[str, object]:
    from pyhocon import ConfigFactory, ConfigParser, ConfigTree  # slow to import, needed only here

    try:
        # The parser reads a last line "b = 5 " without a line break as the string '5': add one.
        text, changes = _plain_escapes(text) + "\n", _plain_escapes(changes) + "\n"
        tree = ConfigFactory.parse_string(text, basedir=str(path.parent), resolve=False)
        if isinstance(tree, ConfigTree):
            ConfigTree.merge_configs(tree, ConfigFactory.parse_string(changes))
            ConfigParser.resolve_substitutions(tree)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: the included file {error.filename} does not exist") from None
    except Exception as error:  # pyhocon and pyparsing have no common base class
        reason = " ".join(str(error).split())
        if hasattr(error, "lineno"):  # pyparsing lists all that it expected, on many lines
            where = f"line {error.lineno}, column {error.column}"
            reason = f"{where}, cannot be understood: {error.line.strip()[:60]!r}"
        raise ConfigError(f"{path}: not valid HOCON: {reason[:300]}") from None
    if not isinstance(tree, ConfigTree):
        raise ConfigError(f"{path}: expected sections such as model {{ dim = 128 }}, found a list")
    return tree.as_plain_ordered_dict()


def _plain_escapes(text: str) -> str:
    r"""The parser leaves \u00e9, \b, \f and \/ as they are: put in what they stand for."""
    text = _ESCAPE.sub(_plain_escape, text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # joins pairs


def _plain_escape(match: re.Match[str]) -> str:
    if match["code"] is None:
        return {r"\/": "/", r"\b": "\b", r"\f": "\f"}.get(match[0], match[0])
    char = chr(int(match["code"], 16))
    return json.dumps(char)[1:-1] if char in '"\\\n\r\t' else char


_ESCAPE = re.compile(r'"""[\s\S]*?"""|\\u(?P<code>[0-9a-fA-F]{4})|\\[\s\S]')


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
    return text + (f" (and {len(others)} more)" if others else "")


def _holds(section: object, key: str | int) -> bool:
    return isinstance(section, type) and key in getattr(section, "model_fields", ())


def _nearest(location: tuple[str | int, ...]) -> str:
    fields = Config.model_fields
    for part in location[:-1]:
        fields = fields[part].annotation.model_fields
    homes = [name for name, field in fields.items() if _holds(field.annotation, location[-1])]
    if homes:
        return f"did you mean {homes[0]}.{location[-1]}?"
    close = difflib.get_close_matches(str(location[-1]), fields, n=1, cutoff=0.5)
    prefix = "".join(f"{part}." for part in location[:-1])
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"the keys here are {', '.join(prefix + name for name in fields)}"
