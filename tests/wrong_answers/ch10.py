"""Plausible wrong answers to the exercises of chapter 10, and a part of what each check says."""

GROUPED = """
def grouped_attention(q, k, v):
    repeats = q.shape[1] // k.shape[1]
    k, v = {k}, {v}
    return F.scaled_dot_product_attention(q, k, v{causal})
"""
IN_TURN = "{x}.repeat_interleave(repeats, dim=1)"
AROUND = "{x}.repeat(1, repeats, 1, 1)"
CAUSAL = ", is_causal=True"


def grouped(k, v, causal=CAUSAL):
    return GROUPED.format(k=k.format(x="k"), v=v.format(x="v"), causal=causal)


ROWS = """
def repaired_rows(w, num_heads):
    columns = {columns}
    return {result}
"""
HEADS = "w.unflatten(0, (num_heads, -1)).mT"
MASK = """
def chunked_mask(num_positions, chunk):
    t = torch.arange(num_positions)
    return {result}
"""

WRONG = {
    "ch10-exercise-1": [
        (grouped(AROUND, AROUND), "the heads go round"),
        (grouped(IN_TURN, AROUND), "in different orders"),
        (grouped(AROUND, IN_TURN), "in different orders"),
        (grouped(IN_TURN, IN_TURN, ""), "the future is visible"),
        (grouped(AROUND, AROUND, ""), "and the future is visible"),
        (grouped("{x}[:, :1].expand_as(q)", "{x}[:, :1].expand_as(q)"), "only one head"),
        (
            grouped("{x}.mean(1, keepdim=True).expand_as(q)", "{x}.mean(1, True).expand_as(q)"),
            "are averaged",
        ),
        (grouped("{x}", "{x}"), "it raised"),
        ("def grouped_attention(q, k, v):\n    return q", "the largest difference"),
        (grouped(IN_TURN.format(x="v"), IN_TURN.format(x="k")), "keys and values are swapped"),
        (grouped(IN_TURN, IN_TURN, ", is_causal=True, scale=1.0"), "leave scale as it is"),
    ],
    "ch10-exercise-2": [
        (
            ROWS.format(
                columns="w.unflatten(0, (num_heads, -1))",
                result="to_interleaved(columns).flatten(0, 1)",
            ),
            "transpose each head with .mT first",
        ),
        (ROWS.format(columns=HEADS, result="to_interleaved(columns).mT"), "heads are still apart"),
        (
            ROWS.format(columns=HEADS, result="to_half_split(columns).mT.flatten(0, 1)"),
            "this is the way back",
        ),
        (ROWS.format(columns="w.mT", result="columns.mT"), "nothing is interleaved"),
        (
            ROWS.format(
                columns="w.unflatten(1, (num_heads, -1))",
                result="to_interleaved(columns).flatten(1)",
            ),
            "columns are interleaved",
        ),
        (
            ROWS.format(columns=HEADS, result="to_interleaved(columns).mT.flatten(0, 1).mT"),
            "the result is transposed",
        ),
        (ROWS.format(columns="w.mT", result="to_interleaved(columns)"), "the largest difference"),
        (
            ROWS.format(
                columns="w.unflatten(0, (-1, num_heads)).mT",
                result="to_interleaved(columns).mT.flatten(0, 1)",
            ),
            "the heads come first",
        ),
    ],
    "ch10-exercise-3": [
        (
            MASK.format(result="torch.ones(num_positions, num_positions).bool().tril()"),
            "it is the causal mask",
        ),
        (
            MASK.format(result="(t <= t[:, None]) & (t > t[:, None] - chunk)"),
            "it is a sliding window",
        ),
        (MASK.format(result="t[:, None] // chunk == t // chunk"), "the future of its chunk"),
        (
            MASK.format(result="(t[:, None] // chunk == t // chunk).tril(-1)"),
            "does not see itself",
        ),
        (
            MASK.format(result="(t[:, None] % chunk == t % chunk).tril()"),
            "the same place in every chunk",
        ),
        (
            MASK.format(result="~(t[:, None] // chunk == t // chunk).tril()"),
            "True and False are swapped",
        ),
        (
            MASK.format(result="(t[:, None] // chunk == t // chunk).triu()"),
            "rows and columns are swapped",
        ),
        (
            MASK.format(result="(t[:, None] // chunk == t // chunk).tril().int()"),
            "a mask holds True and False",
        ),
        (MASK.format(result="None"), "is there a return"),
    ],
}
