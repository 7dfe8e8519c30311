"""The engine of plain PyTorch: each rank has the whole policy and optimiser, and gradients are summed."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from conf.schema.run import OptimizerConfig
from launch.engines.base import lr_factor, make_adamw


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


def _pass_on(master: nn.Parameter, parameter: Tensor) -> None:
    """Add a parameter's gradient to its master copy's."""
    assert parameter.grad is not None
    if master.grad is None:
        master.grad = parameter.grad.float()
    else:
        master.grad.add_(parameter.grad)
    parameter.grad = None
