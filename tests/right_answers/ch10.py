"""Right answers to the exercises of chapter 10 that differ from the solutions."""

RIGHT = {
    "ch10-exercise-1": [
        """
def grouped_attention(q, k, v):
    heads = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    return F.scaled_dot_product_attention(q, k[:, heads], v[:, heads], is_causal=True)
""",
        """
def grouped_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
""",
        """
def grouped_attention(q, k, v):
    q = q.unflatten(1, (k.shape[1], -1))
    k, v = (x[:, :, None].expand(*q.shape[:3], *x.shape[2:]) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).flatten(1, 2)
""",
        """
def grouped_attention(q, k, v):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    future = torch.ones(q.shape[2], q.shape[2]).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v
""",
    ],
    "ch10-exercise-2": [
        """
def repaired_rows(w, num_heads):
    heads = w.view(num_heads, -1, w.shape[1]).transpose(1, 2)
    return to_interleaved(heads).transpose(1, 2).reshape(w.shape)
""",
        """
def repaired_rows(w, num_heads):
    return torch.cat([to_interleaved(head.mT).mT for head in w.chunk(num_heads)])
""",
        """
def repaired_rows(w, num_heads):
    columns = w.mT.unflatten(-1, (num_heads, -1))
    return to_interleaved(columns).flatten(-2).mT
""",
        """
def repaired_rows(w, num_heads):
    halves = w.unflatten(0, (num_heads, 2, -1))
    return halves.transpose(1, 2).reshape_as(w)
""",
    ],
    "ch10-exercise-3": [
        """
def chunked_mask(num_positions, chunk):
    t, s = torch.arange(num_positions)[:, None], torch.arange(num_positions)
    return (s <= t) & (s >= t - t % chunk)
""",
        """
def chunked_mask(num_positions, chunk):
    blocks = [torch.ones(chunk, chunk).tril()] * (num_positions // chunk + 1)
    return torch.block_diag(*blocks)[:num_positions, :num_positions].bool()
""",
        """
def chunked_mask(num_positions, chunk):
    mask = torch.zeros(num_positions, num_positions, dtype=torch.bool)
    for t in range(num_positions):
        mask[t, t // chunk * chunk : t + 1] = True
    return mask
""",
    ],
}
