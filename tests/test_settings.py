"""Every key of the configuration reaches what it names: change it, see the effect."""

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from moe_tutorial import checkpoint, device, training
from moe_tutorial.command import generation, hocon, run
from moe_tutorial.command.cli import main
from moe_tutorial.command.run import open_run, train_in_folder
from moe_tutorial.config import Config
from moe_tutorial.processes.launch import processes_to_launch

TINY = {
    "model": {"dim": 8, "num_layers": 1, "num_heads": 2, "num_experts": 3, "top_k": 2,
              "hidden_dim": 4, "max_seq_len": 8, "shared_expert": False, "dropout": 0.0},
    "training": {"dataset": "passage", "seq_len": 8, "batch_size": 2, "max_steps": 4,
                 "warmup_steps": 1, "eval_steps": 4, "save_steps": 100},
}  # fmt: skip


def settings(key, value):
    section, name = key.split(".")
    values = {**TINY, section: {**TINY.get(section, {}), name: value}}
    return Config.model_validate(values)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def modules(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def slope(model):
    """What a step makes of a batch: the gradient of the router, which the balance loss reaches."""
    state = training.start_training(model, Config().training)
    x = torch.arange(16).view(2, 8)
    kept = {}
    model.blocks[0].moe.router.scores.weight.register_hook(lambda grad: kept.update(grad=grad))
    training.update(state, x, x, 0.1, 1e9, model)
    return kept["grad"]


MODEL = [  # key, value, what to look at, what is there then
    ("dim", 12, lambda m: m.head.weight.shape, (31, 12)),
    ("num_layers", 3, lambda m: len(m.blocks), 3),
    ("num_heads", 4, lambda m: m.new_caches()[0].keys.shape[1], 4),
    ("num_experts", 5, lambda m: len(m.blocks[0].moe.experts), 5),
    ("top_k", 1, lambda m: m(torch.zeros(1, 2, dtype=int)).routings[0].experts.shape, (2, 1)),
    ("hidden_dim", 6, lambda m: m.blocks[0].moe.experts[2].w_gate.shape, (8, 6)),
    ("hidden_dim", None, lambda m: m.blocks[0].moe.experts[2].w_down.shape, (24, 8)),
    ("router", "sigmoid", lambda m: m.blocks[0].moe.router.router, "sigmoid"),
    ("shared_expert", True, lambda m: m.blocks[0].moe.shared_expert.w_gate.shape, (8, 4)),
    ("max_seq_len", 11, lambda m: m.cos.shape[0], 11),
    ("rope_theta", 100.0, lambda m: m.cos[1, 1].item(), pytest.approx(math.cos(100**-0.5))),
    ("norm_eps", 0.5, lambda m: {n.eps for n in modules(m, type(m.norm))}, {0.5}),
    ("dropout", 0.25, lambda m: {d.p for d in modules(m, nn.Dropout)}, {0.25}),
    ("load_balancing_loss_coef", 0.5, lambda m: m.config.load_balancing_loss_coef, 0.5),
    ("balance", "quantile", lambda m: m.blocks[0].moe.router.rule, "quantile"),
    ("bias_update_rate", 0.5, lambda m: m.config.bias_update_rate, 0.5),
    ("router_score", "sigmoid", lambda m: m.blocks[0].moe.router.switches.score, "sigmoid"),
    ("router_normalize", False, lambda m: m.blocks[0].moe.router.switches.normalize, False),
    ("router_scale", 2.0, lambda m: m.blocks[0].moe.router.switches.scale, 2.0),
]


@pytest.mark.parametrize(("key", "value", "look", "wanted"), MODEL)
def test_a_key_of_the_section_model_reaches_the_model(key, value, look, wanted):
    found = []
    for config in (settings(f"model.{key}", value), Config.model_validate(TINY)):
        with open_run(config, resume=False) as opened:
            try:
                found.append(look(opened.state.model))
            except AttributeError:  # without it, there is nothing to look at
                found.append(None)
    assert found[0] == wanted
    assert found[1] != wanted


def test_the_coefficient_of_the_balance_loss_scales_its_slope():
    grads = []
    for coefficient in (0.0, 1.0, 3.0):
        with open_run(settings("model.load_balancing_loss_coef", coefficient), resume=False) as r:
            grads.append(slope(r.state.model))
    torch.testing.assert_close(grads[2] - grads[0], 3 * (grads[1] - grads[0]), rtol=1e-3, atol=1e-6)
    assert (grads[1] - grads[0]).abs().max() > 1e-3


class Trained:
    """A run to its end, and what was asked for on the way."""

    def __init__(self, config):
        with pytest.MonkeyPatch.context() as patch:
            self.corpora, self.saved, load = [], [], run.load_corpus
            patch.setattr(run, "load_corpus", lambda *a: (self.corpora.append(a), load(*a))[1])
            save = checkpoint.save_checkpoint
            patch.setattr(
                checkpoint, "save_checkpoint",
                lambda folder, state: (self.saved.append(state.step), save(folder, state))[1],
            )  # fmt: skip
            with open_run(config, resume=False) as opened:
                self.state, self.shapes = opened.state, []
                self.first_weights = opened.state.model.head.weight.clone()
                model = opened.state.model
                opened.forward = lambda x: (self.shapes.append(tuple(x.shape)), model(x))[1]
                self.records = list(train_in_folder(opened))

    def moment(self):
        """The length of the mean of all clipped gradients."""
        states = self.state.optimizer.state.values()
        return torch.cat([state["exp_avg"].flatten() for state in states]).norm().item()


TEXT = "data/own.txt"
TRAINING = [
    ("dataset", TEXT, lambda t: (t.corpora[0][0], t.state.model.head.out_features), (TEXT, 3)),
    ("data_dir", "texts", lambda t: t.corpora[0][1], "texts"),
    ("num_workers", 3, lambda t: t.corpora[0][2], 3),
    ("seq_len", 5, lambda t: set(t.shapes), {(2, 5)}),
    ("batch_size", 3, lambda t: set(t.shapes), {(3, 8)}),
    ("learning_rate", 0.5, lambda t: t.records[1].learning_rate, 0.5 * 3 / 4),
    ("weight_decay", 0.3, lambda t: t.state.optimizer.param_groups[0]["weight_decay"], 0.3),
    ("warmup_steps", 3, lambda t: t.records[0].learning_rate, 3e-4 / 4),
    ("grad_clip", 1e-6, lambda t: t.moment() < 1e-6, True),
    ("epochs", 0.06, lambda t: len(t.records), 2),  # 0.06 of 33 steps, begun
    ("max_steps", 3, lambda t: len(t.records), 3),
    ("max_seconds", 1e-9, lambda t: len(t.records), 1),
    ("eval_steps", 2, lambda t: [r.step for r in t.records if r.validation_loss], [2, 4]),
    ("save_steps", 3, lambda t: t.saved, [3, 4]),
]


@pytest.mark.parametrize(("key", "value", "look", "wanted"), TRAINING)
def test_a_key_of_the_section_training_reaches_the_training(key, value, look, wanted):
    Path("data").mkdir()
    Path(TEXT).write_text("abcb" * 50)
    assert look(Trained(settings(f"training.{key}", value))) == wanted
    assert look(Trained(Config.model_validate(TINY))) != wanted


def test_the_seed_decides_weights_and_batches():
    one, same, other = (Trained(settings("training.seed", seed)) for seed in (4, 4, 5))
    assert torch.equal(one.first_weights, same.first_weights)
    assert not torch.equal(one.first_weights, other.first_weights)
    assert [r.loss for r in one.records] == [r.loss for r in same.records]
    assert one.records[0].loss != other.records[0].loss


# device


class Machine:
    """A machine that has what a test needs; what is asked of PyTorch is noted."""

    def __init__(self, monkeypatch, gpus=0, mps=False, cores=8):
        self.asked = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(device, "available_cores", lambda: cores)
        monkeypatch.setattr(torch, "set_num_threads", lambda n: self.asked.append(("threads", n)))
        monkeypatch.setattr(
            torch, "set_num_interop_threads", lambda n: self.asked.append(("interop", n))
        )


@pytest.mark.parametrize(
    ("values", "gpus", "mps", "wanted"),
    [
        ({}, 2, True, "cuda:0"),
        ({"type": "cpu"}, 2, True, "cpu"),
        ({"type": "mps"}, 2, True, "mps"),
        ({"gpu_ids": [1]}, 2, True, "cuda:1"),
        ({}, 0, True, "mps"),
        ({"use_mps": False}, 0, True, "cpu"),
        ({}, 0, False, "cpu"),
    ],
)
def test_type_gpu_ids_and_use_mps_choose_the_device(monkeypatch, values, gpus, mps, wanted):
    Machine(monkeypatch, gpus, mps)
    config = Config.model_validate({"device": values})
    assert str(device.choose_device(config.device)) == wanted


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ({}, 1),
        ({"use_data_parallel": True}, 1),
        ({"use_data_parallel": True, "num_processes": 4}, 4),
        ({"use_data_parallel": True, "num_processes": 1}, 1),
    ],
)
def test_use_data_parallel_and_num_processes_decide_how_many_train(monkeypatch, values, number):
    Machine(monkeypatch)
    config = Config.model_validate({"device": {"type": "cpu", **values}})
    assert processes_to_launch(config) == number


