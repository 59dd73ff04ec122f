"""Chapter 16: models as drafts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_tutorial.model import MoELanguageModel


class ModelDraft:
    """Another model as a draft. Its cache keeps what the last text and this one begin with."""

    def __init__(self, model: MoELanguageModel) -> None:
        self.model = model
        self.window: list[int] = []
        self.caches = model.new_caches()

    @torch.inference_mode()
    def probs(self, context: Sequence[int]) -> Tensor:
        """Probabilities (V,) of the next token; of a long text the last 3/4 to 4/4 window count."""
        most = self.model.config.max_seq_len
        quarter = max(1, most // 4)
        window = list(context[-(-max(0, len(context) - most) // quarter) * quarter :])
        pairs = enumerate(zip(window[:-1], self.window, strict=False))
        known = next((i for i, (a, b) in pairs if a != b), min(len(window) - 1, len(self.window)))
        for cache in self.caches:
            cache.length = known
        self.window = window
        logits, _ = self.model(torch.tensor([window[known:]]), self.caches)
        return logits[0, -1].softmax(-1)


def first_layers(model: MoELanguageModel, number: int) -> MoELanguageModel:
    """The first layers of a model, then its norm and its head, as a model of its own."""
    config = model.config.model_copy(update={"num_layers": number})
    short = MoELanguageModel(config, model.head.weight.shape[0])
    names = short.state_dict().keys()
    short.load_state_dict({n: w for n, w in model.state_dict().items() if n in names})
    return short.eval()
