"""Right answers to the exercises of chapter 05 that differ from the solutions."""

RIGHT = {
    "ch05-exercise-1": [
        """
import math
def normalize_list(values, eps):
    root = math.sqrt(sum(v * v for v in values) / len(values) + eps)
    return [v / root for v in values]
""",
        """
def normalize_list(values, eps):
    squares = 0.0
    for value in values:
        squares += value * value
    result = []
    for value in values:
        result.append(value * (squares / len(values) + eps) ** -0.5)
    return result
""",
        """
from statistics import fmean
def normalize_list(values, eps):
    scale = (fmean(v**2 for v in values) + eps) ** 0.5
    return list(map(lambda v: v / scale, values))
""",
    ],
    "ch05-exercise-2": [
        """
def layer_norm(x, weight, bias, eps):
    return bias + weight * normalize(x - x.mean(-1, keepdim=True), eps=eps)
""",
        """
def layer_norm(x, weight, bias, eps):
    mean = x.sum(dim=2) / x.shape[2]
    return torch.addcmul(bias, normalize(x - mean[..., None], eps), weight)
""",
        """
def centered(x):
    return x - x.mean(dim=-1)[:, :, None]
def layer_norm(x, weight, bias, eps):
    x = normalize_wide(centered(x), eps)
    x *= weight
    x += bias
    return x
""",
    ],
    "ch05-exercise-3": [
        """
def repaired_norm(x, eps):
    mean_square = (x**2).mean(-1, keepdim=True)
    return x / torch.sqrt(mean_square + eps)
""",
        """
def repaired_norm(x, eps):
    mean_square = x.square().mean(dim=2, keepdim=True)
    return x * torch.rsqrt(mean_square + eps)
""",
        """
def repaired_norm(x, eps):
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 2
    return x * (squares / x.shape[-1] + eps) ** -0.5
""",
        "def repaired_norm(x, eps):\n    return normalize(x, eps)",
    ],
}
