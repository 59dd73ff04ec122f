"""The whole language model, assembled from the parts of the earlier chapters. Chapter 08.

Shape letters: B batch, T time, D dim, Dh head size, V vocabulary, E experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from moe_tutorial.attention import CausalSelfAttention, KVCache
from moe_tutorial.config import ModelConfig
from moe_tutorial.moe import MoE, Routing, default_hidden_dim
from moe_tutorial.rmsnorm import RMSNorm
from moe_tutorial.rope import rope_table
from moe_tutorial.routers import configured_router


class ModelOutput(NamedTuple):
    """What one forward pass returns."""

    logits: Tensor  # (B, T, V), scores of the next character at every position
    routings: list[Routing]  # one per layer, each for the B*T tokens


class Block(nn.Module):
    """x + attention(norm(x)), then x + moe(norm(x)). Shapes: x (B, T, D) -> (B, T, D), Routing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = CausalSelfAttention(
            dim=config.dim, num_heads=config.num_heads, dropout=config.dropout
        )
        self.moe_norm = RMSNorm(config.dim, config.norm_eps)
        self.moe = MoE(
            dim=config.dim,
            hidden_dim=config.hidden_dim or default_hidden_dim(config.dim),
            num_experts=config.num_experts,
            top_k=config.top_k,
            router=config.router,
            shared_expert=config.shared_expert,
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None = None
    ) -> tuple[Tensor, Routing]:
        x = x + self.attention(self.attention_norm(x), cos, sin, cache)  # (B, T, D)
        y, routing = self.moe(self.moe_norm(x))
        return x + self.dropout(y), routing


class MoELanguageModel(nn.Module):
    """Embedding, num_layers blocks, norm, untied head; pre-norm, no biases.

    Shapes: tokens (B, T) int64 -> ModelOutput with logits (B, T, V).
    With caches (from `new_caches`), tokens holds the new positions only.
    Raises: ValueError if the positions do not fit into max_seq_len.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        for block in self.blocks:  # chapters 11 and 15
            block.moe.router = configured_router(config, block.moe.router)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, vocab_size, bias=False)
        head_dim = config.dim // config.num_heads
        cos, sin = rope_table(config.max_seq_len, head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.head.weight, std=0.02)  # small logits: the first loss is ln V
        with torch.no_grad():  # 2 * num_layers outputs are added up on the way to the head
            for block in self.blocks:
                for weight in (block.attention.out.weight, *block.moe.output_weights()):
                    weight /= (2 * self.config.num_layers) ** 0.5

    def forward(self, tokens: Tensor, caches: list[KVCache] | None = None) -> ModelOutput:
        start = caches[0].length if caches else 0
        end = start + tokens.shape[1]
        if end > self.config.max_seq_len:
            raise ValueError(
                f"the text reaches position {end}, but max_seq_len={self.config.max_seq_len}; "
                f"cut the text or raise max_seq_len"
            )
        cos, sin = self.cos[start:end], self.sin[start:end]
        x = self.embedding(tokens)  # (B, T, D)
        routings = []
        for i, block in enumerate(self.blocks):
            x, routing = block(x, cos, sin, caches[i] if caches else None)
            routings.append(routing)
        return ModelOutput(self.head(self.norm(x)), routings)

    def new_caches(self, batch_size: int = 1) -> list[KVCache]:
        """Empty caches for `forward`, one per layer, on the model's device."""
        weight = self.head.weight
        return [
            KVCache(
                batch_size=batch_size,
                num_heads=self.config.num_heads,
                max_seq_len=self.config.max_seq_len,
                head_dim=self.config.dim // self.config.num_heads,
                device=weight.device,
                dtype=weight.dtype,
            )
            for _ in self.blocks
        ]


class ParameterCount(NamedTuple):
    """How many numbers a model holds, and how many of them one token meets."""

    total: int  # all of them; all must be in memory
    active: int  # without the experts that a token was not sent to


def count_parameters(model: MoELanguageModel) -> ParameterCount:
    """Total and active parameters; both include embedding, attention, norms, router and head."""
    config = model.config
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for block in model.blocks for p in block.moe.experts.parameters())
    return ParameterCount(total, total - experts + experts * config.top_k // config.num_experts)
