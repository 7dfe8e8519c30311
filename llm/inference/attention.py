"""Attention in which the completions of a group share the keys and values of their prompt.

Tokens are packed without padding into one sequence [1, N]: each prompt once, then the tokens of all completions.
Attention is the only part of a model in which tokens interact. It is replaced, through transformers' attention
interface, by functions that know which row each token belongs to. A completion token attends to two blocks of keys:
its prompt's and its own row's. The two results are merged exactly (`llm.inference.blocks`).

Which earlier tokens a layer attends to is asked of the model: transformers' mask interface passes the function of
two positions that defines the mask of each kind of layer, for example of a sliding window.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from launch.runs.console import console
from llm.inference import flash
from llm.inference.blocks import (
    Rule,
    VisibleKeys,
    attention_block,
    attention_block_backward,
    merge_attention,
    merge_sink,
    sink_gradient,
)
from llm.inference.prompts import Prompts
from llm.inference.temporary import temporarily

NAME = "shared_prefix"
# Keywords that do not change attention here. The sliding window is in the mask, as with eager attention.
IGNORED_KEYWORDS = {"position_ids", "use_cache", "cache_position", "is_causal", "sliding_window"}

Attention = Callable[[nn.Module, Tensor, Tensor, Tensor, Rule], Tensor]


class Unsupported(Exception):
    """The model's attention has a feature that is not implemented here."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: VisibleKeys | None,
    *,
    shared_prefix: Attention | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer.

    query [1, H, N, D], key [1, K, N, D], value [1, K, N, D'] -> [1, N, H, D'].
    attention_mask is what `visible_keys` returned for layers of this type; softcap is the cap and s_aux the sink of
    a `Rule`.

    Raises:
        Unsupported: a keyword or mask requests another feature.
    """
    if shared_prefix is None:
        raise Unsupported("its layers pass no keywords to their attention")
    options = {name for name, option in others.items() if option is not None and option is not False}
    unsupported = sorted(options - IGNORED_KEYWORDS)
    if unsupported or dropout or not isinstance(attention_mask, VisibleKeys | None):
        raise Unsupported(f"attention with {', '.join(unsupported) or 'dropout or a mask of its own'}")
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, attention_mask, s_aux)
    width = value.shape[-1]
    query, key, value = (states[0].transpose(0, 1) for states in _equal_widths(query, key, value))
    return shared_prefix(module, query, key, value, rule)[..., :width].unsqueeze(0), None


def _equal_widths(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Append zeros to heads whose values are narrower or wider than their keys, as in DeepSeek-V3."""
    if query.shape[-1] == value.shape[-1]:
        return query, key, value
    width = max(query.shape[-1], value.shape[-1])
    return tuple(nn.functional.pad(states, (0, width - states.shape[-1])) for states in (query, key, value))


def visible_keys(
    *, mask_function: Callable[..., Tensor], local_size: int | None = None, use_vmap: bool = False, **_: Any
) -> VisibleKeys | None:
    """The mask function that transformers calls for every type of layer; None where all earlier tokens are visible.

    Args:
        mask_function: of batch index, head index, query position and key position, True on visible keys.
        local_size: size of the sliding window or of the chunks.
        use_vmap: whether the model has added a function of its own.
    """
    if mask_function is causal_mask_function:
        return None
    if use_vmap:
        raise Unsupported("attention with a mask of its own")
    return VisibleKeys(mask_function, local_size or 0)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, visible_keys)


def shared_prefix_attention(body: nn.Module) -> AbstractContextManager[None]:
    """Context in which every layer of `body` uses `attend`."""
    return temporarily((config, "_attn_implementation", NAME) for config in model_configs(body))


def model_configs(body: nn.Module) -> list[Any]:
    """The configurations that the modules of `body` refer to."""
    if body not in _CONFIGS:
        _CONFIGS[body] = list({id(m.config): m.config for m in body.modules() if hasattr(m, "config")}.values())
    return _CONFIGS[body]


_CONFIGS: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()


@cache
def log_once(text: str) -> None:
    """Print a message unless it was printed before."""
    console.print(text)


