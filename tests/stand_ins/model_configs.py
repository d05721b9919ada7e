"""config.json of the models that profiles name, as Qwen publishes them, member by member."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
DENSE = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
EXPERTS = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_window_layers": layers,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3-1.7B": COMMON | DENSE | _sizes(2048, 6144, 28, 16, 8) | {"tie_word_embeddings": True},
    "Qwen3-8B": COMMON | DENSE | _sizes(4096, 12288, 36, 32, 8) | {"tie_word_embeddings": False},
    "Qwen3-30B-A3B": COMMON | EXPERTS | _sizes(2048, 6144, 48, 32, 4) | {"moe_intermediate_size": 768},
    "Qwen3-235B-A22B": COMMON | EXPERTS | _sizes(4096, 12288, 94, 64, 4) | {"moe_intermediate_size": 1536},
}
