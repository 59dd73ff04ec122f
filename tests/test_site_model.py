"""Which model writes in the page of the site: its one step, and what the page says of it.

The exported graph itself is compared in tests/browser, where onnxruntime is.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from moe_tutorial.checkpoint import save_checkpoint, start_run_folder
from moe_tutorial.command.hocon import load_config
from moe_tutorial.config import Config, ModelConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import start_training
from moe_tutorial.trust import CheckpointError

sys.path.insert(0, str(ROOT / "site"))
import shown
from step import Step

SYMBOLS = " abcdef<&"
TINY = {
    "dim": 16, "num_layers": 2, "num_heads": 2, "num_experts": 4, "hidden_dim": 8,
    "max_seq_len": 12, "shared_expert": False, "dropout": 0.0,
}  # fmt: skip
ROUTERS = [
    {},
    {"shared_expert": True, "dropout": 0.3},
    {"router": "sigmoid", "top_k": 1, "shared_expert": True},
    {"router": "sigmoid", "top_k": 3, "balance": "bias"},
    {"balance": "quantile"},
    {"router_score": "sigmoid", "router_normalize": True, "router_scale": 1.4, "balance": "bias"},
    {"router_score": "sqrtsoftplus", "router_scale": 2.0, "num_experts": 10, "top_k": 4},
    {"router_score": "softmax", "router_normalize": False, "router": "sigmoid"},
    {"num_layers": 1, "num_heads": 1, "num_experts": 1, "top_k": 1, "hidden_dim": None},
]


def random_model(seed=0, **changes):
    """A model whose biases, if it has some, choose other experts than its scores."""
    torch.manual_seed(seed)
    model = MoELanguageModel(ModelConfig(**{**TINY, **changes}), len(SYMBOLS)).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):
            buffer.normal_()
    return model


@pytest.mark.parametrize("changes", ROUTERS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_step_computes_what_the_library_computes_for_every_router(changes, seed):
    model = random_model(seed, **changes)
    config, tokens = model.config, torch.randint(len(SYMBOLS), (1, 12))
    cache = torch.zeros(
        config.num_layers, 2, 1, config.num_heads, 0, config.dim // config.num_heads
    )
    with torch.inference_mode():
        step, (expected, routings) = Step(model).eval(), model(tokens)
        for i in range(12):
            logits, experts, cache = step(tokens[:, i : i + 1], torch.tensor([i]), cache)
            assert (logits - expected[0, i]).abs().max() < 1e-5
            assert torch.equal(experts, torch.stack([r.experts[i] for r in routings]))


def tiny(**sections):
    return Config.model_validate({"model": TINY, "training": {"seq_len": 12}, **sections})


@pytest.fixture
def run_folder(tmp_path):
    """A function that writes the folder of a run which has taken no step but says that it has."""

    def write(config, symbols=SYMBOLS, step=20, loss=1.25):
        folder, tokenizer = tmp_path / "model", CharTokenizer(symbols)
        torch.manual_seed(0)
        model = MoELanguageModel(config.model, tokenizer.vocab_size)
        state = start_training(model, config.training)
        state.step, state.validation_loss = step, loss
        start_run_folder(folder, config, tokenizer)
        save_checkpoint(folder, state)
        return folder

    return write


def test_a_folder_tells_model_text_and_settings(run_folder):
    usual = load_config(ROOT / "config.hocon")
    training = usual.training.model_copy(
        update={"dataset": "/home/someone/my`text.txt", "seq_len": 12, "learning_rate": 3e-3}
    )
    config = Config(model=ModelConfig(**TINY), training=training)
    model = shown.trained(run_folder(config))
    assert all(torch.equal(w, w.half().float()) for w in model.model.parameters())
    said = shown.described(model, 4.56)
    assert said.startswith("A model that was trained for this site writes here")
    assert "2 layers of 4 experts, 2 for each character" in said
    parameters = sum(p.numel() for p in random_model().parameters())
    assert (
        f"{parameters:,} parameters rounded to float16, trained on `my'text.txt` for 20 steps"
        in said
    )
    assert "someone" not in said
    assert "(held-out loss 1.250 nats per character before rounding)" in said
    assert "4.6 MB" in said
    found = re.findall(r"`([\w.]+) = ([^`]+)`", said)
    expected = {
        f"model.{key}": value
        for key, value in TINY.items()
        if value != getattr(usual.model, key)
    } | {"training.seq_len": 12, "training.learning_rate": 3e-3}  # fmt: skip
    assert {key: json.loads(value) for key, value in found} == expected


def test_only_the_settings_of_make_train_are_called_so(run_folder):
    usual = load_config(ROOT / "config.hocon")
    said = shown.described(shown.trained(run_folder(usual)), 9)
    assert said.startswith("The model that `make train` trains writes here")
    assert "Its settings are those of [config.hocon](settings.md). The first" in said
    assert "trained on `fables` for 20 steps" in said


def test_another_text_is_no_longer_the_model_of_make_train(run_folder):
    usual = load_config(ROOT / "config.hocon")
    training = usual.training.model_copy(update={"dataset": "passage"})
    said = shown.described(
        shown.trained(run_folder(usual.model_copy(update={"training": training}))), 9
    )
    assert said.startswith("A model that was trained for this site")
    assert "trained on `passage`" in said


def test_of_an_imported_model_no_training_is_told(run_folder):
    folder = run_folder(tiny(), step=0, loss=None)
    said = shown.described(shown.trained(folder), 1)
    assert said.startswith("A model that was imported for this site")
    assert "trained elsewhere. Its settings" in said
    assert "training." not in said


def test_the_model_of_chapter_12_is_told_as_such():
    model = shown.committed()
    said = shown.described(model, 4)
    assert said.startswith("The model that [chapter 12](notebooks/12_specialists.ipynb)")
    assert "2 layers of 8 experts" in said
    assert "trained on `fables` for 1,500 steps" in said
    assert {"model.dim = 96", "model.num_layers = 2", "training.max_steps = 1500"} <= set(
        model.differences
    )


def test_the_prompt_is_one_that_the_model_can_read():
    fables, own = CharTokenizer(sorted(set(shown.PROMPT))), CharTokenizer(SYMBOLS)
    assert shown.first_prompt(Config(), fables) == shown.PROMPT
    assert shown.first_prompt(Config(), own) == "a"
    assert shown.first_prompt(Config(), CharTokenizer(" .")) == " "
    config = Config.model_validate({"inference": {"prompt": "bad\ncafe"}})
    assert shown.first_prompt(config, own) == "bad"
    assert shown.first_prompt(config, fables) == shown.PROMPT


def test_what_is_compared_begins_with_the_prompt_and_fits_the_context():
    prompt = torch.tensor([2, 3])
    for length in (1, 12):
        tokens = shown.own_text(random_model(max_seq_len=length), prompt)
        assert len(tokens) == length
        assert torch.equal(tokens[:2], prompt[:length])


def test_the_form_has_the_data_of_the_model_and_nothing_in_it_ends_the_script(run_folder):
    config = tiny(model={**TINY, "num_experts": 10}, inference={"prompt": '"<&'})
    text = shown.page(shown.trained(run_folder(config, symbols='/"' + SYMBOLS)), 2)
    assert "%" not in text
    assert 'value="&quot;&lt;&amp;"' in text
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])
    assert data["symbols"] == list('/"' + SYMBOLS)
    assert (data["layers"], data["heads"], data["head_dim"], data["top_k"]) == (2, 2, 8, 2)
    assert len(data["colors"]) == 10
    assert text.count("<i style=") == 10
    assert (
        "\n\n" not in text.partition("<form")[2].strip()
    )  # a blank line would end the form in Markdown


@pytest.mark.parametrize("fault", ["none", "empty", "cut"])
def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path, run_folder, fault):
    folder = tmp_path / "model"
    if fault == "empty":
        folder.mkdir()
    if fault == "cut":
        run_folder(tiny())
        (weights,) = folder.glob("checkpoints/*/model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(
        CheckpointError, match=r"holds no trained model|truncated or changed"
    ) as caught:
        shown.trained(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_hands_the_folder_on():
    others = {k: v for k, v in os.environ.items() if k != "MODEL" and not k.startswith("MAKE")}
    for given, expected in (([], ""), (["MODEL=my model"], '--model-path "my model"')):
        done = subprocess.run(
            ["make", "--no-print-directory", "-n", "site", *given],
            cwd=ROOT, env=others, capture_output=True, text=True, check=True,
        )  # fmt: skip
        line = done.stdout.splitlines()[-1].rstrip()
        assert line.endswith(f"site/make_site.py {expected}".rstrip())
