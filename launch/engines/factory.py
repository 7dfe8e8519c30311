"""Make the engine that a configuration names."""

from typing import Any

from torch import nn

from conf.schema.base import ConfigError, load_object
from conf.schema.run import OptimizerConfig
from launch.engines import distributed
from launch.engines.base import Engine
from launch.engines.torch import TorchEngine

DEEPSPEED_ARGUMENTS: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero3_offload": {"stage": 3, "offload": True},
}


def make_engine(
    name: str, module: nn.Module, optimizer: OptimizerConfig, steps: int, *, shared: bool = False
) -> Engine:
    """Make an engine.

    Args:
        name: torch, a key of DEEPSPEED_ARGUMENTS, or the import path package.module:name of an engine of your own,
            which is called with `module`, `optimizer` and `steps`.
        module: the policy.
        optimizer: settings of AdamW and its schedule.
        steps: number of updates.
        shared: whether the caller divides the samples of a step among the ranks. If not, there must be one rank.

    Raises:
        ConfigError: there are several ranks but `shared` is false, or the engine cannot be found.
    """
    world = distributed.current_ranks().world
    if world > 1 and not shared:
        raise ConfigError(
            "hydra.launcher.tasks_per_node: must be 1 (with hydra.launcher.nodes=1) because this package trains in "
            f"one process, got {world} ranks"
        )
    if name == "torch":
        return TorchEngine(module, optimizer, steps)
    if name in DEEPSPEED_ARGUMENTS:
        from launch.engines.deepspeed import DeepSpeedEngine  # slow to import

        return DeepSpeedEngine(module, optimizer, steps, **DEEPSPEED_ARGUMENTS[name])
    engine: Engine = load_object("engine.name", name)(module, optimizer, steps)
    return engine
