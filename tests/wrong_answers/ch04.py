"""Plausible wrong answers to the exercises of chapter 04, and a part of what each check says."""

SIGN_LOST = """
def repaired_table(max_seq_len, head_dim):
    angles = torch.outer(torch.arange(max_seq_len), rope_frequencies(head_dim))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)
"""
SIGN_MOVED = SIGN_LOST.replace("(sin, sin)", "(sin, -sin)")
BOTH_INTERLEAVED = """
def repaired_table(max_seq_len, head_dim):
    angles = torch.outer(torch.arange(max_seq_len), rope_frequencies(head_dim))
    cos, sin = angles.cos(), angles.sin()
    both_cos = torch.stack((cos, cos), dim=-1).flatten(-2)
    return both_cos, torch.stack((-sin, sin), dim=-1).flatten(-2)
"""
SIGN_TWICE = SIGN_LOST.replace("(sin, sin)", "(-sin, -sin)")
SWAPPED = SIGN_LOST.replace(
    "return torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)",
    "return torch.cat((-sin, sin), dim=-1), torch.cat((cos, cos), dim=-1)",
)
HALF_SINES = SIGN_LOST.replace("torch.cat((sin, sin), dim=-1)", "-sin")
ONLY_SINES = SIGN_LOST.replace("return torch.cat((cos, cos), dim=-1)", "return cos")

WRONG = {
    "ch04-exercise-1": [
        (
            "def offset_score(q, k, offset, angle):\n    return q @ rotate_pair(k, offset * angle)",
            "the wrong direction",
        ),
        (
            "def offset_score(q, k, offset, angle):\n    return rotate_pair(q, angle) @ k",
            "the angle is per position",
        ),
        (
            "def offset_score(q, k, offset, angle):\n"
            "    return rotate_pair(q, offset * angle) @ rotate_pair(k, offset * angle)",
            "turn only one of the two",
        ),
        (
            "def offset_score(q, k, offset, angle):\n    return rotate_pair(q, offset * angle) * k",
            "one number, but it has shape (2,)",
        ),
        (
            "def offset_score(q, k, offset, angle):\n    return rotate_pair(q, offset) @ k",
            "offset 1, angle 0.3: ",
        ),
        (
            "def offset_score(q, k, offset, angle):\n    rotate_pair(q, offset * angle) @ k",
            "is there a return?",
        ),
        (
            "def offset_score(q, k, offset, angle):\n"
            "    return rotate_pair(q, (offset + 7) * angle) @ rotate_pair(k, 7 * angle)",
            "rotate_pair ran 2 times instead of once",
        ),
    ],
    "ch04-exercise-2": [
        (
            "def rotate_interleaved(x, cos, sin):\n"
            "    return apply_rope(x, to_interleaved(cos), to_interleaved(sin))",
            "the tables were interleaved",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n    return apply_rope(x, cos, sin)",
            "convert x first",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n"
            "    return apply_rope(to_half_split(x), cos, sin)",
            "convert it back",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n"
            "    return to_half_split(apply_rope(to_interleaved(x), cos, sin))",
            "wrong order",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n"
            "    return to_interleaved(apply_rope(x, to_half_split(cos), to_half_split(sin)))",
            "the largest difference",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n"
            "    return to_interleaved(apply_rope(x, cos, sin))",
            "to_half_split comes first",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n"
            "    return to_interleaved(apply_rope(to_half_split(x), cos, -sin))",
            "it rotates backward",
        ),
        (
            "def rotate_interleaved(x, cos, sin):\n    return to_interleaved(to_half_split(x))",
            "nothing is rotated",
        ),
    ],
    "ch04-exercise-3": [
        (SIGN_LOST, "still change: the first half of the sines needs a minus"),
        (SIGN_MOVED, "goes backward"),
        (BOTH_INTERLEAVED, "both tables are interleaved now"),
        (ONLY_SINES, "the table of cosines was right before"),
        (SIGN_TWICE, "only the first half of the sines needs a minus"),
        (SWAPPED, "the order of the results is cosines, sines"),
        (HALF_SINES, "the shape is (6, 4) instead of (6, 8)"),
    ],
}
