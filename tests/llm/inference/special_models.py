"""Tiny random models whose attention is more than softmax(query key) value over all earlier tokens."""

import torch

from llm.inference.blocks import Rule

WINDOW = 6
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = SIZES | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
FOUR_LAYERS = {"num_hidden_layers": 4}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = SIZES | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
WINDOWED = {"sliding_window": WINDOW}
CONFIGS = {
    "mistral": ("mistral", GROUPED | WINDOWED),
    "mixtral": ("mixtral", GROUPED | WINDOWED | EXPERTS),
    "qwen2-window": ("qwen2", GROUPED | WINDOWED | {"use_sliding_window": True, "max_window_layers": 1}),
    "phi3": ("phi3", GROUPED | WINDOWED),
    "phimoe": ("phimoe", GROUPED | WINDOWED | EXPERTS),
    "starcoder2": ("starcoder2", GROUPED | WINDOWED),
    "gemma2": (
        "gemma2",
        HEADS
        | WINDOWED
        | {"attn_logit_softcapping": 0.1, "query_pre_attn_scalar": 8, "final_logit_softcapping": None},
    ),
    "gemma3": ("gemma3_text", HEADS | FOUR_LAYERS | WINDOWED | {"sliding_window_pattern": 2}),
    "gpt_oss": ("gpt_oss", HEADS | WINDOWED | EXPERTS),
    "olmo3": ("olmo3", GROUPED | FOUR_LAYERS | WINDOWED),
    "cohere2": ("cohere2", GROUPED | FOUR_LAYERS | WINDOWED | {"logit_scale": 1.0}),
    "llama4": (
        "llama4_text",
        HEADS | FOUR_LAYERS | EXPERTS | {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 64},
    ),
    "deepseek_v3": ("deepseek_v3", LATENT),
    "deepseek_v2": ("deepseek_v2", LATENT),
    "diffllama": ("diffllama", GROUPED),
    "hrm": ("hrm_text", SIZES | {"num_key_value_heads": 4, "head_dim": 8}),
}


PACKED_KINDS = [kind for kind in CONFIGS if kind != "llama4"]


def without(*fields):
    """`llm.inference.blocks.Rule` without some of its parts, for controls."""
    return lambda *values: Rule(*values)._replace(**dict.fromkeys(fields))


def special_model(kind, vocab_size=60, **changes):
    """A model of `CONFIGS` with eager attention and large random weights, sinks included."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, options = CONFIGS[kind]
    config = AutoConfig.for_model(
        model_type,
        vocab_size=vocab_size,
        **options | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2} | changes,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
            if name.endswith("sinks"):
                parameter.copy_(torch.linspace(-1, 2, len(parameter)))
    return model
