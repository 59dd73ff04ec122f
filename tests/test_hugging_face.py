"""transformers computes from an exported folder what the library computes, and the way back.

Both programs read the same random weights; nothing is trained and nothing is downloaded.
"""

import json
import os
import random
import subprocess
import sys
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, environment
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moe_tutorial import moe
from moe_tutorial.checkpoint import load_model, save_checkpoint, start_run_folder
from moe_tutorial.command.cli import main
from moe_tutorial.command.hocon import load_config
from moe_tutorial.config import Config, InferenceConfig, ModelConfig, TrainingConfig
from moe_tutorial.families import FAMILIES, KEYS
from moe_tutorial.hugging_face import PRIVATE, export, import_, tokenizer_json
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import Routing, load_balancing_loss
from moe_tutorial.sampling import generate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.training import start_training, train
from moe_tutorial.translation import to_ours
from moe_tutorial.trust import CheckpointError

os.environ["HF_HUB_OFFLINE"] = "1"
SYMBOLS = CharTokenizer("\n \"'\\aeot")
V = SYMBOLS.vocab_size
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3)))
NAMES = [family.architecture for family in FAMILIES]
every_family = pytest.mark.parametrize("name", NAMES)


@cache
def transformers():
    """Imported by the tests that need it: it takes several seconds."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers


def random_config(name, seed, **changes):
    """Odd sizes, and every number that a mapping could lose."""
    rng = random.Random(seed)
    family = FAMILIES[NAMES.index(name)]
    num_heads, num_experts = rng.choice((2, 3, 5)), rng.choice((3, 5, 7))
    values = {
        "dim": num_heads * rng.choice((6, 10, 14)),
        "num_layers": rng.choice((1, 2, 3)),
        "num_heads": num_heads,
        "num_experts": num_experts,
        "top_k": rng.randint(1, num_experts),
        "hidden_dim": rng.choice((7, 13, 17)),
        "max_seq_len": rng.choice((19, 23)),
        "rope_theta": rng.choice((500.0, 10_000.0)),
        "norm_eps": rng.choice((1e-5, 1e-3)),
        "dropout": 0.1,
        **free_keys(family, rng),
        **family.keys,
    }
    model = ModelConfig(**{**values, **changes})
    return Config(model=model, training=TrainingConfig(seq_len=11, learning_rate=0.5 / (1 + seed)))


def free_keys(family, rng):
    """What the family can do in more than one way."""
    values = {
        "router_normalize": rng.choice((True, False, None)),
        "router_scale": rng.choice((1.0, 1.4, 2.5)),
        "shared_expert": rng.choice((True, False)),
    }
    return {key: value for key, value in values.items() if key in family.names}


def scramble(model):
    """Weights of ordinary size everywhere, so that no part of the model is silent."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("bias"):  # of the choice, about as large as the scores differ
                buffer.uniform_(-0.2, 0.2)


def run_folder(folder, config, seed=0):
    torch.manual_seed(seed)
    model = MoELanguageModel(config.model, V)
    scramble(model)
    start_run_folder(folder, config, SYMBOLS)
    save_checkpoint(folder, start_training(model, config.training))
    return folder


def load_theirs(folder):
    model, info = transformers().AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    problems = {key: found for key, found in info.items() if found}
    assert not problems
    return model.eval()


def exported(tmp_path, name, seed=0, **changes):
    """One model twice: loaded here from the run folder, loaded by transformers from the export."""
    run = run_folder(tmp_path / "run", random_config(name, seed, **changes), seed)
    assert export(run, tmp_path / "hf") == name
    theirs = load_theirs(tmp_path / "hf")
    assert type(theirs).__name__ == name
    return SimpleNamespace(ours=load_model(run).model, theirs=theirs, folder=tmp_path / "hf")


