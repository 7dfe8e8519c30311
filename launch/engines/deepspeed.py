"""The DeepSpeed ZeRO engine. It partitions the optimiser state (stage 1), the gradients (2) and the policy (3).

DeepSpeed is imported only when such an engine is made. Its own checkpoint files are pickles. Here the state is
gathered parameter by parameter into plain tensors instead, which are the same for every stage and number of ranks.
"""

import copy
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from conf.schema.base import ConfigError
from conf.schema.extras import missing_package
from conf.schema.run import OptimizerConfig
from launch.engines import distributed
from launch.engines.base import check_finite, make_adamw, scheduled_lr
from launch.runs.noise import silence_libraries

BUCKET = 500_000_000  # gradient elements reduced at a time, DeepSpeed's default; it allocates a buffer of this size
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names of Adam's moments


class PolicyFunction(nn.Module):
    """The model that DeepSpeed sees: its forward pass calls any function of the policy inside DeepSpeed's hooks."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *, function: Callable[[nn.Module], Tensor]) -> Tensor:
        """Return function(policy)."""
        return function(self.policy)


class DeepSpeedEngine:
    """AdamW on float32 master weights that are partitioned over the ranks.

    Args:
        module: the policy, complete and identical on every rank, in float32 or bfloat16.
        optimizer: settings of AdamW and its schedule.
        steps: number of updates.
        stage: 1, 2 or 3.
        offload: keep parameters, gradients and the optimiser state in CPU memory, and update them there.
    """

    def __init__(
        self, module: nn.Module, optimizer: OptimizerConfig, steps: int, *, stage: int, offload: bool = False
    ) -> None:
        deepspeed = import_deepspeed()
        self.module, self.stage = module, stage
        self.total_updates, self.completed_steps = float(steps), 0
        self.lr, self.settings = partial(scheduled_lr, optimizer), optimizer
        self.losses_finite = torch.tensor(True)
        self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        parameters = dict(module.named_parameters())
        device = next(module.parameters()).device
        if not dist.is_initialized():  # a single process
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        if device.type == "cuda":
            os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())  # selects the device in DeepSpeed
        os.environ.setdefault("LOCAL_RANK", str(distributed.current_ranks().local_rank))
        self._full_policy = _empty_copy(module) if stage == 3 else module
        adamw = make_adamw([parameters[name] for name in self.names], optimizer)
        offload_device = {"device": "cpu", "pin_memory": device.type == "cuda"} if offload else {"device": "none"}
        self.engine, *_ = deepspeed.initialize(
            model=PolicyFunction(module),
            optimizer=adamw,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # has no effect: losses are already scaled
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,  # a step may have any number of backward passes
                "gradient_clipping": optimizer.max_grad_norm or 0.0,
                "bf16": {"enabled": next(module.parameters()).dtype == torch.bfloat16},
                "data_types": {"grad_accum_dtype": "fp32"},
                "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's CPU optimiser needs a compiler
                "zero_optimization": {
                    "stage": stage,
                    "overlap_comm": False,
                    "reduce_bucket_size": min(BUCKET, sum(parameters[name].numel() for name in self.names)),
                    "offload_optimizer": offload_device,
                    **({"offload_param": offload_device} if stage == 3 else {}),
                },
            },
        )

    def apply(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        """Return function(policy), called inside DeepSpeed's hooks."""
        return self.engine(function=function)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's part of the loss."""
        self.losses_finite = self.losses_finite.to(loss.device) & loss.detach().isfinite().all()
        self.engine.backward(loss * dist.get_world_size())  # DeepSpeed averages the gradients over the ranks

    def step(self) -> Tensor:
        """Update the policy with the gradient summed over the ranks; see `Engine.step`.

        Raises:
            ConfigError: the norm of the gradient is not finite.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.lr(self.completed_steps, self.total_updates)
        self.engine.step()
        self.completed_steps += 1
        norm = torch.as_tensor(self.engine.get_global_grad_norm())
        check_finite(norm, self.losses_finite, (), self.completed_steps - 1, self.settings)
        return norm

    @contextmanager
    def gather(self) -> Iterator[Any]:
        """A context that gives the policy with complete parameters, gathered over the ranks in stage 3."""
        if self.stage < 3:
            yield self.module
            return
        with import_deepspeed().zero.GatheredParameters(list(self.module.parameters())):
            for empty, parameter in zip(self._full_policy.parameters(), self.module.parameters(), strict=True):
                empty.data = parameter.data
            try:
                yield self._full_policy
            finally:
                for empty in self._full_policy.parameters():
                    empty.data = empty.data.new_empty(0)

    def state_dict(self) -> dict[str, Any]:
        """The completed steps, and on rank 0 only the master weights and moments by parameter name."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        state: dict[str, Any] = {"steps": self.completed_steps, "weights": {}, **{moment: {} for moment in MOMENTS}}
        parameters = dict(self.module.named_parameters())
        for name in self.names:
            parts = {"weights": safe_get_full_fp32_param(parameters[name])}
            parts |= {moment: safe_get_full_optimizer_state(parameters[name], moment) for moment in MOMENTS}
            if dist.get_rank() == 0:
                for part, value in parts.items():
                    state[part][name] = value.view(_shape(parameters[name])).to("cpu", copy=True)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`, which must be complete on every rank."""
        self.completed_steps = state["steps"]
        zero = self.engine.optimizer
        if self.stage == 3:
            self._load_partitions(zero, state)
            return
        for partition in (p for group in zero.optimizer.param_groups for p in group["params"]):
            _init_adam_state(zero.optimizer.state[partition], partition, self.completed_steps)
        zero._lazy_init_hp_params_optimizer_state()
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameters = dict(self.module.named_parameters())
        for name in self.names:
            weight = state["weights"][name]
            parameters[name].data.copy_(weight)
            safe_set_full_fp32_param(parameters[name], weight.to(parameters[name].device))
            for moment in MOMENTS:
                safe_set_full_optimizer_state(
                    parameters[name], state[moment][name].to(parameters[name].device), moment
                )

    def _load_partitions(self, zero: Any, state: dict[str, Any]) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        for partition in zero.fp32_partitioned_groups_flat:
            _init_adam_state(zero.optimizer.state[partition], partition, self.completed_steps)
        parameters: dict[str, Any] = dict(self.module.named_parameters())
        for name in self.names:
            shard = parameters[name].ds_tensor  # this rank's part, flat; that of the last rank is padded
            first = dist.get_rank() * shard.numel()
            parts = {key: state[key][name].flatten()[first : first + shard.numel()] for key in ("weights", *MOMENTS)}
            parts = {key: nn.functional.pad(part, (0, shard.numel() - len(part))) for key, part in parts.items()}
            shard.data.copy_(parts["weights"])
            safe_set_local_fp32_param(parameters[name], parts["weights"])
            for moment in MOMENTS:
                safe_set_local_optimizer_state(parameters[name], parts[moment], moment)


def import_deepspeed() -> Any:
    """Import DeepSpeed without its messages.

    Raises:
        ConfigError: DeepSpeed cannot be imported.
    """
    silence_libraries()
    try:
        with _no_stderr():  # the import links test programs, and the linker prints the libraries that are missing
            import deepspeed
    except ImportError as error:
        reason = missing_package(error) or f"DeepSpeed cannot be imported: {error}"
        raise ConfigError(f"engine: {reason}; the zero engines need it, engine=torch does not") from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiling it takes minutes; gloo works
    return deepspeed


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard what this process and its children write to standard error."""
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def _empty_copy(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters are empty; buffers are copied."""
    empty = {id(p): nn.Parameter(p.data.new_empty(0), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, empty)


def _init_adam_state(adam: dict[str, Any], partition: Tensor, step: int) -> None:
    """Create Adam's state of a partition, which Adam itself would create in the first step."""
    adam["step"] = torch.tensor(float(step))
    for moment in MOMENTS:
        adam[moment] = torch.zeros_like(partition)


def _shape(parameter: Any) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
