"""Rotary positions whose frequencies depend on the longest row of a pass, and the length up to which they do not."""

from collections.abc import Mapping
from typing import Any

from conf.schema.base import ConfigError
from llm.inference.prompts import Prompts

LENGTH_DEPENDENT = ("longrope", "dynamic")  # rope_type of transformers: frequencies change past a length


def rope_parameters(config: Any) -> list[Mapping[str, Any]]:
    """The parameters of a model's rotary embeddings: one mapping, or one for each type of layer; [{}] without."""
    rope = getattr(config, "rope_parameters", None) or {}
    per_layer = [part for part in rope.values() if isinstance(part, Mapping)]
    return per_layer or [rope]


def length_limit(config: Any) -> int | None:
    """The most tokens of a row for which rotary frequencies are constant; None: they always are.

    Past this length a pass computes other frequencies for all of its rows, so that a row's log-probability would
    depend on the rows beside it, and on the path that is taken.

    Args:
        config: a transformers configuration.
    """
    config = config.get_text_config()
    limits = [
        parameters.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for parameters in rope_parameters(config)
        if parameters.get("rope_type") in LENGTH_DEPENDENT
    ]
    return min(limits, default=None)


def check_length(config: Any, prompts: Prompts, new_tokens: int) -> None:
    """Raise ConfigError if a row may be longer than `length_limit`."""
    limit = length_limit(config)
    if limit is None:
        return
    longest = int(prompts.mask.sum(-1).max())
    if longest + new_tokens > limit:
        raise ConfigError(
            f"max_new_tokens: must be at most {max(limit - longest, 0)} with prompts of {longest} tokens, because "
            f"past {limit} tokens the model changes the rotary positions of all rows of a pass, got {new_tokens}"
        )
