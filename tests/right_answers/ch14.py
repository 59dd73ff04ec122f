"""Right answers to the exercises of chapter 14 that differ from the solutions."""

RIGHT = {
    "ch14-exercise-1": [
        """
def splits(experts, num_experts, num_ranks):
    rows = experts.flatten().bincount(minlength=num_experts)
    return rows.unflatten(0, (num_ranks, -1)).sum(dim=1)
""",
        """
def splits(experts, num_experts, num_ranks):
    size = num_experts // num_ranks
    owners = [expert // size for expert in experts.flatten().tolist()]
    return [owners.count(rank) for rank in range(num_ranks)]
""",
        """
def splits(experts, num_experts, num_ranks):
    owners = experts * num_ranks // num_experts
    return (owners[..., None] == torch.arange(num_ranks)).sum(dim=(0, 1))
""",
    ],
    "ch14-exercise-2": [
        """
def rows_once(experts, num_experts, num_ranks, home):
    owners = experts // (num_experts // num_ranks)
    return sum(len(set(row) - {home}) for row in owners.tolist())
""",
        """
def rows_once(experts, num_experts, num_ranks, home):
    owners = experts // (num_experts // num_ranks)
    return sum((owners == r).any(dim=1).sum() for r in range(num_ranks) if r != home)
""",
        """
def rows_once(experts, num_experts, num_ranks, home):
    owners = experts // (num_experts // num_ranks)
    counts = torch.nn.functional.one_hot(owners, num_ranks).sum(dim=1).clamp(max=1)
    return int(counts.sum() - counts[:, home].sum())
""",
    ],
    "ch14-exercise-3": [
        """
def repaired_average(replicated, owned):
    num_ranks = len(replicated)
    return sum(replicated) / num_ranks, [gradient / num_ranks for gradient in owned]
""",
        """
def repaired_average(replicated, owned):
    router = torch.stack(replicated).mean(dim=0)
    return router, list(torch.stack(owned) / len(owned))
""",
        """
def repaired_average(replicated, owned):
    share = 1 / len(replicated)
    router = sum(share * gradient for gradient in replicated)
    for gradient in owned:
        gradient *= share
    return router, owned
""",
    ],
}
