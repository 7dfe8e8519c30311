"""Attention in which the completions of a group share the keys and values of their prompt.

Tokens are packed without padding into one sequence [1, N]: each prompt once, then the tokens of all completions.
Attention is the only part of a model in which tokens interact. It is replaced, through transformers' attention
interface, by functions that know which row each token belongs to. A completion token attends to two blocks of keys:
its prompt's and its own row's. The two results are merged exactly with their logsumexp (Milakov & Gimelshein, 2018,
arXiv:1805.02867; Dao et al., 2022, arXiv:2205.14135).

`supports_shared_prefix` decides whether a model can be used this way, by a trial on a few tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from launch.runs.console import console
from llm.inference.prompts import Prompts

NAME = "shared_prefix"
IGNORED_KEYWORDS = {"position_ids", "use_cache", "cache_position", "is_causal"}  # they do not change attention here
FUSED = {"cpu"}  # devices with a fused operator that also returns the logsumexp
MAX_SCORES = 2**26  # on other devices: attention scores in memory at a time

Attention = Callable[[nn.Module, Tensor, Tensor, Tensor, float], Tensor]


class Unsupported(Exception):
    """The model's attention is not plain softmax(query key) value over all earlier tokens."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prefix: Attention,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer.

    query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D].

    Raises:
        Unsupported: a keyword requests a feature that is not implemented here: sliding window, capped scores, bias,
            sinks.
    """
    options = {name for name, option in others.items() if option is not None and option is not False}
    unsupported = options - IGNORED_KEYWORDS
    if unsupported or dropout or attention_mask is not None:
        raise Unsupported(f"attention with {', '.join(sorted(unsupported)) or 'dropout or a mask'}")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    return shared_prefix(module, query, key, value, scaling).unsqueeze(0), None


AttentionInterface.register(NAME, attend)


@contextmanager
def shared_prefix_attention(body: nn.Module) -> Iterator[None]:
    """Context in which every layer of `body` uses `attend`."""
    if body not in _CONFIGS:
        _CONFIGS[body] = list({id(m.config): m.config for m in body.modules() if hasattr(m, "config")}.values())
    configs = _CONFIGS[body]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def supports_shared_prefix(body: PreTrainedModel) -> bool:
    """Whether `body` can process packed sequences. If not, the reason is logged once."""
    if body not in _REASONS:
        _REASONS[body] = _unsupported_reason(body)
    reason = _REASONS[body]
    if getattr(body, "is_activation_checkpointing", False) and body.training and torch.is_grad_enabled():
        reason = "gradient checkpointing is on"  # its second forward pass would lack the packing
    if reason is not None:
        log_once(f"{type(body).__name__} computes a prompt's keys and values once for each completion: {reason}")
    return reason is None


_CONFIGS: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
_REASONS: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


@cache
def log_once(text: str) -> None:
    """Print a message unless it was printed before."""
    console.print(text)


@torch.no_grad()
def _unsupported_reason(body: PreTrainedModel) -> str | None:
    """Why `body` cannot process packed sequences: its architecture, or a trial that differs from row by row."""
    if not getattr(body, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    layer_types = set(getattr(body.config, "layer_types", None) or ()) - {"full_attention"}
    if layer_types:
        return f"it has layers of {', '.join(sorted(layer_types))}"
    device = body.device
    ids = torch.arange(12, device=device) % body.config.vocab_size
    prompts = Prompts(ids[:6].view(2, 3), torch.tensor([[0, 1, 1], [1, 1, 1]], device=device).bool())
    tokens, lengths = ids[4:].view(4, 2), torch.tensor([1, 2, 0, 2], device=device)
    packing = Packing(prompts, tokens, lengths)
    try:
        packed = packing.forward(body)
    except Unsupported as error:
        return str(error)
    except (RuntimeError, TypeError) as error:  # heads of unequal widths, or layers that pass no keywords on
        return f"its attention fails with packed tokens ({type(error).__name__})"
    start, error_norm = packing.prompts.stop, 0.0
    for row, length in enumerate(lengths.tolist()):
        prompt = prompts.ids[row // 2][prompts.mask[row // 2]]
        ids = torch.cat([prompt, tokens[row, :length]]).unsqueeze(0)
        alone = body(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) :]
        error_norm += float((alone - packed[start : start + length]).float().norm() / packed.float().norm())
        start += length
    if not error_norm < torch.finfo(packed.dtype).eps ** 0.5:
        return f"a trial differs from processing row by row ({error_norm:.1e} of the hidden states' norm)"
    return None


def packed_forward(body: nn.Module, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """Last hidden states [N, D] of packed tokens with their positions, [N] each."""
    with shared_prefix_attention(body):
        return hidden_states(body, ids, positions, attention)


def hidden_states(body: nn.Module, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """`packed_forward` for a caller that has entered `shared_prefix_attention`."""
    output = body(
        input_ids=ids.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        use_cache=False,
        shared_prefix=attention,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


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
        used = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(-1)
        position = torch.arange(tokens.shape[1], device=tokens.device) + sizes.repeat_interleave(group).unsqueeze(-1)
        prompt_position = prompts.mask.cumsum(-1) - 1
        self.ids = torch.cat([prompts.ids[prompts.mask], tokens[used]])  # [N]
        self.positions = torch.cat([prompt_position[prompts.mask], position[used]])
        # With prompts of unequal length, the padding that completions must not attend to.
        self.invisible = None if self.prompts.even else ~self.prompts.mask[:, None, None, :]

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of all packed tokens, query [N, H, D], key and value [N, K, D] -> [N, H, D]."""
        return PackedAttention.apply(query, key, value, self, scaling)

    def forward(self, body: nn.Module) -> Tensor:
        """Last hidden states [N, D] of the packed sequence."""
        return packed_forward(body, self.ids, self.positions, self)

    def preceding(self, mask: Tensor) -> Tensor:
        """Packed index of the token before each completion token, i.e. each True of mask [P * G, T]: [n]."""
        group = len(mask) // self.prompts.batch
        start = self.prompts.ends.repeat_interleave(group).unsqueeze(-1) - 1
        first = self.rows.ends - (mask.sum(-1) - 1).clamp_min(0)
        later = first.unsqueeze(-1) + torch.arange(mask.shape[1] - 1, device=mask.device)
        return torch.cat([start, later], -1)[mask]


