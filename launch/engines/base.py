"""The interface of an engine, which turns a loss into an update of the policy, and the code that all engines share.

With several ranks the loss is a sum over the samples of all ranks. Each rank calls `backward` with the part of the
loss that belongs to its own samples.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conf.schema.base import ConfigError
from conf.schema.run import OptimizerConfig


class Engine(Protocol):
    """Everything that a training step may use.

    Attributes:
        module: the policy.
        total_updates: number of updates over which the learning rate decays. A package whose runs may end before
            their last step sets it anew before each update.
    """

    module: nn.Module
    total_updates: float

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's part of the loss."""

    def step(self) -> Tensor:
        """Sum the gradient over the ranks, update the policy, clear the gradient and advance the schedule.

        All ranks must call this, after the same number of calls of `backward`.

        Returns:
            The norm of the gradient before clipping.
        """

    def apply(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        """Return function(policy), from which a loss for `backward` may be computed.

        All ranks must call this the same number of times.
        """

    def gather(self) -> AbstractContextManager[Any]:
        """A context that gives the policy with complete parameters on this rank, to sample or save. Read-only.

        All ranks must enter the context. Inside it they need not do the same.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""


def check_finite(
    norm: Tensor, losses_finite: Tensor, weights: Iterable[Tensor], updates: int, optimizer: OptimizerConfig
) -> None:
    """Check the norm of a gradient before an update.

    Args:
        norm: the norm.
        losses_finite: whether all losses of the step were finite.
        weights: the weights that are trained.
        updates: number of completed updates.
        optimizer: the settings that the message names.

    Raises:
        ConfigError: the norm is not finite. The message says which of weights, loss and gradient overflowed first.
    """
    if bool(norm.isfinite()):
        return
    check_weights(weights, updates, optimizer)
    what = "gradient" if bool(losses_finite) else "loss"
    raise ConfigError(
        f"update {updates + 1}: the {what} overflowed (norm of the gradient: {float(norm)}); lower optimizer.lr "
        f"({optimizer.lr:g}) or objective.beta, or check the rewards"
    )


def check_weights(weights: Iterable[Tensor], updates: int, optimizer: OptimizerConfig) -> None:
    """Raise ConfigError if a weight of the policy is not finite; the arguments are those of `check_finite`."""
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise ConfigError(
            f"update {updates}: the weights of the policy overflowed; lower optimizer.lr ({optimizer.lr:g})"
        )


@contextmanager
def overflow_in_one_line(optimizer: OptimizerConfig) -> Iterator[None]:
    """Raise ConfigError where `core` finds that the policy's log-probabilities are NaN."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("policy_logp is NaN"):
            raise
        message = f"the log-probabilities of the policy overflowed; lower optimizer.lr ({optimizer.lr:g})"
        raise ConfigError(message) from error


def make_adamw(parameters: Iterable[Tensor], optimizer: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW for these parameters. It is fused: one pass over all parameters, without temporaries."""
    return torch.optim.AdamW(
        parameters,
        lr=optimizer.lr,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


def lr_factor(step: int, steps: float, warmup_steps: int, decay: str) -> float:
    """The factor of the learning rate at a step.

    Args:
        step: counted from 0.
        steps: number of steps; a linear or cosine decay reaches 0 after the last one.
        warmup_steps: number of steps with linear warm-up, before the decay.
        decay: constant, linear or cosine.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    if decay == "linear":
        return max(1 - progress, 0.0)
    if decay == "cosine":
        return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return 1.0


def scheduled_lr(optimizer: OptimizerConfig, step: int, steps: float) -> float:
    """The learning rate at a step; `step` and `steps` as in `lr_factor`."""
    return optimizer.lr * lr_factor(step, steps, optimizer.warmup_steps, optimizer.decay)
