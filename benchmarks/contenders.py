"""The two configurations, and the models that are measured side by side.

Shape letters: B batch, T time, N = B*T tokens, D dim.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.timing import cpu_seconds
from moe_tutorial.batching import random_batch
from moe_tutorial.config import ModelConfig, TrainingConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import Routing, SwiGLU, default_hidden_dim
from moe_tutorial.training import BETAS, start_training, train
from moe_tutorial.translation import architecture_settings, to_hugging_face

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

VOCAB_SIZE = 65  # Tiny Shakespeare's
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
MOST_COPIED = 2**30  # bytes; batched_mm copies one set of weights for every token and expert


class Setup(NamedTuple):
    """A model and the batches it is trained with."""

    model: ModelConfig
    seq_len: int
    batch_size: int


SETUPS = {
    "S": Setup(
        ModelConfig(dim=128, num_layers=4, num_heads=4, num_experts=8, top_k=2, hidden_dim=344,
                    shared_expert=False, max_seq_len=64, dropout=0.1),
        seq_len=64, batch_size=16,
    ),
    "M": Setup(
        ModelConfig(dim=256, num_layers=4, num_heads=8, num_experts=8, top_k=2, hidden_dim=688,
                    shared_expert=True, max_seq_len=128, dropout=0.1),
        seq_len=128, batch_size=16,
    ),
}  # fmt: skip
TINY_SETUPS = {
    name: Setup(
        setup.model.model_copy(
            update={"dim": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_seq_len": 8}
        ),
        seq_len=8, batch_size=2,
    )
    for name, setup in SETUPS.items()
}  # fmt: skip


def ours(config: ModelConfig) -> MoELanguageModel:
    """The model of this library, the same weights at every call."""
    torch.manual_seed(0)
    return MoELanguageModel(config, VOCAB_SIZE)


class DenseLayer(nn.Module):
    """One SwiGLU in the place of a mixture: no router, no dispatch, one expert that gets all."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.network = SwiGLU(dim=dim, hidden_dim=hidden_dim)
        self.router = None

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        ones = x.new_ones(x.shape[0] * x.shape[1], 1)  # (N, 1)
        return self.network(x), Routing(ones, torch.zeros_like(ones, dtype=torch.long), ones)


def active_hidden_dim(config: ModelConfig) -> int:
    """Hidden numbers that one token meets in one layer: its experts and the shared one."""
    hidden_dim = config.hidden_dim or default_hidden_dim(config.dim)
    return hidden_dim * (config.top_k + config.shared_expert)


def make_dense(model: MoELanguageModel) -> MoELanguageModel:
    """Replace every mixture by one SwiGLU that has as many parameters as a token meets."""
    config = model.config
    for block in model.blocks:
        block.moe = DenseLayer(config.dim, active_hidden_dim(config))
        with torch.no_grad():
            block.moe.network.w_down /= (2 * config.num_layers) ** 0.5
    return model


def their_config(config: ModelConfig) -> PreTrainedConfig:
    """What transformers calls this architecture: MixtralConfig or GraniteMoeSharedConfig."""
    from transformers import AutoConfig

    settings = architecture_settings(config, VOCAB_SIZE)
    # Without an end token, so that their `generate` writes as many tokens as it is asked for.
    settings |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    return AutoConfig.for_model(**settings)


def hugging_face(config: ModelConfig, model: MoELanguageModel | None = None) -> PreTrainedModel:
    """transformers' class with the weights of the model, or of `ours`; checked to agree."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = (model or ours(config)).eval()
    with TemporaryDirectory() as folder:  # only from_pretrained renames and joins the tensors
        their_config(config).save_pretrained(folder)
        weights = to_hugging_face(model.state_dict(), config)
        save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
        theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(config.max_seq_len)[None] % VOCAB_SIZE  # (1, T)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(tokens).logits, model(tokens).logits, atol=1e-4, rtol=1e-3
        )
    return theirs


def implementations(config: ModelConfig, tokens: int) -> list[str]:
    """The ways to run transformers' experts that fit into memory with so many tokens."""
    hidden_dim = config.hidden_dim or default_hidden_dim(config.dim)
    copied = 4 * tokens * config.top_k * 3 * config.dim * hidden_dim
    return [name for name in IMPLEMENTATIONS if name != "batched_mm" or copied < MOST_COPIED]


def fastest(
    model: PreTrainedModel, choices: list[str], call: Callable[[], object], rounds: int = 3
) -> str:
    """Set the fastest expert implementation for this call and return its name."""
    times = {}
    for name in choices:
        model.set_experts_implementation(name)
        call()
        times[name] = median(cpu_seconds(call) for _ in range(rounds))
    best = min(times, key=times.__getitem__)
    model.set_experts_implementation(best)
    return best


def training_text() -> Tensor:
    """Random ids: what a step costs does not depend on the text."""
    return torch.randint(VOCAB_SIZE, (20_000,), generator=torch.Generator().manual_seed(0))


def our_step(model: MoELanguageModel, setup: Setup) -> Callable[[], object]:
    """One call is one step of the library's own training loop, record included."""
    config = TrainingConfig(
        seq_len=setup.seq_len, batch_size=setup.batch_size, epochs=1e9, eval_steps=10**9
    )
    ids = training_text()
    return train(start_training(model, config), ids, ids, config).__next__


def their_step(model: PreTrainedModel, setup: Setup) -> Callable[[], object]:
    """The same step for transformers: balance loss, clipping, fused AdamW of the same groups."""
    ids, generator = training_text(), torch.Generator().manual_seed(0)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=BETAS, fused=True)
    coefficient = setup.model.load_balancing_loss_coef / setup.model.top_k
    model.train()

    def step() -> None:
        x, y = random_batch(ids, setup.batch_size, setup.seq_len, generator)
        output = model(x, output_router_logits=True, use_cache=False)
        loss = F.cross_entropy(output.logits.flatten(0, 1), y.flatten())
        (loss + coefficient * output.aux_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        loss.item()
        optimizer.step()
        optimizer.zero_grad()

    return step
