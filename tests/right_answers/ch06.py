"""Right answers to the exercises of chapter 06 that differ from the solutions."""

RIGHT = {
    "ch06-exercise-1": [
        """
def window_mask(num_positions, width):
    t, s = torch.arange(num_positions)[:, None], torch.arange(num_positions)
    return (s <= t) & (t - s < width)
""",
        """
def window_mask(num_positions, width):
    causal = causal_mask(num_positions, num_positions)
    return causal & ~causal.tril(-width)
""",
        """
def window_mask(num_positions, width):
    rows = [[0 <= t - s < width for s in range(num_positions)] for t in range(num_positions)]
    return torch.tensor(rows)
""",
        """
def window_mask(num_positions, width):
    return torch.ones(num_positions, num_positions).tril().triu(1 - width).bool()
""",
    ],
    "ch06-exercise-2": [
        """
def repaired_scores(q, k, num_heads):
    head_dim = q.shape[-1] // num_heads
    q, k = in_heads(q, num_heads), in_heads(k, num_heads)
    return q @ k.transpose(-2, -1) * head_dim**-0.5
""",
        """
def repaired_scores(q, k, num_heads):
    q, k = in_heads(q, num_heads), in_heads(k, num_heads)
    return (q @ k.mT) / q.size(-1) ** 0.5
""",
        """
def repaired_scores(q, k, num_heads):
    B, T, D = q.shape
    q, k = (x.view(B, T, num_heads, D // num_heads) for x in (q, k))
    return torch.einsum("bthd,bshd->bhts", q, k) * (num_heads / D) ** 0.5
""",
    ],
    "ch06-exercise-3": [
        """
def run_in_pieces(attention, x, cos, sin, lengths):
    sizes = dict(num_heads=attention.num_heads, head_dim=attention.head_dim)
    cache = KVCache(batch_size=x.shape[0], max_seq_len=x.shape[1], **sizes)
    parts = zip(x.split(lengths, 1), cos.split(lengths), sin.split(lengths))
    return torch.cat([attention(*part, cache) for part in parts], dim=1)
""",
        """
def run_in_pieces(attention, x, cos, sin, lengths):
    cache = KVCache(batch_size=x.shape[0], num_heads=attention.num_heads,
                    max_seq_len=2 * x.shape[1], head_dim=attention.head_dim)
    result, end = torch.empty_like(x), 0
    for length in lengths:
        start, end = end, end + length
        result[:, start:end] = attention(x[:, start:end], cos[start:end], sin[start:end], cache)
    return result
""",
        """
def run_in_pieces(attention, x, cos, sin, lengths):
    cache = KVCache(batch_size=len(x), num_heads=attention.num_heads,
                    max_seq_len=len(cos), head_dim=attention.head_dim)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    starts = [0] + ends[:-1]
    pieces = [attention(x[:, a:b], cos[a:b], sin[a:b], cache) for a, b in zip(starts, ends)]
    return torch.concat(pieces, -2)
""",
    ],
}
