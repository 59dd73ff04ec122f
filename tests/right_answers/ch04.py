"""Right answers to the exercises of chapter 04 that differ from the solutions."""

TABLE = """
def repaired_table(max_seq_len, head_dim):
    angles = torch.outer(torch.arange(max_seq_len), rope_frequencies(head_dim))
    {lines}
"""

RIGHT = {
    "ch04-exercise-1": [
        "def offset_score(q, k, offset, angle):\n    return q @ rotate_pair(k, -offset * angle)",
        """
def offset_score(q, k, offset, angle):
    turned = rotate_pair(q, offset * angle)
    return float((turned * k).sum())
""",
        """
def offset_score(q, k, offset, angle):
    def turn(pair, positions):
        return rotate_pair(pair, positions * angle)
    return torch.dot(turn(q, offset), k)
""",
    ],
    "ch04-exercise-2": [
        """
def rotate_interleaved(x, cos, sin):
    return to_interleaved(apply_rope(to_half_split(x), cos, sin))
""",
        """
def rotate_interleaved(x, cos, sin):
    halves = torch.cat((x[..., ::2], x[..., 1::2]), dim=-1)
    return to_interleaved(apply_rope(halves, cos, sin))
""",
        """
def rotate_interleaved(x, cos, sin):
    even, odd, half = x[..., ::2], x[..., 1::2], x.shape[-1] // 2
    cos, sin = cos[:, half:], sin[:, half:]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
""",
    ],
    "ch04-exercise-3": [
        TABLE.format(
            lines="cos, sin = angles.cos(), angles.sin()\n"
            "    return cos.repeat(1, 2), torch.cat((-sin, sin), dim=1)"
        ),
        TABLE.format(
            lines="twice = torch.cat((-angles, angles), dim=-1)\n"
            "    return twice.cos(), twice.sin()"
        ),
        TABLE.format(
            lines="cos, sin = angles.cos(), angles.sin()\n"
            "    both_sin = torch.stack((-sin, sin), dim=-2).flatten(-2)\n"
            "    return torch.cat((cos, cos), dim=-1), both_sin"
        ),
        TABLE.format(
            lines="cos, sin = angles.cos(), angles.sin()\n"
            "    both_sin = torch.stack((-sin, sin), dim=-1).flatten(-2)\n"
            "    return torch.cat((cos, cos), dim=-1), to_half_split(both_sin)"
        ),
    ],
}
