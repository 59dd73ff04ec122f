"""Multi-head self-attention with a causal mask and a key-value cache. Chapter 06.

Shape letters: B batch, T new positions, S positions attended to (S = T without a cache),
D dim, H heads, Dh head size (D = H * Dh).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_tutorial.rope import apply_rope


def causal_mask(num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor:
    """Which key each query may see: True at (t, s) if s is not later than t.

    The queries are the last num_queries of the num_keys positions, so query t sees the keys
    0 .. num_keys - num_queries + t. Shapes: -> (T, S) bool.
    Raises: ValueError if there are more queries than keys.
    """
    if num_queries > num_keys:
        raise ValueError(f"{num_queries} queries need at least as many keys, not {num_keys}")
    ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return ones.tril(num_keys - num_queries)


class KVCache:
    """The keys and values of one layer for all positions seen so far.

    Shapes: keys, values (B, H, max_seq_len, Dh), allocated once; the first `length` are filled.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        max_seq_len: int,
        head_dim: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (batch_size, num_heads, max_seq_len, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, H, T, Dh) behind the earlier ones; return all, (B, H, S, Dh).

        Raises: ValueError if they do not fit, or are of another batch or other heads.
        """
        end, room = self.length + k.shape[2], self.keys.shape[2]
        if not k.shape[:2] == v.shape[:2] == self.keys.shape[:2]:
            raise ValueError(
                f"keys {tuple(k.shape)} and values {tuple(v.shape)} are of another batch or other "
                f"heads than the cache {tuple(self.keys.shape)}; make one of their size"
            )
        if end > room:
            raise ValueError(f"position {end} does not fit into a cache of {room} positions")
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class CausalSelfAttention(nn.Module):
    """softmax(q k^T / sqrt(Dh) + mask) v in every head, then one projection; no biases.

    Position t sees positions 0 .. t. q and k are rotated by RoPE; v is not.
    Shapes: x (B, T, D), cos and sin (T, Dh) of the positions of x -> (B, T, D).
    With a cache, x holds the new positions only, and they attend to the cached ones as well.
    Raises: ValueError if dim / num_heads is not a whole even number.
    Source: Vaswani et al. 2017, arXiv:1706.03762. Chapter 06.

    Differs from many implementations: dropout acts on the output only, not on the attention
    weights; because PyTorch's fused CPU kernel has no dropout inside.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim < 2 or num_heads < 1 or dim % (2 * num_heads):
            fitting = [heads for heads in range(1, dim // 2 + 1) if dim % (2 * heads) == 0]
            nearest = min(fitting, key=lambda heads: abs(heads - num_heads), default=None)
            raise ValueError(
                f"dim={dim} cannot be split into num_heads={num_heads} heads of an even size, as "
                f"RoPE needs them; try " + (f"num_heads={nearest}" if fitting else "an even dim")
            )
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None = None) -> Tensor:
        heads = self.split_heads(self.qkv(x))  # (B, 3*H, T, Dh), of q, then k, then v
        rotated = apply_rope(heads[:, : 2 * self.num_heads], cos, sin)  # (B, 2*H, T, Dh)
        q, k = rotated.chunk(2, dim=1)
        v = heads[:, 2 * self.num_heads :]  # (B, H, T, Dh)
        new, past = x.shape[1], 0 if cache is None else cache.length
        # A single new position sees everything, so generation needs no mask.
        mask = causal_mask(new, past + new, x.device) if past and new > 1 else None
        if cache is not None:
            k, v = cache.append(k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not past)
        y = y.transpose(1, 2).flatten(2)  # (B, T, D)
        return self.dropout(self.out(y))

    def split_heads(self, x: Tensor) -> Tensor:
        """Split every vector into pieces of Dh numbers. Shapes: (B, T, n * Dh) -> (B, n, T, Dh)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
