"""The engine under DeepSpeed ZeRO: ranks share out the optimiser's state (1), the gradient (2), the policy (3).

DeepSpeed is imported when such an engine is made, and not before. Its own checkpoint files are pickles; here a state
is gathered parameter by parameter into plain tensors instead, the same ones from every stage and number of ranks.
"""

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from conf.schema.base import ConfigError
from conf.schema.run import OptimizerConfig
from launch.engines import distributed
from launch.engines.base import lr_factor, make_adamw

BUCKET = 500_000_000  # gradients reduced at a time, as is usual; DeepSpeed allocates room for all of them
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, as torch names them


class Root(nn.Module):
    """What DeepSpeed takes for the model: any function of the policy, called inside its hooks."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return function(self.policy)


class DeepSpeedEngine:
    """AdamW on fp32 master weights that the ranks share out.

    Args:
        module: the policy, whole and the same on every rank, in float32 or bfloat16.
        stage: 1, 2 or 3.
        offload: keep parameters, gradients and the optimiser's state in the CPU's memory, and update there.
    """

    def __init__(
        self, module: nn.Module, optimizer: OptimizerConfig, steps: int, *, stage: int, offload: bool = False
    ) -> None:
        deepspeed = import_deepspeed()
        self.module, self.stage, self.done = module, stage, 0
        self.lr = lambda step: optimizer.lr * lr_factor(step, steps, optimizer.warmup_steps, optimizer.decay)
        self.names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        parameters = dict(module.named_parameters())
        device = next(module.parameters()).device
        if not dist.is_initialized():  # one process alone
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        if device.type == "cuda":
            os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())  # DeepSpeed's word for the device to use
        os.environ.setdefault("LOCAL_RANK", str(distributed.current().local_rank))
        self._whole = _empty_copy(module) if stage == 3 else module
        adamw = make_adamw([parameters[name] for name in self.names], optimizer)
        place = {"device": "cpu", "pin_memory": device.type == "cuda"} if offload else {"device": "none"}
        self.engine, *_ = deepspeed.initialize(
            model=Root(module),
            optimizer=adamw,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # of no consequence: losses come scaled
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,  # step() ends a step, whatever the number of backward passes
                "gradient_clipping": optimizer.max_grad_norm or 0.0,
                "bf16": {"enabled": next(module.parameters()).dtype == torch.bfloat16},
                "data_types": {"grad_accum_dtype": "fp32"},
                "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's needs a compiler
                "zero_optimization": {
                    "stage": stage,
                    "overlap_comm": False,
                    "reduce_bucket_size": min(BUCKET, sum(parameters[name].numel() for name in self.names)),
                    "offload_optimizer": place,
                    **({"offload_param": place} if stage == 3 else {}),
                },
            },
        )

    def apply(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return self.engine(function=function)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss * dist.get_world_size())  # DeepSpeed averages gradients over the ranks

    def step(self) -> Tensor:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.lr(self.done)
        self.engine.step()
        self.done += 1
        norm = torch.as_tensor(self.engine.get_global_grad_norm())
        if not bool(norm.isfinite()):
            raise RuntimeError(f"the gradient's norm is non-finite: {norm}")
        return norm

    @contextmanager
    def gather(self) -> Iterator[Any]:
        if self.stage < 3:
            yield self.module
            return
        with import_deepspeed().zero.GatheredParameters(list(self.module.parameters())):
            for empty, parameter in zip(self._whole.parameters(), self.module.parameters(), strict=True):
                empty.data = parameter.data
            try:
                yield self._whole
            finally:
                for empty in self._whole.parameters():
                    empty.data = empty.data.new_empty(0)

    def state_dict(self) -> dict[str, Any]:
        """Master weights and moments by name, whole on rank 0 and empty on the others, and the steps done."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        state: dict[str, Any] = {"steps": self.done, "weights": {}, **{moment: {} for moment in MOMENTS}}
        parameters = dict(self.module.named_parameters())
        for name in self.names:
            parts = {"weights": safe_get_full_fp32_param(parameters[name])}
            parts |= {moment: safe_get_full_optimizer_state(parameters[name], moment) for moment in MOMENTS}
            if dist.get_rank() == 0:
                for part, value in parts.items():
                    state[part][name] = value.view(_shape(parameters[name])).to("cpu", copy=True)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["steps"]
        zero = self.engine.optimizer
        if self.stage == 3:
            self._load_partitions(zero, state)
            return
        for partition in (p for group in zero.optimizer.param_groups for p in group["params"]):
            _fill(zero.optimizer.state[partition], partition, self.done)
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
            _fill(zero.optimizer.state[partition], partition, self.done)
        parameters: dict[str, Any] = dict(self.module.named_parameters())
        for name in self.names:
            held = parameters[name].ds_tensor  # this rank's part, flat; the last rank's is filled up
            first = dist.get_rank() * held.numel()
            parts = {key: state[key][name].flatten()[first : first + held.numel()] for key in ("weights", *MOMENTS)}
            parts = {key: nn.functional.pad(part, (0, held.numel() - len(part))) for key, part in parts.items()}
            held.data.copy_(parts["weights"])
            safe_set_local_fp32_param(parameters[name], parts["weights"])
            for moment in MOMENTS:
                safe_set_local_optimizer_state(parameters[name], parts[moment], moment)


def import_deepspeed() -> Any:
    """DeepSpeed, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    quieten()
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # which it calls
    try:
        with _no_stderr():  # its import links trial programs, and the linker says what is missing here
            import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"engine: must be none without DeepSpeed (pip install -e .[deepspeed] brings it; {error}), got zero"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for minutes; gloo will do
    return deepspeed


@contextmanager
def _no_stderr() -> Iterator[None]:
    """What this process and its children write to their standard error goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quieten() -> None:
    """Have DeepSpeed say nothing as it is imported, by us or by transformers, which does so to save a model."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it warns that it found no other


def _empty_copy(module: nn.Module) -> nn.Module:
    """A module of the same structure whose parameters are empty; buffers and all else are copied."""
    empty = {id(p): nn.Parameter(p.data.new_empty(0), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, empty)


def _fill(adam: dict[str, Any], partition: Tensor, step: int) -> None:
    """Adam's state of a partition, as it is made in the first step."""
    adam["step"] = torch.tensor(float(step))
    for moment in MOMENTS:
        adam[moment] = torch.zeros_like(partition)


def _shape(parameter: Any) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
