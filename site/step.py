"""One step of generation as a module whose graph can be exported: every model of the library.

Shape letters: D dim, F hidden_dim, V symbols, L layers, H heads, Dh head size, E experts,
K = top_k, S cached characters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import MoE, swiglu
from moe_tutorial.rope import apply_rope


class Step(nn.Module):
    """One character after the cached ones. T = 1, so no mask is needed and experts are looked up.

    Shapes: token (1, 1) and position (1,) int64, cache (L, 2, 1, H, S, Dh)
    -> logits (V,), experts (L, K) int64, cache (L, 2, 1, H, S + 1, Dh).
    Differs from the library: the experts' matrices are stacked, (E, D, F), because a graph has no
    loop over the chosen.
    """

    def __init__(self, model: MoELanguageModel) -> None:
        super().__init__()
        self.model = model
        for i, block in enumerate(model.blocks):
            for name in ("w_gate", "w_up", "w_down"):
                stacked = torch.stack([getattr(e, name) for e in block.moe.experts]).detach()
                self.register_buffer(f"{name}_{i}", stacked)

    def forward(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        cos, sin = self.model.cos[position], self.model.sin[position]  # (1, Dh)
        x = self.model.embedding(token)  # (1, 1, D)
        chosen, caches = [], []
        for i, block in enumerate(self.model.blocks):
            y, kept = self.attend(block.attention, block.attention_norm(x), cos, sin, cache[i])
            x = x + y  # (1, 1, D)
            y, experts = self.mix(i, block.moe, block.moe_norm(x)[0])  # (1, D)
            x = x + y  # (1, 1, D)
            chosen.append(experts)
            caches.append(kept)
        logits = self.model.head(self.model.norm(x))[0, 0]  # (V,)
        return logits, torch.stack(chosen), torch.stack(caches)

    def attend(
        self, attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `CausalSelfAttention` computes for one new position, with the cache as a tensor."""
        q, k, v = (attention.split_heads(part) for part in attention.qkv(x).chunk(3, dim=-1))
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)  # (1, H, 1, Dh)
        kept = torch.cat((cache, torch.stack((k, v))), dim=-2)  # (2, 1, H, S + 1, Dh)
        y = F.scaled_dot_product_attention(q, kept[0], kept[1])  # (1, H, 1, Dh)
        return attention.out(y.transpose(1, 2).flatten(2)), kept

    def mix(self, layer: int, moe: MoE, row: Tensor) -> tuple[Tensor, Tensor]:
        """What `MoE` computes for one row (1, D), and its experts (K,)."""
        routing = moe.router(row)
        experts, scale = routing.experts[0], routing.weights[0, :, None, None]  # (K,), (K, 1, 1)
        stacked = (getattr(self, f"{n}_{layer}")[experts] for n in ("w_gate", "w_up", "w_down"))
        if moe.router.router == "sigmoid":  # weights scale what goes in, as in Llama 4
            outputs = swiglu(scale * row, *stacked)  # (K, 1, D)
        else:
            outputs = scale * swiglu(row, *stacked)  # (K, 1, D)
        y = outputs.sum(dim=0)  # (1, D)
        if moe.shared_expert is not None:
            y = y + moe.shared_expert(row)  # (1, D)
        return y, experts
