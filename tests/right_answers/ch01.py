"""Right answers to the exercises of chapter 01 that differ from the solutions."""

RIGHT = {
    "ch01-exercise-1": [
        """
def add_one_loss(train, validation):
    symbols = set(train) | set(validation)
    p = {c: (train.count(c) + 1) / (len(train) + len(symbols)) for c in symbols}
    return mean_loss([p[c] for c in validation])
""",
        """
import math
def add_one_loss(train, validation):
    total, loss = len(train) + len(set(train + validation)), 0.0
    for char in validation:
        loss -= math.log(train.count(char) + 1) - math.log(total)
    return loss / len(validation)
""",
        """
from collections import Counter
def add_one_loss(train, validation):
    counts = Counter(train) + Counter(set(train + validation))
    p = torch.tensor([counts[c] / counts.total() for c in validation])
    return -p.log().mean()
""",
    ],
    "ch01-exercise-2": [
        """
def split_windows(text, block_size, validation_share):
    train, validation = split_text(text, validation_share)
    cut = lambda part: [part[i : i + block_size] for i in range(len(part) - block_size + 1)]
    return cut(train), cut(validation)
""",
        """
def split_windows(text, block_size, validation_share):
    cut = round(len(text) * (1 - validation_share))
    train, validation = [], []
    for i in range(len(text) - block_size + 1):
        if i + block_size <= cut:
            train.append(text[i : i + block_size])
        elif i >= cut:
            validation.append(text[i : i + block_size])
    return train, validation
""",
        """
def split_windows(text, block_size, validation_share):
    starts = range(len(text) - block_size + 1)
    windows = [text[i : i + block_size] for i in starts]
    cut = round(len(text) * (1 - validation_share))
    return windows[: cut - block_size + 1], windows[cut:]
""",
    ],
    "ch01-exercise-3": [
        """
def smooth_pairs(counts, lower):
    kinds = counts.gt(0).sum(1, keepdim=True)
    total = counts.sum(1, keepdim=True)
    return torch.where(total == 0, lower, (counts + kinds * lower) / (total + kinds))
""",
        """
def smooth_pairs(counts, lower):
    total, kinds = counts.sum(dim=1)[:, None], (counts != 0).sum(dim=1)[:, None]
    share = kinds / (total + kinds).clamp(min=1)
    mixed = counts / total.clamp(min=1) * (1 - share) + share * lower
    return torch.where(total > 0, mixed, lower)
""",
        """
def smooth_pairs(counts, lower):
    rows = []
    for row in counts:
        n, kinds = row.sum(), (row > 0).sum()
        rows.append((row + kinds * lower) / (n + kinds) if n > 0 else lower)
    return torch.stack(rows)
""",
        """
def smooth_pairs(counts, lower):
    result = lower.repeat(len(counts), 1)
    seen = counts.sum(dim=1) > 0
    kinds = (counts[seen] > 0).sum(dim=1, keepdim=True)
    total = counts[seen].sum(dim=1, keepdim=True)
    result[seen] = (counts[seen] + kinds * lower) / (total + kinds)
    return result
""",
    ],
}
