"""Right answers to the exercises of chapter 11 that differ from the solutions."""

RIGHT = {
    "ch11-exercise-1": [
        """
def proportional_update(bias, load, rate):
    violation = load * len(load) - 1
    return bias - rate * violation
""",
        """
def proportional_update(bias, load, rate):
    new = bias.clone()
    for e in range(len(load)):
        new[e] += rate * (1 - load[e] / load.mean())
    return new
""",
        """
def proportional_update(bias, load, rate):
    mean = load.mean()
    return torch.stack([b + rate * (mean - share) / mean for b, share in zip(bias, load)])
""",
    ],
    "ch11-exercise-2": [
        """
def diagnose(health):
    if (health.load == 0).any():
        return "idle"
    if health.load.max() * len(health.load) > 2:
        return "uneven"
    return "healthy" if health.mean_entropy - health.token_entropy >= 0.05 else "indifferent"
""",
        """
def diagnose(health):
    signs = [("idle", health.idle > 0), ("uneven", health.max_violation > 1)]
    signs += [("indifferent", health.told_apart < 0.05)]
    return next((word for word, sign in signs if sign), "healthy")
""",
        """
def diagnose(health):
    found = "healthy"
    if health.told_apart < 0.05:
        found = "indifferent"
    if health.max_violation > 1:
        found = "uneven"
    if health.idle:
        found = "idle"
    return found
""",
    ],
    "ch11-exercise-3": [
        """
def repaired_rebalance(bias, routing, rate):
    return lib.sign_update(bias, expert_load(routing), rate)
""",
        """
def repaired_rebalance(bias, routing, rate):
    counts = routing.experts.flatten().bincount(minlength=len(bias)).float()
    step = rate * torch.sign(counts.mean() - counts)
    return bias + step - step.mean()
""",
        """
def repaired_rebalance(bias, routing, rate):
    counts = torch.zeros(len(bias))
    for expert in routing.experts.flatten().tolist():
        counts[expert] += 1
    return bias + rate * (counts.mean() - counts).sign()
""",
    ],
}
