"""Chats as token ids, and padding of completions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Chat = Sequence[Mapping[str, str]]  # [{"role": "user", "content": ...}, ...]


class Prompts(NamedTuple):
    """P left-padded prompts: ids [P, L] and mask [P, L] bool, True on prompt tokens."""

    ids: Tensor
    mask: Tensor


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], switches: Mapping[str, Any] | None = None
) -> Prompts:
    """Apply the tokenizer's chat template to the chats and start the assistant's turn.

    switches: keywords of the chat template, such as enable_thinking.
    """
    rows: list[list[int]] = [
        tokenizer.apply_chat_template(
            [dict(turn) for turn in chat], add_generation_prompt=True, return_dict=False, **(switches or {})
        )  # type: ignore[misc]  # ids, since tokenize is on by default
        for chat in chats
    ]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        ids[row, length - len(tokens) :] = torch.tensor(tokens)
        mask[row, length - len(tokens) :] = True
    return Prompts(ids, mask)


def pad_completions(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-pad rows of token ids: tokens [N, T] and mask [N, T] bool, True on the rows' own tokens."""
    mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows]).unsqueeze(-1)
    tokens = torch.full(mask.shape, pad_id)
    tokens[mask] = torch.tensor([token for row in rows for token in row])
    return tokens, mask
