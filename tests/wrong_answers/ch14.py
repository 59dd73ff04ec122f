"""Plausible wrong answers to the exercises of chapter 14, and a part of what each check says."""

SPLITS = """
def splits(experts, num_experts, num_ranks):
    size = num_experts // num_ranks
    return {}
"""
ONCE = """
def rows_once(experts, num_experts, num_ranks, home):
    owners = experts // (num_experts // num_ranks)
    needed = torch.zeros(len(experts), num_ranks, dtype=torch.bool).scatter(1, owners, True)
    {}
    return {}
"""
AVERAGE = """
def repaired_average(replicated, owned):
    num_ranks = len(replicated)
    return {}
"""
ROUTER = "sum(replicated) / num_ranks"

WRONG = {
    "ch14-exercise-1": [
        (
            SPLITS.format("(experts[:, 0] // size).bincount(minlength=num_ranks)"),
            "only first choices",
        ),
        (
            SPLITS.format("(experts % num_ranks).flatten().bincount(minlength=num_ranks)"),
            "like cards",
        ),
        (SPLITS.format("experts.flatten().bincount(minlength=num_experts)"), "rows per expert"),
        (SPLITS.format("(experts // size).flatten().bincount()"), "minlength=num_ranks"),
        (
            SPLITS.format("(experts // num_ranks).flatten().bincount(minlength=num_ranks)"),
            "divide by the experts per rank",
        ),
        (SPLITS.format("(experts % size).flatten().bincount(minlength=num_ranks)"), "// gives the"),
        (SPLITS.format("experts.flatten() / size"), "not whole numbers"),
        (
            SPLITS.format(
                "torch.zeros(len(experts), num_ranks).scatter(1, experts // size, 1.0)"
                ".sum(dim=0).long()"
            ),
            "a token counts once per rank",
        ),
        (
            SPLITS.format("(experts // size).bincount(minlength=num_ranks)"),
            "it raised",
        ),
    ],
    "ch14-exercise-2": [
        (ONCE.format("", "(owners != home).sum()"), "each choice is counted"),
        (ONCE.format("", "needed.sum()"), "stay at home"),
        (ONCE.format("needed[:, home] = False", "needed.any(dim=1).sum()"), "counts tokens"),
        (ONCE.format("needed[:, home] = False", "needed.any(dim=0).sum()"), "counts ranks"),
        (ONCE.format("", "(experts != home).sum()"), "compare their owners"),
        (ONCE.format("needed[:, home] = False", "needed.sum(dim=1)"), "one number"),
        (ONCE.format("needed[:, home] = False", "needed.sum() * 2"), "the way home"),
        (ONCE.format("needed[:, home] = False", "needed.sum() * 3"), "instead of"),
        (ONCE.format("needed[:, 0] = False", "needed.sum()"), "rows to rank 0 are left out"),
    ],
    "ch14-exercise-3": [
        (AVERAGE.format("sum(replicated), [g / num_ranks for g in owned]"), "not the sum"),
        (AVERAGE.format(f"{ROUTER}, [sum(owned) / num_ranks] * num_ranks"), "experts are averaged"),
        (AVERAGE.format(f"{ROUTER}, [sum(owned)] * num_ranks"), "experts are added up"),
        (AVERAGE.format(f"{ROUTER}, [g / num_ranks**2 for g in owned]"), "divided twice"),
        (AVERAGE.format(f"{ROUTER}, [g / 2 for g in owned]"), "divide by the number of ranks"),
        (AVERAGE.format(f"{ROUTER}, [g * num_ranks for g in owned]"), "multiplied"),
        (AVERAGE.format(ROUTER), "return the router's gradient and a list"),
    ],
}
