"""The fields of a model's generation_config.json: those that end a completion, those that change sampling, others.

Completions are sampled from the distribution that is trained. Fields that change sampling are therefore not used.
"""

import copy
from typing import Any

from transformers import GenerationConfig

# Fields that change which tokens are sampled, with their values that do not, beside None.
SAMPLING: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,),
    "top_k": (0,),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "top_h": (),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": (),
    "force_words_ids": (),
    "constraints": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({},),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "exponential_decay_length_penalty": (),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "guidance_scale": (1.0,),
    "dola_layers": (),
    "watermarking_config": (),
    "token_healing": (False,),
    "remove_invalid_values": (False,),
}
ENDS = ("eos_token_id", "stop_strings")  # see `llm.inference.stopping`
LENGTHS = ("max_length", "max_new_tokens", "max_time")  # the configuration's max_new_tokens takes their place
WITHOUT_EFFECT = (  # greedy decoding and beams, speed, outputs, ids, and files
    *("do_sample", "early_stopping", "length_penalty", "renormalize_logits", "num_return_sequences"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory", "prefill_chunk_size"),
    *("compile_config", "disable_compile", "continuous_batching_config"),
    *("is_assistant", "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight"),
    *("assistant_lookbehind", "target_lookbehind", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("max_matching_ngram_size", "prompt_lookup_num_tokens", "speculation_type", "use_mtp"),
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"),
    *("bos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("transformers_version", "_from_model_config", "_commit_hash"),
)


def sampling_fields(config: GenerationConfig | None) -> dict[str, Any]:
    """The fields of a model's configuration that would change which tokens are sampled."""
    values = {} if config is None else {name: getattr(config, name, None) for name in SAMPLING}
    return {name: value for name, value in values.items() if value is not None and value not in SAMPLING[name]}


def describe_ignored(config: GenerationConfig | None) -> str | None:
    """One line about the fields of a model that are not used; None if there are none."""
    fields = ", ".join(f"{name}={value}" for name, value in sampling_fields(config).items())
    if not fields:
        return None
    return f"sampling from the model's own distribution, without {fields} of its generation_config.json"


def savable(config: GenerationConfig) -> GenerationConfig:
    """A copy that `save_pretrained` accepts. It refuses, for example, a temperature without do_sample=True."""
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sampled = copy.deepcopy(config)
    sampled.do_sample = True
    for candidate in (copy.deepcopy(config), sampled):
        try:
            candidate.validate(strict=True)
        except ValueError:
            continue
        return candidate
    return GenerationConfig(**ids)
