"""Plausible wrong answers to the exercises of chapter 05, and a part of what each check says."""

LIST = """
def normalize_list(values, eps):
    squares = [value**2 for value in values]
    mean_square = sum(squares) / len(values)
    return [value / {divisor} for value in values]
"""
LAYER = """
def layer_norm(x, weight, bias, eps):
    centered = x - {mean}
    return {result}
"""
NORM = """
def repaired_norm(x, eps):
    return x * torch.rsqrt({mean_square} + eps)
"""
MEAN, RESULT = "x.mean(dim=-1, keepdim=True)", "normalize(centered, eps) * weight + bias"

WRONG = {
    "ch05-exercise-1": [
        (
            "def normalize_list(values, eps):\n"
            "    root = (sum(v * v for v in values) / len(values) + eps) ** 0.5\n"
            "    return [v * root for v in values]",
            "it multiplies by the root",
        ),
        (LIST.format(divisor="(sum(squares) + eps) ** 0.5"), "the mean of the squares"),
        (LIST.format(divisor="(mean_square + eps)"), "take its root"),
        (LIST.format(divisor="(mean_square**0.5 + eps)"), "outside of the root"),
        (LIST.format(divisor="mean_square**0.5"), "eps is not used"),
        (LIST.format(divisor="mean_square**0.5 + eps"), "it adds eps after the division"),
        (LIST.format(divisor="(sum(values) / len(values) + eps)"), "it divides by the mean"),
        ("def normalize_list(values, eps):\n    return values / 2", "it raised TypeError"),
        ("def normalize_list(values, eps):\n    return 1.0", "instead of a list of 4"),
        (
            LIST.replace("/ len(values)", "/ (len(values) - 1)").format(
                divisor="(mean_square + eps) ** 0.5"
            ),
            "divides by n - 1",
        ),
        (
            "def normalize_list(values, eps):\n"
            "    x = torch.tensor(values)\n"
            "    return (x / (x.square().mean() + eps).sqrt()).tolist()",
            "use no torch here",
        ),
        (
            "def normalize_list(values, eps):\n"
            "    root = (sum(v * v for v in values) / len(values) + eps) ** 0.5\n"
            "    for i in range(len(values)):\n"
            "        values[i] /= root\n"
            "    return values",
            "it changes the list that it was given",
        ),
        ("def normalize_list(values, eps):\n    return list(values)", "nothing is normalized"),
    ],
    "ch05-exercise-2": [
        (LAYER.format(mean="0", result=RESULT), "the mean is not subtracted"),
        (LAYER.format(mean="x.mean()", result=RESULT), "take one per vector"),
        (LAYER.format(mean="x.mean(dim=-1)", result=RESULT), "it raised RuntimeError"),
        (LAYER.format(mean=MEAN, result="normalize(centered, eps) * weight"), "bias is missing"),
        (LAYER.format(mean=MEAN, result="normalize(centered, eps) + bias"), "weight is missing"),
        (
            LAYER.format(
                mean=MEAN,
                result="centered / (x.var(dim=-1, keepdim=True) + eps).sqrt() * weight + bias",
            ),
            "divides by D - 1",
        ),
        (LAYER.format(mean=MEAN, result="normalize(x, eps) * weight + bias"), "not subtracted"),
        (
            LAYER.format(mean=MEAN, result="normalize(centered) * weight + bias"),
            "eps is not passed on",
        ),
        (
            "import torch.nn.functional as F\n"
            "def layer_norm(x, weight, bias, eps):\n"
            "    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)",
            "it does not use `normalize`",
        ),
        (
            LAYER.format(
                mean=MEAN,
                result="centered * (centered.square().mean(-1, True) + eps)"
                ".rsqrt() * weight + bias",
            ),
            "it does not use `normalize`",
        ),
        (
            LAYER.format(mean="x.mean(dim=1, keepdim=True)", result=RESULT),
            "the mean is taken over the positions",
        ),
        (
            LAYER.format(mean=MEAN, result="(normalize(centered, eps) + bias) * weight"),
            "the bias is multiplied by the weight",
        ),
        (
            LAYER.format(mean=MEAN, result="normalize(centered * weight + bias, eps)"),
            "applied before the division",
        ),
        (
            "def layer_norm(x, weight, bias, eps):\n"
            "    x -= x.mean(dim=-1, keepdim=True)\n"
            "    return normalize(x, eps) * weight + bias",
            "it changes x itself, in place",
        ),
    ],
    "ch05-exercise-3": [
        (
            NORM.format(mean_square="x.square().mean(dim=0, keepdim=True)"),
            "the sequences of a batch influence each other",
        ),
        (
            NORM.format(mean_square="x.square().mean(dim=(1, 2), keepdim=True)"),
            "one mean for a whole sequence",
        ),
        (NORM.format(mean_square="x.square().mean()"), "one mean for the whole batch"),
        (NORM.format(mean_square="x.square().mean(dim=-1)"), "it raised RuntimeError"),
        (
            NORM.format(mean_square="x.square().sum(dim=-1, keepdim=True)"),
            "take the mean of the squares",
        ),
        (
            "def repaired_norm(x, eps):\n"
            "    return x / (x.square().mean(dim=-1, keepdim=True).sqrt() + eps)",
            "eps is outside of the root",
        ),
        (
            "def repaired_norm(x, eps):\n"
            "    return x * (torch.rsqrt(x.square().mean(dim=-1, keepdim=True)) + eps)",
            "eps is added to the factor",
        ),
        (
            "def repaired_norm(x, eps):\n"
            "    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 0.1)",
            "use the eps of the call",
        ),
        (NORM.format(mean_square="x.mean(dim=-1, keepdim=True)"), "are the numbers squared first"),
        (NORM.replace(" + eps", "").format(mean_square="x.square().mean(-1, True)"), "not used"),
        (
            "def repaired_norm(x, eps):\n"
            "    x *= torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)\n"
            "    return x",
            "it changes x itself, in place",
        ),
        (
            "def repaired_norm(x, eps):\n"
            "    centered = x - x.mean(dim=-1, keepdim=True)\n"
            "    mean_square = centered.square().mean(dim=-1, keepdim=True)\n"
            "    return centered * torch.rsqrt(mean_square + eps)",
            "it subtracts the mean, as LayerNorm does",
        ),
    ],
}