def their_config(name, seed):
    """The same sizes, written down in the words of transformers."""
    model = random_config(name, seed).model
    family = FAMILIES[NAMES.index(name)]
    words = {theirs: getattr(model, ours) for ours, theirs in {**KEYS, **family.names}.items()}
    words |= {
        "vocab_size": V,
        "num_key_value_heads": model.num_heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        "experts_implementation": "eager",  # the other ones refuse odd widths
    }
    head_dim = model.dim // model.num_heads
    whole_rope = {**words["rope_parameters"], "partial_rotary_factor": 1.0}
    normalize = model.router_normalize is not False
    match name:
        case "MixtralForCausalLM":
            own = {}
        case "GraniteMoeSharedForCausalLM":
            own = {"shared_intermediate_size": model.hidden_dim}
            own |= {"attention_multiplier": 1 / head_dim**0.5}
        case "Llama4ForCausalLM":
            own = {"head_dim": head_dim, "no_rope_layers": [1] * model.num_layers}
            own |= {"use_qk_norm": False, "attn_temperature_tuning": False}
        case "Ernie4_5_MoeForCausalLM":
            own = {"moe_num_shared_experts": int(model.shared_expert)}
            own |= {"moe_layer_start_index": 0, "tie_word_embeddings": False}
        case "Glm4MoeForCausalLM":
            own = {"norm_topk_prob": normalize, "rope_parameters": whole_rope}
            own |= {"first_k_dense_replace": 0}
        case "MiMoV2FlashForCausalLM":
            own = {"head_dim": head_dim, "v_head_dim": head_dim, "attention_value_scale": 1.0}
            own |= {"layer_types": ["full_attention"] * model.num_layers}
            own |= {"mlp_layer_types": ["sparse"] * model.num_layers}
            own |= {"norm_topk_prob": normalize, "rope_parameters": {"full_attention": whole_rope}}
    config_class = getattr(transformers(), name).config_class
    return config_class(**{**words, **own})


