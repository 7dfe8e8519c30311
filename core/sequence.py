"""Helpers for batches of token sequences and groups of completions."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_LOGITS = 2**26  # largest number of logits held at a time: 256 MiB in float32
MAX_WIDENED = 2**24  # on a CPU: entries of a bfloat16 output embedding that are held in float32 at a time, 64 MiB


def masked_sum(value: Tensor, mask: Tensor) -> Tensor:
    """Sum over the last axis where mask is True: [..., T] -> [...]. Other entries are ignored, even NaN and inf."""
    if value.shape != mask.shape:
        raise ValueError(f"shapes must match: value {tuple(value.shape)}, mask {tuple(mask.shape)}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    return value.masked_fill(~mask, 0.0).sum(-1)


def first_occurrences(items: Sequence[Hashable], groups: int) -> Tensor:
    """Mark the items that no earlier item of their group equals: P groups of G consecutive items -> [P, G] bool."""
    size = len(items) // groups
    rows = [items[first : first + size] for first in range(0, groups * size, size)]
    return torch.tensor([[row.index(item) == i for i, item in enumerate(row)] for row in rows])


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample from softmax(logits) with the given uniforms in [0, 1): [N, V], [N] -> [N] indices.

    Inverts the cumulative distribution, which is computed in float64.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # The last entry differs from 1 by rounding; scaling to it keeps every sample inside the distribution.
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)


class Output(NamedTuple):
    """How logits follow from hidden states: cap * tanh(z / cap) with z = scale * (hidden @ weight.T + bias).

    weight: [V, D] output embedding.
    bias: [V]; None: zero.
    cap: bound on the size of a logit; None: no bound, the logits are z.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, D] hidden states -> [N, V] logits in at least float32, without gradient."""
        logits = _wide_product(hidden, self.weight)
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1.0:
            logits *= self.scale
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)


def selected_logp(hidden: Tensor, output: Tensor | Output, tokens: Tensor, chunk: int | None = None) -> Tensor:
    """Return log softmax(logits)[tokens] without holding all logits at once.

    Processes `chunk` rows at a time and recomputes their logits in the backward pass, so that the memory is chunk * V
    instead of N * V. Logits are computed in float32 at least, whatever the type of the weights.

    Args:
        hidden: [N, D] last hidden states, each at the position before its token.
        output: how logits follow from them; a tensor [V, D] is an output embedding without bias, scale or cap.
        tokens: [N] ids.
        chunk: rows at a time; None: as many as `MAX_LOGITS` allows.

    Returns:
        [N] float32 (float64 for float64 input), nats, with gradient to hidden, weight and bias.
    """
    logp: Tensor = _apply(hidden, output, tokens, chunk, False)[0]
    return logp


def selected_logp_and_entropy(
    hidden: Tensor, output: Tensor | Output, tokens: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return `selected_logp` and the exact entropy of each row's softmax over the vocabulary.

    Returns:
        logp: [N], nats, with gradient to hidden, weight and bias.
        entropy: [N], nats, likewise.
    """
    return _apply(hidden, output, tokens, chunk, True)


def _apply(
    hidden: Tensor, output: Tensor | Output, tokens: Tensor, chunk: int | None, with_entropy: bool
) -> tuple[Any, Any]:
    """Call `_SelectedLogp`, which needs the tensors with gradient as arguments of their own."""
    weight, bias, scale, cap = Output(output) if isinstance(output, Tensor) else output
    return _SelectedLogp.apply(hidden, weight, bias, tokens, chunk, with_entropy, scale, cap)


