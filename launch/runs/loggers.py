"""Other places that metrics go to beside metrics.jsonl: `loggers=[tensorboard,wandb]`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from conf.schema.base import ConfigError


class MetricLogger(Protocol):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The metrics of a step; what is not a number is left out."""

    def close(self) -> None:
        """Have everything written."""


class TensorBoardLogger:
    """Event files in the run folder: `tensorboard --logdir FOLDER`. A resumed run hides the steps it takes again."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder / "tensorboard"
        self._make = SummaryWriter
        self._writer: Any = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=step)
        for name, value in numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbLogger:
    """One Weights & Biases run for a run folder, whose id is kept there so that a resumed run continues it.

    Where it goes is Weights & Biases' own affair: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, ...
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        known = folder / "wandb" / "run_id"
        run_id = known.read_text("utf-8").strip() if known.exists() else uuid4().hex[:12]
        known.parent.mkdir(exist_ok=True)
        known.write_text(run_id, "utf-8")
        self._run = wandb.init(
            id=run_id, resume="allow", dir=str(folder), config=dict(config), settings=wandb.Settings(silent=True)
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(numbers(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], MetricLogger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


def make_loggers(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[MetricLogger]:
    """The loggers that the key `loggers` asks for.

    Raises:
        ConfigError: one whose package is not installed.
    """
    loggers: list[MetricLogger] = []
    for name in names:
        try:
            loggers.append(LOGGERS[name](folder, config))
        except ImportError as error:
            raise ConfigError(
                f"loggers: {name} needs the package {error.name}, which is not installed: "
                "pip install -e '.[tracking]', or take it out of the list"
            ) from error
    return loggers


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
