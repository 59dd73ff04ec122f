"""Plausible wrong answers to the exercises of chapter 13, and a part of what each check says."""

TOUCHED = "def touched_by(probs, batch):\n    return {result}"
WINNER = """
def fair_winner(trials, budget):
    first, *others = trials
    rivals = [t for t in {rivals} if {fair}]
    rival = min(rivals, key=lambda t: sum(t.losses))
    ours, theirs = torch.tensor(first.losses), torch.tensor(rival.losses)
    gaps = ours - theirs
    if gaps.mean().abs() <= {error}:
        return "none"
    return {better}
"""
FAIR = "abs(getattr(t, budget) / getattr(first, budget) - 1) < 0.05"
ERROR = "2 * gaps.std() / len(gaps) ** 0.5"
BETTER = "first.name if gaps.mean() < 0 else rival.name"


def winner(rivals="others", fair=FAIR, error=ERROR, better=BETTER):
    return WINNER.format(rivals=rivals, fair=fair, error=error, better=better)


HASH = """
def repaired_hash(counts, num_experts, top_k):
    table = torch.zeros(len(counts), top_k, dtype=torch.long)
    load = torch.zeros(num_experts)
    for token in {order}.tolist():
        {choose}
        {charge}
    return {result}
"""


def table(
    order="counts.argsort(descending=True, stable=True)",
    choose="table[token] = load.argsort(stable=True)[:top_k]",
    charge="load[table[token]] += counts[token]",
    result="table",
):
    return HASH.format(order=order, choose=choose, charge=charge, result=result)


WRONG = {
    "ch13-exercise-1": [
        (
            TOUCHED.format(
                result="lib.experts_touched(len(probs), round(float(probs.sum())), batch)"
            ),
            "these experts are equally likely",
        ),
        (TOUCHED.format(result="(batch * probs).sum()"), "counted twice"),
        (TOUCHED.format(result="(batch * probs).clamp(max=1).sum()"), "is a bound"),
        (TOUCHED.format(result="(1 - probs**batch).sum()"), "one that does is enough"),
        (TOUCHED.format(result="((1 - probs) ** batch).sum()"), "nobody touches"),
        (TOUCHED.format(result="1 - ((1 - probs) ** batch).prod()"), "any expert at all"),
        (TOUCHED.format(result="(1 - (1 - probs) ** batch).mean()"), "the share of the experts"),
        (
            TOUCHED.format(result="(1 - (1 - probs / probs.sum()) ** batch).sum()"),
            "do not divide them",
        ),
        (TOUCHED.format(result="1 - (1 - probs) ** batch"), "add them up"),
        (TOUCHED.format(result="1 - ((1 - probs) ** batch).sum()"), "not once for all"),
    ],
    "ch13-exercise-2": [
        (winner(error="0"), "the error is never asked"),
        (winner(error="gaps.std() / len(gaps) ** 0.5"), "one standard error is not enough"),
        (winner(error=ERROR.replace("std()", "std(correction=0)")), "by n - 1"),
        (
            WINNER.replace("gaps.mean().abs()", "gaps.mean()").format(
                rivals="others", fair=FAIR, error=ERROR, better=BETTER
            ),
            "row 0 never wins",
        ),
        (
            winner(error="2 * ((ours.var() + theirs.var()) / len(ours)) ** 0.5"),
            "what the pairs show",
        ),
        (winner(error="2 * gaps.std()"), "varies root n times less"),
        (winner(better="first.name if gaps.mean() > 0 else rival.name"), "the lower loss wins"),
        (winner(fair="True"), "the rival must have the same budget"),
        (winner(fair=FAIR.replace("budget", "'active'")), "always by active"),
        (winner(fair=FAIR.replace("budget", "'total'")), "always by total"),
        (winner(rivals="trials"), "no rival of its own"),
        (winner(rivals="trials[:1]"), "always none"),
        (winner(fair="getattr(t, budget) == getattr(first, budget)"), "it raised"),
        (winner(better="gaps.mean()"), "return a name or 'none'"),
    ],
    "ch13-exercise-3": [
        (table(order="counts.argsort(stable=True)"), "the rare characters come first"),
        (table(order="torch.arange(len(counts))"), "in the order of their ids"),
        (table(charge="load[table[token, 0]] += counts[token]"), "only the first expert"),
        (
            table(choose="table[token] = load.argsort(descending=True, stable=True)[:top_k]"),
            "the busiest experts get still more",
        ),
        (table(choose="table[token] = load.argmin()"), "the same expert twice"),
        (table(result="table[:, 0]"), "return one tensor of shape (12, 2)"),
        (table(result="table.float()"), "whole numbers"),
        (table(result="table + 1"), "numbered from 0 to 3"),
        (
            "def repaired_hash(counts, num_experts, top_k):\n"
            "    ids = torch.arange(len(counts))[:, None]\n"
            "    return (ids + torch.arange(top_k)) % num_experts",
            "times the mean share",
        ),
    ],
}
