"""Helpers for batches of token sequences and groups of completions."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def masked_sum(value: Tensor, mask: Tensor) -> Tensor:
    """Sum over the last axis where mask is True: [..., T] -> [...]. What is masked (NaN, inf) is ignored."""
    if value.shape != mask.shape:
        raise ValueError(f"shapes must match: value {tuple(value.shape)}, mask {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    return value.masked_fill(~mask, 0.0).sum(-1)


def completion_mask(tokens: Tensor, eos_ids: Tensor) -> Tensor:
    """True up to and including the first end-of-sequence token: [..., T] ids -> [..., T] bool.

    Args:
        tokens: ids of the completion.
        eos_ids: [K] ids that end a completion.
    """
    ended = torch.isin(tokens, eos_ids).long()
    return ended.cumsum(-1) - ended == 0


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from softmax(logits) by uniforms in [0, 1): [N, V], [N] -> [N] indices.

    The index is that of the outcome whose stretch of the cumulative distribution, in float64, holds `uniform`.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaled to the last entry: rounding leaves the sum a little off 1, and no draw may fall beyond it.
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)


def selected_logp(hidden: Tensor, weight: Tensor, tokens: Tensor, chunk: int = 1024) -> Tensor:
    """log softmax(hidden @ weight.T)[tokens] without ever holding all logits.

    Works through `chunk` rows at a time and computes each chunk's logits again in the backward pass, so
    that memory is chunk * V instead of N * V.

    Args:
        hidden: [N, D] last hidden states, each one position before its token.
        weight: [V, D] output embedding.
        tokens: [N] ids.
        chunk: rows at a time.

    Returns:
        [N] float32 (float64 for float64 input), nats, with gradient to hidden and weight.
    """
    if hidden.shape[:-1] != tokens.shape or hidden.dim() != 2:
        raise ValueError(f"need hidden [N, D] and tokens [N], got {tuple(hidden.shape)} and {tuple(tokens.shape)}")
    parts = [
        checkpoint(_selected_logp, h, weight, t, use_reentrant=False)
        for h, t in zip(hidden.split(chunk), tokens.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _selected_logp(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def check_group(valid: Tensor | None, **tensors: Tensor) -> None:
    """Raise ValueError unless the tensors share one shape, valid is bool of it, and no valid entry is NaN."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if valid is not None:
        shapes["valid"] = tuple(valid.shape)
        if valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {valid.dtype}")
    if len(set(shapes.values())) > 1:
        raise ValueError("shapes must match: " + ", ".join(f"{k} {v}" for k, v in shapes.items()))
    for name, tensor in tensors.items():
        nan = tensor.isnan() if valid is None else tensor.isnan() & valid
        if bool(nan.any()):
            where = nan.nonzero()[0].tolist()
            raise ValueError(f"{name} is NaN at {where}, where it counts; mark such samples as not valid")
