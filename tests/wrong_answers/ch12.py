"""Plausible wrong answers to the exercises of chapter 12, and a part of what each check says."""

INFORMATION = """
def table_information(table):
    p = table / table.sum()
    rows, columns = p.sum(dim=1, keepdim=True), p.sum(dim=0, keepdim=True)
    seen = p > 0
    return {result}
"""
BOARD = "def read_board():\n    return {result}"
WITHOUT = """
def repaired_without(routing, expert):
    allowed = routing.probs.index_fill(1, torch.tensor([expert]), -1.0)
    best = allowed.topk({k}, dim=-1).indices
    chosen = routing.probs.gather(1, best)
    return {result}
"""
K = "routing.experts.shape[1]"
SUM = "chosen.sum(dim=-1, keepdim=True)"

WRONG = {
    "ch12-exercise-1": [
        (
            INFORMATION.format(result="(p[seen] * (p / (rows * columns))[seen].log()).sum()"),
            "these are nats",
        ),
        (INFORMATION.format(result="-(p[seen] * p[seen].log2()).sum().item()"), "of the pairs"),
        (
            INFORMATION.format(result="-(p[seen] * (p / rows)[seen].log2()).sum()"),
            "what the row leaves open",
        ),
        (
            INFORMATION.format(result="-(p[seen] * (p / columns)[seen].log2()).sum()"),
            "what the column leaves open",
        ),
        (
            INFORMATION.format(result="(p * (p / (rows * columns)).log2()).sum().item()"),
            "an empty cell adds nothing",
        ),
        (
            INFORMATION.format(result="(p[seen] * (rows * columns / p)[seen].log2()).sum()"),
            "the sign is turned around",
        ),
        (
            INFORMATION.format(
                result="(p[seen] * (p / (rows * columns))[seen].log2()).sum()"
                " / -(columns * columns.log2()).sum()"
            ),
            "the share of the columns' entropy",
        ),
        (
            INFORMATION.format(
                result="(table[seen] * (p / (rows * columns))[seen].log2()).sum().item()"
            ),
            "not divided by their total",
        ),
        (
            INFORMATION.format(
                result="((rows * columns)[seen] * (p / (rows * columns))[seen].log2()).sum()"
            ),
            "weigh with p",
        ),
        (
            INFORMATION.format(result="(p[seen] * (p / rows)[seen].log2()).sum()"),
            "lacks the shares of the columns",
        ),
        (
            INFORMATION.format(result="(p[seen] * (p / columns)[seen].log2()).sum()"),
            "lacks the shares of the rows",
        ),
        (
            INFORMATION.format(result="p * (p / (rows * columns)).clamp(min=1e-9).log2()"),
            "the result is one number",
        ),
        (
            INFORMATION.format(result="(p[seen] * (p / (rows * columns))[seen].log10()).sum()"),
            "bits for the table",
        ),
    ],
    "ch12-exercise-2": [
        (BOARD.format(result="2, 0, (1, 5)"), "counted from 1"),
        (BOARD.format(result="2, 1, (2, 5)"), "look at the share"),
        (BOARD.format(result="4, 1, (2, 5)"), "only half"),
        (BOARD.format(result="1, 3, (2, 5)"), "the wrong way round"),
        (BOARD.format(result="3, 4, (2, 5)"), "compare the two"),
        (BOARD.format(result="3, 1, (4, 0)"), "load is not importance"),
        (BOARD.format(result="3, 1, (1, 0)"), "load is not importance"),
        (BOARD.format(result="3, 3, (2, 5)"), "tells all that is to know"),
        (BOARD.format(result="3, 1, (2, 0)"), "costs the most"),
        (BOARD.format(result="3, 1, (5, 2)"), "the pair is layer, expert"),
        (BOARD.format(result="3, 1, (3, 6)"), "is not the expert to remove"),
        (BOARD.format(result="3, 1, (3, 5)"), "but another costs less"),
        (BOARD.format(result="3, 1, (3, 1)"), "the most load"),
        (BOARD.format(result="3, 1"), "return three things"),
        (BOARD.format(result="3, 1, 5"), "the third is a pair"),
    ],
    "ch12-exercise-3": [
        (
            "def repaired_without(routing, expert):\n"
            "    weights = routing.weights.masked_fill(routing.experts == expert, 0)\n"
            "    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-9)\n"
            "    return routing._replace(weights=weights)",
            "no other expert takes the place",
        ),
        (
            "def repaired_without(routing, expert):\n"
            "    weights = routing.weights.masked_fill(routing.experts == expert, 0)\n"
            "    return routing._replace(weights=weights / weights.sum(dim=0))",
            "weights",
        ),
        (WITHOUT.format(k=K, result="Routing(chosen, best, routing.probs)"), "divide by their sum"),
        (
            WITHOUT.format(k=K, result="Routing(chosen.softmax(-1), best, routing.probs)"),
            "softmax of probabilities",
        ),
        (
            WITHOUT.format(k=K, result="Routing(routing.weights, best, routing.probs)"),
            "the weights of the old ones",
        ),
        (
            WITHOUT.format(k=K, result=f"Routing(chosen / {SUM}, best, allowed)"),
            "statistics need them unchanged",
        ),
        (
            WITHOUT.format(k=f"{K} + 1", result=f"Routing(chosen / {SUM}, best, routing.probs)"),
            "every token keeps 2 experts, not 3",
        ),
        (
            WITHOUT.replace("[expert]", "[expert - 1]").format(
                k=K, result=f"Routing(chosen / {SUM}, best, routing.probs)"
            ),
            "expert 1 still has a weight",
        ),
        (
            WITHOUT.format(k=K, result=f"chosen / {SUM}"),
            "return a Routing",
        ),
        (
            "def repaired_without(routing, expert):\n"
            "    experts = routing.experts.masked_fill(routing.experts == expert, 5)\n"
            "    return choose(routing.probs, experts)",
            "twice",
        ),
        (
            "def repaired_without(routing, expert):\n"
            "    routing.probs[:, expert] = 0\n"
            "    best = routing.probs.topk(routing.experts.shape[1], dim=-1).indices\n"
            "    return choose(routing.probs, best)",
            "writes into the routing",
        ),
    ],
}
