"""Plausible wrong answers to the exercises of chapter 11, and a part of what each check says."""

PROPORTIONAL = """
def proportional_update(bias, load, rate):
    return {result}
"""
DIAGNOSE = """
def diagnose(health):
{body}
"""
REBALANCE = """
def repaired_rebalance(bias, routing, rate):
    load = {load}
    step = rate * (load.mean() - load).sign()
    return {result}
"""
LOAD = "expert_load(routing)"
IDLE, UNEVEN = "health.idle", "health.max_violation > 1"
ALIKE, SPREAD = "health.told_apart < 0.05", "health.mean_entropy > 1"
SIGN = "bias + rate * (load.mean() - load).sign() - (rate * (load.mean() - load).sign()).mean()"


def branches(*pairs, last="healthy"):
    lines = [f'    if {condition}:\n        return "{word}"' for condition, word in pairs]
    return DIAGNOSE.format(body="\n".join([*lines, f'    return "{last}"']))


WRONG = {
    "ch11-exercise-1": [
        (PROPORTIONAL.format(result="bias - rate * (1 - load / load.mean())"), "wrong sign"),
        (PROPORTIONAL.format(result=SIGN), "this is the sign update"),
        (PROPORTIONAL.format(result="bias + rate * (load.mean() - load)"), "divide by the mean"),
        (PROPORTIONAL.format(result="rate * (1 - load / load.mean())"), "add it to the bias"),
        (PROPORTIONAL.format(result="bias + (1 - load / load.mean())"), "the rate is missing"),
        (PROPORTIONAL.format(result="bias - rate * load / load.mean()"), "subtract 1"),
        (PROPORTIONAL.format(result="rate * (bias + 1 - load / load.mean())"), "do not scale"),
        (PROPORTIONAL.format(result="bias.add_(rate * (1 - load / load.mean()))"), "is changed"),
        (PROPORTIONAL.format(result="bias.tolist()"), "return a tensor, not a list"),
        (PROPORTIONAL.format(result="bias + rate * (1 - load)"), "by its mean first"),
        (PROPORTIONAL.format(result="bias + rate * (load.mean() / load - 1)"), "upside down"),
    ],
    "ch11-exercise-2": [
        (branches((UNEVEN, "uneven"), (IDLE, "idle"), (ALIKE, "indifferent")), "named first"),
        (branches((UNEVEN, "uneven"), (ALIKE, "indifferent")), "an idle expert is named first"),
        (branches((IDLE, "idle"), (ALIKE, "indifferent")), "max violation above 1 is uneven"),
        (branches((IDLE, "idle"), (UNEVEN, "uneven")), "an even load is not all"),
        (
            branches(
                (IDLE, "idle"), (UNEVEN, "uneven"), ("health.mean_entropy > 1", "indifferent")
            ),
            "says nothing of single tokens",
        ),
        (
            branches(
                (IDLE, "idle"),
                ("health.max_violation > 0.001", "uneven"),
                ("health.told_apart < 0.05", "indifferent"),
            ),
            "below 1 is even enough",
        ),
        (branches(last="fine"), "return one of"),
        (branches((IDLE, "idle"), last="uneven"), "below 1 is even enough"),
        (
            branches(
                (IDLE, "idle"), (UNEVEN, "uneven"), ("health.told_apart > 0.05", "indifferent")
            ),
            "turned around",
        ),
    ],
    "ch11-exercise-3": [
        (
            REBALANCE.format(load=LOAD, result="bias - (step - step.mean())"),
            "the step goes the wrong way",
        ),
        (
            REBALANCE.format(
                load="routing.experts[:, 0].bincount(minlength=len(bias)) / len(routing.experts)",
                result="bias + step - step.mean()",
            ),
            "only first choices",
        ),
        (
            REBALANCE.format(load=LOAD, result="bias + rate * (load.mean() - load)"),
            "keep the sign",
        ),
        (REBALANCE.format(load=LOAD, result="bias - rate * load.sign()"), "with its mean"),
        (REBALANCE.format(load=LOAD, result="step - step.mean()"), "the old bias is lost"),
        (
            REBALANCE.format(
                load="torch.zeros(len(bias)).index_add_("
                "0, routing.experts.flatten(), routing.weights.flatten())",
                result="bias + step - step.mean()",
            ),
            "weights are counted",
        ),
        (
            REBALANCE.format(load="routing.probs.mean(dim=0)", result="bias + step - step.mean()"),
            "which it cannot change",
        ),
        (
            REBALANCE.format(
                load="(routing.probs + bias).mean(dim=0)", result="bias + step - step.mean()"
            ),
            "count the assignments",
        ),
    ],
}
