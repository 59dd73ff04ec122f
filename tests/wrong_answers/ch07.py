"""Plausible wrong answers to the exercises of chapter 07, and a part of what each check says."""

MIX = """
def mix(logits, outputs, top_k):
    chosen, experts = logits.topk(top_k)
    return {result}
"""
ROUTING = """
def biased_routing(logits, bias, top_k):
    experts = {scores}.topk(top_k, dim=-1).indices
    return {weights}, experts
"""
LOSS = """
def repaired_loss(logits, top_k):
    chosen, experts = logits.topk(top_k, dim=-1)
    probs = {probs}
    load = experts.flatten().bincount(minlength=logits.shape[-1]) / experts.numel()
    return {result}
"""
WEIGHTS = "logits.gather(1, experts).softmax(-1)"
PROBS, RESULT = "logits.softmax(-1)", "logits.shape[-1] * (load * probs.mean(dim=0)).sum()"

WRONG = {
    "ch07-exercise-1": [
        (MIX.format(result="logits.softmax(-1) @ outputs"), "all experts take part"),
        (
            MIX.format(result="logits.softmax(-1)[experts] @ outputs[experts]"),
            "do not add up to 1",
        ),
        (MIX.format(result="chosen.sigmoid() @ outputs[experts]"), "sigmoid weights"),
        (MIX.format(result="chosen.softmax(-1) @ outputs[:top_k]"), "the first experts are taken"),
        (MIX.format(result="chosen @ outputs[experts]"), "logits themselves"),
        (
            MIX.format(result="logits.topk(2)[0].softmax(-1) @ outputs[logits.topk(2)[1]]"),
            "wrong for top_k = 3",
        ),
        (MIX.format(result="outputs[experts].sum(dim=0)"), "added without weights"),
        (MIX.format(result="chosen.softmax(-1) @ outputs.T[experts]"), "it raised IndexError"),
        (MIX.format(result="chosen.softmax(-1)[:, None] * outputs[experts]"), "the shape is"),
        (
            MIX.format(result="chosen.softmax(-1).detach() @ outputs[experts]"),
            "no gradient reaches the logits, so the router could not learn",
        ),
        (
            MIX.format(
                result="sum(w * outputs[e] for w, e in "
                "zip(chosen.softmax(-1).tolist(), experts.tolist()))"
            ),
            "no gradient reaches the logits",
        ),
        (
            MIX.format(result="chosen.softmax(-1) @ outputs[experts].detach()"),
            "no gradient reaches the outputs, so the experts could not learn",
        ),
        (
            MIX.format(result="(chosen.exp() / chosen.exp().sum().detach()) @ outputs[experts]"),
            "the gradient of the logits is not",
        ),
        (
            MIX.format(result="chosen.softmax(-1) @ outputs[experts], experts"),
            "return one tensor of shape (D,), not a tuple",
        ),
        (
            MIX.format(result="tuple(chosen.softmax(-1) @ outputs[experts])"),
            "return one tensor of shape (D,), not a tuple",
        ),
    ],
    "ch07-exercise-2": [
        (
            ROUTING.format(
                scores="(logits + bias)", weights="(logits + bias).gather(1, experts).softmax(-1)"
            ),
            "the bias leaks into the weights",
        ),
        (ROUTING.format(scores="logits", weights=WEIGHTS), "does not change which"),
        (ROUTING.format(scores="(logits - bias)", weights=WEIGHTS), "the bias is subtracted"),
        (
            ROUTING.format(
                scores="(logits + bias)", weights="logits.softmax(-1).gather(1, experts)"
            ),
            "goes over all experts",
        ),
        (
            ROUTING.format(
                scores="(logits + bias)", weights="logits.topk(top_k).values.softmax(-1)"
            ),
            "not those of the chosen experts",
        ),
        (
            ROUTING.format(
                scores="(logits + bias)", weights="logits.gather(1, experts).softmax(0)"
            ),
            "over the tokens",
        ),
        (
            ROUTING.format(scores="(logits + bias)", weights="logits.gather(1, experts)"),
            "bare logits",
        ),
        (
            "def biased_routing(logits, bias, top_k):\n    return (logits + bias).topk(top_k)[0]",
            "return two tensors",
        ),
        (
            "def biased_routing(logits, bias, top_k):\n"
            "    values, experts = (logits + bias).topk(top_k)\n"
            "    return experts, values.softmax(-1)",
            "the order of the results",
        ),
        (
            ROUTING.format(
                scores="(logits + bias)", weights="logits.gather(1, experts).softmax(-1).detach()"
            ),
            "cut from the logits, so the router could not learn",
        ),
        (
            "@torch.no_grad()" + ROUTING.format(scores="(logits + bias)", weights=WEIGHTS),
            "cut from the logits",
        ),
        (
            ROUTING.format(scores="(logits + bias)", weights="logits.gather(1, experts).sigmoid()"),
            "these are sigmoids",
        ),
        (
            ROUTING.replace("topk(top_k", "topk(2").format(
                scores="(logits + bias)", weights=WEIGHTS
            ),
            "for top_k = 3 both must be (9, 3)",
        ),
        (
            ROUTING.format(scores="(logits * bias)", weights=WEIGHTS),
            "not the 2 largest of logits + bias",
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