def save_theirs(folder, config):
    """A random model and a tokenizer made and saved by transformers alone."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    theirs = getattr(transformers(), NAMES[TYPES.index(config.model_type)])(config).eval()
    scramble(theirs)
    theirs.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(SYMBOLS.char_to_int, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    transformers().PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return theirs


TYPES = [family.model_type for family in FAMILIES]


def imported(tmp_path, name, seed=0):
    torch.manual_seed(seed)
    theirs = save_theirs(tmp_path / "hf", their_config(name, seed))
    import_(tmp_path / "hf", tmp_path / "run")
    return SimpleNamespace(ours=load_model(tmp_path / "run").model, theirs=theirs)


def some_tokens(pair, batch=2):
    return torch.randint(V, (batch, pair.ours.config.max_seq_len - 2))


def logits_differ_by(pair):
    tokens = some_tokens(pair)
    with torch.no_grad():
        ours, theirs = pair.ours(tokens).logits, pair.theirs(tokens).logits
    assert ours.std() > 0.1
    return float((ours - theirs).abs().max())


def gradients_differ_by(pair, folder):
    """Largest difference over all parameters; theirs are saved as if they were weights."""
    tokens = some_tokens(pair)
    for logits in (pair.ours(tokens).logits, pair.theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for parameter in pair.theirs.parameters():
        if parameter.grad is not None:  # ERNIE's bias is a parameter, without a gradient
            parameter.data = parameter.grad
    pair.theirs.save_pretrained(folder)
    theirs = to_ours(load_file(folder / "model.safetensors"), pair.ours.config)
    ours = {name: parameter.grad for name, parameter in pair.ours.named_parameters()}
    assert ours.keys() == {name for name in theirs if not name.endswith("router.bias")}
    assert all(ours[name].abs().max() > 1e-4 for name in ours if has_gradient(name, pair))
    experts = (g.abs().max() for name, g in ours.items() if ".experts." in name)
    assert sum(largest > 1e-4 for largest in experts) >= 3 * pair.ours.config.num_layers
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def has_gradient(name, pair):
    """All have one, except an idle expert, and a router whose one weight is divided by itself."""
    config = pair.ours.config
    divided = config.router == "softmax" and config.router_normalize is not False
    no_gradient = divided and config.top_k == 1 and "router" in name
    return not no_gradient and ".experts." not in name


@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_exported_model_has_the_same_logits_and_gradients(tmp_path, name, seed):
    pair = exported(tmp_path, name, seed)
    assert logits_differ_by(pair) < 1e-5
    assert gradients_differ_by(pair, tmp_path / "gradients") < 1e-5


@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_imported_model_has_the_same_logits_and_gradients(tmp_path, name, seed):
    pair = imported(tmp_path, name, seed)
    assert logits_differ_by(pair) < 1e-5
    assert gradients_differ_by(pair, tmp_path / "gradients") < 1e-5


@every_family
@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 1, "top_k": 1},
        pytest.param({"num_experts": 4, "top_k": 4}, marks=pytest.mark.slow),
        {"num_experts": 4, "top_k": 1},
        pytest.param({"hidden_dim": None, "dropout": 0.0}, marks=pytest.mark.slow),
    ],
    ids=["one expert", "all experts", "top 1", "default width"],
)
def test_edge_cases_are_exported_as_well(tmp_path, name, changes):
    if "router_score" in FAMILIES[NAMES.index(name)].keys and changes.get("num_experts") == 1:
        run = run_folder(tmp_path / "run", random_config(name, 0, **changes))
        with pytest.raises(ValueError, match="train with two experts or more"):
            export(run, tmp_path / "hf")
        assert not (tmp_path / "hf").exists()
        return
    pair = exported(tmp_path, name, **changes)
    assert logits_differ_by(pair) < 1e-5
    assert gradients_differ_by(pair, tmp_path / "gradients") < 1e-5


each_direction = pytest.mark.parametrize(
    "direction", [exported, pytest.param(imported, marks=pytest.mark.slow)]
)


@every_family
@each_direction
@pytest.mark.parametrize("seed", SEEDS)
def test_cached_generation_has_the_same_logits_token_by_token(tmp_path, name, direction, seed):
    pair = direction(tmp_path, name, seed)
    tokens, caches, past = some_tokens(pair), pair.ours.new_caches(batch_size=2), None
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            ours = pair.ours(token, caches).logits
            output = pair.theirs(token, past_key_values=past, use_cache=True)
            past = output.past_key_values
            assert (ours - output.logits).abs().max() < 1e-5


@every_family
@each_direction
def test_greedy_text_is_the_same(tmp_path, name, direction):
    pair = direction(tmp_path, name)
    tokenizer = transformers().AutoTokenizer.from_pretrained(tmp_path / "hf")
    prompt, room = 'at "', pair.ours.config.max_seq_len + 1
    inputs = tokenizer(prompt, return_tensors="pt")
    new = room - len(prompt)
    special = pair.theirs.config
    assert [special.bos_token_id, special.eos_token_id, special.pad_token_id] == [None] * 3
    theirs = pair.theirs.generate(**inputs, max_new_tokens=new, do_sample=False)[0]
    ours = generate(pair.ours, SYMBOLS.encode(prompt), max_new_tokens=new, temperature=0)
    text = prompt + SYMBOLS.decode([token.token for token in ours])
    assert len(text) == room
    assert tokenizer.decode(theirs) == text


def public(config):
    """All but where things lie on the exporting machine and words of its text."""
    return config.model_dump(exclude=PRIVATE)


@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_export_then_import_is_the_identity(tmp_path, name, seed):
    changes = {"hidden_dim": None} if seed == 0 else {}
    run = run_folder(tmp_path / "run", random_config(name, seed, **changes), seed)
    export(run, tmp_path / "hf")
    import_(tmp_path / "hf", tmp_path / "back")
    before, after = load_model(run), load_model(tmp_path / "back")
    assert public(after.config) == public(before.config)
    assert after.tokenizer.int_to_char == before.tokenizer.int_to_char
    old, new = before.model.state_dict(), after.model.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)


@every_family
def test_import_then_export_is_the_identity_on_the_weights(tmp_path, name):
    imported(tmp_path, name)
    export(tmp_path / "run", tmp_path / "again")
    old, new = (load_file(tmp_path / f / "model.safetensors") for f in ("hf", "again"))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)


@every_family
def test_what_transformers_saves_of_an_export_is_the_same_run_folder(tmp_path, name):
    pair = exported(tmp_path, name)
    pair.theirs.save_pretrained(tmp_path / "saved")
    tokenizer = transformers().AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "saved")
    import_(tmp_path / "saved", tmp_path / "back")
    back, run = (load_model(tmp_path / name).config for name in ("back", "run"))
    assert public(back) == public(run)


@pytest.mark.slow
def test_a_fresh_python_with_transformers_alone_generates_the_same_text(
    tmp_path, trained_folder, capsys
):
    """The library is made impossible to import in the other process."""
    runs = [trained_folder / "model"]
    runs += [run_folder(tmp_path / name, random_config(name, 5), 5) for name in NAMES[1:]]
    texts = []
    for i, run in enumerate(runs):
        export(run, tmp_path / f"hf{i}")
        flags = ["--prompt", "at ", "--max-new-tokens", "16", "--temperature", "0"]
        capsys.readouterr()
        assert main(["generate", "--model-path", str(run), *flags]) == 0
        texts.append(capsys.readouterr().out)
    code = """
