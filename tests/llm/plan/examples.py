"""Settings of a small Qwen3 for the tests of the plan."""

from transformers import Qwen3Config

from llm.plan.estimate import PlanSettings

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2}


def plan_settings(layers=4, vocabulary=1024, model=None, **changes):
    config = Qwen3Config(**SIZES, head_dim=32, num_hidden_layers=layers, vocab_size=vocabulary)
    defaults = {
        "engine": "torch",
        "ranks": 1,
        "cuda": False,
        "dtype_bytes": 4,
        "prompts": 8,
        "group_size": 4,
        "prompt_tokens": 100,
        "new_tokens": 50,
        "micro_batch": 8,
        "micro_batch_tokens": None,
        "evaluation_rows": 4,
    }
    return PlanSettings(model=model or config.to_json_string(use_diff=False), **defaults | changes)