def rows_per_chunk(vocabulary: int) -> int:
    """Return how many rows have at most `MAX_LOGITS` logits together, and at least 1."""
    return max(MAX_LOGITS // vocabulary, 1)


class _SelectedLogp(torch.autograd.Function):
    """`selected_logp` and the entropy; of the [N, V] tensors, only one chunk of rows exists at a time.

    With p = softmax(z) and H = -sum p log p: d log p_t / dz = onehot(t) - p and dH / dz = -p (log p + H).
    A cap c contributes the factor 1 - (z / c)^2, and the scale itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        chunk: int | None,
        with_entropy: bool,
        scale: float,
        cap: float | None,
    ) -> tuple[Tensor, Tensor | None]:
        if hidden.shape[:-1] != tokens.shape or hidden.dim() != 2:
            raise ValueError(
                f"shapes must be hidden [N, D] and tokens [N], got {tuple(hidden.shape)} and {tuple(tokens.shape)}"
            )
        ctx.chunk = rows_per_chunk(len(weight)) if chunk is None else chunk
        output = Output(weight, bias, scale, cap)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp, lse, entropy = (hidden.new_empty(len(tokens), dtype=wide) for _ in range(3))
        for rows in _chunks(len(tokens), ctx.chunk):
            logits = output.logits(hidden[rows])
            highest = logits.amax(-1, keepdim=True)
            unscaled = logits.sub_(highest).exp()
            total = unscaled.sum(-1)
            lse[rows] = total.log() + highest.squeeze(-1)
            logp[rows] = logits.gather(-1, tokens[rows].unsqueeze(-1)).squeeze(-1) - total.log()
            if with_entropy:
                entropy[rows] = total.log() - unscaled.mul_(logits).sum(-1) / total
        ctx.save_for_backward(hidden, weight, bias, tokens, lse, entropy)
        ctx.scale, ctx.cap = scale, cap
        ctx.set_materialize_grads(False)
        return logp, entropy if with_entropy else None

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, lse, entropy = ctx.saved_tensors
        output = Output(weight, bias, ctx.scale, ctx.cap)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=lse.dtype) if ctx.needs_input_grad[2] else None
        for rows in _chunks(len(tokens), ctx.chunk):
            row_grads: list[Any] = [None if grad is None else grad[rows].unsqueeze(-1) for grad in grads]
            d_logp, d_entropy = row_grads
            d_logits = output.logits(hidden[rows])
            slope = None if ctx.cap is None else (d_logits / ctx.cap).square_().neg_().add_(1)
            d_logits.sub_(lse[rows].unsqueeze(-1))
            if d_entropy is None:
                d_logits.exp_().mul_(-d_logp)
            else:
                surprise = d_logits + entropy[rows].unsqueeze(-1)  # log p + H
                surprise.mul_(d_entropy) if d_logp is None else surprise.mul_(d_entropy).add_(d_logp)
                d_logits.exp_().mul_(surprise).neg_()
            if d_logp is not None:
                d_logits.scatter_add_(-1, tokens[rows].unsqueeze(-1), d_logp)
            if slope is not None:
                d_logits.mul_(slope)
            if ctx.scale != 1.0:
                d_logits.mul_(ctx.scale)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                torch.mm(d_logits, weight, out=d_hidden[rows])
            if d_weight is not None:
                d_weight.addmm_(d_logits.T, hidden[rows])
        return d_hidden, d_weight, None if d_bias is None else d_bias.to(bias.dtype), None, None, None, None, None


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def _wide_product(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden [N, D] @ weight.T in at least float32, [N, V]. A product of two bfloat16 numbers is exact in float32."""
    if weight.dtype in (torch.float32, torch.float64):
        return hidden @ weight.T
    if weight.device.type != "cpu":
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    logits, wide = hidden.new_empty(len(hidden), len(weight), dtype=torch.float32), hidden.float()
    for block in _chunks(len(weight), max(MAX_WIDENED // weight.shape[1], 1)):
        torch.mm(wide, weight[block].float().T, out=logits[:, block])
    return logits


def check_group(valid: Tensor | None, **tensors: Tensor) -> None:
    """Raise ValueError unless the tensors have one shape, `valid` is bool of that shape, and no valid entry is NaN.

    Args:
        valid: [..., G] bool; None: all entries are valid.
        **tensors: [..., G] by the name that messages use.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if valid is not None:
        shapes["valid"] = tuple(valid.shape)
        if valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {valid.dtype}")
    if len(set(shapes.values())) > 1:
        raise ValueError("shapes must match: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    for name, tensor in tensors.items():
        nan = tensor.isnan() if valid is None else tensor.isnan() & valid
        if bool(nan.any()):
            where = nan.nonzero()[0].tolist()
            raise ValueError(f"{name} is NaN at {where}, which is a valid sample; mark such samples as not valid")
