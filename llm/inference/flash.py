"""Attention blocks by FlashAttention's kernels for packed sequences, on GPUs in 16 bits.

A kernel reads queries and keys [N, H, D] as they are packed, with the index at which each sequence starts, so that
nothing is padded, and returns the logsumexp that the merging of blocks needs. Its backward pass takes the merged
output and logsumexp (Dao, 2023, arXiv:2307.08691; `llm.inference.blocks`).

A kernel is used only where a trial on a few random tokens agrees with `blocks.attention_block`, forwards and
backwards. Elsewhere blocks are computed in the open, as before.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from llm.inference.blocks import attention_block, attention_block_backward

DTYPES = (torch.bfloat16, torch.float16)
WIDTHS = range(8, 257, 8)  # of a head, that the kernels support
TRIAL_TOKENS = 24
TRIAL_ERROR = 2e-2  # relative; both ways round to 16 bits


class Kernels(NamedTuple):
    """Functions with the signatures of aten's `_flash_attention_forward` and `_flash_attention_backward`."""

    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]


class Sequences(NamedTuple):
    """Consecutive sequences of a packed tensor: starts [B + 1] int32, with the end; tokens of the longest."""

    starts: Tensor
    longest: int


ATEN = Kernels(torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward)


def forward(
    kernels: Kernels,
    states: tuple[Tensor, Tensor, Tensor],
    queries: Sequences,
    keys: Sequences,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention of query [n, H, D] to key and value [m, K, D] by sequences -> [n, H, D], lse [n, H] float."""
    out, lse, *_ = kernels.forward(
        *(tensor.contiguous() for tensor in states),
        queries.starts,
        keys.starts,
        queries.longest,
        keys.longest,
        0.0,  # dropout
        causal,
        False,  # no mask for debugging
        scale=scaling,
    )
    return out, lse.T  # the kernel's is [H, n]


def backward(
    kernels: Kernels,
    grad: Tensor,
    states: tuple[Tensor, Tensor, Tensor],
    merged: tuple[Tensor, Tensor],
    queries: Sequences,
    keys: Sequences,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block's part of the gradients of query, key and value; `merged`: output and lse [n, H] over all blocks."""
    out, lse = merged
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=grad.device)  # the state of a generator
    d_query, d_key, d_value = kernels.backward(
        grad.contiguous(),
        *(tensor.contiguous() for tensor in states),
        out.contiguous(),
        lse.T.contiguous(),
        queries.starts,
        keys.starts,
        queries.longest,
        keys.longest,
        0.0,
        causal,
        no_dropout,
        no_dropout,
        scale=scaling,
    )
    return d_query, d_key, d_value


def kernels_for(query: Tensor, key: Tensor) -> Kernels | None:
    """The kernels for states [N, H, D] and [N, K, D]; None where there are none, or where the trial disagrees."""
    if query.device.type != "cuda" or query.dtype not in DTYPES or query.shape[-1] not in WIDTHS:
        return None
    heads = query.shape[1], key.shape[1]
    return ATEN if _agree_on_device(query.device, query.dtype, heads, query.shape[-1]) else None


@cache
def _agree_on_device(device: torch.device, dtype: torch.dtype, heads: tuple[int, int], width: int) -> bool:
    try:
        return agree(ATEN, device, dtype, heads, width)
    except (RuntimeError, NotImplementedError, TypeError):  # this card, or this version of torch, does not have them
        return False


@torch.no_grad()
def agree(kernels: Kernels, device: torch.device, dtype: torch.dtype, heads: tuple[int, int], width: int) -> bool:
    """Whether kernels agree with blocks in the open: causal, and two sequences of queries to other keys.

    The logsumexp of the backward pass is not the block's own, as after merging.
    """
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = (
        torch.randn(TRIAL_TOKENS, count, width, generator=generator).to(device, dtype)
        for count in (heads[0], heads[1], heads[1], heads[0])
    )
    states, scaling = (query, key, value), width**-0.5
    for causal, query_sizes, key_sizes in ((True, (9, 15), (9, 15)), (False, (14, 10), (4, 20))):
        queries, keys = (_sequences(sizes, device) for sizes in (query_sizes, key_sizes))
        out, lse = forward(kernels, states, queries, keys, causal, scaling)
        merged = out, lse + 0.5
        ours = (out, lse, *backward(kernels, grad, states, merged, queries, keys, causal, scaling))
        parts = [
            _open_block(grad, states, merged, slice(*query_range), slice(*key_range), causal, scaling)
            for query_range, key_range in zip(_ranges(query_sizes), _ranges(key_sizes), strict=True)
        ]
        for tensor, pieces in zip(ours, zip(*parts, strict=True), strict=True):
            exact = torch.cat(pieces).float()
            if not bool((tensor.float() - exact).norm() <= TRIAL_ERROR * exact.norm()):
                return False
    return True


def _open_block(
    grad: Tensor,
    states: tuple[Tensor, Tensor, Tensor],
    merged: tuple[Tensor, Tensor],
    rows: slice,
    columns: slice,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, ...]:
    """Output, logsumexp and gradients of one sequence, in float32."""

    def batch(tensor: Tensor) -> Tensor:
        return tensor.float().transpose(0, 1).unsqueeze(0)  # [1, H, n, ...]

    query, key, value = batch(states[0][rows]), batch(states[1][columns]), batch(states[2][columns])
    out, lse = attention_block(query, key, value, causal, None, scaling)
    saved = batch(grad[rows]), query, key, value, batch(merged[0][rows]), batch(merged[1][rows])
    gradients = attention_block_backward(*saved, causal, None, scaling)
    return tuple(tensor[0].transpose(0, 1) for tensor in (out, lse, *gradients))


def _sequences(sizes: tuple[int, ...], device: torch.device) -> Sequences:
    starts = torch.tensor([0, *sizes], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    return Sequences(starts, max(sizes))


def _ranges(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
