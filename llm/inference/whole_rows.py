"""Passes without padding before a token, for models whose state padding would change, such as recurrent ones.

Completions are scored in whole rows: each with its prompt in front, padded on the right only, which no earlier token
sees. They are sampled from prompts of one length at a time, with the model's own cache, or without a cache.
"""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from llm.inference.prompts import Prompts

CACHE_NAMES = ("past_key_values", "cache_params", "state")  # of transformers' models, in and out


class NoUsableCache(Exception):
    """A model returns no cache whose rows can be selected."""


def whole_row_hidden(body: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """Last hidden state one position before each completion token: [mask.sum(), D], with gradient."""
    group = len(tokens) // len(prompts.ids)
    starts, counts = prompts.mask.sum(-1).repeat_interleave(group), mask.sum(-1)
    rows = [
        torch.cat([prompts.ids[row // group][prompts.mask[row // group]], tokens[row, : max(count - 1, 0)]])
        for row, count in enumerate(counts.tolist())
    ]
    hidden = body(input_ids=pad_sequence(rows, batch_first=True), use_cache=False).last_hidden_state
    position = (starts.unsqueeze(-1) - 1 + torch.arange(mask.shape[1], device=mask.device))[mask]
    return hidden[mask.nonzero()[:, 0], position]


class Part(NamedTuple):
    """Rows whose prompts have one length.

    rows: their indices among the decoder's rows.
    name, cache: their cache and the name under which the model takes it.
    length: tokens in it.
    """

    rows: Tensor
    name: str
    cache: Any
    length: int


class EqualLengthDecoder:
    """Decodes prompts of one length together, with the cache that the model itself makes, and without padding.

    Attributes:
        hidden: [R, D] last hidden states of the rows.
        parts: the rows by the length of their prompt.
        takes_positions: whether the body is given the positions of tokens.

    Raises:
        NoUsableCache: the model returns no cache, or one whose rows cannot be selected.
    """

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body = body
        self.takes_positions = "position_ids" in inspect.signature(body.forward).parameters
        self.parts: list[Part] = []
        states: list[Tensor] = []
        lengths = prompts.mask.sum(-1)
        for size in lengths.unique().tolist():
            members = (lengths == size).nonzero().squeeze(-1)
            ids = prompts.ids[members][prompts.mask[members]].view(len(members), size)
            output = body(input_ids=ids, use_cache=True)
            name, cache = own_cache(output)
            index = torch.arange(len(members), device=members.device).repeat_interleave(group)
            rows = (members.unsqueeze(-1) * group + torch.arange(group, device=members.device)).flatten()
            self.parts.append(Part(rows, name, select_rows(cache, index), size))
            states.append(output.last_hidden_state[index, -1])
        self.hidden = self._in_order(states)

    def step(self, tokens: Tensor, running: Tensor) -> None:
        """Process the next token of each row, [R] ids. The results of rows that had already ended are arbitrary."""
        states = []
        for number, part in enumerate(self.parts):
            inputs = {"input_ids": tokens[part.rows].unsqueeze(-1), part.name: part.cache}
            if self.takes_positions:  # some models begin at 0 without them
                inputs["position_ids"] = torch.full_like(inputs["input_ids"], part.length)
            output = self.body(**inputs, use_cache=True)
            states.append(output.last_hidden_state[:, -1])
            self.parts[number] = part._replace(cache=getattr(output, part.name), length=part.length + 1)
        self.hidden = self._in_order(states)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows except some, given by their ascending indices [R'] among the present rows."""
        place = torch.full((len(self.hidden),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        parts = []
        for part in self.parts:
            new = place[part.rows]
            kept = (new >= 0).nonzero().squeeze(-1)
            if len(kept):
                parts.append(part._replace(rows=new[kept], cache=select_rows(part.cache, kept)))
        self.parts, self.hidden = parts, self.hidden[rows]

    def _in_order(self, states: list[Tensor]) -> Tensor:
        """The parts' hidden states in the order of the rows."""
        return torch.cat(states)[torch.cat([part.rows for part in self.parts]).argsort()]


def own_cache(output: Any) -> tuple[str, Any]:
    """The cache in the output of a body, with its name."""
    for name in CACHE_NAMES:
        if (cache := getattr(output, name, None)) is not None:
            return name, cache
    raise NoUsableCache("it returns no cache")


def select_rows(cache: Any, rows: Tensor) -> Any:
    """The cache of some rows, in their order, [R] indices. A cache of transformers is changed in place."""
    if isinstance(cache, list | tuple) and all(isinstance(state, Tensor) for state in cache):
        return [state.index_select(0, rows) for state in cache]
    kinds = [type(part) for part in (cache, *getattr(cache, "layers", []))]
    # A class from a model's own file may hold more than its methods reorder.
    if any(kind.__module__ != "transformers.cache_utils" for kind in kinds):
        raise NoUsableCache("its cache is of a kind of its own")
    cache.reorder_cache(rows)
    return cache


class WholeRowDecoder:
    """Reads every row from its start at each step. Slow, and right for any causal model."""

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body, self.length = body, prompts.mask.sum(-1).repeat_interleave(group)
        rows = pad_sequence([ids[mask] for ids, mask in zip(*prompts, strict=True)], batch_first=True)
        self.ids = rows.repeat_interleave(group, 0)
        self.hidden = self._read()

    def step(self, tokens: Tensor, running: Tensor) -> None:
        """Process the next token of each row, [R] ids. The results of rows that had already ended are arbitrary."""
        if int(self.length.max()) == self.ids.shape[1]:
            self.ids = torch.nn.functional.pad(self.ids, (0, 1))
        self.ids = self.ids.scatter(1, self.length.unsqueeze(-1), tokens.unsqueeze(-1))
        self.length = self.length + 1
        self.hidden = self._read()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows except some, given by their ascending indices [R'] among the present rows."""
        self.ids, self.length, self.hidden = self.ids[rows], self.length[rows], self.hidden[rows]

    def _read(self) -> Tensor:
        hidden = self.body(input_ids=self.ids, use_cache=False).last_hidden_state
        last: Tensor = hidden[torch.arange(len(hidden), device=hidden.device), self.length - 1]
        return last
