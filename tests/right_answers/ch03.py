"""Right answers to the exercises of chapter 03 that differ from the solutions."""

RIGHT = {
    "ch03-exercise-1": [
        """
def count_pairs(num_ids, seq_len, step):
    return (num_ids - seq_len - 1) // step + 1
""",
        """
import math
def count_pairs(num_ids, seq_len, step):
    return math.ceil((num_ids - seq_len) / step)
""",
        """
def count_pairs(num_ids, seq_len, step):
    return sum(start % step == 0 for start in range(num_ids - seq_len))
""",
        """
def count_pairs(num_ids, seq_len, step):
    start = pairs = 0
    while start + seq_len + 1 <= num_ids:
        start, pairs = start + step, pairs + 1
    return pairs
""",
    ],
    "ch03-exercise-2": [
        """
def draw(ids, batch_size, seq_len, generator):
    x, y = lib.sliding_windows(ids, seq_len)
    rows = torch.randint(len(x), (batch_size,), generator=generator)
    return x[rows], y[rows]
""",
        """
def draw(ids, batch_size, seq_len, generator):
    starts = torch.rand(batch_size, generator=generator) * (len(ids) - seq_len)
    places = starts.long()[:, None] + torch.arange(seq_len)
    return ids[places], ids[places + 1]
""",
        """
def draw(ids, batch_size, seq_len, generator):
    windows = []
    for _ in range(batch_size):
        s = int(torch.randint(len(ids) - seq_len, (), generator=generator))
        windows.append(ids[s : s + seq_len + 1])
    windows = torch.stack(windows)
    return windows[:, :-1], windows[:, 1:]
""",
        """
def draw(ids, batch_size, seq_len, generator):
    even = torch.ones(len(ids) - seq_len)
    starts = torch.multinomial(even, batch_size, replacement=True, generator=generator)
    x = torch.stack([ids[s : s + seq_len] for s in starts])
    y = torch.stack([ids[s + 1 : s + seq_len + 1] for s in starts])
    return x, y
""",
    ],
    "ch03-exercise-3": [
        """
def strided_evaluation(ids, seq_len, step):
    x = ids[:-1].unfold(0, seq_len, step)
    y = ids[1:].unfold(0, seq_len, step).clone()
    y[1:, : seq_len - step] = -100
    return x, y
""",
        """
def strided_evaluation(ids, seq_len, step):
    starts = range(0, len(ids) - seq_len, step)
    x = torch.stack([ids[s : s + seq_len] for s in starts])
    y = torch.stack([ids[s + 1 : s + seq_len + 1] for s in starts])
    old = torch.arange(seq_len) < seq_len - step
    return x, torch.where(old & (torch.arange(len(y)) > 0)[:, None], -100, y)
""",
        """
def strided_evaluation(ids, seq_len, step):
    x, y = (part[::step].clone() for part in lib.sliding_windows(ids, seq_len))
    for row in y[1:]:
        row[: seq_len - step].fill_(-100)
    return x, y
""",
    ],
}
