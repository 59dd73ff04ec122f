"""Plausible wrong answers to the exercises of chapter 06, and a part of what each check says."""

MASK = "def window_mask(num_positions, width):\n    return {mask}"
SCORES = """
def repaired_scores(q, k, num_heads):
    q, k = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k))
    head_dim = q.shape[-1]
    return q @ k.transpose(-2, -1) * {factor}
"""
PIECES = """
def run_in_pieces(attention, x, cos, sin, lengths):
    cache = KVCache(
        batch_size=x.shape[0], num_heads=attention.num_heads, max_seq_len=x.shape[1],
        head_dim=attention.head_dim,
    )
    outputs, start = [], 0
    for length in lengths:
        here = slice(start, start + length)
        outputs.append({call})
        start += length
    return {result}
"""
JOINED = "torch.cat(outputs, dim=1)"
RIGHT = "attention(x[:, here], cos[here], sin[here], cache)"
NO_CACHE = "attention(x[:, here], cos[here], sin[here])"
RESTART = "attention(x[:, here], cos[:length], sin[:length], cache)"
BOTH = "attention(x[:, here], cos[:length], sin[:length])"

WRONG = {
    "ch06-exercise-1": [
        (
            MASK.format(mask="causal_mask(num_positions, num_positions).triu(width - 1)"),
            "nothing is visible",
        ),
        (MASK.format(mask="causal_mask(num_positions, num_positions)"), "nothing is too long ago"),
        (
            MASK.format(mask="causal_mask(num_positions, num_positions).triu(-width)"),
            "one position too many",
        ),
        (
            MASK.format(mask="causal_mask(num_positions, num_positions).triu(2 - width)"),
            "one position too few",
        ),
        (
            MASK.format(
                mask="torch.ones(num_positions, num_positions, dtype=torch.bool).triu(1 - width)"
            ),
            "sees the future",
        ),
        (
            MASK.format(mask="causal_mask(num_positions, num_positions).tril(-width)"),
            "everything but the window is visible",
        ),
        (
            MASK.format(mask="causal_mask(num_positions, num_positions).tril(1 - width)"),
            "only the far past is visible",
        ),
        (
            MASK.format(mask="causal_mask(num_positions, num_positions)[:width]"),
            "the shape is (3, 6) instead of (6, 6)",
        ),
        (
            MASK.format(
                mask="causal_mask(num_positions, num_positions).triu(1)"
                ".logical_or(torch.eye(num_positions).bool())"
            ),
            "of 6 positions, position 1 does not see position 0",
        ),
        (
            MASK.format(mask="~causal_mask(num_positions, num_positions).triu(1 - width)"),
            "True and False are swapped",
        ),
        (
            MASK.format(mask="torch.ones(num_positions, num_positions).tril().triu(1 - width)"),
            "holds True and False",
        ),
        (
            MASK.format(mask="causal_mask(num_positions, num_positions).triu(1 - width).T"),
            "a row is a query",
        ),
    ],
    "ch06-exercise-2": [
        (SCORES.format(factor="1"), "not scaled at all"),
        (SCORES.format(factor="head_dim**0.5"), "divide by it"),
        (SCORES.format(factor="1 / head_dim"), "divide by its root"),
        (SCORES.format(factor="num_heads**-0.5"), "the number of heads"),
        (SCORES.format(factor="q.shape[2] ** -0.5"), "the root of T"),
        (SCORES.format(factor="(num_heads * head_dim) ** -0.5"), "the bug is still there"),
        (
            "def repaired_scores(q, k, num_heads):\n"
            "    B, T, D = q.shape\n"
            "    q, k = (x.view(B, num_heads, T, D // num_heads) for x in (q, k))\n"
            "    return q @ k.transpose(-2, -1) * (D // num_heads) ** -0.5",
            "split across positions by view",
        ),
        (SCORES.format(factor="(num_heads * head_dim // 4) ** -0.5"), "wrong for 2"),
    ],
    "ch06-exercise-3": [
        (PIECES.format(call=RESTART, result=JOINED), "as if it began at position 0"),
        (
            PIECES.format(call=RIGHT, result=JOINED).replace("        start += length\n", ""),
            "every piece is taken from the beginning of x",
        ),
        (PIECES.format(call=NO_CACHE, result=JOINED), "use one cache for all of them"),
        (PIECES.format(call=BOTH, result=JOINED), "use one cache for all of them"),
        (PIECES.format(call=RIGHT, result="outputs[-1]"), "the last piece only"),
        (PIECES.format(call=RIGHT, result="outputs"), "join the outputs"),
        (PIECES.format(call=RIGHT, result="torch.cat(outputs)"), "it raised RuntimeError"),
        (
            "def run_in_pieces(attention, x, cos, sin, lengths):\n"
            "    return attention(x, cos, sin)",
            "the pieces are [7], not",
        ),
        (
            "def run_in_pieces(attention, x, cos, sin, lengths):\n"
            "    ends = torch.tensor(lengths).cumsum(0).tolist()\n"
            "    parts = [attention(x[:, :n], cos[:n], sin[:n]) for n in ends]\n"
            "    return torch.cat([p[:, -m:] for p, m in zip(parts, lengths)], dim=1)",
            "rows for 7 positions",
        ),
    ],
}
