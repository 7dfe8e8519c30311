"""Making the engine that a configuration names."""

from typing import Any

from torch import nn

from conf.schema.base import ConfigError, load_object
from conf.schema.run import OptimizerConfig
from launch.engines import distributed
from launch.engines.base import Engine
from launch.engines.torch import TorchEngine

DEEPSPEED: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero3_offload": {"stage": 3, "offload": True},
}


def make_engine(
    name: str, module: nn.Module, optimizer: OptimizerConfig, steps: int, *, shared: bool = False
) -> Engine:
    """The engine called `name`, or one of your own: package.module:name, called with module, optimizer and steps.

    Args:
        shared: whether the caller gives each rank its own part of a step's samples, so that there may be several.

    Raises:
        ConfigError: there are several ranks, and nothing for them to share; or the engine cannot be found.
    """
    world = distributed.current().world
    if world > 1 and not shared:
        raise ConfigError(
            f"hydra.launcher.tasks_per_node: must be 1 (and .nodes=1) for this package, whose steps run in one "
            f"process, got {world} ranks"
        )
    if name == "torch":
        return TorchEngine(module, optimizer, steps)
    if name in DEEPSPEED:
        from launch.engines.deepspeed import DeepSpeedEngine  # imports DeepSpeed

        return DeepSpeedEngine(module, optimizer, steps, **DEEPSPEED[name])
    engine: Engine = load_object("engine.name", name)(module, optimizer, steps)
    return engine
