"""What stands between a loss and the next policy: plain torch here, the same five methods under DeepSpeed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conf.schema import ConfigError, Decay, OptimizerConfig
from launch import distributed


class Engine(Protocol):
    """All that a training step may use. `module` is the policy."""

    module: nn.Module

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what this step has so far."""

    def step(self) -> Tensor:
        """Update the policy, clear the gradient, advance the schedule; the gradient's norm before clipping."""

    def gather(self) -> Any:
        """Context in which every parameter is whole on this rank."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""


class TorchEngine:
    """One process, AdamW."""

    def __init__(self, module: nn.Module, optimizer: OptimizerConfig, steps: int) -> None:
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.max_grad_norm = math.inf if optimizer.max_grad_norm is None else optimizer.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.lr,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_factor(step, steps, optimizer.warmup_steps, optimizer.decay)
        )

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> Tensor:
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return norm

    @contextmanager
    def gather(self) -> Iterator[None]:
        yield

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def lr_factor(step: int, steps: int, warmup_steps: int, decay: Decay) -> float:
    """Share of the learning rate at a step (from 0): linear warm-up, then constant, or down to 0 after the last."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    if decay is Decay.linear:
        return max(1 - done, 0.0)
    if decay is Decay.cosine:
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return 1.0


def make_engine(name: str, module: nn.Module, optimizer: OptimizerConfig, steps: int) -> Engine:
    """The engine that `engine.name` asks for.

    Raises:
        ConfigError: it is for one process, and there are several ranks.
    """
    world = distributed.current().world
    if world > 1:
        raise ConfigError(
            f"engine: must be one for several ranks, found {name} and {world} ranks (one process is "
            "hydra.launcher.tasks_per_node=1 and .nodes=1)"
        )
    if name == "torch":
        return TorchEngine(module, optimizer, steps)
    raise ValueError(f"engine.name: must be torch, found {name}")
