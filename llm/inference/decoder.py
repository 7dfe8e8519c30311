"""Decoding token by token with a decoder in which the rows of a prompt share its keys and values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm.inference.attention import (
    Packing,
    Unsupported,
    hidden_states,
    log_once,
    packed_forward,
    shared_prefix_attention,
)
from llm.inference.blocks import Rule, VisibleKeys, cap_scores
from llm.inference.head import body_of
from llm.inference.prompts import Prompts
from llm.inference.replay import Recorder, Replay, record_cuda_graph

INITIAL_CAPACITY = 128  # tokens per row for which the cache is first allocated


def compile_decoding(model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile the decoding step of a model that supports packed prompts with torch.compile.

    The first step waits for the compiler. Hidden states differ from those of the uncompiled step by rounding. If the
    step cannot be compiled, the reason is logged once and the uncompiled step is used.
    """
    from torch._dynamo import config as dynamo

    step = torch.compile(_step, dynamic=True, fullgraph=True, backend=backend)
    # The model's floats are constants; as symbols they would only cause recompilation.
    _COMPILED[body_of(model)] = dynamo.patch(specialize_float=True)(step)


_COMPILED: WeakKeyDictionary[nn.Module, Callable[..., Tensor]] = WeakKeyDictionary()


def replay_decoding(model: PreTrainedModel, record: Recorder = record_cuda_graph) -> None:
    """Record the decoding step of a model that supports packed prompts, and replay it for each token.

    A recording holds for one layout of the cache: it is made anew when rows leave or the cache grows. If the step
    cannot be recorded, the reason is logged once and the step is called as it is.
    """
    _RECORDERS[body_of(model)] = record


_RECORDERS: WeakKeyDictionary[nn.Module, Recorder] = WeakKeyDictionary()


@contextmanager
def uncompiled(body: nn.Module) -> Iterator[None]:
    """Context in which the decoding step of `body` is neither compiled nor recorded."""
    step, recorder = _COMPILED.pop(body, None), _RECORDERS.pop(body, None)
    try:
        yield
    finally:
        if step is not None:
            _COMPILED[body] = step
        if recorder is not None:
            _RECORDERS[body] = recorder


class Layer(NamedTuple):
    """Keys and values of an attention with K heads: of the prompts [P, K, L, D] and of completions [P, K, A, T, D].

    A is the number of slots per prompt, and T the capacity of a slot in tokens.
    """

    prompt_key: Tensor
    prompt_value: Tensor
    key: Tensor
    value: Tensor


class Hidden(NamedTuple):
    """Keys that the next token of any row of a prompt does not attend to, None if there are none.

    prompt [P, 1, 1, L] and own [P or 1, 1, 1, t] bool, those of the prompt and of the row.
    """

    prompt: Tensor | None
    own: Tensor | None


