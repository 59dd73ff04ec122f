"""Right answers to the exercises of chapter 09 that differ from the solutions."""

RIGHT = {
    "ch09-exercise-1": [
        """
def count_top_p(probs, top_p):
    total, count = 0.0, 0
    for p in sorted(probs.tolist(), reverse=True):
        if total >= top_p:
            break
        total, count = total + p, count + 1
    return count
""",
        """
def count_top_p(probs, top_p):
    sums = probs.sort(descending=True)[0].cumsum(0)
    return (sums < top_p).sum() + 1
""",
        """
def count_top_p(probs, top_p):
    sums = probs.sort().values.flip(0).cumsum(0)
    return int(torch.searchsorted(sums, top_p)) + 1
""",
        """
def count_top_p(probs, top_p):
    return int((lib.next_token_probs(probs.log(), top_p=top_p) > 0).sum())
""",
    ],
    "ch09-exercise-2": [
        """
def repaired_probs(logits, temperature, top_p):
    logits = logits / temperature
    probs, order = logits.softmax(-1).sort(descending=True)
    kept = probs.cumsum(-1) - probs < top_p
    probs = torch.where(kept, probs, 0)
    return torch.zeros_like(probs).scatter(0, order, probs / probs.sum())
""",
        """
def repaired_probs(logits, temperature, top_p):
    probs = (logits / temperature).softmax(-1)
    better = (probs * (probs > probs[:, None])).sum(dim=1)
    probs = probs * (better < top_p)
    return probs / probs.sum()
""",
        """
def repaired_probs(logits, temperature, top_p):
    probs, order = (logits / temperature).softmax(-1).sort(descending=True)
    probs[probs.cumsum(-1) - probs >= top_p] = 0
    return (probs / probs.sum())[order.argsort()]
""",
        """
def repaired_probs(logits, temperature, top_p):
    order = logits.argsort(descending=True)
    probs = (logits[order] / temperature).softmax(-1)
    kept = probs.cumsum(-1) - probs < top_p
    scaled = torch.full_like(logits, -torch.inf)
    scaled[order[kept]] = logits[order[kept]] / temperature
    return scaled.softmax(-1)
""",
    ],
    "ch09-exercise-3": [
        """
def min_p_probs(logits, temperature, min_p):
    probs = torch.softmax(logits / temperature, dim=0)
    probs[probs < min_p * probs.max()] = 0
    return probs / probs.sum()
""",
        """
def min_p_probs(logits, temperature, min_p):
    probs = (logits / temperature).softmax(-1)
    kept = probs / probs.max() >= min_p
    return (logits / temperature).masked_fill(~kept, -torch.inf).softmax(-1)
""",
        """
def min_p_probs(logits, temperature, min_p):
    logits = logits / temperature
    weights = (logits - logits.max()).exp()
    weights = weights * (weights >= min_p)
    return weights / weights.sum()
""",
    ],
}
