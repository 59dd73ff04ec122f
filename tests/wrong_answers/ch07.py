"""Plausible wrong answers to the exercises of chapter 07, and a part of what each check says."""

SERVED = """
def served(experts, num_experts, capacity):
    chosen = torch.nn.functional.one_hot(experts.flatten(), num_experts)
    place = (chosen.cumsum(0) * chosen).sum(-1).view_as(experts)
    return {result}
"""
BY_CHOICE = """
def served(experts, num_experts, capacity):
    taken, mask = [0] * num_experts, torch.zeros_like(experts, dtype=torch.bool)
    for {order}:
        e = int(experts[n, k])
        mask[n, k] = taken[e] < capacity
        taken[e] += 1
    return mask
"""
CHOICES = "n, k in [(n, k) for k in range(experts.shape[1]) for n in range(len(experts))]"
TOKENS = "n, k in [(n, k) for n in range(len(experts)) for k in range(experts.shape[1])]"
ROUTING = """
def biased_routing(logits, bias, top_k):
    affinities = logits.sigmoid()
    experts = {scores}.topk(top_k, dim=-1).indices
    chosen = affinities.gather(1, experts)
    return {weights}, experts
"""
LOSS = """
def repaired_loss(logits, top_k):
    chosen, experts = logits.topk(top_k, dim=-1)
    probs = {probs}
    load = experts.flatten().bincount(minlength=logits.shape[-1]) / experts.numel()
    return {result}
"""
BIASED, WEIGHTS = "(affinities + bias)", "chosen / chosen.sum(dim=-1, keepdim=True)"
PROBS, RESULT = "logits.softmax(-1)", "logits.shape[-1] * (load * probs.mean(dim=0)).sum()"

WRONG = {
    "ch07-exercise-1": [
        (SERVED.format(result="place < capacity"), "one place of every expert stays empty"),
        (SERVED.format(result="place - 1 <= capacity"), "one assignment too many"),
        (SERVED.format(result="place > capacity"), "who finds no place"),
        (
            SERVED.format(
                result="(torch.arange(experts.numel()) < capacity).view_as(experts)",
            ),
            "counted over all experts together",
        ),
        (
            SERVED.format(
                result="(place <= capacity).all(1, keepdim=True).expand_as(experts)",
            ),
            "loses both",
        ),
        (BY_CHOICE.format(order=CHOICES), "the future leaks"),
        (
            "def served(experts, num_experts, capacity):\n"
            "    chosen = torch.nn.functional.one_hot(experts, num_experts)\n"
            "    return (chosen.cumsum(0) * chosen).sum(-1) <= capacity",
            "places of its own",
        ),
        (BY_CHOICE.format(order=f"{TOKENS}[::-1]"), "the last"),
        (SERVED.format(result="place"), "holds True and False"),
        (
            SERVED.format(result="(place <= capacity).flatten()"),
            "return one tensor of shape (9, 2)",
        ),
        (SERVED.format(result="place <= 3"), "one assignment too many"),
        (
            SERVED.replace("num_experts)\n    place", "4)\n    place").format(
                result="place <= capacity"
            ),
            "it raised",
        ),
        (SERVED.format(result="experts < capacity"), "with 4 experts of capacity 3, choice"),
    ],
    "ch07-exercise-2": [
        (
            ROUTING.format(
                scores=BIASED,
                weights="(chosen + bias[experts])"
                " / (chosen + bias[experts]).sum(dim=-1, keepdim=True)",
            ),
            "the bias leaks into the weights",
        ),
        (ROUTING.format(scores="affinities", weights=WEIGHTS), "does not change which"),
        (ROUTING.format(scores="(affinities - bias)", weights=WEIGHTS), "the bias is subtracted"),
        (ROUTING.format(scores="(logits + bias)", weights=WEIGHTS), "added to the logits"),
        (
            ROUTING.format(scores="(logits + bias).sigmoid()", weights=WEIGHTS),
            "added to the logits",
        ),
        (ROUTING.format(scores=BIASED, weights="chosen"), "do not add up to 1"),
        (
            ROUTING.format(scores=BIASED, weights="chosen / affinities.sum(dim=-1, keepdim=True)"),
            "the sum over all experts",
        ),
        (ROUTING.format(scores=BIASED, weights="chosen / chosen.sum(dim=0)"), "over the tokens"),
        (
            ROUTING.format(
                scores=BIASED,
                weights="affinities.topk(top_k)[0]"
                " / affinities.topk(top_k)[0].sum(dim=-1, keepdim=True)",
            ),
            "not those of the chosen experts",
        ),
        (
            ROUTING.format(scores=BIASED, weights="logits.gather(1, experts).softmax(-1)"),
            "the softmax of the chosen logits",
        ),
        (ROUTING.format(scores=BIASED, weights="chosen.softmax(-1)"), "softmax of the sigmoids"),
        (
            "def biased_routing(logits, bias, top_k):\n"
            "    return (logits.sigmoid() + bias).topk(top_k)[0]",
            "return two tensors",
        ),
        (
            "def biased_routing(logits, bias, top_k):\n"
            "    values, experts = (logits.sigmoid() + bias).topk(top_k)\n"
            "    return experts, values",
            "the order of the results",
        ),
        (
            ROUTING.format(scores=BIASED, weights=f"({WEIGHTS}).detach()"),
            "cut from the logits, so the router could not learn",
        ),
        (
            ROUTING.format(
                scores=BIASED, weights="chosen / chosen.sum(dim=-1, keepdim=True).detach()"
            ),
            "their gradient is not",
        ),
        (
            "@torch.no_grad()" + ROUTING.format(scores=BIASED, weights=WEIGHTS),
            "cut from the logits",
        ),
        (
            ROUTING.replace("topk(top_k", "topk(2").format(scores=BIASED, weights=WEIGHTS),
            "for top_k = 3 both must be (9, 3)",
        ),
        (
            ROUTING.format(scores="(affinities * bias)", weights=WEIGHTS),
            "not the 2 largest of sigmoid + bias",
        ),
    ],
    "ch07-exercise-3": [
        (LOSS.format(probs="logits.softmax(0)", result=RESULT), "over the tokens"),
        (LOSS.format(probs="logits.sigmoid()", result=RESULT), "these are sigmoids"),
        (
            LOSS.format(
                probs="torch.zeros_like(logits).scatter(1, experts, "
                "logits.softmax(-1).gather(1, experts))",
                result=RESULT,
            ),
            "the chosen are all that is left",
        ),
        (
            LOSS.format(probs=PROBS, result="logits.shape[-1] * probs.mean(dim=0).square().sum()"),
            "the load is replaced as well",
        ),
        (LOSS.format(probs=PROBS, result="(load * probs.mean(dim=0)).sum()"), "the scale"),
        (
            LOSS.format(probs=PROBS, result=f"top_k * {RESULT}"),
            "the load adds up to top_k",
        ),
        (LOSS.format(probs="logits.softmax(-1).detach()", result=RESULT), "has no gradient"),
        (
            LOSS.replace("topk(top_k", "topk(2").format(probs=PROBS, result=RESULT),
            "wrong for 3 experts and top_k = 1",
        ),
    ],
}
