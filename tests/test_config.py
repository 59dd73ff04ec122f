import json
import math
import re

import pytest
from conftest import ROOT, TINY_RUN
from pyhocon import ConfigFactory

from moe_tutorial.command.hocon import load_config
from moe_tutorial.config import (
    Config,
    ConfigError,
    InferenceConfig,
    change_inference,
    dump_config,
    load_snapshot,
    validate_config,
)

# The documents' configuration file, as they print it.
ORIGINAL = """
{
  # Model architecture configuration
  model {
    dim = 256         # Model dimension
    num_layers = 4    # Number of transformer layers
    num_heads = 8     # Number of attention heads
    num_experts = 8   # Number of experts in MoE layer
    top_k = 2         # Number of experts to select per token
    max_seq_len = 128 # Maximum sequence length
    dropout = 0.1     # Dropout rate
    shared_expert = true  # Include a shared expert
    load_balancing_loss_coef = 0.01  # Coefficient for load balancing loss
  }

  # Device configuration
  device {
    type = "auto"  # "auto", "cpu", "cuda", "mps"
    num_cpu_threads = -1  # Uses all but 2 cores (-1 = auto)
    num_cpu_interop_threads = 2  # Number of CPU interop threads
    gpu_ids = [0]  # GPUs to use (for DataParallel)
    use_mps = true  # Whether to use Apple's Metal Performance Shaders (for Macs)
  }

  # Training configuration
  training {
    batch_size = 16
    learning_rate = 3e-4
    epochs = 3
    eval_steps = 100
    dataset = "tiny_shakespeare"  # Can be changed to other datasets
    seq_len = 128
    data_dir = "data"  # Directory to store datasets
    num_workers = 4  # Number of data loading workers
  }

  # Inference configuration
  inference {
    max_new_tokens = 50
    temperature = 0.7
    top_k = null
    top_p = null
  }

  # Paths configuration
  paths {
    model_path = "./llama4_moe_model"
    output_dir = "./model"
  }
}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="my.hocon"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_the_original_projects_file_loads_unchanged(write):
    config = load_config(write(ORIGINAL))
    assert config.model.dim == 256
    assert config.device.num_cpu_threads == -1
    assert config.training.learning_rate == 3e-4
    assert config.training.num_workers == 4
    assert config.inference.top_k is None
    assert config.paths.model_path == "./llama4_moe_model"


def test_missing_keys_mean_the_original_architecture(write):
    given, empty = load_config(write(ORIGINAL)), load_config(write(""))
    assert given.model == empty.model == Config().model


def test_config_hocon_sets_and_comments_every_key():
    text = (ROOT / "config.hocon").read_text(encoding="utf-8")
    tree = ConfigFactory.parse_string(text)
    for section, field in Config.model_fields.items():
        assert list(tree[section]) == list(field.annotation.model_fields), section
    for line in text.splitlines():
        if re.match(r"\s+\w+ = ", line):
            assert "#" in line, f"no comment on: {line}"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.hocon")), ids=lambda p: p.stem)
def test_every_file_in_configs_loads_and_includes_the_default(path):
    assert 'include required("../config.hocon")' in path.read_text()
    assert load_config(path) != load_config(ROOT / "config.hocon")


def test_moellama_has_the_documents_settings(write):
    ours, original = load_config(ROOT / "configs" / "moellama.hocon"), load_config(write(ORIGINAL))
    assert ours.model == original.model
    for key in ("batch_size", "learning_rate", "epochs", "seq_len", "dataset"):
        assert getattr(ours.training, key) == getattr(original.training, key), key


def test_overrides_replace_keys_before_substitutions_are_resolved(write):
    path = write("paths { output_dir = a, model_path = ${paths.output_dir} }")
    assert load_config(path).paths.model_path == "a"
    assert load_config(path, ["paths.output_dir=b"]).paths.model_path == "b"


@pytest.mark.parametrize(
    ("item", "section", "key", "value"),
    [
        ("training.epochs=1", "training", "epochs", 1),
        ("training.learning_rate=1e-3", "training", "learning_rate", 1e-3),
        ("training.max_steps = null", "training", "max_steps", None),
        ("model.shared_expert=false", "model", "shared_expert", False),
        ("device.gpu_ids=[1, 2]", "device", "gpu_ids", [1, 2]),
        ("training.dataset=C:\\a b\\#1 $x.txt", "training", "dataset", "C:\\a b\\#1 $x.txt"),
        ('training.dataset="12"', "training", "dataset", "12"),
        ("inference.top_p=.5", "inference", "top_p", 0.5),
        ("model.shared_expert=True", "model", "shared_expert", True),
        ("inference.top_k=None", "inference", "top_k", None),
    ],
)  # fmt: skip
def test_override_values(write, item, section, key, value):
    assert getattr(getattr(load_config(write(""), [item]), section), key) == value


@pytest.mark.parametrize("item", ["epochs", "=1", "training epochs=1", "a..b=1", "x ${y}=1"])
def test_malformed_override_is_an_error(write, item):
    with pytest.raises(ConfigError, match="not of the form section"):
        load_config(write(""), [item])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.dimm = 64", r"unknown key model\.dimm; did you mean model\.dim\?"),
        ("dataset = a", r"unknown key dataset; did you mean training\.dataset\?"),
        ("training.dataset = 12", r"training\.dataset: .*it is 12; write it in quotes"),
        ("training.batch_size = 1000000", r"training\.batch_size: .*65536"),
        (
            "model { num_layers = 9, num_experts = 500 }",
            r"num_layers=9 times .*=500 is above 4,096",
        ),
        ("model.num_experts = 1025", r"model\.num_experts: .*1024"),
        ("training.epochs = 1e308", r"training\.epochs: .*1000000000"),
        ("modell.dim = 64", r"unknown key modell; did you mean model\?"),
        ("model.qqqqqq = 1", r"unknown key model\.qqqqqq; the keys here are model\.dim, "),
        ('model.dim = "wide"', r"model\.dim: input should be a valid integer, but it is 'wide'"),
        ("model.dim = 1.5", r"model\.dim: .*but it is 1\.5"),
        ("model.dim = true", r"model\.dim: input should be a valid integer, but it is True"),
        ("model.dim = 10 seconds", r"model\.dim: input should be a valid integer"),
        ("model.dim = -8", r"model\.dim: input should be greater than 0, but it is -8"),
        ("model.dropout = 1", r"model\.dropout: input should be less than 1, but it is 1"),
        ("model = 3", r"model: .*but it is 3"),
        ("model.router = hard", r"model\.router: input should be 'softmax' or 'sigmoid'"),
        ("device.num_cpu_threads = 0", r"device\.num_cpu_threads: 0 threads cannot compute"),
        ("device.num_cpu_threads = -2", r"device\.num_cpu_threads: .*-1, but it is -2"),
        ("training.learning_rate = 0", r"training\.learning_rate: .* greater than 0"),
        ("inference.temperature = -1", r"inference\.temperature: .*but it is -1"),
        ("inference.top_p = 1.5", r"inference\.top_p: .*less than or equal to 1"),
        ("training.seq_len = 200", r"training\.seq_len=200 is longer than model\.max_seq_len=128"),
        ("model.dim = 0, model.num_layers = 0", r"model\.dim: .* \(and 1 more\)"),
        ("model { dim = 1", r"not valid HOCON: "),
        ("a = ${nowhere}", r"not valid HOCON: .*nowhere"),
        ("[1, 2]", r"expected sections such as model"),
        ('include required("gone.hocon")', r"included file .*gone\.hocon does not exist"),
    ],
)
def test_every_mistake_is_one_line_that_names_the_file_and_the_key(write, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(text))
    assert str(caught.value).count("\n") == 0
    assert "my.hocon: " in str(caught.value)


def test_last_line_without_a_line_break_is_still_a_number(write):
    assert load_config(write("model.num_layers = 5 ")).model.num_layers == 5


def test_places_may_begin_with_the_home_folder_and_files_with_a_mark(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    path = tmp_path / "a.hocon"
    path.write_bytes(b'\xef\xbb\xbfpaths { output_dir = "~/runs/a" }, training.data_dir = "~/b"')
    config = load_config(path)
    assert (config.paths.output_dir, config.training.data_dir) == ("/home/me/runs/a", "/home/me/b")
    path.write_bytes(b"\xef\xbb\xbf" + dump_config(config).encode())
    assert load_snapshot(path) == config


def test_missing_file_and_wrong_encoding_are_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.hocon: no such file"):
        load_config(tmp_path / "gone.hocon")
    (tmp_path / "latin.hocon").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.hocon: cannot be read as UTF-8"):
        load_config(tmp_path / "latin.hocon")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_snapshot_round_trip(tmp_path):
    config = load_config(
        ROOT / "config.hocon", [*TINY_RUN, 'inference.prompt="a\\n${b} # \\"c\\""']
    )
    (tmp_path / "config.hocon").write_text(dump_config(config), encoding="utf-8")
    assert load_snapshot(tmp_path / "config.hocon") == config
    assert load_config(tmp_path / "config.hocon") == config


def test_a_snapshot_of_the_defaults_is_written_again_byte_for_byte(tmp_path):
    (tmp_path / "config.hocon").write_text(dump_config(Config()))
    assert dump_config(load_snapshot(tmp_path / "config.hocon")) == dump_config(Config())


def test_snapshot_is_strict_json_and_includes_nothing(write):
    write("model.dim = 64", "other.hocon")
    with pytest.raises(ConfigError, match="not the snapshot of a run"):
        load_snapshot(write('include "other.hocon"'))


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        Config().model.dim = 5


DEFAULTS = {
    "model": {
        "dim": 256, "num_layers": 4, "num_heads": 8, "num_experts": 8, "top_k": 2,
        "hidden_dim": None, "router": "softmax", "shared_expert": True, "max_seq_len": 128,
        "rope_theta": 10_000.0, "norm_eps": 1e-5, "dropout": 0.1, "load_balancing_loss_coef": 0.01,
        "balance": "loss", "bias_update_rate": 0.01, "router_score": None,
        "router_normalize": None, "router_scale": 1.0,
    },
    "device": {
        "type": "auto", "num_cpu_threads": None, "num_cpu_interop_threads": None, "gpu_ids": [0],
        "use_mps": True, "use_data_parallel": False, "num_processes": None,
    },
    "training": {
        "dataset": "fables", "data_dir": "data", "num_workers": 0, "seq_len": 128,
        "batch_size": 16, "learning_rate": 3e-4, "weight_decay": 0.1, "warmup_steps": 100,
        "grad_clip": 1.0, "epochs": 3.0, "max_steps": None, "max_seconds": None,
        "eval_steps": 100, "save_steps": 500, "seed": 0,
    },
    "inference": {
        "prompt": None, "max_new_tokens": 50, "temperature": 0.7, "top_k": None, "top_p": None,
        "draft_length": 0,
    },
    "paths": {"output_dir": "model", "model_path": None},
}  # fmt: skip


def test_a_missing_key_means_this():
    assert Config().model_dump() == DEFAULTS
    assert validate_config({}, "x").model_dump() == DEFAULTS


LEAST_AND_MOST = [  # what is just allowed, and what is just not
    (("model.dim", "model.num_heads", "training.batch_size"), 1, 0, 65_536, 65_537),
    (("model.hidden_dim", "model.max_seq_len"), 1, 0, 65_536, 65_537),
    (("model.num_layers",), 1, 0, 256, 257),
    (("model.num_experts", "model.top_k"), 1, 0, 1024, 1025),
    (("model.rope_theta", "model.norm_eps"), 1e-9, 0.0, 1e300, math.inf),
    (("model.dropout",), 0.0, -1e-9, 0.999, 1.0),
    (("model.load_balancing_loss_coef", "training.weight_decay"), 0.0, -1e-9, 1e300, math.inf),
    (("device.num_cpu_threads",), -1, -2, 1024, 1025),
    (("device.num_cpu_threads",), 1, 0, 2, 2000),
    (("device.num_cpu_interop_threads",), 1, 0, 1024, 1025),
    (("device.gpu_ids",), [0], [], [3, 1], [-1]),
    (("device.num_processes", "training.eval_steps", "training.save_steps"), 1, 0, 10**9, 1.5),
    (("training.max_steps", "inference.max_new_tokens", "inference.top_k"), 1, 0, 10**9, "1"),
    (("training.num_workers", "training.warmup_steps"), 0, -1, 10**9, True),
    (("training.learning_rate", "training.grad_clip"), 1e-9, 0.0, 1e300, math.inf),
    (("training.max_seconds",), 1e-9, 0.0, 1e300, math.nan),
    (("training.epochs",), 1e-9, 0.0, 1e9, 1.1e9),
    (("training.seed",), 0, -1, 2**63 - 1, 2**63),
    (("training.seq_len",), 1, 0, 128, 129),
    (("inference.prompt", "training.dataset"), "a", "", "ab", 3),
    (("training.data_dir", "paths.output_dir", "paths.model_path"), "a", "", "ab", "a\tb"),
    (("inference.temperature",), 0.0, -1e-9, 1e300, math.inf),
    (("inference.top_p",), 1e-9, 0.0, 1.0, 1.001),
    (("inference.draft_length",), 0, -1, 64, 65),
    (("model.router",), "softmax", "", "sigmoid", "both"),
    (("model.balance",), "none", "", "quantile", "losses"),
    (("model.bias_update_rate", "model.router_scale"), 1e-9, 0.0, 1e300, math.inf),
    (("model.router_score",), "softmax", "", "sqrtsoftplus", "tanh"),
    (("model.router_normalize",), True, 1, False, "no"),
    (("device.type",), "auto", "", "mps", "tpu"),
    (("model.shared_expert", "device.use_mps", "device.use_data_parallel"), True, 1, False, "no"),
]


@pytest.mark.parametrize(
    ("key", "least", "less", "most", "more"),
    [(key, *bounds) for keys, *bounds in LEAST_AND_MOST for key in keys],
)
def test_every_key_has_its_bounds(key, least, less, most, more):
    section, name = key.split(".")
    others = {"training": {"seq_len": 1}} if name == "max_seq_len" else {}
    for value in (least, most):
        found = validate_config({**others, section: {name: value}}, "here")
        assert getattr(getattr(found, section), name) == value
    for value in (less, more):
        with pytest.raises(ConfigError, match=rf"^here: {section}\.{name}"):
            validate_config({**others, section: {name: value}}, "here")


def test_every_key_is_in_the_table_of_bounds():
    keys = {f"{section}.{key}" for section, values in DEFAULTS.items() for key in values}
    assert {key for keys, *_ in LEAST_AND_MOST for key in keys} == keys


def test_experts_of_all_layers_together_have_a_bound():
    sizes = {"num_layers": 4, "num_experts": 1024}
    assert validate_config({"model": sizes}, "here").model.num_experts == 1024
    with pytest.raises(ConfigError, match=r"num_layers=5 times .*=1024 is above 4,096; lower one"):
        validate_config({"model": {**sizes, "num_layers": 5}}, "here")


@pytest.mark.parametrize("control", "\n\t\r\b\f")
@pytest.mark.parametrize("key", ["training.dataset", "paths.output_dir"])
def test_a_name_holds_no_line_break_or_tab(key, control):
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=r"holds a line break, a tab or the like"):
        validate_config({section: {name: f"a{control}b"}}, "here")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"dim": "128"}}, "model.dim: input should be a valid integer, but it is '128'; "
         "write 128, without quotes"),
        ({"training": {"epochs": ".5"}}, "training.epochs: input should be a valid number, but it "
         "is '.5'; write 0.5, without quotes"),
        ({"training": {"epochs": "-2e-3"}}, "training.epochs: input should be a valid number, but "
         "it is '-2e-3'; write -0.002, without quotes"),
        ({"training": {"epochs": "2e"}}, "training.epochs: input should be a valid number, but it "
         "is '2e'"),
        ({"model": {"shared_expert": "True"}}, "model.shared_expert: input should be a valid "
         "boolean, but it is 'True'; write true"),
        ({"model": {"shared_expert": "False"}}, "model.shared_expert: input should be a valid "
         "boolean, but it is 'False'; write false"),
        ({"inference": {"top_k": "None"}}, "inference.top_k: input should be a valid integer, but "
         "it is 'None'; write null"),
        ({"model": {"dim": "x" * 78}}, f"model.dim: input should be a valid integer, but it is "
         f"'{'x' * 78}'"),
        ({"model": {"dim": "x" * 79}}, f"model.dim: input should be a valid integer, but it is "
         f"'{'x' * 79} ..."),
        ({"training": {"dataset": 7}}, "training.dataset: input should be a valid string, but it "
         "is 7; write it in quotes"),
        ({"model": {"dim": 0, "num_layers": 0, "num_heads": 0}}, "model.dim: input should be "
         "greater than 0, but it is 0 (and 2 more)"),
        ({"model": {"a\nb": 0}}, "unknown key model.a\\nb; the keys here are model.dim, "
         "model.num_layers, model.num_heads, model.num_experts, model.top_k, model.hidden_dim, "
         "model.router, model.shared_expert, model.max_seq_len, model.rope_theta, model.norm_eps, "
         "model.dropout, model.load_balancing_loss_coef, model.balance, model.bias_update_rate, "
         "model.router_score, model.router_normalize, model.router_scale"),
        ({"y" * 90: 0}, f"unknown key {'y' * 80}; the keys here are model, device, training, "
         "inference, paths"),
        ({"model": {"head": 2}}, "unknown key model.head; did you mean model.num_heads?"),
        ([1], "input should be a valid dictionary or instance of Config, but it is [1]"),
        ({"trainin": {}}, "unknown key trainin; did you mean training?"),
        ({"top_p": 0}, "unknown key top_p; did you mean inference.top_p?"),
        ({"top_k": 0}, "unknown key top_k; did you mean model.top_k?"),
        ({"paths": {"output_di": "a"}}, "unknown key paths.output_di; did you mean "
         "paths.output_dir?"),
        ({"training": {"seed": {"a": 1}}}, "training.seed: input should be a valid integer, but "
         "it is {'a': 1}"),
        ({"device": {"gpu_ids": [0, "x"]}}, "device.gpu_ids.1: input should be a valid integer, "
         "but it is 'x'"),
        ({"device": {"num_cpu_threads": 0}}, "device.num_cpu_threads: 0 threads cannot compute; "
         "use -1 (all cores but two), null or a number"),
        ({"training": {"seq_len": 129}}, "training.seq_len=129 is longer than "
         "model.max_seq_len=128; lower the one or raise the other"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained_word_for_word(values, message):
    with pytest.raises(ConfigError) as caught:
        validate_config(values, "my.hocon")
    assert str(caught.value) == f"my.hocon: {message}"


def test_a_name_may_have_any_letter():
    assert validate_config({"training": {"dataset": "/XX n.txt"}}, "x").training.dataset[1] == "X"


def test_sampling_settings_change_one_by_one_and_are_checked():
    before = InferenceConfig(temperature=0.5, top_k=3)
    assert change_inference(before, {"top_k": None, "top_p": 0.5}) == InferenceConfig(
        temperature=0.5, top_p=0.5
    )
    assert change_inference(before, {}) == before
    with pytest.raises(ConfigError, match=r"^top_p: input should be less than or equal to 1, but"):
        change_inference(before, {"top_p": 2})
    with pytest.raises(ConfigError, match=r"^unknown key seed; "):
        change_inference(before, {"seed": 2})


def test_a_snapshot_is_indented_json_of_every_key():
    text = dump_config(Config())
    assert json.loads(text) == DEFAULTS
    assert text.startswith('{\n  "model": {\n    "dim": 256,\n')
    assert text.endswith("\n}\n")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, None])
def test_a_snapshot_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "config.hocon"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.hocon: not the snapshot of a run \("):
        load_snapshot(path)
    with pytest.raises(ConfigError, match=r"config\.hocon: not the snapshot of a run \("):
        load_snapshot(str(path))


def test_a_snapshot_with_a_wrong_value_names_file_and_key(tmp_path):
    (tmp_path / "config.hocon").write_text('{"model": {"dim": 0}}')
    with pytest.raises(ConfigError, match=r"^.*config\.hocon: model\.dim: input should be gr"):
        load_snapshot(tmp_path / "config.hocon")
