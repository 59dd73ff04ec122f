"""Plausible wrong answers to the exercises of chapter 16, and a part of what each check says."""

ACCEPTS = "def accepts(p, q, token, number):\n    return {result}"
REST = """
def rest_of_rows(p, q):
    left = {left}
    {then}
    return {result}
"""
TOTAL = "total = left.sum(-1, keepdim=True)"
RESULT = "torch.where(total > 0, left / total, p)"


def rows(left="(p - q).clamp(min=0)", then=TOTAL, result=RESULT):
    return REST.format(left=left, then=then, result=result)


GUESS = """
def repaired_guess(p, q, generator):
    guess = lib.draw_token({source}, generator)
    chance = min(1.0, ({ratio}).item())
    if lib.happens(chance, generator):
        return {kept}
    return {otherwise}
"""


def guess(
    source="q",
    ratio="p[guess] / q[guess]",
    kept="guess, True",
    otherwise="lib.draw_token(lib.rest(p, q), generator), False",
):
    return GUESS.format(source=source, ratio=ratio, kept=kept, otherwise=otherwise)


WRONG = {
    "ch16-exercise-1": [
        (ACCEPTS.format(result="bool(number < q[token] / p[token])"), "the other way round"),
        (ACCEPTS.format(result="bool(number >= p[token] / q[token])"), "what should be kept"),
        (ACCEPTS.format(result="bool(number < p[token])"), "how often the draft guesses it"),
        (ACCEPTS.format(result="bool(number < q[token])"), "does not ask the model"),
        (ACCEPTS.format(result="bool(number < min(p[token], q[token]))"), "of this token"),
        (ACCEPTS.format(result="bool(p[token] >= q[token])"), "use the number"),
        (ACCEPTS.format(result="number < lib.overlap(p, q)"), "the share of all guesses"),
        (ACCEPTS.format(result="True"), "always the same answer"),
        (ACCEPTS.format(result="number < p / q"), "return one True or False"),
        (ACCEPTS.format(result="bool(number < p[token] - q[token])"), "True, not False"),
        (ACCEPTS.format(result="bool(number < p[token] / q[0])"), ", not "),
    ],
    "ch16-exercise-2": [
        (rows(left="p - q", result="left"), "cut at 0"),
        (rows(result="torch.where(total > 0, left, p)"), "do not add up to 1"),
        (rows(left="(p - q).abs()"), "absolute values"),
        (rows(left="(q - p).clamp(min=0)"), "guesses too often"),
        (rows(then="total = left.sum()"), "divided by one sum"),
        (rows(then="total = left.sum(0)", result="left / total"), "columns"),
        (rows(result="left.softmax(-1)"), "a softmax"),
        (rows(result="p"), "counted twice"),
        (rows(result="left / total"), "0 / 0 is no number"),
        (rows(result="left / total.clamp(min=1e-9)"), "all zeros"),
        (rows(left="p.sub_(q).clamp_(min=0)"), "it changes what it was given"),
        (rows(result=f"({RESULT})[0]"), "the shape is (4,) instead of (5, 4)"),
        (rows(left="p - q", result="left / total"), "cut at 0 before you add up"),
        (rows(result="left / left.sum(-1)"), "must match"),
        (rows(result="torch.where(left > 0, left / total, p)"), "for single zeros"),
        (rows(result="torch.where(total > 0, left / total, 0.25)"), "but the one where p = q"),
        (rows(result="list(left / total)"), "return one tensor for all rows"),
    ],
    "ch16-exercise-3": [
        (guess(otherwise="lib.draw_token(p, generator), False"), "gets another from p"),
        (guess(ratio="q[guess] / p[guess]"), "upside down"),
        (
            guess(ratio="q[guess] / p[guess]", otherwise="lib.draw_token(p, generator), False"),
            "but p is 0.50, 0.50, 0.00",
        ),
        (guess(otherwise="lib.draw_token(q, generator), False"), "from q again"),
        (guess(ratio="p[guess]"), "p alone forgets"),
        (guess(ratio="torch.tensor(1.0)"), "every guess is kept"),
        (
            guess(otherwise="lib.draw_token(lib.rest(q, p), generator), False"),
            "p - q, not q - p",
        ),
        (
            guess(otherwise="lib.draw_token(torch.ones(3), generator), False"),
            "all are equally likely",
        ),
        (guess(kept="guess", otherwise="lib.draw_token(p, generator)"), "return two things"),
        (guess(source="p", ratio="torch.tensor(1.0)"), "1.00 of the guesses are kept"),
        (
            guess(source="p", ratio="torch.tensor(0.0)", otherwise="guess, False"),
            "0.00 of the guesses are kept",
        ),
        (guess(source="torch.ones(3)"), "written"),
    ],
}
