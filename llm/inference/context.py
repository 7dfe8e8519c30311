"""How many tokens a model can read, and whether prompts and completions fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from conf.schema.base import ConfigError
from llm.inference.prompts import Chat, prompt_lengths
from llm.inference.rope import length_limit, rope_parameters

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")  # in a model's config.json
EXTENDED = ("linear", "dynamic", "yarn")  # rotary embeddings of these types reach beyond it, by a factor
SHOWN = 60  # characters of a prompt in a message


def context_length(config: PreTrainedConfig) -> int | None:
    """The number of tokens that a model has positions for; None if its architecture sets no limit.

    There is none with ALiBi and in state space models, for example.
    """
    config = config.get_text_config(decoder=True)
    if getattr(config, "alibi", False):
        return None
    length = next((int(value) for name in NAMES if (value := getattr(config, name, None) or 0) > 0), None)
    return None if length is None else max(length, *(_extended(rope, length) for rope in rope_parameters(config)))


def _extended(rope: Mapping[str, Any], length: int) -> int:
    if rope.get("rope_type", "default") not in EXTENDED:
        return length
    return int((rope.get("original_max_position_embeddings") or length) * (rope.get("factor") or 1.0))


def _what(limit: int, positions: int | None) -> str:
    if limit == positions:
        return f"the {limit} positions of the model"
    return f"{limit} tokens, past which the model changes the rotary positions of all rows of a pass"


def check_context(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Chat],
    max_new_tokens: int,
    switches: Mapping[str, Any] | None = None,
) -> None:
    """Check that each prompt and the longest completion fit into the model's context.

    Raises:
        ConfigError: they do not; the message names the longest prompt.
    """
    positions, constant = context_length(config), length_limit(config)
    limit = min((length for length in (positions, constant) if length is not None), default=None)
    if limit is None or not chats:
        return
    lengths = prompt_lengths(tokenizer, chats, switches)
    longest = max(lengths)
    if longest + max_new_tokens <= limit:
        return
    index, too_long = lengths.index(longest), sum(length + max_new_tokens > limit for length in lengths)
    text = " ".join(chats[index][-1]["content"].split())
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    remedy = f"set max_new_tokens to {limit - longest} or less" if limit > longest else "leave out such prompts"
    raise ConfigError(
        f"max_new_tokens: prompt and completion must fit into {_what(limit, positions)}, got "
        f"{max_new_tokens} tokens after the {longest} of prompt {index} ({shown!r}); {too_long} of {len(chats)} "
        f"prompts do not fit: {remedy}"
    )
