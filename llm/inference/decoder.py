"""Reading completions token by token: one decoder for models that share a prompt's keys and values, one for all."""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm.inference.attention import Packing, forward, log_once, read, shared_prefix_attention, supports_shared_prefix
from llm.inference.logprobs import positions, read_prompts
from llm.inference.prompts import Prompts

INITIAL_ROOM = 128  # tokens of each row for which the cache has room at first


def make_decoder(body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> "PackedDecoder | PaddedDecoder":
    """A decoder that has read the prompts, with P * group rows that read at most `length` tokens each.

    Its `hidden` [R, D] are the last hidden states of the rows; `step(tokens, running)` reads one more token of each,
    [R] ids, where running [R] bool is False for a row that has ended before.
    """
    if supports_shared_prefix(body):
        return PackedDecoder(body, prompts, group, length)
    return PaddedDecoder(body, prompts, group, length)


def compile_decoding(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Let the steps of the model's decoders be compiled by torch.compile, where its prompts are read packed.

    The first of them waits for the compiler. Hidden states differ by rounding from those of the other steps. What
    cannot be compiled is said once, and read as before.
    """
    from torch._dynamo import config as dynamo

    step = torch.compile(_step, dynamic=True, fullgraph=True, backend=backend)
    # Floats are those of the model: as symbols they would only make the compiler begin again.
    _COMPILED[model.get_decoder()] = dynamo.patch(specialize_float=True)(step)


_COMPILED: WeakKeyDictionary[nn.Module, Callable[..., Tensor]] = WeakKeyDictionary()


class Layer(NamedTuple):
    """Keys and values of a layer with K heads: of prompts [P, K, L, D], of tokens in their slots [P, K, A, T, D]."""

    prompt_key: Tensor
    prompt_value: Tensor
    key: Tensor
    value: Tensor


class PackedDecoder:
    """A prompt's keys and values are kept once; rows leave for good.

    Rows of a prompt stand in its A slots; where a prompt has fewer, what is computed in the empty ones is not used.
    """

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body, self.length, self.read, self.room = body, length, 0, min(length, INITIAL_ROOM)
        self.prompts = P = len(prompts.ids)
        packing = Packing(prompts, prompts.ids[:, :0], torch.zeros_like(prompts.ids[:, 0]))
        self.layers: dict[nn.Module, Layer] = {}
        self.marked: dict[nn.Module, Layer] = {}  # those whose fixed sizes the compiler has been told
        self.invisible = packing.invisible  # [P, 1, 1, L] bool: padding of the prompts; or None
        self.group = torch.arange(P, device=prompts.ids.device).repeat_interleave(group)  # [R] prompt of each row
        self.slots, self.A, self.even = torch.arange(P * group, device=self.group.device), group, True
        self.occupant = self.slots  # [P * A] row in each slot
        self.position = prompts.mask.sum(-1)[self.group]

        def keep_keys(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            own = key.new_zeros(P, key.shape[1], group, self.room, key.shape[2])
            shared_key, shared_value = (packing.prompts.pad(states).contiguous() for states in (key, value))
            self.layers[module] = Layer(shared_key, shared_value, own, torch.zeros_like(own))
            return packing(module, query, key, value, scaling)

        hidden = read(body, packing.ids, packing.positions, keep_keys)
        self.hidden = hidden[packing.prompts.ends - 1][self.group]

    def step(self, tokens: Tensor, running: Tensor) -> None:
        if self.read == self.room:
            self.room = min(2 * self.room, self.length)
            self.layers = {module: self._longer(layer) for module, layer in self.layers.items()}
        self.hidden = self._read(tokens)
        self.position = self.position + 1
        self.read += 1

    def _read(self, tokens: Tensor) -> Tensor:
        compiled, prompts = _COMPILED.get(self.body), len(self.occupant) // self.A
        few = self.A == 1 or prompts == 1 < self.prompts  # a size that becomes 1 would take another graph
        if compiled is None or few:
            return read(self.body, tokens, self.position, self)
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        name = type(self.body).__name__
        log_once(f"compiling the decoding step of {name}: the first may take minutes")
        try:
            return self._read_compiled(tokens, compiled)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            del _COMPILED[self.body]
            reason = str(error).strip().partition("\n")[0]
            log_once(f"the decoding step of {name} is not compiled: {type(error).__name__}: {reason}")
            return self._read(tokens)

    def _read_compiled(self, tokens: Tensor, compiled: Callable[..., Tensor]) -> Tensor:
        if self.marked is not self.layers:  # a change makes new ones
            self.marked = self.layers
            for states in chain.from_iterable(self.layers.values()):
                # Heads and their width are the model's; other sizes may happen to be equal to them.
                torch._dynamo.mark_static(states, [1, states.dim() - 1])
        tokens, position = (t.index_select(0, self.occupant) for t in (tokens, self.position))
        now = torch.full((1,), self.read, device=tokens.device)
        with shared_prefix_attention(self.body):
            hidden = compiled(self.body, tokens, position, self.layers, now, self.invisible)
        return hidden.index_select(0, self.slots)

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one token of each row, [R, H, D] and [R, K, D], to its prompt and its row."""
        if not self.even:
            query, key, value = (states.index_select(0, self.occupant) for states in (query, key, value))
        out = _attend(self.layers[module], query, key, value, scaling, self.read, self.invisible)
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
        own = []
        for cache in (layer.key, layer.value):
            moved = cache.transpose(1, 2)[source // self.A, source % self.A, :, : self.read]  # [P', A', K, t, D]
            kept = cache.new_zeros(len(prompts), cache.shape[1], source.shape[1], *cache.shape[3:])
            kept[:, :, :, : self.read] = moved.transpose(1, 2)
            own.append(kept)
        shared = layer.prompt_key, layer.prompt_value
        if len(prompts) < len(layer.key):
            shared = layer.prompt_key[prompts], layer.prompt_value[prompts]
        return Layer(*shared, *own)


def _attend(
    layer: Layer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    now: int | Tensor,
    invisible: Tensor | None,
) -> Tensor:
    """Attention of one token in each slot, [P * A, H, D] and [P * A, K, D], to its prompt and those before it.

    now: how many there are of these. As a tensor [1] it lets one graph serve all steps, which then look at all the
    room there is.
    """
    (P, K, A, T, D), L, per_key = layer.key.shape, layer.prompt_key.shape[2], query.shape[1] // key.shape[1]
    for cache, states in ((layer.key, key), (layer.value, value)):
        states = states.reshape(P, A, K, D).transpose(1, 2)
        if isinstance(now, int):
            cache.select(3, now).copy_(states)
        else:
            cache.index_copy_(3, now, states.unsqueeze(3))
    width = now + 1 if isinstance(now, int) else T
    own_key, own_value = (cache.narrow(3, 0, width).flatten(0, 2) for cache in (layer.key, layer.value))
    query = (query * scaling).reshape(P, A, K, per_key, D).transpose(1, 2).reshape(P * K, A * per_key, D)
    queries = query.view(P * K * A, per_key, D)
    shared = torch.bmm(query, layer.prompt_key.flatten(0, 1).transpose(1, 2))
    own = torch.bmm(queries, own_key.transpose(1, 2)).view(P * K, A * per_key, width)
    if invisible is not None:
        shared = shared.view(P, K, A * per_key, L).masked_fill(invisible, -torch.inf).view(P * K, A * per_key, L)
    if isinstance(now, Tensor):
        own = own.masked_fill(torch.arange(T, device=now.device) > now, -torch.inf)
    weight = torch.cat([shared, own], -1).softmax(-1, dtype=_wide(query)).to(query.dtype)
    out = torch.bmm(weight.narrow(2, 0, L), layer.prompt_value.flatten(0, 1)).view(P * K * A, per_key, D)
    out.baddbmm_(weight.view(P * K * A, per_key, L + width).narrow(2, L, width), own_value)
    return out.view(P, K, A, per_key, D).transpose(1, 2).reshape(P * A, K * per_key, D)


def _step(
    body: nn.Module,
    tokens: Tensor,
    position: Tensor,
    layers: dict[nn.Module, Layer],
    now: Tensor,
    invisible: Tensor | None,
) -> Tensor:
    """What is compiled: the last hidden states [P * A, D] of a token in each slot."""

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        return _attend(layers[module], query, key, value, scaling, now, invisible)

    return forward(body, tokens, position, attention)


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
