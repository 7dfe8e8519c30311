"""RMS norms with fewer passes over memory than the chain of operators in transformers' models.

On a CPU these passes, not the matrix products, take much of the time of a small model's training step.
"""

from typing import Any

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps) over the last axis, with its own backward pass.

    Not constructed directly: `fuse_rms_norms` changes the class of a model's norm, which keeps its name and weight.

    Source: Zhang and Sennrich (2019), arXiv:1910.07467
    """

    weight: nn.Parameter

    @property
    def epsilon(self) -> float:
        """eps, under either of the names that transformers and PyTorch give it."""
        attributes = vars(self)
        return float(attributes["variance_epsilon"] if "variance_epsilon" in attributes else attributes["eps"])

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if torch.is_grad_enabled():
            normed: Tensor = _RmsNorm.apply(x, self.weight, self.epsilon)
            return normed
        return (x * _scale(x, self.epsilon)).mul_(self.weight)


def fuse_rms_norms(model: nn.Module) -> int:
    """Turn the model's RMS norms on the CPU into `RmsNorm`, in place, if a trial shows that the values are the same.

    Returns:
        The number of norms that were changed.
    """
    return sum(_fuse(module) for module in model.modules() if type(module).__name__.endswith("RMSNorm"))


@torch.no_grad()
def _fuse(norm: nn.Module) -> bool:
    """Change the class of a norm, unless its values would change; returns whether it was changed."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype not in (torch.float32, torch.float64):
        return False
    if weight.device.type != "cpu" or weight.dim() != 1 or not {"variance_epsilon", "eps"} & set(vars(norm)):
        return False
    probe = torch.linspace(-2, 3, 3 * len(weight), dtype=weight.dtype).view(3, -1)
    original, present = norm.__class__, weight.data
    weight.data = torch.linspace(
        0.5, 2, len(weight), dtype=weight.dtype
    )  # ones would not show a weight that is unused
    try:
        expected = norm(probe)
        norm.__class__ = RmsNorm
        same = torch.allclose(norm(probe), expected, rtol=1e-5, atol=1e-6)
    finally:
        weight.data = present
    if not same:
        norm.__class__ = original
    return same


def _scale(x: Tensor, epsilon: float) -> Tensor:
    """[..., 1]: 1 / sqrt(mean(x^2) + eps)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    """With n = x s, weight w and output gradient g: d weight = sum g n, dx = s (g w - n mean(g w n))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        scale = _scale(x, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight, scale) = grads, ctx.saved_tensors
        normed = x * scale
        product = grad * normed
        d_weight = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        mean = (product @ weight).div_(x.shape[-1]).unsqueeze(-1)
        return (grad * weight).sub_(normed.mul_(mean)).mul_(scale), d_weight, None