class PackedAttention(torch.autograd.Function):
    """Causal attention within each prompt, and of each completion to its prompt and itself.

    In the backward pass, with P = exp(S - logsumexp over both blocks), each block contributes the gradient of
    ordinary attention whose output and logsumexp are the merged ones. Besides the inputs, only these two are saved.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
        """query [N, H, D], key and value [N, K, D] -> [N, H, D]."""
        prompts, rows, groups = packing.prompts, packing.rows, packing.groups
        prompt_key, prompt_value = prompts.pad(key), prompts.pad(value)
        out, lse = attention_block(prompts.pad(query), prompt_key, prompt_value, True, None, scaling)
        out, lse = prompts.pack(out), prompts.pack(lse)
        if rows.count:
            shared, shared_lse = attention_block(
                groups.pad(query), prompt_key, prompt_value, False, packing.invisible, scaling
            )
            own, own_lse = attention_block(rows.pad(query), rows.pad(key), rows.pad(value), True, None, scaling)
            merged = merge_attention(groups.pack(shared), groups.pack(shared_lse), rows.pack(own), rows.pack(own_lse))
            out, lse = torch.cat([out, merged[0]]), torch.cat([lse, merged[1]])
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.packing, ctx.scaling = packing, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, out, lse = ctx.saved_tensors
        packing, scaling = ctx.packing, ctx.scaling
        prompts, rows, groups = packing.prompts, packing.rows, packing.groups

        def block_gradients(
            queries: PaddedRows, keys: PaddedRows, causal: bool, invisible: Tensor | None
        ) -> list[Tensor]:
            d_query, d_key, d_value = attention_block_backward(
                queries.pad_zero(grads[0]),
                queries.pad(query),
                keys.pad(key),
                keys.pad(value),
                queries.pad(out),
                queries.pad(lse),
                causal=causal,
                invisible=invisible,
                scaling=scaling,
            )
            return [queries.pack(d_query), keys.pack(d_key), keys.pack(d_value)]

        d_prompts = block_gradients(prompts, prompts, True, None)
        if not rows.count:
            return (*d_prompts, None, None)
        d_query, d_key, d_value = block_gradients(groups, prompts, False, packing.invisible)
        d_rows = block_gradients(rows, rows, True, None)
        d_prompts[1] += d_key
        d_prompts[2] += d_value
        d_rows[0] += d_query
        return (*(torch.cat(pair) for pair in zip(d_prompts, d_rows, strict=True)), None, None)


def merge_attention(a: Tensor, a_lse: Tensor, b: Tensor, b_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Combine attention over two sets of keys: outputs a, b [..., D] and the logsumexp of their scores [...]."""
    share = (a_lse - b_lse).sigmoid().unsqueeze(-1)
    return torch.lerp(b, a, share.to(a.dtype)), torch.logaddexp(a_lse, b_lse)


