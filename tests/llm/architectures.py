"""Tiny models of every family, by name, with windows and caps small enough that a few tokens show them."""

from functools import cache

import torch

VOCAB = 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
WINDOW = {"sliding_window": 4}
SLIDING_AND_FULL = {"layer_types": ["sliding_attention", "full_attention"], **WINDOW}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
ROUTED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
DELTA = {  # linear attention by the gated delta rule
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
INDEXED = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 64}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
MAMBA_AND_FULL = ["linear_attention", "full_attention"]
NO_HEAD_DIM = {"head_dim": None}

# Name -> changes of SIZES; None leaves a key out. "of" is the model type where the name is another one.
ARCHITECTURES: dict[str, dict] = {
    "afmoe": {**EXPERTS, **SLIDING_AND_FULL, "num_dense_layers": 1},
    "apertus": {},
    "arcee": {},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "bamba": {**MAMBA, "attn_layer_indices": [1], **NO_HEAD_DIM},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {**NO_HEAD_DIM, "rotary_dim": 4},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {**SLIDING_AND_FULL, "logit_scale": 0.5},
    "cohere2_moe": {**EXPERTS, **SLIDING_AND_FULL, "logit_scale": 0.5},
    "ctrl": {"dff": 48},
    "cwm": SLIDING_AND_FULL,
    "deepseek_v2": {**LATENT, **ROUTED, **EXPERTS},
    "deepseek_v3": {**LATENT, **ROUTED, **EXPERTS},
    "deepseek_v32": {**LATENT, **ROUTED, **EXPERTS, **INDEXED},
    "diffllama": {},
    "doge": {},
    "dots1": {**ROUTED, **EXPERTS},
    "ernie4_5": {},
    "ernie4_5_moe": {**EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone4": SLIDING_AND_FULL,
    "exaone_moe": {**EXPERTS, **SLIDING_AND_FULL},
    "falcon": {**NO_HEAD_DIM, "alibi": False},
    "falcon-alibi": {"of": "falcon", **NO_HEAD_DIM, "alibi": True},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.3},
    "falcon_mamba": {"state_size": 8},
    "flex_olmo": EXPERTS,
    "gemma": {},
    "gemma2": {**SLIDING_AND_FULL, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**SLIDING_AND_FULL, "sliding_window_pattern": None},
    "gemma3n_text": {
        **SLIDING_AND_FULL,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0],
        "final_logit_softcapping": 3.0,
    },
    "gemma4_text": {
        **SLIDING_AND_FULL,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "global_head_dim": 8,
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {**ROUTED, **EXPERTS},
    "glm4_moe_lite": {**LATENT, **ROUTED, **EXPERTS},
    "glm_moe_dsa": {**LATENT, **ROUTED, **EXPERTS, **INDEXED},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {
        **NO_HEAD_DIM,
        "num_hidden_layers": None,
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "gpt_neox": {},
    "gpt_oss": {**EXPERTS, **SLIDING_AND_FULL},
    "gptj": {**NO_HEAD_DIM, "rotary_dim": 4},
    "granite": {"logits_scaling": 4.0},
    "granite_swa": WINDOW,
    "granitemoe": {**EXPERTS, "logits_scaling": 4.0},
    "granitemoehybrid": {**MAMBA, **EXPERTS, **NO_HEAD_DIM, "layer_types": MAMBA_AND_FULL, "logits_scaling": 4.0},
    "granitemoeshared": {**EXPERTS, "logits_scaling": 4.0},
    "helium": {},
    "hrm_text": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": EXPERTS,
    "hy_v3": EXPERTS,
    "hyperclovax": {},
    "jais2": {},
    "jamba": {**EXPERTS, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {**EXPERTS, "kv_channels": 8},
    "kimi_linear": {
        **LATENT,
        **EXPERTS,
        "q_lora_rank": None,
        "layer_types": MAMBA_AND_FULL,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
    },
    "laguna": EXPERTS,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {
        **EXPERTS,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 4,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
    },
    "longcat_flash": {
        **LATENT,
        "num_hidden_layers": None,
        "num_layers": 1,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "moe_topk": 2,
        "n_routed_experts": 4,
        "zero_expert_num": 1,
    },
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "mellum": EXPERTS,
    "mimo_v2_flash": {**EXPERTS, **ROUTED, **SLIDING_AND_FULL},
    "minicpm3": {**LATENT, "dim_model_base": 8},
    "minimax": {**EXPERTS, "layer_types": MAMBA_AND_FULL, "block_size": 4},
    "minimax_m2": EXPERTS,
    "ministral": SLIDING_AND_FULL,
    "ministral3": {},
    "mistral": WINDOW,
    "mixtral": EXPERTS,
    "modernbert-decoder": {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        "num_hidden_layers": None,
        "layers_block_type": ["mamba", "attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": SLIDING_AND_FULL,
    "olmo_hybrid": DELTA,
    "olmoe": EXPERTS,
    "openai-gpt": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phi3-longrope": {
        "of": "phi3",
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 32,
        },
    },
    "phimoe": EXPERTS,
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {},
    "qwen3_5_moe_text": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA,
    "qwen3_moe": EXPERTS,
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {
        "lru_width": 32,
        "block_types": ["recurrent", "attention"],
        "attention_window_size": 4,
        "logits_soft_cap": 3.0,
    },
    "rwkv": {"attention_hidden_size": 32, "context_length": 128},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": {**ROUTED, **EXPERTS},
    "stablelm": {},
    "starcoder2": WINDOW,
    "vaultgemma": {**SLIDING_AND_FULL, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    "xlstm": {"num_heads": 4, "output_logit_soft_cap": 3.0},
    "youtu": LATENT,
    "zamba": {
        "head_dim": None,
        "num_key_value_heads": 4,
        "n_mamba_heads": 2,
        "mamba_d_state": 8,
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
    },
    "zamba2": {
        "head_dim": None,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_d_state": 8,
        "chunk_size": 8,
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "mamba", "hybrid"],
        "adapter_rank": 4,
    },
}


def kind_of(name):
    """The model type of an architecture."""
    return ARCHITECTURES[name].get("of", name)


def make_config(name):
    from transformers import AutoConfig

    sizes = {key: value for key, value in (SIZES | ARCHITECTURES[name]).items() if value is not None and key != "of"}
    return AutoConfig.for_model(kind_of(name), bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes)


def build(name):
    """A tiny model with random weights and biases, and a distribution that is far from uniform."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_config(name)).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("bias", "sinks")) and not parameter.any():
                parameter.normal_(0, 0.3)
            elif parameter.dim() > 1 and parameter.std() < 0.05:
                parameter.mul_(4.0)
    return model


@cache
def shared_model(name):
    """The model of a name, built once; tests must not change it."""
    return build(name)
