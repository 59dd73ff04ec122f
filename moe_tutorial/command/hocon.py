"""HOCON files and `--set`: what people write, read into a `Config`.

pyhocon is used as the parser only.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from moe_tutorial import FILES
from moe_tutorial.config import Config, ConfigError, dump_config, validate_config


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


def change_config(config: Config, overrides: Sequence[str], source: str) -> Config:
    """The configuration with some keys replaced. Raises: ConfigError naming source and key."""
    values = _parse(dump_config(config), _changes(overrides), Path(source))
    return validate_config(values, source)


def default_config() -> Path:
    """config.hocon of the current folder, else the one that comes with the package."""
    here = Path("config.hocon")
    return here if here.exists() else FILES / "config.hocon"


def model_path(given: str | None) -> Path:
    """What is given, else the folder of config.hocon: model_path if it is there, or output_dir."""
    if given:
        return Path(given)
    paths = load_config(default_config()).paths
    if paths.model_path and Path(paths.model_path).is_dir():
        return Path(paths.model_path)
    return Path(paths.output_dir)


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