def packed_forward(body: nn.Module, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """Last hidden states [N, D] of packed tokens with their positions, [N] each."""
    with shared_prefix_attention(body):
        return hidden_states(body, ids, positions, attention)


def hidden_states(body: nn.Module, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """`packed_forward` for a caller that has entered `shared_prefix_attention`."""
    output = body(
        input_ids=ids.unsqueeze(0),
        # Without a mask transformers would look for packed sequences in the positions.
        attention_mask=torch.ones_like(ids, dtype=torch.bool).unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        use_cache=False,
        shared_prefix=attention,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def packed_hidden(body: PreTrainedModel, prompts: Prompts, tokens: Tensor, mask: Tensor) -> Tensor:
    """`llm.inference.logprobs.completion_hidden` with prompts and completions packed into one sequence."""
    packing = Packing(prompts, tokens[:, :-1], mask[:, 1:].sum(-1))
    return packing.forward(body).index_select(0, packing.preceding(mask))


class PaddedRows:
    """B consecutive rows of a packed sequence, and their conversion to a padded batch and back.

    Args:
        lengths: [B] number of tokens in each row.
        start: index in the packed sequence at which the first row starts.
    """

    def __init__(self, lengths: Tensor, start: int) -> None:
        sizes = lengths.tolist()
        self.batch, self.width, self.count = len(sizes), max(sizes), sum(sizes)
        self.start, self.stop = start, start + self.count
        self.even = min(sizes) == self.width  # no padding is needed
        self.ends = start + lengths.cumsum(0)  # [B]
        self.mask = torch.arange(self.width, device=lengths.device) < lengths.unsqueeze(-1)  # [B, width]
        index = (self.ends - lengths).unsqueeze(-1) + torch.arange(self.width, device=lengths.device)
        self.index = index.clamp_max(max(self.stop - 1, 0)).flatten()
        self.unpadded = self.mask.flatten().nonzero().squeeze(-1)
        self.lengths = lengths

    def sequences(self) -> flash.Sequences:
        """The rows as `llm.inference.flash` takes them, from the first one on."""
        starts = nn.functional.pad(self.lengths.cumsum(0, dtype=torch.int32), (1, 0))
        return flash.Sequences(starts, self.width)

    def pad(self, packed: Tensor) -> Tensor:
        """[N, H, ...] -> [B, H, width, ...]. The padding holds arbitrary finite values."""
        rows = packed[self.start : self.stop] if self.even else packed.index_select(0, self.index)
        return rows.unflatten(0, (self.batch, self.width)).transpose(1, 2)

    def pad_zero(self, packed: Tensor) -> Tensor:
        """`pad` with zeros in the padding."""
        padded = self.pad(packed)
        return padded if self.even else padded * self.mask[:, None, :, None]

    def pack(self, padded: Tensor) -> Tensor:
        """[B, H, width, ...] -> [count, H, ...]."""
        rows = padded.transpose(1, 2).flatten(0, 1)
        return rows if self.even else rows.index_select(0, self.unpadded)


class Block(NamedTuple):
    """Queries and the keys they attend to: `causal` and `hidden` as in `attention_block`.

    masked: whether more is hidden than the padding of the keys.
    """

    queries: PaddedRows
    keys: PaddedRows
    causal: bool
    hidden: Tensor | None = None
    masked: bool = False

    def forward(self, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        """Output and logsumexp of the block's queries, packed, from all packed states."""
        kernels = self._kernels(query, key, rule)
        if kernels is not None:
            states = self._packed(query, key, value)
            sequences = self.queries.sequences(), self.keys.sequences()
            return flash.forward(kernels, states, *sequences, self.causal, rule.scaling)
        padded = self.queries.pad(query), self.keys.pad(key), self.keys.pad(value)
        out, lse = attention_block(*padded, self.causal, self.hidden, rule.scaling, rule.cap)
        return self.queries.pack(out), self.queries.pack(lse)

    def backward(
        self, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, rule: Rule
    ) -> list[Tensor]:
        """The block's part of the gradients of its queries, keys and values, packed."""
        queries, keys = self.queries, self.keys
        kernels = self._kernels(query, key, rule)
        if kernels is not None:
            rows = slice(queries.start, queries.stop)
            sequences, merged = (queries.sequences(), keys.sequences()), (out[rows], lse[rows])
            states = self._packed(query, key, value)
            return list(flash.backward(kernels, grad[rows], states, merged, *sequences, self.causal, rule.scaling))
        d_query, d_key, d_value = attention_block_backward(
            queries.pad_zero(grad),
            queries.pad(query),
            keys.pad(key),
            keys.pad(value),
            queries.pad(out),
            queries.pad(lse),
            causal=self.causal,
            hidden=self.hidden,
            scaling=rule.scaling,
            cap=rule.cap,
        )
        return [queries.pack(d_query), keys.pack(d_key), keys.pack(d_value)]

    def _packed(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys = slice(self.keys.start, self.keys.stop)
        return query[self.queries.start : self.queries.stop], key[keys], value[keys]

    def _kernels(self, query: Tensor, key: Tensor, rule: Rule) -> flash.Kernels | None:
        return None if self.masked or rule.cap is not None else flash.kernels_for(query, key)


class Packing:
    """P prompts and P * G completions as one packed sequence, and attention over it.

    Args:
        prompts: P prompts.
        tokens: [P * G, T] completion tokens, G consecutive rows per prompt.
        lengths: [P * G] how many tokens of each row are used, counted from the first.
    """

    def __init__(self, prompts: Prompts, tokens: Tensor, lengths: Tensor) -> None:
        sizes = prompts.mask.sum(-1)
        group = len(tokens) // len(sizes)
        self.prompts = PaddedRows(sizes, 0)
        self.rows = PaddedRows(lengths, self.prompts.stop)
        self.groups = PaddedRows(lengths.view(-1, group).sum(-1), self.prompts.stop)
        self.starts = sizes.repeat_interleave(group)  # [P * G] position of each row's first token
        used = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(-1)
        position = torch.arange(tokens.shape[1], device=tokens.device) + self.starts.unsqueeze(-1)
        prompt_position = prompts.mask.cumsum(-1) - 1
        self.ids = torch.cat([prompts.ids[prompts.mask], tokens[used]])  # [N]
        self.positions = torch.cat([prompt_position[prompts.mask], position[used]])
        # With prompts of unequal length, the padding that completions must not attend to.
        self.invisible = None if self.prompts.even else ~self.prompts.mask[:, None, None, :]
        self._blocks: dict[VisibleKeys | None, tuple[Block, ...]] = {}

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Attention of all packed tokens, query [N, H, D], key and value [N, K, D] -> [N, H, D]."""
        return PackedAttention.apply(query, key, value, rule.sink, self.blocks(rule.visible), rule)

    def forward(self, body: nn.Module) -> Tensor:
        """Last hidden states [N, D] of the packed sequence."""
        return packed_forward(body, self.ids, self.positions, self)

    def blocks(self, visible: VisibleKeys | None) -> tuple[Block, ...]:
        """Prompts to themselves and, with completions, groups to their prompts and rows to themselves."""
        if visible is not None and self.prompts.width + self.rows.width <= visible.reach:
            visible = None
        if visible not in self._blocks:
            self._blocks[visible] = self._plain_blocks() if visible is None else self._masked_blocks(visible)
        return self._blocks[visible]

    def _plain_blocks(self) -> tuple[Block, ...]:
        prompts, rows, groups = self.prompts, self.rows, self.groups
        completions = (Block(groups, prompts, False, self.invisible), Block(rows, rows, True))
        return (Block(prompts, prompts, True), *(completions if rows.count else ()))

    def _masked_blocks(self, visible: VisibleKeys) -> tuple[Block, ...]:
        """The blocks with masks, which contain the causal order."""
        prompts, rows, groups = self.prompts, self.rows, self.groups
        device = self.positions.device
        prompt = torch.arange(prompts.width, device=device).expand(prompts.batch, -1)
        own = torch.arange(rows.width, device=device) + self.starts.unsqueeze(-1)
        first = Block(prompts, prompts, False, visible.hidden(prompt, prompt), masked=True)
        if not rows.count:
            return (first,)
        shared = visible.hidden(groups.pad(self.positions.unsqueeze(-1)).squeeze(1), prompt)
        shared = shared if self.invisible is None else shared | self.invisible
        return (
            first,
            Block(groups, prompts, False, shared, masked=True),
            Block(rows, rows, False, visible.hidden(own, own), masked=True),
        )

    def preceding(self, mask: Tensor) -> Tensor:
        """Packed index of the token before each completion token, i.e. each True of mask [P * G, T]: [n]."""
        group = len(mask) // self.prompts.batch
        start = self.prompts.ends.repeat_interleave(group).unsqueeze(-1) - 1
        first = self.rows.ends - (mask.sum(-1) - 1).clamp_min(0)
        later = first.unsqueeze(-1) + torch.arange(mask.shape[1] - 1, device=mask.device)
        return torch.cat([start, later], -1)[mask]


class PackedAttention(torch.autograd.Function):
    """Causal attention within each prompt, and of each completion to its prompt and itself.

    For the backward pass, only the inputs, the merged output and its logsumexp are saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sink: Tensor | None,
        blocks: tuple[Block, ...],
        rule: Rule,
    ) -> Tensor:
        """query [N, H, D], key and value [N, K, D], sink [H] -> [N, H, D]."""
        prompts, *completions = blocks
        out, lse = prompts.forward(query, key, value, rule)
        if completions:
            shared, own = (block.forward(query, key, value, rule) for block in completions)
            merged = merge_attention(*shared, *own)
            out, lse = torch.cat([out, merged[0]]), torch.cat([lse, merged[1]])
        if sink is not None:
            out, lse = merge_sink(out, lse, sink)
        ctx.save_for_backward(query, key, value, sink, out, lse)
        ctx.blocks, ctx.rule = blocks, rule._replace(sink=None)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key, value and sink."""
        query, key, value, sink, out, lse = ctx.saved_tensors
        saved = grads[0], query, key, value, out, lse, ctx.rule
        prompts, *completions = ctx.blocks
        d_states = prompts.backward(*saved)
        if completions:
            (d_query, d_key, d_value), d_rows = (block.backward(*saved) for block in completions)
            d_states[1] += d_key
            d_states[2] += d_value
            d_rows[0] += d_query
            d_states = [torch.cat(pair) for pair in zip(d_states, d_rows, strict=True)]
        d_sink = None if sink is None else sink_gradient(grads[0], out, lse, sink)
        return (*d_states, d_sink, None, None)
