"""What stands between a loss and the next policy: plain torch here, the same methods under DeepSpeed.

With several ranks a loss is a sum over all ranks' samples, and each rank gives `backward` its own samples' part.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from conf.schema import ConfigError, Decay, OptimizerConfig
from launch.engines import distributed

ZERO = {"zero1": (1, False), "zero2": (2, False), "zero3": (3, False), "zero3_offload": (3, True)}  # stage, offload


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


class TorchEngine:
    """AdamW; each rank has the whole policy and optimiser, and gradients are summed over the ranks.

    Parameters in 16 bits have a master copy in float32, which gradients are summed in and updates are made to: an
    update of 1e-6 would be lost in the rounding of a weight.
    """

    def __init__(self, module: nn.Module, optimizer: OptimizerConfig, steps: int) -> None:
        self.module = module
        self.max_grad_norm = math.inf if optimizer.max_grad_norm is None else optimizer.max_grad_norm
        self.masters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.rounded: dict[str, nn.Parameter] = {}  # the parameters that have a master copy
        for name, parameter in self.masters.items():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                self.rounded[name] = parameter
                self.masters[name] = nn.Parameter(parameter.detach().float())
                parameter.register_post_accumulate_grad_hook(partial(_pass_on, self.masters[name]))
        self.optimizer = make_adamw(self.masters.values(), optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_factor(step, steps, optimizer.warmup_steps, optimizer.decay)
        )

    def apply(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return function(self.module)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> Tensor:
        if dist.is_initialized():
            for master in self.masters.values():
                if master.grad is None:  # but perhaps not on another rank
                    master.grad = torch.zeros_like(master)
                dist.all_reduce(master.grad)
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = nn.utils.get_total_norm(gradients, error_if_nonfinite=True)
        if norm > self.max_grad_norm:
            nn.utils.clip_grads_with_norm_(self.masters.values(), self.max_grad_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self._round()
        return norm

    @torch.no_grad()
    def _round(self) -> None:
        for name, parameter in self.rounded.items():
            parameter.copy_(self.masters[name])

    def gather(self) -> AbstractContextManager[Any]:
        return nullcontext(self.module)

    def state_dict(self) -> dict[str, Any]:
        frozen = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        module = {name: value for name, value in self.module.state_dict().items() if name not in frozen}
        return {
            "module": module | {name: self.masters[name].detach() for name in self.rounded},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(self.module.state_dict() | state["module"])
        with torch.no_grad():
            for name in self.rounded:
                self.masters[name].copy_(state["module"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def make_adamw(parameters: Iterable[Tensor], optimizer: OptimizerConfig) -> torch.optim.AdamW:
    """Fused: one pass over all parameters, without temporaries."""
    return torch.optim.AdamW(
        parameters,
        lr=optimizer.lr,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


def _pass_on(master: nn.Parameter, parameter: Tensor) -> None:
    """Add a parameter's gradient to its master copy's."""
    assert parameter.grad is not None
    if master.grad is None:
        master.grad = parameter.grad.float()
    else:
        master.grad.add_(parameter.grad)
    parameter.grad = None


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


def make_engine(
    name: str, module: nn.Module, optimizer: OptimizerConfig, steps: int, *, shared: bool = False
) -> Engine:
    """The engine that `engine.name` asks for.

    Args:
        shared: the caller gives each rank its own part of a step's samples, and so may have several.

    Raises:
        ConfigError: there are several ranks, and nothing for them to share.
    """
    world = distributed.current().world
    if world > 1 and not shared:
        raise ConfigError(
            f"hydra.launcher.tasks_per_node: must be 1 (and .nodes=1) for this package, whose steps are one "
            f"process's, found {world} ranks"
        )
    if name == "torch":
        return TorchEngine(module, optimizer, steps)
    if name in ZERO:
        from launch.engines.deepspeed import ZeroEngine  # imports DeepSpeed

        stage, offload = ZERO[name]
        return ZeroEngine(module, optimizer, steps, stage=stage, offload=offload)
    raise ValueError(f"engine.name: must be one of torch, {', '.join(ZERO)}, found {name}")