def flat(changes):
    values = {**TINY, **changes}
    return [f"{s}.{k}={json.dumps(v)}" for s, keys in values.items() for k, v in keys.items()]


def test_training_and_generating_choose_device_and_threads_by_the_section_device(monkeypatch):
    machine = Machine(monkeypatch, cores=6)
    chosen = []
    for module in (run, generation):
        real = module.choose_device
        monkeypatch.setattr(
            module, "choose_device", lambda c, real=real: (chosen.append(c.type), real(c))[1]
        )
    interop = torch.get_num_interop_threads() + 1
    values = {"type": "cpu", "num_cpu_threads": -1, "num_cpu_interop_threads": interop}
    assert main(["train", "--set", *flat({"device": values})]) == 0
    both = [("threads", 4), ("interop", interop)]  # two cores are left free
    assert machine.asked == both * 2  # for the training, and for the sample
    assert main(["generate", "--max-new-tokens", "1"]) == 0
    assert machine.asked == both * 3
    assert chosen == ["cpu"] * 3


# inference and paths


@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("max_new_tokens", 3, 50),
        ("temperature", 0.25, 0.7),
        ("top_k", 2, None),
        ("top_p", 0.5, None),
    ],
)
def test_a_key_of_the_section_inference_reaches_the_sampler(monkeypatch, key, value, default):
    asked = []
    monkeypatch.setattr(
        generation, "generate", lambda model, ids, **options: (asked.append(options), [])[1]
    )
    for config in (settings(f"inference.{key}", value), Config.model_validate(TINY)):
        with open_run(config, resume=False) as opened:
            list(islice(train_in_folder(opened), 4))
        writer, sampling = generation.open_writer(Path("model"))
        writer.complete("The", sampling)
    assert [options[key] for options in asked] == [value, default]