class PackedDecoder:
    """Stores a prompt's keys and values once for its group; `keep` drops rows that have ended.

    The rows of a prompt occupy its A slots. Prompts with fewer rows have empty slots, whose results are discarded.

    Attributes:
        hidden: [R, D] last hidden states of the rows.
        layers: one for each call of attention in a forward pass, in their order. Some models, such as DiffLlama, call
            it several times with the same module.
        modules: the modules that call attention.
        length: the most tokens of a row.
        decoded: number of tokens processed so far in each row.
        capacity: number of tokens for which the cache is allocated.
        invisible: [P, 1, 1, L] bool, the padding of the prompts; None without padding.
        sizes: [P] lengths of the prompts.
        group: [R] index of each row's prompt.
        slots: [R] slot of each row.
        occupant: [P * A] row in each slot; arbitrary for empty slots.
        even: whether no slot is empty.
    """

    def __init__(self, body: PreTrainedModel, prompts: Prompts, group: int, length: int) -> None:
        self.body, self.length, self.decoded, self.capacity = body, length, 0, min(length, INITIAL_CAPACITY)
        self.prompts = P = len(prompts.ids)
        packing = Packing(prompts, prompts.ids[:, :0], torch.zeros_like(prompts.ids[:, 0]))
        self.layers: list[Layer] = []
        self.modules: list[nn.Module] = []
        self.marked: list[Layer] = []  # the layers whose static sizes are known to the compiler
        self.recorded: tuple[list[Layer], Replay] | None = None  # the step that was recorded for these layers
        self.invisible, self.sizes = packing.invisible, prompts.mask.sum(-1)
        self.group = torch.arange(P, device=prompts.ids.device).repeat_interleave(group)
        self.slots, self.A, self.even = torch.arange(P * group, device=self.group.device), group, True
        self.occupant = self.slots
        self.position = self.sizes[self.group]

        def fill_cache(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
            own = key.new_zeros(P, key.shape[1], group, self.capacity, key.shape[2])
            shared_key, shared_value = (packing.prompts.pad(states).contiguous() for states in (key, value))
            self.layers.append(Layer(shared_key, shared_value, own, torch.zeros_like(own)))
            self.modules.append(module)
            return packing(module, query, key, value, rule)

        hidden = packed_forward(body, packing.ids, packing.positions, fill_cache)
        self.hidden = hidden[packing.prompts.ends - 1][self.group]

    def step(self, tokens: Tensor, running: Tensor) -> None:
        """Process the next token of each row, [R] ids."""
        if self.decoded == self.capacity:
            self.capacity = min(2 * self.capacity, self.length)
            self.layers = [self._grow(layer) for layer in self.layers]
        self.hidden = self._next_hidden(tokens)
        self.position = self.position + 1
        self.decoded += 1

    def _next_hidden(self, tokens: Tensor) -> Tensor:
        if (record := _RECORDERS.get(self.body)) is not None:
            try:
                return self._replayed_hidden(tokens, record)
            except RuntimeError as error:
                del _RECORDERS[self.body]
                reason = str(error).strip().partition("\n")[0]
                log_once(f"the decoding step of {type(self.body).__name__} is not recorded: {reason}")
        compiled, prompts = _COMPILED.get(self.body), len(self.occupant) // self.A
        has_size_one = self.A == 1 or prompts == 1 < self.prompts  # would need another graph
        if compiled is None or has_size_one:
            attention = StepAttention(self)
            hidden = packed_forward(self.body, tokens, self.position, attention)
            attention.check()
            return hidden
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        name = type(self.body).__name__
        log_once(f"compiling the decoding step of {name}: the first step may take minutes")
        try:
            return self._compiled_hidden(tokens, compiled)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            del _COMPILED[self.body]
            reason = str(error).strip().partition("\n")[0]
            log_once(f"the decoding step of {name} is not compiled: {type(error).__name__}: {reason}")
            return self._next_hidden(tokens)

    def _slot_inputs(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and positions of the slots, and the number of earlier tokens [1]."""
        tokens, position = (t.index_select(0, self.occupant) for t in (tokens, self.position))
        return tokens, position, torch.full((1,), self.decoded, device=tokens.device)

    def _replayed_hidden(self, tokens: Tensor, record: Recorder) -> Tensor:
        inputs = self._slot_inputs(tokens)
        if self.recorded is None or self.recorded[0] is not self.layers:
            layers, invisible, sizes = self.layers, self.invisible, self.sizes

            def step(tokens: Tensor, position: Tensor, now: Tensor) -> Tensor:
                with shared_prefix_attention(self.body):
                    return _step(self.body, tokens, position, layers, now, invisible, sizes)

            self.recorded = None  # its memory is free before the next recording
            self.recorded = layers, Replay(step, inputs, record)
        return self.recorded[1](*inputs).index_select(0, self.slots)

    def _compiled_hidden(self, tokens: Tensor, compiled: Callable[..., Tensor]) -> Tensor:
        if self.marked is not self.layers:
            self.marked = self.layers
            for states in chain.from_iterable(self.layers):
                # The number of heads and their width never change, even if other sizes happen to equal them.
                torch._dynamo.mark_static(states, [1, states.dim() - 1])
        tokens, position, now = self._slot_inputs(tokens)
        with shared_prefix_attention(self.body):
            hidden = compiled(self.body, tokens, position, self.layers, now, self.invisible, self.sizes)
        return hidden.index_select(0, self.slots)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows except some, given by their ascending indices [R'] among the present rows."""
        old_slots = self.slots[rows]  # [R']
        prompts, group, counts = torch.unique_consecutive(self.group[rows], return_inverse=True, return_counts=True)
        P, A = len(prompts), int(counts.max())
        index = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[group]  # within the prompt
        source = torch.zeros(P, A, dtype=torch.long, device=rows.device)
        source[group, index] = old_slots
        self.layers = [self._select(layer, prompts, source) for layer in self.layers]
        self.invisible = None if self.invisible is None else self.invisible[prompts]
        self.sizes = self.sizes[prompts]
        self.group, self.position, self.hidden = group, self.position[rows], self.hidden[rows]
        self.slots, self.A, self.even = group * A + index, A, len(rows) == P * A
        self.occupant = torch.zeros(P * A, dtype=torch.long, device=rows.device)
        self.occupant[self.slots] = torch.arange(len(rows), device=rows.device)

    def _grow(self, layer: Layer) -> Layer:
        """The layer with room for `capacity` tokens per slot."""
        extra = self.capacity - self.decoded
        own = (nn.functional.pad(cache, (0, 0, 0, extra)) for cache in (layer.key, layer.value))
        return Layer(layer.prompt_key, layer.prompt_value, *own)

    def _select(self, layer: Layer, prompts: Tensor, source: Tensor) -> Layer:
        """The layer with only these prompts; new slot [P', A'] takes the content of old slot `source`."""
        own = []
        for cache in (layer.key, layer.value):
            moved = cache.transpose(1, 2)[source // self.A, source % self.A, :, : self.decoded]  # [P', A', K, t, D]
            selected = cache.new_zeros(len(prompts), cache.shape[1], source.shape[1], *cache.shape[3:])
            selected[:, :, :, : self.decoded] = moved.transpose(1, 2)
            own.append(selected)
        shared = layer.prompt_key, layer.prompt_value
        if len(prompts) < len(layer.key):
            shared = layer.prompt_key[prompts], layer.prompt_value[prompts]
        return Layer(*shared, *own)


class StepAttention:
    """Attention of a decoding step, for all calls of one forward pass in their order."""

    def __init__(self, decoder: PackedDecoder) -> None:
        self.decoder, self.calls = decoder, 0
        self.hidden: dict[VisibleKeys | None, Hidden] = {}

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Attention of one token per row, query [R, H, D], key and value [R, K, D], to its prompt and its own row."""
        decoder, call, visible = self.decoder, self.calls, rule.visible
        self.calls += 1
        if call == len(decoder.layers) or decoder.modules[call] is not module:
            raise Unsupported("its calls of attention differ from token to token")
        if visible not in self.hidden:
            layer, now = decoder.layers[call], decoder.decoded
            self.hidden[visible] = _hidden(visible, layer, now, decoder.invisible, decoder.sizes)
        if not decoder.even:
            query, key, value = (states.index_select(0, decoder.occupant) for states in (query, key, value))
        out = _attend(decoder.layers[call], query, key, value, rule, decoder.decoded, self.hidden[visible])
        return out if decoder.even else out.index_select(0, decoder.slots)

    def check(self) -> None:
        """Raise Unsupported if the pass has left out a call."""
        if self.calls != len(self.decoder.layers):
            raise Unsupported("its calls of attention differ from token to token")


def _hidden(
    visible: VisibleKeys | None, layer: Layer, now: int | Tensor, invisible: Tensor | None, sizes: Tensor
) -> Hidden:
    """The hidden keys of a step.

    now: the number of earlier tokens of each row. As a tensor [1] it allows one compiled graph for all steps;
        attention is then computed over the whole capacity and masked.
    """
    length, capacity, own = layer.prompt_key.shape[2], layer.key.shape[3], None
    width = now + 1 if isinstance(now, int) else capacity
    if isinstance(now, Tensor):
        own = (torch.arange(width, device=now.device) > now).view(1, 1, 1, -1)
    if visible is None or length + width <= visible.reach:
        return Hidden(invisible, own)
    query = (sizes + now).unsqueeze(-1)
    before = visible.hidden(query, torch.arange(length, device=sizes.device).expand(len(sizes), -1))
    outside = visible.hidden(query, sizes.unsqueeze(-1) + torch.arange(width, device=sizes.device))
    return Hidden(
        before if invisible is None else before | invisible,
        outside if own is None else outside | own,
    )


def _attend(
    layer: Layer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rule: Rule,
    now: int | Tensor,
    hidden: Hidden,
) -> Tensor:
    """Attention of one token per slot to its prompt and to the earlier tokens of its slot.

    query [P * A, H, D], key and value [P * A, K, D] -> [P * A, H, D].
    now: see `_hidden`.
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
    query = (query * rule.scaling).reshape(P, A, K, per_key, D).transpose(1, 2).reshape(P * K, A * per_key, D)
    queries = query.reshape(P * K * A, per_key, D)
    shared = torch.bmm(query, layer.prompt_key.flatten(0, 1).transpose(1, 2))
    own = torch.bmm(queries, own_key.transpose(1, 2)).view(P * K, A * per_key, width)
    scores = [_mask(score, mask, rule.cap, P) for score, mask in ((shared, hidden.prompt), (own, hidden.own))]
    if rule.sink is not None:
        sink = rule.sink.to(query.dtype).view(1, K, 1, per_key).expand(P, K, A, per_key)
        scores.append(sink.reshape(P * K, A * per_key, 1))
    weight = torch.cat(scores, -1).softmax(-1, dtype=_softmax_dtype(query)).to(query.dtype)
    out = torch.bmm(weight.narrow(2, 0, L), layer.prompt_value.flatten(0, 1)).view(P * K * A, per_key, D)
    out.baddbmm_(weight.view(P * K * A, per_key, weight.shape[-1]).narrow(2, L, width), own_value)
    return out.view(P, K, A, per_key, D).transpose(1, 2).reshape(P * A, K * per_key, D)


def _mask(score: Tensor, hidden: Tensor | None, cap: float | None, prompts: int) -> Tensor:
    """Scores [P * K, M, L], capped, with -inf on hidden keys [P or 1, 1, 1, L]."""
    score = score if cap is None else cap_scores(score, cap)
    if hidden is None:
        return score
    return score.unflatten(0, (prompts, -1)).masked_fill(hidden, -torch.inf).flatten(0, 1)


def _step(
    body: nn.Module,
    tokens: Tensor,
    position: Tensor,
    layers: list[Layer],
    now: Tensor,
    invisible: Tensor | None,
    sizes: Tensor,
) -> Tensor:
    """The function that is compiled: last hidden states [P * A, D] of one token per slot."""
    calls = iter(layers)

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        layer = next(calls)
        return _attend(layer, query, key, value, rule, now, _hidden(rule.visible, layer, now, invisible, sizes))

    return hidden_states(body, tokens, position, attention)


def _softmax_dtype(states: Tensor) -> torch.dtype:
    return torch.float64 if states.dtype == torch.float64 else torch.float32
