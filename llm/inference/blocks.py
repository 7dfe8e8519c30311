"""Attention of queries to one block of keys, with its logsumexp, so that several blocks can be merged exactly.

The results of two blocks are merged with their logsumexp (Milakov & Gimelshein, 2018, arXiv:1805.02867; Dao et al.,
2022, arXiv:2205.14135). In the backward pass, with weights exp(score - logsumexp over all blocks), each block
contributes the gradient of ordinary attention whose output and logsumexp are the merged ones.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

FUSED = {"cpu"}  # devices with a fused operator that also returns the logsumexp
MAX_SCORES = 2**26  # without it: attention scores in memory at a time


class VisibleKeys(NamedTuple):
    """Which keys a query attends to, as a function of their positions: a sliding window or chunks.

    function: one of transformers' mask functions, of batch index, head index, query position and key position.
    reach: in sequences of at most `reach` tokens, all earlier tokens are visible.
    """

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    reach: int

    def hidden(self, query: Tensor, key: Tensor) -> Tensor:
        """True where a query does not attend to a key: positions [B, M] and [B, L] -> [B, 1, M, L]."""
        first = query.new_zeros(1, 1, 1, 1)  # the masks are the same for all sequences and heads
        return ~self.function(first, first, query[:, None, :, None], key[:, None, None, :])


class Rule(NamedTuple):
    """How a layer computes attention from query, key and value.

    scaling: factor of the scores.
    cap: if given, scores are cap * tanh(score / cap), as in Gemma 2.
    visible: which earlier tokens are attended to; None: all.
    sink: [H] logit in the softmax of each query head that belongs to no key, as in gpt-oss.
    """

    scaling: float
    cap: float | None = None
    visible: VisibleKeys | None = None
    sink: Tensor | None = None


def merge_attention(a: Tensor, a_lse: Tensor, b: Tensor, b_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Combine attention over two sets of keys: outputs a, b [..., D] and the logsumexp of their scores [...]."""
    share = (a_lse - b_lse).sigmoid().unsqueeze(-1)
    return torch.lerp(b, a, share.to(a.dtype)), torch.logaddexp(a_lse, b_lse)


def merge_sink(out: Tensor, lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Add a sink, a key with value 0 and score `sink` [H], to attention out [N, H, D] with logsumexp lse [N, H]."""
    sink = sink.to(lse.dtype)
    return out * (lse - sink).sigmoid().unsqueeze(-1).to(out.dtype), torch.logaddexp(lse, sink)


def sink_gradient(grad: Tensor, out: Tensor, lse: Tensor, sink: Tensor) -> Tensor:
    """Gradient of the sink [H], from out [N, H, D], its gradient, and lse [N, H], all with the sink merged.

    A sink of weight w is a key of value 0, so that its score has the gradient w (0 - grad out).
    """
    delta = (grad.to(lse.dtype) * out).sum(-1)
    return -((sink.to(lse.dtype) - lse).exp() * delta).sum(0).to(sink.dtype)


def attention_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    hidden: Tensor | None,
    scaling: float,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(query key) value and the logsumexp of its scores, over one block of keys.

    query [B, H, M, D], key and value [B, K, L, D] -> [B, H, M, D], [B, H, M] float.
    hidden: [B, 1, 1 or M, L] bool, True on keys that a query does not attend to. Queries without any key get a
        finite output and the logsumexp -inf.
    cap: see `Rule`.
    """
    if query.device.type in FUSED and cap is None:
        out, lse = _by_mask(_fused, hidden, query, key, value, causal=causal, scaling=scaling)
        if hidden is not None and hidden.shape[2] > 1:
            lse = lse.masked_fill(hidden.all(-1), -torch.inf)  # the operator returns 0
        return out, lse
    key, value = (repeat_heads(states, query) for states in (key, value))

    def forward(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None) -> tuple[Tensor, ...]:
        score = mask_scores(attention_scores(query, key, scaling, cap), causal, hidden)
        lse = score.logsumexp(-1)
        finite = lse.clamp_min(torch.finfo(lse.dtype).min)
        return score.sub_(finite.unsqueeze(-1)).exp_().to(value.dtype) @ value, lse

    out, lse = in_chunks(forward, query, key, value, hidden)
    return out, lse


def attention_block_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    hidden: Tensor | None,
    scaling: float,
    cap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block's contribution to the gradients of query, key and value; out and lse are those over all blocks."""
    if query.device.type in FUSED and cap is None:
        fused = _by_mask(_fused_backward, hidden, grad, query, key, value, out, lse, causal=causal, scaling=scaling)
        return fused[0], fused[1], fused[2]
    heads = key.shape[1]
    key, value = (repeat_heads(states, query) for states in (key, value))

    def backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, ...]:
        score = attention_scores(query, key, scaling, cap)
        slope = None if cap is None else 1 - (score / cap).square()  # of cap * tanh(x / cap)
        weight = mask_scores(score, causal, hidden).sub_(lse.unsqueeze(-1)).exp_()
        delta = (grad.to(lse.dtype) * out).sum(-1, keepdim=True)
        d_score = (grad @ value.transpose(-1, -2)).sub(delta).mul_(weight) * scaling
        d_score = (d_score if slope is None else d_score * slope).to(query.dtype)
        d_value = weight.to(grad.dtype).transpose(-1, -2) @ grad
        return d_score @ key, d_score.transpose(-1, -2) @ query, d_value

    d_query, d_key, d_value = in_chunks(backward, grad, query, key, value, out, lse, hidden)
    # Several query heads may share one key head.
    d_key, d_value = (states.unflatten(1, (heads, -1)).sum(2) for states in (d_key, d_value))
    return d_query, d_key, d_value


