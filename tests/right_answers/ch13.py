"""Right answers to the exercises of chapter 13 that differ from the solutions."""

RIGHT = {
    "ch13-exercise-1": [
        """
def touched_by(probs, batch):
    return sum(1 - (1 - p) ** batch for p in probs.tolist())
""",
        """
def touched_by(probs, batch):
    nobody = torch.ones_like(probs)
    for _ in range(batch):
        nobody = nobody * (1 - probs)
    return len(probs) - nobody.sum()
""",
        """
def touched_by(probs, batch):
    return -torch.expm1(batch * torch.log1p(-probs)).sum()
""",
    ],
    "ch13-exercise-2": [
        """
from statistics import mean, stdev

def fair_winner(trials, budget):
    first = trials[0]
    for rival in trials[1:]:
        if abs(getattr(rival, budget) - getattr(first, budget)) < 0.05 * getattr(first, budget):
            gaps = [a - b for a, b in zip(first.losses, rival.losses)]
            if abs(mean(gaps)) < 2 * stdev(gaps) / len(gaps) ** 0.5:
                return "none"
            return rival.name if mean(gaps) > 0 else first.name
""",
        """
def fair_winner(trials, budget):
    by_name = {trial.name: trial for trial in trials}
    size = trials[0]._asdict()[budget]
    fair = [t.name for t in trials if 0.95 < t._asdict()[budget] / size < 1.05]
    one, other = (torch.tensor(by_name[name].losses) for name in fair)
    error = (one - other).std() / len(one) ** 0.5
    if abs((one - other).mean() / error) <= 2:
        return "none"
    return min(fair, key=lambda name: sum(by_name[name].losses))
""",
        """
def fair_winner(trials, budget):
    index = trials[0]._fields.index(budget)
    rival = min(trials[1:], key=lambda trial: abs(trial[index] - trials[0][index]))
    gaps = torch.tensor(trials[0].losses) - torch.tensor(rival.losses)
    t = gaps.mean() / (gaps.std() / len(gaps) ** 0.5)
    return "none" if t.abs() < 2 else (trials[0] if t < 0 else rival).name
""",
    ],
    "ch13-exercise-3": [
        """
def repaired_hash(counts, num_experts, top_k):
    load, table = [0] * num_experts, [None] * len(counts)
    for token in sorted(range(len(counts)), key=lambda t: -int(counts[t])):
        table[token] = sorted(range(num_experts), key=load.__getitem__)[:top_k]
        for expert in table[token]:
            load[expert] += int(counts[token])
    return torch.tensor(table)
""",
        """
def repaired_hash(counts, num_experts, top_k):
    generator = torch.Generator().manual_seed(0)
    return lib.balanced_table(counts, num_experts, top_k, generator)
""",
        """
def repaired_hash(counts, num_experts, top_k):
    table = torch.zeros(len(counts), top_k, dtype=torch.long)
    load = torch.zeros(num_experts)
    for token in counts.argsort(descending=True):
        table[token] = load.topk(top_k, largest=False).indices
        load.index_add_(0, table[token], counts[token].float().expand(top_k))
    return table
""",
    ],
}