@pytest.mark.parametrize(("value", "drafted"), [(3, True), (0, False)])
def test_the_draft_length_of_the_section_inference_reaches_speculation(monkeypatch, value, drafted):
    asked = []
    for name in ("generate", "speculate"):
        monkeypatch.setattr(
            generation,
            name,
            lambda *a, name=name, **options: (asked.append((name, options)), [])[1],
        )
    with open_run(settings("inference.draft_length", value), resume=False) as opened:
        list(islice(train_in_folder(opened), 4))
    writer, sampling = generation.open_writer(Path("model"))
    writer.complete("The", sampling)
    ((name, options),) = asked
    assert name == ("speculate" if drafted else "generate")
    assert options.get("draft_length") == (3 if drafted else None)


def test_the_prompt_of_the_section_inference_is_continued(capsys):
    changes = {"inference": {"prompt": "the cart", "max_new_tokens": 2}}
    assert main(["train", "--set", *flat(changes)]) == 0
    capsys.readouterr()
    assert main(["generate"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("the cart")
    assert len(out) == len("the cart") + 2 + 1


def test_the_output_dir_is_where_the_run_is_and_the_model_path_is_where_it_is_read():
    with open_run(settings("paths.output_dir", "deep/er"), resume=False) as opened:
        assert opened.folder == Path("deep/er")
    assert Path("deep/er/vocab.txt").exists()
    assert not Path("model").exists()
    Path("config.hocon").write_text("paths { output_dir = out, model_path = trained }")
    assert hocon.model_path("given") == Path("given")
    assert hocon.model_path(None) == Path("out")  # trained is not there
    Path("trained").touch()
    assert hocon.model_path(None) == Path("out")  # or no folder
    Path("trained").unlink()
    Path("trained").mkdir()
    assert hocon.model_path(None) == Path("trained")
    assert hocon.model_path("") == Path("trained")
    Path("config.hocon").write_text("paths { output_dir = out }")
    assert hocon.model_path(None) == Path("out")


def test_every_key_has_a_test_here():
    tested = {
        "model": {key for key, *_ in MODEL},
        "training": {key for key, *_ in TRAINING} | {"seed"},
        "device": {"type", "num_cpu_threads", "num_cpu_interop_threads", "gpu_ids", "use_mps",
                   "use_data_parallel", "num_processes"},
        "inference": {"prompt", "max_new_tokens", "temperature", "top_k", "top_p", "draft_length"},
        "paths": {"output_dir", "model_path"},
    }  # fmt: skip
    found = {section: set(values) for section, values in Config().model_dump().items()}
    assert tested == found
