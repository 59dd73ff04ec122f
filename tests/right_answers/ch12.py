"""Right answers to the exercises of chapter 12 that differ from the solutions."""

RIGHT = {
    "ch12-exercise-1": [
        """
def table_information(table):
    def entropy(counts):
        p = counts[counts > 0] / counts.sum()
        return -(p * p.log2()).sum()
    return entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)
""",
        """
def table_information(table):
    p = table / table.sum()
    ratio = p / torch.outer(p.sum(1), p.sum(0))
    return torch.special.xlogy(p, ratio).sum() / torch.tensor(2.0, dtype=torch.float64).log()
""",
        """
def table_information(table):
    total, bits = table.sum(), 0
    for x, row in enumerate(table):
        for y, n in enumerate(row):
            if n > 0:
                bits += n / total * torch.log2(n * total / (row.sum() * table[:, y].sum()))
    return float(bits)
""",
    ],
    "ch12-exercise-2": [
        """
def read_board():
    return [3, 1, [2, 5]]
""",
        """
def read_board():
    entropy, character = (2.41, 2.57, 1.98, 2.58), (0.02, 2.22, 1.98, 1.29)
    shares = [c / e for c, e in zip(character, entropy)]
    return 1 + shares.index(max(shares)), 1 + shares.index(min(shares)), (2, 5)
""",
        """
def read_board():
    hashing, blind = 3, 1
    cost = {(2, 5): 0.01, (3, 5): 0.02, (3, 0): 0.03}
    return hashing, blind, min(cost, key=cost.get)
""",
    ],
    "ch12-exercise-3": [
        """
def repaired_without(routing, expert):
    return without(expert)(routing)
""",
        """
def repaired_without(routing, expert):
    logits = routing.probs.log()
    logits[:, expert] = float("-inf")
    best, experts = logits.topk(routing.experts.shape[1], dim=-1)
    return Routing(best.softmax(-1), experts, routing.probs)
""",
        """
def repaired_without(routing, expert):
    others = [e for e in range(routing.probs.shape[1]) if e != expert]
    best, places = routing.probs[:, others].topk(routing.experts.shape[1], dim=-1)
    experts = torch.tensor(others)[places]
    return routing._replace(weights=best / best.sum(1, keepdim=True), experts=experts)
""",
    ],
}
