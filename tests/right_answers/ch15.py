"""Right answers to the exercises of chapter 15 that differ from the solutions."""

RIGHT = {
    "ch15-exercise-1": [
        """
def switches_from(settings):
    switches = lib.Switches(
        settings["scoring_func"],
        normalize=settings["norm_topk_prob"],
        scale=settings["routed_scaling_factor"],
    )
    if settings["topk_method"] == "greedy":
        return switches
    switches = switches._replace(groups=settings["n_group"], kept_groups=settings["topk_group"])
    if settings["topk_method"] == "noaux_tc":
        switches = switches._replace(bias=True, group_best=2)
    return switches
""",
        """
def switches_from(settings):
    biased = settings["topk_method"] == "noaux_tc"
    groups = (1, 1) if settings["topk_method"] == "greedy" else (
        settings["n_group"], settings["topk_group"])
    rest = settings["norm_topk_prob"], settings["routed_scaling_factor"]
    return lib.Switches(settings["scoring_func"], biased, *groups, 1 + biased, *rest)
""",
        """
def switches_from(settings):
    found = {"score": settings["scoring_func"], "normalize": settings["norm_topk_prob"]}
    found["scale"] = settings["routed_scaling_factor"]
    match settings["topk_method"]:
        case "noaux_tc":
            found |= {"bias": True, "group_best": 2 if settings["n_group"] > 1 else 1}
    if settings["topk_method"] != "greedy":
        found |= {"groups": settings["n_group"], "kept_groups": settings["topk_group"]}
    return lib.Switches(**found)
""",
    ],
    "ch15-exercise-2": [
        """
def repaired_choice(logits, bias, top_k):
    switches = lib.Switches("sigmoid", bias=True, normalize=True)
    routing = lib.route_by(logits, top_k, switches, bias)
    return routing.weights, routing.experts
""",
        """
def repaired_choice(logits, bias, top_k):
    scores = logits.sigmoid()
    best = (scores + bias).topk(top_k, dim=-1)
    weights = best.values - bias[best.indices]
    return weights / weights.sum(dim=-1, keepdim=True), best.indices
""",
        """
def repaired_choice(logits, bias, top_k):
    scores = torch.sigmoid(logits)
    order = (scores + bias).argsort(dim=-1, descending=True)[:, :top_k]
    weights = torch.stack([row[chosen] for row, chosen in zip(scores, order)])
    return F.normalize(weights, p=1, dim=-1), order
""",
    ],
    "ch15-exercise-3": [
        """
def needs_more_than_one(cards):
    return {card.name for card in cards if card.switches.normalize}
""",
        """
def needs_more_than_one(cards):
    names = []
    for card in cards:
        logits = torch.randn(9, card.num_experts, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(card.num_experts) if card.switches.bias else None
        weights = lib.route_by(logits, 1, card.switches, bias).weights
        if torch.autograd.grad(weights.sum(), logits)[0].abs().max() < 1e-9:
            names.append(card.name)
    return names
""",
        """
def needs_more_than_one(cards):
    return sorted(card.name for card in cards if card.switches._asdict()["normalize"] is True)
""",
    ],
}
