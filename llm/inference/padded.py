"""Passes over left-padded prompts whose keys and values are repeated for the completions, in transformers' cache."""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, cache_utils

from llm.inference.prompts import Prompts

# Layers of a cache that hold keys and values only, so that padding can be masked. Older transformers lack the last.
ATTENTION_LAYERS = tuple(
    getattr(cache_utils, name)
    for name in ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")
    if hasattr(cache_utils, name)
)


def caches_attention_only(cache: object) -> bool:
    """Whether a cache holds keys and values only. Recurrent and compressed states would be changed by padding."""
    if not isinstance(cache, DynamicCache) or not cache.layers:
        return False
    return all(type(layer) in ATTENTION_LAYERS for layer in cache.layers)


def padded_hidden(body: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """Last hidden state one position before each completion token: [mask.sum(), D], with gradient."""
    group = len(tokens) // len(prompts.ids)
    first, cache = prefill(body, prompts, group)
    hidden = first.unsqueeze(1)
    if tokens.shape[1] > 1:
        later = body(
            input_ids=torch.where(mask, tokens, tokens[:, :1])[:, :-1],
            attention_mask=torch.cat([prompts.mask.repeat_interleave(group, 0), mask[:, :-1]], -1),
            position_ids=completion_positions(prompts, group, tokens.shape[1] - 1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([hidden, later], 1)  # [P * G, T, D]
    return hidden[mask]


def prefill(body: PreTrainedModel, prompts: Prompts, group: int) -> tuple[Tensor, DynamicCache]:
    """Process the prompts: last hidden state [P * G, D] and key-value cache, each repeated for its group.

    The padding is filled with tokens of the row, because a padding token whose embedding is zero may give a gradient
    of NaN, as in Gemma 3n.
    """
    cache = DynamicCache(config=body.config)
    output = body(
        input_ids=torch.where(prompts.mask, prompts.ids, prompts.ids[:, -1:]),
        attention_mask=prompts.mask,
        position_ids=(prompts.mask.cumsum(-1) - 1).clamp_min(0),
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(group)
    return output.last_hidden_state[:, -1].repeat_interleave(group, 0), cache


def completion_positions(prompts: Prompts, group: int, length: int) -> Tensor:
    """[P * G, length] positions of completion tokens. They continue those of the prompt, without its padding."""
    start = prompts.mask.sum(-1, keepdim=True).repeat_interleave(group, 0)
    return start + torch.arange(length, device=start.device)


class PaddedDecoder:
    """Repeats a prompt's keys and values for its rows, in the cache class of the model."""

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body, self.decoded = body, 0
        self.hidden, self.cache = prefill(body, prompts, group)
        self.position = completion_positions(prompts, group, max(length, 1))
        self.attended = prompts.mask.repeat_interleave(group, 0)

    def step(self, tokens: Tensor, running: Tensor) -> None:
        """Process the next token of each row, [R] ids; running [R] is False for rows that had already ended."""
        self.attended = torch.cat([self.attended, running.unsqueeze(-1)], -1)
        self.hidden = self.body(
            input_ids=tokens.unsqueeze(-1),
            attention_mask=self.attended,
            position_ids=self.position[:, self.decoded : self.decoded + 1],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.decoded += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows except some, given by their ascending indices [R'] among the present rows."""
        self.cache.batch_select_indices(rows)
        self.position, self.attended, self.hidden = self.position[rows], self.attended[rows], self.hidden[rows]
