"""The routers of published models as data. Chapter 15.

What stands here ages. It was checked on the day and against the version in `CHECKED`;
tests/test_cards.py compares it with the installed transformers and names the setting that moved.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from moe_tutorial.routers import Switches

CHECKED = "2026-11-29 against transformers 5.23.0"


class Card(NamedTuple):
    """One published model, as far as its router and the sizes of its experts go.

    source: where the numbers were read, if not only in the class named in `config`.
    unlike: defaults of that class that differ from this model. `note`: what `Switches` cannot say.
    """

    name: str
    year: int  # of the publication
    switches: Switches
    num_experts: int  # routed experts that compute
    top_k: int
    shared: int  # width of all that every token passes beside the routed ones, in experts
    dim: int
    hidden_dim: int  # of one routed expert
    dense_first: int  # layers before the first mixture
    config: str = ""  # file and class in transformers/models
    router: str = ""  # the class there that routes; "" if there is none
    source: str = ""
    unlike: Mapping[str, object] = MappingProxyType({})
    zero_experts: int = 0  # experts that return their input
    note: str = ""


_ALL = Switches()  # softmax over all experts, and the weights stay as they are
_CHOSEN = Switches(normalize=True)  # the same as a softmax over the chosen
_BIASED = Switches("sigmoid", bias=True, normalize=True)
_GROUPED = _BIASED._replace(groups=8, kept_groups=4, group_best=2)
_SLIME = "zyzshishui/slime, scripts/models/"  # a copy of THUDM/slime

CARDS = (
    Card("Mixtral 8x7B", 2023, _CHOSEN, 8, 2, 0, 4096, 14336, 0,
         "mixtral.MixtralConfig", "MixtralTopKRouter"),
    Card("Grok-1", 2024, _ALL, 8, 2, 0, 6144, 32768, 0, source="xai-org/grok-1, run.py, model.py"),
    Card("DBRX", 2024, _CHOSEN, 16, 4, 0, 6144, 10752, 0, "dbrx.DbrxFFNConfig", "DbrxFFN",
         source="databricks/dbrx, README.md; widths: lablup/mlxcel, test of its config.json",
         unlike={"moe_num_experts": 4, "moe_top_k": 1, "ffn_hidden_size": 3584}),
    Card("Jamba", 2024, _ALL, 16, 2, 0, 4096, 14336, 1, "jamba.JambaConfig", "JambaTopKRouter",
         note="a mixture in every second layer"),
    Card("Qwen1.5-MoE-A2.7B", 2024, _ALL, 60, 4, 4, 2048, 1408, 0,
         "qwen2_moe.Qwen2MoeConfig", "Qwen2MoeTopKRouter",
         note="the shared expert is multiplied by a sigmoid of its own"),
    Card("DeepSeek-V2", 2024, Switches(groups=8, kept_groups=3, scale=16.0), 160, 6, 2, 5120, 1536,
         1, "deepseek_v2.DeepseekV2Config", "DeepseekV2TopkRouter",
         source="AMD-AIG-AIMA/Primus, primus/configs/models/megatron/deepseek_v2.yaml",
         unlike={"n_routed_experts": 64, "num_experts_per_tok": None, "hidden_size": 4096,
                 "moe_intermediate_size": 1407, "first_k_dense_replace": 0, "n_group": None,
                 "topk_group": None, "routed_scaling_factor": 1.0}),
    Card("OLMoE-1B-7B", 2024, _ALL, 64, 8, 0, 2048, 1024, 0, "olmoe.OlmoeConfig",
         "OlmoeTopKRouter", source="width: arXiv:2409.02060", unlike={"intermediate_size": 2048}),
    Card("GraniteMoe", 2024, _CHOSEN, 8, 2, 0, 4096, 11008, 0, "granitemoe.GraniteMoeConfig",
         "GraniteMoeTopKRouter", note="the sizes are defaults of the class, not of a checkpoint"),
    Card("DeepSeek-V3", 2024, _GROUPED._replace(scale=2.5), 256, 8, 1, 7168, 2048, 3,
         "deepseek_v3.DeepseekV3Config", "DeepseekV3TopkRouter"),
    Card("Moonlight-16B-A3B", 2025, _BIASED._replace(scale=2.446), 64, 6, 2, 2048, 1408, 1,
         "deepseek_v3.DeepseekV3Config", "DeepseekV3TopkRouter",
         source=f"arXiv:2502.16982; {_SLIME}moonlight.sh",
         unlike={"n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1,
                 "hidden_size": 7168, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
                 "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5}),
    Card("Llama 4 Scout", 2025, Switches("sigmoid"), 16, 1, 1, 5120, 8192, 0,
         "llama4.Llama4TextConfig", "Llama4Router",
         note="the weight multiplies the input of the expert, not its output"),
    Card("Qwen3-30B-A3B", 2025, _CHOSEN, 128, 8, 0, 2048, 768, 0,
         "qwen3_moe.Qwen3MoeConfig", "Qwen3MoeTopKRouter",
         source=f"{_SLIME}qwen3-30B-A3B.sh", unlike={"norm_topk_prob": False}),
    Card("Hunyuan-A13B", 2025, _CHOSEN, 64, 8, 1, 4096, 3072, 0,
         "hunyuan_v1_moe.HunYuanMoEV1Config", "HunYuanMoEV1Gate",
         source="Tencent-Hunyuan/Hunyuan-A13B, README_CN.md",
         unlike={"num_local_experts": 1, "num_experts_per_tok": 1, "intermediate_size": 11008}),
    Card("ERNIE-4.5-21B-A3B", 2025, _CHOSEN._replace(bias=True), 64, 6, 2, 2560, 1536, 1,
         "ernie4_5_moe.Ernie4_5_MoeConfig", "Ernie4_5_MoeTopKRouter"),
    Card("Kimi K2", 2025, _BIASED._replace(scale=2.827), 384, 8, 1, 7168, 2048, 1,
         "deepseek_v3.DeepseekV3Config", "DeepseekV3TopkRouter", source=f"{_SLIME}kimi-k2.sh",
         unlike={"n_routed_experts": 256, "first_k_dense_replace": 3, "n_group": 8,
                 "topk_group": 4, "routed_scaling_factor": 2.5}),
    Card("GLM-4.5", 2025, _BIASED._replace(scale=2.5), 160, 8, 1, 5120, 1536, 3,
         "glm4_moe.Glm4MoeConfig", "Glm4MoeTopkRouter", source=f"{_SLIME}glm4.5-355B-A32B.sh",
         unlike={"n_routed_experts": 128, "hidden_size": 4096, "moe_intermediate_size": 1408,
                 "first_k_dense_replace": 1, "routed_scaling_factor": 1.0}),
    Card("gpt-oss-120b", 2025, _CHOSEN, 128, 4, 0, 2880, 2880, 0,
         "gpt_oss.GptOssConfig", "GptOssTopKRouter",
         note="its logits have an ordinary bias, trained by the gradient"),
    Card("LongCat-Flash", 2025, Switches(bias=True, scale=6.0), 512, 12, 0, 6144, 2048, 0,
         "longcat_flash.LongcatFlashConfig", "LongcatFlashTopkRouter", zero_experts=256,
         note="so a token meets between none and 12 experts that compute"),
    Card("Qwen3-Next-80B-A3B", 2025, _CHOSEN, 512, 10, 1, 2048, 512, 0,
         "qwen3_next.Qwen3NextConfig", "Qwen3NextTopKRouter",
         note="the shared expert is multiplied by a sigmoid of its own"),
    Card("MiniMax-M2", 2025, _BIASED, 256, 8, 0, 3072, 1536, 0,
         "minimax_m2.MiniMaxM2Config", "MiniMaxM2TopKRouter"),
    Card("LFM2-8B-A1B", 2025, _BIASED, 32, 4, 0, 2048, 1792, 2,
         "lfm2_moe.Lfm2MoeConfig", "Lfm2MoeTopKRouter", note="it adds 1e-6 to the sum"),
    Card("Gemma 4 26B-A4B", 2026, _CHOSEN, 128, 8, 3, 2816, 704, 0,
         "gemma4.Gemma4TextConfig", "Gemma4TextRouter",
         source="THUDM/slime, scripts/models/gemma4-26B-A4B.sh",
         unlike={"num_experts": None, "top_k_experts": None, "hidden_size": 2304,
                 "moe_intermediate_size": None},
         note="a norm before the router; after it a trained scale per expert"),
    Card("Mistral 4", 2026, _CHOSEN, 128, 4, 1, 4096, 2048, 0,
         "mistral4.Mistral4Config", "Mistral4TopkRouter"),
    Card("DeepSeek-V4-Flash", 2026, Switches("sqrtsoftplus", bias=True, normalize=True, scale=1.5),
         256, 6, 1, 4096, 2048, 0, "deepseek_v4.DeepseekV4Config", "DeepseekV4TopKRouter",
         note="in the first three layers the token's id chooses"),
)  # fmt: skip


class Beyond(NamedTuple):
    """A router that the function does not reach."""

    name: str
    formula: str
    why: str
    source: str  # file and class in transformers/models


BEYOND = (
    Beyond("sparsemixer", "weight = softmax over the logits within a margin of the best, twice",
           "in training it draws experts at random and has a gradient of its own",
           "phimoe.sparsemixer"),
    Beyond("hash layers", "experts = table[token id]; weight = score / sum of the chosen scores",
           "no score chooses: which experts a token meets is known before the model runs",
           "deepseek_v4.DeepseekV4HashRouter"),
    Beyond("shared experts in the sum", "weight = s / (sum of s over the chosen and the shared)",
           "the shared experts have logits of their own and take part of the weight",
           "inkling.InklingTopkRouter"),
    Beyond("capacity", "a token that comes after the first C of its expert is passed by",
           "the choice depends on the other tokens of the batch",
           "switch_transformers.SwitchTransformersTop1Router"),
    Beyond("bias on the logits", "c = logit + bias chooses; weight = sigmoid of the logit",
           "the bias is added before the score, so it moves by other amounts",
           "kolibri1.Kolibri1TopKRouter"),
)  # fmt: skip
