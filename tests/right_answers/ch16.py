"""Right answers to the exercises of chapter 16 that differ from the solutions."""

RIGHT = {
    "ch16-exercise-1": [
        """
def accepts(p, q, token, number):
    return (number * q[token] < p[token]).item()
""",
        """
def accepts(p, q, token, number):
    return number < lib.accept_probability(p, q)[token]
""",
        """
def accepts(p, q, token, number):
    if p[token] >= q[token]:
        return True
    return number < float(p[token]) / float(q[token])
""",
    ],
    "ch16-exercise-2": [
        """
def rest_of_rows(p, q):
    return torch.stack([lib.rest(*row) for row in zip(p, q)])
""",
        """
def rest_of_rows(p, q):
    left = torch.relu(p - q)
    left[left.sum(-1) == 0] = p[left.sum(-1) == 0]
    return left / left.sum(-1, keepdim=True)
""",
        """
def rest_of_rows(p, q):
    left = p - torch.minimum(p, q)
    return torch.where((p == q).all(-1, keepdim=True), p, left / left.sum(-1)[:, None])
""",
    ],
    "ch16-exercise-3": [
        """
def repaired_guess(p, q, generator):
    guess = torch.multinomial(q, 1, generator=generator).item()
    if torch.rand((), generator=generator) * q[guess] < p[guess]:
        return guess, True
    return torch.multinomial((p - q).clamp(min=0), 1, generator=generator).item(), False
""",
        """
def repaired_guess(p, q, generator):
    guess = lib.draw_token(q, generator)
    kept = lib.happens(lib.accept_probability(p, q)[guess].item(), generator)
    return (guess if kept else lib.draw_token(lib.rest(p, q), generator)), kept
""",
        """
import random


def repaired_guess(p, q, generator):
    dice = random.Random(int(torch.randint(1 << 30, (1,), generator=generator)))
    p, q = p.tolist(), q.tolist()
    guess = dice.choices(range(3), q)[0]
    if dice.random() < p[guess] / q[guess]:
        return [guess, True]
    return [dice.choices(range(3), [max(0, a - b) for a, b in zip(p, q)])[0], False]
""",
    ],
}
