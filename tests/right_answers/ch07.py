"""Right answers to the exercises of chapter 07 that differ from the solutions."""

RIGHT = {
    "ch07-exercise-1": [
        """
def mix(logits, outputs, top_k):
    chosen, experts = logits.topk(top_k)
    return (chosen.softmax(0)[:, None] * outputs[experts]).sum(dim=0)
""",
        """
def mix(logits, outputs, top_k):
    experts = logits.argsort(descending=True)[:top_k]
    weights = torch.softmax(logits[experts], dim=0)
    return sum(weight * outputs[expert] for weight, expert in zip(weights, experts))
""",
        """
def mix(logits, outputs, top_k):
    chosen, experts = logits.topk(top_k)
    weights = torch.zeros_like(logits).scatter(0, experts, chosen.softmax(-1))
    return weights @ outputs
""",
        """
def mix(logits, outputs, top_k):
    shares = logits.softmax(-1)
    best, experts = shares.topk(top_k)
    return torch.einsum("k,kd->d", best / best.sum(), outputs[experts])
""",
    ],
    "ch07-exercise-2": [
        """
def biased_routing(logits, bias, top_k):
    _, experts = torch.topk(logits + bias, top_k)
    weights = torch.take_along_dim(logits, experts, dim=1).softmax(dim=1)
    return weights, experts
""",
        """
def biased_routing(logits, bias, top_k):
    experts = (logits + bias).argsort(dim=-1, descending=True)[:, :top_k]
    chosen = logits.softmax(-1).gather(1, experts)
    return chosen / chosen.sum(dim=-1, keepdim=True), experts
""",
        """
def biased_routing(logits, bias, top_k):
    values, experts = (logits + bias).topk(top_k, dim=-1, sorted=False)
    return (values - bias[experts]).softmax(-1), experts
""",
    ],
    "ch07-exercise-3": [
        """
def repaired_loss(logits, top_k):
    num_experts = logits.shape[-1]
    experts = logits.topk(top_k, dim=-1).indices
    load = torch.nn.functional.one_hot(experts, num_experts).float().mean(dim=(0, 1))
    return num_experts * torch.dot(load, logits.softmax(-1).mean(dim=0))
""",
        """
def repaired_loss(logits, top_k):
    experts = logits.topk(top_k, dim=-1).indices
    probs = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    load = experts.flatten().bincount(minlength=logits.shape[-1]) / experts.numel()
    return logits.shape[-1] * load @ probs.mean(0)
""",
        """
def repaired_loss(logits, top_k):
    experts = logits.topk(top_k, dim=-1).indices
    probs = torch.softmax(logits, 1)
    load = [(experts == e).float().mean() for e in range(logits.shape[-1])]
    return len(load) * sum(l * p for l, p in zip(load, probs.mean(dim=0)))
""",
    ],
}
