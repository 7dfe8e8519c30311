"""Reading completions token by token: one decoder for models that share a prompt's keys and values, one for all."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm.attention import Packing, read, shares_prefix
from llm.logp import positions, read_prompts
from llm.prompts import Prompts

ROOM = 128  # tokens of each row for which there is room at first


def make_decoder(body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> "PackedDecoder | PaddedDecoder":
    """A decoder that has read the prompts, with P * group rows that read at most `length` tokens each.

    Its `hidden` [R, D] are the last hidden states of the rows; `step(tokens, running)` reads one more token of each,
    [R] ids, where running [R] bool is False for a row that has ended before.
    """
    if shares_prefix(body):
        return PackedDecoder(body, prompts, group, length)
    return PaddedDecoder(body, prompts, group, length)


class Layer(NamedTuple):
    """Keys and values of one layer with K heads: of prompts [P * K, L, D], of their A rows [P * K * A, T, D]."""

    prompt_key: Tensor
    prompt_value: Tensor
    key: Tensor
    value: Tensor


class PackedDecoder:
    """A prompt's keys and values are kept once; rows leave for good.

    Rows of a prompt stand in its A slots; where a prompt has fewer, what is computed in the empty ones is not used.
    """

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body, self.length, self.read, self.room = body, length, 0, min(length, ROOM)
        P = len(prompts.ids)
        packing = Packing(prompts, prompts.ids[:, :0], torch.zeros_like(prompts.ids[:, 0]))
        self.layers: dict[nn.Module, Layer] = {}
        self.invisible = packing.invisible  # [P, 1, 1, L] bool: padding of the prompts; or None
        self.group = torch.arange(P, device=prompts.ids.device).repeat_interleave(group)  # [R] prompt of each row
        self.slots, self.A, self.even = torch.arange(P * group, device=self.group.device), group, True
        self.occupant = self.slots  # [P * A] row in each slot
        self.position = prompts.mask.sum(-1)[self.group]

        def keep_keys(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            own = key.new_empty(P * key.shape[1] * group, self.room, key.shape[2])
            shared_key, shared_value = (packing.prompts.pad(states).flatten(0, 1) for states in (key, value))
            self.layers[module] = Layer(shared_key, shared_value, own, torch.empty_like(own))
            return packing(module, query, key, value, scaling)

        hidden = read(body, packing.ids, packing.positions, keep_keys)
        self.hidden = hidden[packing.prompts.ends - 1][self.group]

    def step(self, tokens: Tensor, running: Tensor) -> None:
        if self.read == self.room:
            self.room = min(2 * self.room, self.length)
            self.layers = {module: self._longer(layer) for module, layer in self.layers.items()}
        self.hidden = read(self.body, tokens, self.position, self)
        self.position = self.position + 1
        self.read += 1

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one token of each row, [R, H, D] and [R, K, D], to its prompt and its row."""
        layer, A, now = self.layers[module], self.A, self.read + 1
        K, D, PK, L = *key.shape[1:], *layer.prompt_key.shape[:2]
        P, per_key = PK // K, query.shape[1] // K
        query = query * scaling
        if not self.even:
            query, key, value = (states.index_select(0, self.occupant) for states in (query, key, value))
        for cache, states in ((layer.key, key), (layer.value, value)):
            cache.select(1, self.read).view(P, K, A, D).copy_(states.reshape(P, A, K, D).transpose(1, 2))
        query = query.reshape(P, A, K, per_key, D).transpose(1, 2).reshape(PK, A * per_key, D)
        shared = torch.bmm(query, layer.prompt_key.transpose(1, 2))
        if self.invisible is not None:
            shared = shared.view(P, K, -1, L).masked_fill(self.invisible, -torch.inf).view(PK, -1, L)
        queries = query.view(PK * A, per_key, D)
        own = torch.bmm(queries, layer.key.narrow(1, 0, now).transpose(1, 2)).view(PK, -1, now)
        weight = torch.cat([shared, own], -1).softmax(-1, dtype=_wide(query)).to(query.dtype)
        out = torch.bmm(weight.narrow(2, 0, L), layer.prompt_value).view_as(queries)
        out.baddbmm_(weight.view(PK * A, per_key, -1).narrow(2, L, now), layer.value.narrow(1, 0, now))
        out = out.view(P, K, A, per_key, D).transpose(1, 2).reshape(P * A, K * per_key, D)
        return out if self.even else out.index_select(0, self.slots)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these: [R'] ascending numbers among the present ones."""
        before = self.slots[rows]  # [R'] slots among the old ones
        prompts, group, counts = torch.unique_consecutive(self.group[rows], return_inverse=True, return_counts=True)
        P, A = len(prompts), int(counts.max())
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[group]
        source = torch.zeros(P, A, dtype=torch.long, device=rows.device)
        source[group, place] = before
        self.layers = {module: self._kept(layer, prompts, source) for module, layer in self.layers.items()}
        self.invisible = None if self.invisible is None else self.invisible[prompts]
        self.group, self.position, self.hidden = group, self.position[rows], self.hidden[rows]
        self.slots, self.A, self.even = group * A + place, A, len(rows) == P * A
        self.occupant = torch.zeros(P * A, dtype=torch.long, device=rows.device)
        self.occupant[self.slots] = torch.arange(len(rows), device=rows.device)

    def _longer(self, layer: Layer) -> Layer:
        own = (nn.functional.pad(cache, (0, 0, 0, self.room - self.read)) for cache in (layer.key, layer.value))
        return Layer(layer.prompt_key, layer.prompt_value, *own)

    def _kept(self, layer: Layer, prompts: Tensor, source: Tensor) -> Layer:
        """The same layer with these prompts, and in slot [P', A'] what was in slot `source` of the old P * A."""
        P, A, (T, D) = len(self.occupant) // self.A, self.A, layer.key.shape[1:]
        own = []
        for cache in (layer.key, layer.value):
            chosen = cache.view(P, -1, A, T, D).transpose(1, 2)[source // A, source % A, :, : self.read]
            kept = cache.new_empty(len(prompts), chosen.shape[2], source.shape[1], T, D)  # chosen: [P', A', K, t, D]
            kept[:, :, :, : self.read] = chosen.transpose(1, 2)
            own.append(kept.flatten(0, 2))
        shared = layer.prompt_key, layer.prompt_value
        if len(prompts) < P:
            shared = tuple(states.unflatten(0, (P, -1))[prompts].flatten(0, 1) for states in shared)
        return Layer(*shared, *own)


def _wide(states: Tensor) -> torch.dtype:
    return torch.float64 if states.dtype == torch.float64 else torch.float32


class PaddedDecoder:
    """A prompt's keys and values are repeated for its rows, in the cache that the model itself asks for."""

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body, self.read = body, 0
        self.hidden, self.cache = read_prompts(body, prompts, group)
        self.position = positions(prompts, group, max(length, 1))
        self.attended = prompts.mask.repeat_interleave(group, 0)

    def step(self, tokens: Tensor, running: Tensor) -> None:
        self.attended = torch.cat([self.attended, running.unsqueeze(-1)], -1)
        self.hidden = self.body(
            input_ids=tokens.unsqueeze(-1),
            attention_mask=self.attended,
            position_ids=self.position[:, self.read : self.read + 1],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.read += 1
