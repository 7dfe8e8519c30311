"""Small configurations of many architectures, for the tests of the plan and of the summary."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from llm.testbed.tiny_models import byte_tokenizer

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = COMMON | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = COMMON | {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {  # model_type -> arguments of its configuration
    "qwen2": GROUPED,
    "qwen3": WIDE,
    "llama": GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "mistral": WIDE | {"sliding_window": 16},
    "mixtral": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": WIDE | EXPERTS,
    "gemma2": WIDE | {"sliding_window": 16},
    "gemma3_text": WIDE | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "granite": GROUPED | {"logits_scaling": 4.0},
    "gpt_oss": WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "llama4_text": WIDE
    | {"intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1},
    "qwen3_next": WIDE
    | EXPERTS
    | LINEAR
    | {"shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]},
    "lfm2": GROUPED | {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "jamba": GROUPED
    | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "bamba": GROUPED | MAMBA | {"attn_layer_indices": [1]},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "nemotron_h": WIDE
    | {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
}


def build_config(name: str) -> PreTrainedConfig:
    """The configuration of a small model with the vocabulary of the byte tokenizer."""
    tokenizer = byte_tokenizer()
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return AutoConfig.for_model(name, vocab_size=len(tokenizer), **special, **ARCHITECTURES[name])
