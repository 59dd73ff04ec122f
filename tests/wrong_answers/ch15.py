"""Plausible wrong answers to the exercises of chapter 15, and a part of what each check says."""

SWITCHES = """
def switches_from(settings):
    method = settings["topk_method"]
    grouped = method != "greedy"
    return lib.Switches(
        score={score},
        bias={bias},
        groups=settings["n_group"] {groups},
        kept_groups=settings["topk_group"] {kept},
        group_best={best},
        normalize={normalize},
        scale={scale},
    )
"""
RIGHT = {
    "score": 'settings["scoring_func"]',
    "bias": 'method == "noaux_tc"',
    "groups": "if grouped else 1",
    "kept": "if grouped else 1",
    "best": '2 if method == "noaux_tc" else 1',
    "normalize": 'settings["norm_topk_prob"]',
    "scale": 'settings["routed_scaling_factor"]',
}
CHOICE = """
def repaired_choice(logits, bias, top_k):
    scores = logits.sigmoid()
    experts = ({choose}).topk(top_k, dim=-1).indices
    weights = {weights}
    return {result}
"""
CHOOSE = "scores + bias"
OF_SCORES = "scores.gather(1, experts)"
LEAKY = "(scores + bias).gather(1, experts)"
DIVIDED = "weights / weights.sum(dim=-1, keepdim=True), experts"
NAMES = """
def needs_more_than_one(cards):
    return [card.name for card in cards if {condition}]
"""
NORMALIZE = "card.switches.normalize"


def settings(**wrong):
    return SWITCHES.format(**RIGHT | wrong)


def choice(choose=CHOOSE, weights=OF_SCORES, result=DIVIDED):
    return CHOICE.format(choose=choose, weights=weights, result=result)


def names(condition):
    return NAMES.format(condition=condition)


WRONG = {
    "ch15-exercise-1": [
        (settings(score='"softmax"'), "scoring_func names the score"),
        (settings(bias='settings["scoring_func"] == "softmax"'), 'only topk_method="noaux_tc"'),
        (settings(groups=""), "n_group counts unless"),
        (settings(kept=""), "topk_group counts unless"),
        (settings(best="1"), "as its two best"),
        (settings(best="2"), "else as its best"),
        (settings(normalize="True"), "norm_topk_prob says whether"),
        (settings(scale="1.0"), "routed_scaling_factor is the scale"),
        ("def switches_from(settings):\n    return settings", "return Switches, not dict"),
        (settings(score='settings.pop("scoring_func")'), "settings that were given are changed"),
    ],
    "ch15-exercise-2": [
        (choice(choose="scores"), "the bias no longer chooses"),
        (choice(choose="logits + bias"), "the bias is added after the sigmoid"),
        (choice(choose="scores - bias"), "are not the best by score plus bias"),
        (choice(weights=LEAKY), "the weights contain the bias"),
        (choice(result="weights, experts"), "no longer divided by their sum"),
        (
            choice(result="weights / scores.sum(dim=-1, keepdim=True), experts"),
            "by the sum over all experts",
        ),
        (
            choice(result=f"weights / {LEAKY}.sum(dim=-1, keepdim=True), experts"),
            "a sum that contains the bias",
        ),
        (choice(weights="scores.topk(top_k, dim=-1).values"), "the scores alone would choose"),
        (choice(result="weights.softmax(dim=-1), experts"), "a softmax of the scores"),
        (choice(weights="logits.gather(1, experts).exp()"), "a softmax of the logits"),
        (choice(weights=f"{OF_SCORES}.detach()"), "no gradient reaches the logits"),
        (choice(result="weights"), "return weights and experts"),
    ],
    "ch15-exercise-3": [
        (names(f"not {NORMALIZE}"), "the ones that can be trained"),
        (names('card.switches.score == "softmax"'), "look at what it is divided by"),
        (names(f'card.switches.score == "softmax" and {NORMALIZE}'), "divided by itself is 1"),
        (names(f"card.top_k == 1 and {NORMALIZE}"), "whatever it is now"),
        (names("card.top_k == 1"), "that have K = 1 now"),
        (names("card.switches.bias"), "a bias has no part"),
        (names(f"{NORMALIZE} and not card.switches.bias"), "a bias does not help"),
        (names(f"{NORMALIZE} and card.switches.scale == 1"), "multiplies a gradient of 0"),
        (names("True"), "some can be trained"),
        (names("False"), "some cannot be trained"),
        (names("card.top_k > 2"), "of nine cards named A to I, D, E, F, H are found"),
        ("def needs_more_than_one(cards):\n    return cards", "return names, not cards"),
    ],
}
