"""Chats as token ids, and padding of completions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.integrations.model_files import with_fixed_clock

PLACE = "(the completion)"  # stands for a completion in a rendered conversation
Chat = Sequence[Mapping[str, str]]  # [{"role": "user", "content": ...}, ...]


class Prompts(NamedTuple):
    """P left-padded prompts: ids [P, L] and mask [P, L] bool, True on prompt tokens."""

    ids: Tensor
    mask: Tensor


def user_turn(text: str) -> Chat:
    """A chat of one turn of the user's."""
    return [{"role": "user", "content": text}]


def is_turn(value: object) -> bool:
    """Whether a value is a turn of a chat: a mapping with role and content, both texts."""
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], switches: Mapping[str, Any] | None = None
) -> Prompts:
    """Apply the tokenizer's chat template to the chats and start the assistant's turn.

    switches: keywords of the chat template, such as enable_thinking.
    """
    rows = [chat_ids(tokenizer, chat, switches, add_generation_prompt=True) for chat in chats]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), padding_id(tokenizer))
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        ids[row, length - len(tokens) :] = torch.tensor(tokens)
        mask[row, length - len(tokens) :] = True
    return Prompts(ids, mask)


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, switches: Mapping[str, Any] | None = None, **options: Any
) -> list[int]:
    """A chat as token ids. `options` are those of `apply_chat_template`."""
    return list(_apply_template(tokenizer, chat, switches, return_dict=False, **options))


def prompt_lengths(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], switches: Mapping[str, Any] | None = None
) -> list[int]:
    """The number of tokens of each chat as a prompt, see `encode_chats`."""
    return [len(chat_ids(tokenizer, chat, switches, add_generation_prompt=True)) for chat in chats]


def conversation_ids(tokenizer: PreTrainedTokenizerBase, prompt: Chat, completion: str) -> list[int]:
    """A prompt and its completion as ids, in which the completion is text only.

    A completion may contain what the tokenizer knows as a special token, such as the end of a turn. It must not end
    the assistant's turn or start another one, and is encoded as the characters that it consists of.
    """
    if not any(token in completion for token in tokenizer.all_special_tokens):
        return chat_ids(tokenizer, [*prompt, {"role": "assistant", "content": completion}])
    text = chat_text(tokenizer, [*prompt, {"role": "assistant", "content": PLACE}])
    before, _, after = text.rpartition(PLACE)
    parts = (before, False), (completion, True), (after, False)
    return [token for part, as_text in parts for token in _ids(tokenizer, part, as_text)]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, as_text: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])


def chat_text(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, switches: Mapping[str, Any] | None = None, **options: Any
) -> str:
    """A chat as text, as in `chat_ids`."""
    return str(_apply_template(tokenizer, chat, switches, tokenize=False, **options))


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, switches: Mapping[str, Any] | None, **options: Any
) -> Any:
    keywords = {**(switches or {}), **options}
    template = tokenizer.get_chat_template(keywords.pop("chat_template", None))
    template = template if _clock is None else with_fixed_clock(template, _clock)
    return tokenizer.apply_chat_template([dict(turn) for turn in chat], chat_template=template, **keywords)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to fill rows with. Masks exclude it, so that any id will do if the tokenizer has no padding token."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in ids if token is not None), 0)


_clock: datetime | None = None


def set_clock(clock: datetime | None) -> None:
    """Fix the time that chat templates see through strftime_now; None: the present time."""
    global _clock
    _clock = clock


def pad_completions(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-pad rows of token ids: tokens [N, T] and mask [N, T] bool, True on the rows' own tokens."""
    mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows]).unsqueeze(-1)
    tokens = torch.full(mask.shape, pad_id)
    tokens[mask] = torch.tensor([token for row in rows for token in row])
    return tokens, mask
