"""What a token costs, and a router that learns no choice. Chapter 13.

Shape letters: B batch, T time, N = B*T tokens, D dim, F hidden_dim, E experts, K = top_k,
V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.config import ModelConfig
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import Router, Routing, default_hidden_dim
from moe_tutorial.rmsnorm import widen


def expert_size(config: ModelConfig) -> int:
    """Parameters of one expert: three matrices between D and F."""
    return 3 * config.dim * (config.hidden_dim or default_hidden_dim(config.dim))


def always_read(config: ModelConfig, vocab_size: int) -> int:
    """Parameters in matrices that every token meets: attention, router, shared expert, head."""
    dim, shared = config.dim, config.shared_expert
    layer = 4 * dim**2 + dim * config.num_experts + shared * expert_size(config)
    return config.num_layers * layer + dim * vocab_size


def flops_per_token(config: ModelConfig, vocab_size: int, seq_len: int) -> int:
    """Operations of all matrix products for one token, forward; training takes three times as many.

    Each number of a matrix takes part in one product and one sum. In the attention each token
    makes 2 products of length D with each of the seq_len positions (masked ones included).
    Norms, softmax, RoPE and sorting are not counted: they are no matrix products.
    """
    matrices = always_read(config, vocab_size)
    matrices += config.num_layers * config.top_k * expert_size(config)
    return 2 * matrices + config.num_layers * 4 * config.dim * seq_len


def experts_touched(num_experts: int, top_k: int, batch: int) -> float:
    """How many different experts a batch of tokens is expected to need: E (1 - (1 - K/E)^batch).

    True if all experts are equally likely, and the tokens choose independently.
    """
    return num_experts * (1 - (1 - top_k / num_experts) ** batch)


def count_touched(experts: Tensor, batch: int) -> float:
    """Mean number of different experts among `batch` rows that follow each other.

    Shapes: experts (N, K); rows that do not fill a batch are left out.
    """
    parts = experts[: len(experts) // batch * batch].split(batch)
    return sum(part.unique().numel() for part in parts) / len(parts)


def bytes_per_token(
    config: ModelConfig, vocab_size: int, batch: int, bytes_per_number: int = 4
) -> float:
    """Bytes of weights that each of `batch` tokens causes to be read, if each next one is computed.

    All that every token meets is read once for the batch, and so is each touched expert. A row of
    the embedding is read for each token. Keys and values of the attention are not counted.
    """
    norms = (2 * config.num_layers + 1) * config.dim
    touched = experts_touched(config.num_experts, config.top_k, batch)
    experts = config.num_layers * touched * expert_size(config)
    shared = always_read(config, vocab_size) + norms
    return bytes_per_number * ((shared + experts) / batch + config.dim)


def balanced_table(
    counts: Tensor, num_experts: int, top_k: int, generator: torch.Generator
) -> Tensor:
    """top_k different experts for every token id: frequent ids first, to the idlest experts.

    Experts that differ by less than 1 % of all tokens are idle alike, and chance decides: without
    it the same experts would always be paired.
    Shapes: counts (V,), how often each id occurs -> (V, K).
    Source: the balanced assignment of Roller et al. 2021, arXiv:2106.04426, for K experts.
    """
    table = torch.zeros(len(counts), top_k, dtype=torch.long)
    load = torch.zeros(num_experts)
    close = 0.01 * counts.sum()
    for token in counts.argsort(descending=True, stable=True).tolist():
        chance = close * torch.rand(num_experts, generator=generator)  # (E,)
        table[token] = (load + chance).argsort()[:top_k]
        load[table[token]] += counts[token]
    return table


class HashRouter(nn.Module):
    """A `Router` whose choice is looked up: the token's id decides, and nothing is learned.

    How much each of the K counts still comes from the scores: softmax over their logits.
    `ids` are those of the tokens to come; `route_by_id` has the model hand them over.
    Shapes: table (V, K), ids (N,); x (N, D) -> Routing, experts in the order of the table.
    Source: hash layers of Roller et al. 2021, arXiv:2106.04426, with the weights of a router.
    """

    def __init__(self, router: Router, table: Tensor) -> None:
        super().__init__()
        self.scores = router.scores  # the same weights
        self.router = "softmax"  # the kind of its weights
        self.register_buffer("table", table)
        self.ids: Tensor | None = None

    def forward(self, x: Tensor) -> Routing:
        logits = F.linear(widen(x), widen(self.scores.weight))  # (N, E)
        experts = self.table[self.ids]  # (N, K)
        weights = logits.gather(1, experts).softmax(-1)  # (N, K)
        return Routing(weights, experts, logits.softmax(-1))


def route_by_id(model: MoELanguageModel, tables: list[Tensor]) -> None:
    """Give every layer a `HashRouter` with its table, and hand it the ids before each forward.

    Shapes: each table (V, K).
    """
    for block, table in zip(model.blocks, tables, strict=True):
        block.moe.router = HashRouter(block.moe.router, table)

    def hand_over(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        for block in model.blocks:
            block.moe.router.ids = arguments[0].flatten()

    model.register_forward_pre_hook(hand_over)