import sys
sys.modules["moe_tutorial"] = None  # import moe_tutorial is now an ImportError
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = model.generate(**tokenizer("at ", return_tensors="pt"), max_new_tokens=16)
    print(tokenizer.decode(ids[0]))
"""
    folders = [str(tmp_path / f"hf{i}") for i in range(len(runs))]
    result = subprocess.run(
        [sys.executable, "-I", "-c", code, *folders], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(texts)


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def swap_gate_and_up(tensors):
    for name in list(tensors):
        if "w1" in name:
            other = name.replace("w1", "w3")
            tensors[name], tensors[other] = tensors[other], tensors[name]
        if "block_sparse_moe.input_linear" in name:
            tensors[name] = torch.cat(tensors[name].chunk(2, 1)[::-1], 1)
        if "gate_up_proj" in name:
            tensors[name] = torch.cat(tensors[name].chunk(2, 2)[::-1], 2)
        if "mlp.experts." in name and "gate_proj" in name:
            other = name.replace("gate_proj", "up_proj")
            tensors[name], tensors[other] = tensors[other], tensors[name]


def swap_shared_gate_and_up(tensors):
    for name in list(tensors):
        if "shared_mlp.input_linear" in name:
            tensors[name] = torch.cat(tensors[name].chunk(2)[::-1])
        if "shared_expert.gate_proj" in name or "shared_experts.gate_proj" in name:
            other = name.replace("gate_proj", "up_proj")
            tensors[name], tensors[other] = tensors[other], tensors[name]


def undo_the_pairs(tensors, heads):
    """Rows of q and k in the half-split order in which the library has them."""
    for name in tensors:
        if "q_proj" in name or "k_proj" in name:
            rows = tensors[name].unflatten(0, (heads, -1))
            tensors[name] = torch.cat((rows[:, 0::2], rows[:, 1::2]), 1).flatten(0, 1)


def forget_the_bias(tensors):
    for name in tensors:
        if name.endswith("e_score_correction_bias"):
            tensors[name] = torch.zeros_like(tensors[name])


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        *((name, swap_gate_and_up) for name in NAMES),
        *((name, swap_shared_gate_and_up) for name in NAMES[1:5]),
        ("Llama4ForCausalLM", undo_the_pairs),
        ("Ernie4_5_MoeForCausalLM", undo_the_pairs),
        *((name, forget_the_bias) for name in NAMES[3:]),
    ],
)
def test_a_wrong_mapping_is_noticed(tmp_path, name, mistake):
    changes = {"shared_expert": True} if mistake is swap_shared_gate_and_up else {}
    changes |= {"num_experts": 5, "top_k": 2} if mistake is forget_the_bias else {}
    pair = exported(tmp_path, name, **changes)
    assert logits_differ_by(pair) < 1e-5
    if mistake is undo_the_pairs:
        mistake = partial(undo_the_pairs, heads=pair.ours.config.num_heads)
    change_tensors(pair.folder, mistake)
    pair.theirs = load_theirs(pair.folder)
    assert logits_differ_by(pair) > 1e-2


@pytest.mark.parametrize("changes", [{"norm_topk_prob": False}, {"routed_scaling_factor": 1.0}])
@pytest.mark.parametrize("name", NAMES[4:])
def test_a_wrong_setting_of_deepseeks_router_is_noticed(tmp_path, name, changes):
    pair = exported(tmp_path, name, router_normalize=True, router_scale=1.4)
    assert logits_differ_by(pair) < 1e-5
    path = pair.folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    pair.theirs = load_theirs(pair.folder)
    assert logits_differ_by(pair) > 1e-2


def test_deepseeks_configuration_is_trained_exported_and_read_back(tmp_path):
    """A few steps move its bias; transformers and the imported folder then compute the same."""
    config = load_config(ROOT / "configs" / "deepseek.hocon")
    settings = config.training.model_copy(update={"seq_len": 16, "batch_size": 2, "max_steps": 3})
    model, ids = MoELanguageModel(config.model, V), torch.arange(V).repeat(40)
    start_run_folder(tmp_path / "run", config, SYMBOLS)
    state = start_training(model, settings)
    losses = [record.loss for record in train(state, ids, ids[:60], settings)]
    assert len(losses) == 3
    save_checkpoint(tmp_path / "run", state)
    assert export(tmp_path / "run", tmp_path / "hf") == "MiMoV2FlashForCausalLM"
    theirs = load_theirs(tmp_path / "hf")
    biases = [b for name, b in theirs.named_buffers() if name.endswith("score_correction_bias")]
    assert len(biases) == config.model.num_layers
    assert all(bias.abs().max() >= config.model.bias_update_rate / 2 for bias in biases)
    import_(tmp_path / "hf", tmp_path / "back")
    for folder in ("run", "back"):
        pair = SimpleNamespace(ours=load_model(tmp_path / folder).model, theirs=theirs)
        assert logits_differ_by(pair) < 1e-5


def test_a_model_balanced_without_a_loss_asks_for_none_in_transformers(tmp_path):
    for i, (balance, name) in enumerate(
        (("loss", NAMES[0]), ("none", NAMES[0]), ("bias", NAMES[3]))
    ):
        config = random_config(name, 0, balance=balance, load_balancing_loss_coef=0.3, top_k=3)
        export(run_folder(tmp_path / f"run{i}", config), tmp_path / f"hf{i}")
        found = json.loads((tmp_path / f"hf{i}" / "config.json").read_text())
        assert found["router_aux_loss_coef"] == pytest.approx(0.1 if balance == "loss" else 0)


def test_scaling_the_output_instead_of_the_input_is_noticed(tmp_path, monkeypatch):
    pair = exported(tmp_path, "Llama4ForCausalLM")
    assert logits_differ_by(pair) < 1e-5
    right = moe.dispatch
    monkeypatch.setattr(moe, "dispatch", lambda *args, scale_input: right(*args, scale_input=False))
    assert logits_differ_by(pair) > 1e-2


def their_balance_loss(logits, top_k):
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    return load_balancing_loss_func(tuple(logits), logits[0].shape[1], top_k)


def routing_of(logits, top_k):
    chosen, experts = logits.topk(top_k)
    return Routing(chosen.softmax(-1), experts, logits.softmax(-1))


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_mixtrals_balance_loss_is_ours_times_top_k_over_pooled_layers(top_k):
    layers = [3 * torch.randn(40, 5) for _ in range(3)]
    theirs = their_balance_loss(layers, top_k)
    pooled = routing_of(torch.cat(layers), top_k)
    assert float(theirs) == pytest.approx(float(top_k * load_balancing_loss([pooled])), rel=1e-5)
    one = routing_of(layers[0], top_k)
    assert float(their_balance_loss(layers[:1], top_k)) == pytest.approx(
        float(top_k * load_balancing_loss([one])), rel=1e-5
    )


def test_pooling_hides_layers_that_collapse_on_different_experts():
    layers = [torch.zeros(8, 4).index_fill_(1, torch.tensor([e]), 50.0) for e in range(4)]
    assert float(their_balance_loss(layers, 1)) == pytest.approx(1)
    assert float(load_balancing_loss([routing_of(x, 1) for x in layers])) == pytest.approx(4)


def test_training_loss_of_one_exported_layer_is_the_same(tmp_path):
    pair = exported(tmp_path, NAMES[0], num_layers=1, top_k=2, load_balancing_loss_coef=0.3)
    tokens = some_tokens(pair)
    output = pair.ours(tokens)
    loss = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    ours = loss + 0.3 * load_balancing_loss(output.routings)
    theirs = pair.theirs(tokens, labels=tokens, output_router_logits=True).loss
    assert abs(ours - theirs) < 1e-5


@pytest.fixture(scope="module")
def their_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    export(run_folder(folder / "run", random_config(NAMES[0], 0)), folder / "hf")
    return transformers().AutoTokenizer.from_pretrained(folder / "hf")


@given(text=st.text(st.sampled_from(SYMBOLS.int_to_char)))
def test_tokenizer_round_trips_any_text_over_the_vocabulary(their_tokenizer, text):
    ids = their_tokenizer(text)["input_ids"]
    assert ids == SYMBOLS.encode(text).tolist()
    assert their_tokenizer.decode(ids) == text


@given(text=st.text(min_size=1))
def test_any_vocabulary_can_be_exported(text):
    from tokenizers import Tokenizer

    ours = CharTokenizer.fit(text)
    theirs = Tokenizer.from_str(json.dumps(tokenizer_json(ours), ensure_ascii=False))
    ids = theirs.encode(text).ids
    assert ids == ours.encode(text).tolist()
    assert theirs.decode(ids) == text


@pytest.mark.parametrize("text", ["b", "tea!", "<unk>", "é"])
def test_unknown_character_raises_there_as_here(their_tokenizer, text):
    with pytest.raises(ValueError, match="unknown character"):
        SYMBOLS.encode(text)
    with pytest.raises(Exception, match=r"Missing .* token from the vocabulary"):
        their_tokenizer(text)


def test_no_character_is_a_special_token(their_tokenizer):
    assert len(their_tokenizer) == V
    assert their_tokenizer.all_special_ids == []
    assert their_tokenizer.pad_token_id is None
    with pytest.raises(ValueError, match="does not have a padding token"):
        their_tokenizer(["a", "tea"], padding=True)


def test_tokenizer_gives_what_the_model_takes(their_tokenizer):
    assert their_tokenizer.model_max_length == random_config(NAMES[0], 0).model.max_seq_len
    assert set(their_tokenizer("tea")) == {"input_ids", "attention_mask"}


def test_grouped_queries_are_refused(tmp_path):
    config = their_config(NAMES[0], 0)
    config.num_attention_heads, config.num_key_value_heads = 2, 1
    config.hidden_size = 12
    save_theirs(tmp_path / "hf", config)
    with pytest.raises(CheckpointError, match=r"num_key_value_heads=1 .*no grouped queries"):
        import_(tmp_path / "hf", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


FOREIGN = {"moe_tutorial": None}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (NAMES[0], {"model_type": "llama"}, r"model_type='llama' .*granitemoeshared"),
        (NAMES[0], {"model_type": "llama4"}, r"model_type='llama4' .*only mixtral, .*llama4_text"),
        (NAMES[0], {"rms_norm_eps": -1.0}, r"model\.norm_eps: input should be greater than 0"),
        (NAMES[0], {"hidden_size": "12"}, r"config\.json: model\.dim: input should be a valid"),
        (NAMES[0], {"rope_parameters": None}, "not as transformers 5 writes it"),
        (NAMES[0], {"max_position_embeddings": "9"}, "not as transformers 5 writes it"),
        (NAMES[0], {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, "not stretched"),
        (NAMES[0], {"sliding_window": 4}, r"sliding_window=4 cannot .*all earlier ones"),
        (NAMES[0], {"hidden_act": "gelu"}, r"hidden_act='gelu' .*'silu'"),
        (NAMES[0], {"tie_word_embeddings": True}, r"tie_word_embeddings=True .*two matrices"),
        (NAMES[0], {"vocab_size": 99}, r"vocab_size=99 .*tokenizer\.json has characters"),
        (NAMES[1], {"shared_intermediate_size": 0}, "as wide as the others"),
        (NAMES[1], {"attention_multiplier": 0.015625}, r"attention_multiplier=0\.015625"),
        (NAMES[1], {"residual_multiplier": 0.22}, r"residual_multiplier=0\.22"),
        (NAMES[2], {"no_rope_layers": [0]}, "every layer uses RoPE"),
        (NAMES[2], {"moe_layers": []}, "every layer is a mixture"),
        (NAMES[2], {"use_qk_norm": True}, "use_qk_norm=True"),
        (NAMES[2], {"attn_temperature_tuning": True}, "attn_temperature_tuning=True"),
        (NAMES[2], {"layer_types": ["chunked_attention"], "attention_chunk_size": 4}, "earlier"),
        (NAMES[3], {"moe_num_shared_experts": 2}, "moe_num_shared_experts=2 .*expert or none"),
        (NAMES[3], {"moe_layer_start_index": 1}, "every layer is a mixture"),
        (NAMES[3], {"moe_norm_min": 1.0}, r"moe_norm_min=1\.0 cannot be imported"),
        (NAMES[3], {"use_bias": True}, "use_bias=True"),
        (NAMES[4], {"first_k_dense_replace": 1}, "every layer is a mixture"),
        (NAMES[4], {"n_shared_experts": 2}, "n_shared_experts=2 .*one shared expert"),
        (NAMES[4], {"n_group": 2}, r"n_group=2 .*not divided into groups"),
        (NAMES[4], {"norm_topk_prob": None}, r"norm_topk_prob=None cannot be imported"),
        (NAMES[4], {"norm_topk_prob": "yes"}, r"model\.router_normalize: input should be a valid"),
        (NAMES[4], {"routed_scaling_factor": 0}, r"model\.router_scale: input should be greater"),
        (NAMES[4], {"use_qk_norm": True}, "use_qk_norm=True"),
        (NAMES[5], {"layer_types": ["sliding_attention"]}, "all earlier ones"),
        (NAMES[5], {"mlp_layer_types": ["dense"]}, "every layer is a mixture"),
        (NAMES[5], {"v_head_dim": 3}, "v_head_dim=3"),
        (NAMES[5], {"attention_value_scale": 0.707}, r"attention_value_scale=0\.707"),
        (NAMES[5], {"rope_parameters": []}, "not as transformers 5 writes it"),
    ],
)
def test_other_architectures_are_refused_by_name(tmp_path, name, changes, message):
    run = run_folder(tmp_path / "run", random_config(name, 0, num_layers=1))
    export(run, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **FOREIGN, **changes}))
    with pytest.raises((CheckpointError, ValueError), match=message) as caught:
        import_(tmp_path / "hf", tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("lm_head.weight"), r"tensor lm_head\.weight is missing"),
        (lambda t: t.update({"model.bias": torch.ones(2)}), r"model\.bias belongs to another"),
        (lambda t: t.update({"lm_head.weight": torch.ones(2, 2)}), r"is \(2, 2\), but .*ask for"),
    ],
)
def test_other_tensors_are_refused_by_their_names(tmp_path, change, message):
    export(run_folder(tmp_path / "run", random_config(NAMES[0], 0)), tmp_path / "hf")
    change_tensors(tmp_path / "hf", change)
    with pytest.raises(CheckpointError, match=message):
        import_(tmp_path / "hf", tmp_path / "new")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "BPE", "vocab": {}, "merges": []}},
        {"model": {"type": "WordLevel", "vocab": {"the": 0}, "unk_token": "<unk>"}},
        {"model": {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "<unk>"}},
        {"normalizer": {"type": "Lowercase"}},
        {"added_tokens": [{"id": 9, "content": "<pad>"}]},
        {"model": None},
    ],
)
def test_other_tokenizers_are_refused(tmp_path, changes):
    export(run_folder(tmp_path / "run", random_config(NAMES[0], 0)), tmp_path / "hf")
    path = tmp_path / "hf" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=r"only a tokenizer of single characters"):
        import_(tmp_path / "hf", tmp_path / "new")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff"])
def test_missing_and_damaged_files_are_named(tmp_path, file, content):
    export(run_folder(tmp_path / "run", random_config(NAMES[0], 0)), tmp_path / "hf")
    path = tmp_path / "hf" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file}: cannot be read"):
        import_(tmp_path / "hf", tmp_path / "new")


def test_sigmoid_without_a_shared_expert_is_not_exported(tmp_path):
    run = run_folder(tmp_path / "run", random_config(NAMES[2], 0, shared_expert=False))
    with pytest.raises(ValueError, match="is not exported") as caught:
        export(run, tmp_path / "hf")
    assert all(name in str(caught.value) for name in NAMES)
    assert not (tmp_path / "hf").exists()


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    run = run_folder(tmp_path / "run", random_config(NAMES[0], 0))
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")
    before = sorted((tmp_path / "empty").iterdir())
    for write in (partial(export, run), partial(import_, tmp_path / "empty")):
        with pytest.raises(ValueError, match="exists and is not empty; name a new folder"):
            write(tmp_path / "empty")
    assert sorted((tmp_path / "empty").iterdir()) == before


def test_the_home_of_an_unknown_user_is_an_error_with_the_place(tmp_path):
    run, gone = run_folder(tmp_path / "run", random_config(NAMES[0], 0)), "~no-such-user/hf"
    export(run, tmp_path / "hf")
    for use in (lambda: export(run, gone), lambda: import_(gone, tmp_path / "back"),
                lambda: import_(tmp_path / "hf", gone)):  # fmt: skip
        with pytest.raises(ValueError, match=f"{gone}: ~no-such-user is no user's home"):
            use()


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    run = run_folder(tmp_path / "run", random_config(NAMES[0], 0))
    monkeypatch.setattr("moe_tutorial.hugging_face._write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "deep" / "hf")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_model_from_elsewhere_gets_usable_defaults(tmp_path):
    imported(tmp_path, NAMES[0])
    config = load_model(tmp_path / "run").config
    assert config.model.dropout == 0
    assert config.training.seq_len == config.model.max_seq_len
    assert config.inference == InferenceConfig(prompt="a")
