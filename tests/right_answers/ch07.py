"""Right answers to the exercises of chapter 07 that differ from the solutions."""

RIGHT = {
    "ch07-exercise-1": [
        """
def served(experts, num_experts, capacity):
    taken, mask = [0] * num_experts, []
    for expert in experts.flatten().tolist():
        mask.append(taken[expert] < capacity)
        taken[expert] += 1
    return torch.tensor(mask).view_as(experts)
""",
        """
def served(experts, num_experts, capacity):
    assigned = experts.flatten()
    same = assigned[:, None] == assigned[None, :]
    earlier = same.tril(-1).sum(dim=1)
    return (earlier < capacity).reshape(experts.shape)
""",
        """
def served(experts, num_experts, capacity):
    assigned = experts.flatten()
    mask = torch.zeros_like(assigned, dtype=torch.bool)
    for e in range(num_experts):
        mask[(assigned == e).nonzero()[:capacity, 0]] = True
    return mask.view_as(experts)
""",
    ],
    "ch07-exercise-2": [
        """
def biased_routing(logits, bias, top_k):
    affinities = torch.sigmoid(logits)
    _, experts = torch.topk(affinities + bias, top_k)
    weights = torch.take_along_dim(affinities, experts, dim=1)
    return weights / weights.sum(dim=1)[:, None], experts
""",
        """
def biased_routing(logits, bias, top_k):
    affinities = 1 / (1 + (-logits).exp())
    experts = (affinities + bias).argsort(dim=-1, descending=True)[:, :top_k]
    return torch.nn.functional.normalize(affinities.gather(1, experts), p=1, dim=1), experts
""",
        """
def biased_routing(logits, bias, top_k):
    values, experts = (logits.sigmoid() + bias).topk(top_k, dim=-1, sorted=False)
    chosen = values - bias[experts]
    return chosen / chosen.sum(dim=-1, keepdim=True), experts
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