def _fused(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, causal: bool, scaling: float
) -> tuple[Tensor, ...]:
    mask = None if hidden is None else additive_mask(hidden, query)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
    )


def _fused_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    hidden: Tensor | None,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, ...]:
    mask = None if hidden is None else additive_mask(hidden, query)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, out, lse, 0.0, causal, attn_mask=mask, scale=scaling
    )


def _by_mask(
    function: Callable[..., tuple[Tensor, ...]], hidden: Tensor | None, *tensors: Tensor, causal: bool, scaling: float
) -> tuple[Tensor, ...]:
    """Call a fused function, in chunks where a mask of its own for each query would need much memory."""
    function = partial(function, causal=causal, scaling=scaling)
    if hidden is None or hidden.shape[2] == 1:
        return function(*tensors, hidden)
    return in_chunks(function, *tensors, hidden)


def in_chunks(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Apply a function to chunks of the batch of tensors [B, H, T, ...], each with at most `MAX_SCORES` scores."""
    shapes = [t.shape for t in tensors if t is not None]
    batch = max(MAX_SCORES // (shapes[0][1] * shapes[0][2] * max(shape[2] for shape in shapes)), 1)
    chunks = [
        function(*(t if t is None else t[first : first + batch] for t in tensors))
        for first in range(0, shapes[0][0], batch)
    ]
    return tuple(torch.cat(column) for column in zip(*chunks, strict=True))


def attention_scores(query: Tensor, key: Tensor, scaling: float, cap: float | None) -> Tensor:
    """query key * scaling in at least float32, capped: [B, H, M, L]."""
    score = query @ key.transpose(-1, -2) * scaling
    score = score if score.dtype == torch.float64 else score.float()
    return score if cap is None else cap_scores(score, cap)


def cap_scores(score: Tensor, cap: float) -> Tensor:
    """cap * tanh(score / cap) (Gemma 2, arXiv:2408.00118)."""
    return (score / cap).tanh() * cap


def mask_scores(score: Tensor, causal: bool, hidden: Tensor | None) -> Tensor:
    """Scores [B, H, M, L] with -inf for keys that are not attended to."""
    if hidden is not None:
        score = score.masked_fill(hidden, -torch.inf)
    if causal:
        later = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).triu(1)
        score = score.masked_fill(later, -torch.inf)
    return score


def additive_mask(hidden: Tensor, like: Tensor) -> Tensor:
    """The mask that fused attention adds to the scores: -inf on hidden keys, else 0."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill(hidden, -torch.inf)


def repeat_heads(states: Tensor, query: Tensor) -> Tensor:
    """Repeat keys or values for the query heads that share them: [B, K, L, D] -> [B, H, L, D]."""
    times = query.shape[1] // states.shape[1]
    return states if times == 1 else states.repeat_interleave(times, 1)