def attention_block(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, invisible: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """softmax(query key) value and the logsumexp of its scores, over one block of keys.

    query [B, H, M, D], key and value [B, K, L, D] -> [B, H, M, D], [B, H, M] float.
    invisible: [B, 1, 1, L] bool, True on keys that no query attends to.
    """
    if query.device.type in FUSED:
        mask = None if invisible is None else additive_mask(invisible, query)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
        )
    key, value = (repeat_heads(states, query) for states in (key, value))

    def forward(query: Tensor, key: Tensor, value: Tensor, invisible: Tensor | None) -> tuple[Tensor, ...]:
        score = attention_scores(query, key, causal, invisible, scaling)
        lse = score.logsumexp(-1)
        return score.sub_(lse.unsqueeze(-1)).exp_().to(value.dtype) @ value, lse

    out, lse = in_chunks(forward, query, key, value, invisible)
    return out, lse


def attention_block_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    invisible: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block's contribution to the gradients of query, key and value; out and lse are those over all blocks."""
    if query.device.type in FUSED:
        mask = None if invisible is None else additive_mask(invisible, query)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, attn_mask=mask, scale=scaling
        )
    heads = key.shape[1]
    key, value = (repeat_heads(states, query) for states in (key, value))

    def backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, invisible: Tensor | None
    ) -> tuple[Tensor, ...]:
        weight = attention_scores(query, key, causal, invisible, scaling).sub_(lse.unsqueeze(-1)).exp_()
        delta = (grad.to(lse.dtype) * out).sum(-1, keepdim=True)
        d_score = ((grad @ value.transpose(-1, -2)).sub(delta).mul_(weight) * scaling).to(query.dtype)
        d_value = weight.to(grad.dtype).transpose(-1, -2) @ grad
        return d_score @ key, d_score.transpose(-1, -2) @ query, d_value

    d_query, d_key, d_value = in_chunks(backward, grad, query, key, value, out, lse, invisible)
    # Several query heads may share one key head.
    d_key, d_value = (states.unflatten(1, (heads, -1)).sum(2) for states in (d_key, d_value))
    return d_query, d_key, d_value


def in_chunks(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Apply a function to chunks of the batch of tensors [B, H, T, ...], each with at most `MAX_SCORES` scores."""
    shapes = [t.shape for t in tensors if t is not None]
    batch = max(MAX_SCORES // (shapes[0][1] * shapes[0][2] * max(shape[2] for shape in shapes)), 1)
    chunks = [
        function(*(t if t is None else t[first : first + batch] for t in tensors))
        for first in range(0, shapes[0][0], batch)
    ]
    return tuple(torch.cat(column) for column in zip(*chunks, strict=True))


def attention_scores(query: Tensor, key: Tensor, causal: bool, invisible: Tensor | None, scaling: float) -> Tensor:
    """query key * scaling in at least float32: [B, H, M, L], -inf for keys that are not attended to."""
    score = query @ key.transpose(-1, -2) * scaling
    score = score if score.dtype == torch.float64 else score.float()
    if invisible is not None:
        score = score.masked_fill(invisible, -torch.inf)
    if causal:
        later = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).triu(1)
        score = score.masked_fill(later, -torch.inf)
    return score


def additive_mask(invisible: Tensor, like: Tensor) -> Tensor:
    """The mask that fused attention adds to the scores: -inf on invisible keys, else 0."""
    return torch.zeros(invisible.shape, dtype=like.dtype, device=like.device).masked_fill(invisible, -torch.inf)


def repeat_heads(states: Tensor, query: Tensor) -> Tensor:
    """Repeat keys or values for the query heads that share them: [B, K, L, D] -> [B, H, L, D]."""
    times = query.shape[1] // states.shape[1]
    return states if times == 1 else states.repeat_interleave(times, 1)
