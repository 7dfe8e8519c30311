"""The plain PyTorch engine. Each rank holds the whole policy and optimiser, and gradients are summed."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from conf.schema.run import OptimizerConfig
from launch.engines.base import check_finite, check_weights, make_adamw, scheduled_lr


class TorchEngine:
    """AdamW without sharding.

    A 16-bit parameter has a float32 master copy, which accumulates the gradients and receives the updates. Without it
    an update of 1e-6 would be lost when the parameter is rounded.

    Args:
        module: the policy.
        optimizer: settings of AdamW and its schedule.
        steps: number of updates.
    """

    def __init__(self, module: nn.Module, optimizer: OptimizerConfig, steps: int) -> None:
        self.module, self.total_updates, self.completed_steps = module, float(steps), 0
        self.lr, self.settings = partial(scheduled_lr, optimizer), optimizer
        self.losses_finite = torch.tensor(True)
        self.max_grad_norm = math.inf if optimizer.max_grad_norm is None else optimizer.max_grad_norm
        self.masters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.low_precision: dict[str, nn.Parameter] = {}  # the parameters that have a master copy
        for name, parameter in self.masters.items():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                self.low_precision[name] = parameter
                self.masters[name] = nn.Parameter(parameter.detach().float())
                parameter.register_post_accumulate_grad_hook(partial(_move_gradient, self.masters[name]))
        self.optimizer = make_adamw(self.masters.values(), optimizer)

    def apply(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        """Return function(policy)."""
        return function(self.module)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's part of the loss."""
        self.losses_finite = self.losses_finite.to(loss.device) & loss.detach().isfinite().all()
        loss.backward()

    def step(self) -> Tensor:
        """Sum the gradient over the ranks, clip it and update the policy; see `Engine.step`.

        Raises:
            ConfigError: the norm of the gradient is not finite; the policy is not updated.
        """
        if dist.is_initialized():
            for master in self.masters.values():
                if master.grad is None:  # another rank may have a gradient
                    master.grad = torch.zeros_like(master)
                dist.all_reduce(master.grad)
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        check_finite(norm, self.losses_finite, self.masters.values(), self.completed_steps, self.settings)
        if norm > self.max_grad_norm:
            nn.utils.clip_grads_with_norm_(self.masters.values(), self.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(self.completed_steps, self.total_updates)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.completed_steps += 1
        self.losses_finite = torch.tensor(True)
        self._copy_masters()
        return norm

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, parameter in self.low_precision.items():
            parameter.copy_(self.masters[name])

    def gather(self) -> AbstractContextManager[Any]:
        """A context that gives the policy, which is complete on every rank."""
        return nullcontext(self.module)

    def state_dict(self) -> dict[str, Any]:
        """The policy without frozen parameters and with master copies, the optimiser and the completed steps.

        Raises:
            ConfigError: a weight is not finite.
        """
        check_weights(self.masters.values(), self.completed_steps, self.settings)
        frozen = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        module = {name: value for name, value in self.module.state_dict().items() if name not in frozen}
        return {
            "module": module | {name: self.masters[name].detach() for name in self.low_precision},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.completed_steps},  # as a scheduler of torch has it, for older checkpoints
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.module.load_state_dict(self.module.state_dict() | state["module"])
        with torch.no_grad():
            for name in self.low_precision:
                self.masters[name].copy_(state["module"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.completed_steps = state["schedule"]["last_epoch"]


def _move_gradient(master: nn.Parameter, parameter: Tensor) -> None:
    """Add a parameter's gradient to that of its master copy, and clear it."""
    assert parameter.grad is not None
    if master.grad is None:
        master.grad = parameter.grad.float()
    else:
        master.grad.add_(parameter.grad)
    parameter.grad = None
