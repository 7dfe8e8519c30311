"""What stands between a loss and the next policy: the interface of every engine, and what all of them share.

With several ranks a loss is a sum over all ranks' samples, and each rank gives `backward` its own samples' part.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conf.schema.run import OptimizerConfig


class Engine(Protocol):
    """All that a training step may use. `module` is the policy."""

    module: nn.Module

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss to what the step has so far."""

    def step(self) -> Tensor:
        """Sum the gradient over the ranks, update the policy, clear the gradient, advance the schedule.

        Returns the gradient's norm before clipping; all ranks must call it, after as many calls of `backward`.
        """

    def apply(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        """function(policy), of which `backward` may be given a loss. All ranks must call it as often."""

    def gather(self) -> AbstractContextManager[Any]:
        """The policy with every parameter whole on this rank, to sample from or to save; not to be changed.

        All ranks must enter it; inside, each may do as it likes.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""


def make_adamw(parameters: Iterable[Tensor], optimizer: OptimizerConfig) -> torch.optim.AdamW:
    """Fused: one pass over all parameters, without temporaries."""
    return torch.optim.AdamW(
        parameters,
        lr=optimizer.lr,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


def lr_factor(step: int, steps: int, warmup_steps: int, decay: str) -> float:
    """Share of the learning rate at a step (from 0): linear warm-up, then constant, or down to 0 after the last."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    if decay == "linear":
        return max(1 - done, 0.0)
    if decay == "cosine":
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return 1.0
