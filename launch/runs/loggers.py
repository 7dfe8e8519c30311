"""Loggers that receive the metrics in addition to metrics.jsonl: `loggers=[tensorboard,wandb]`."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from conf.schema.base import ConfigError
from conf.schema.extras import missing_package
from launch.runs.atomic import make_folder, writing
from launch.runs.run_folder import write_text


class MetricLogger(Protocol):
    """Sends the metrics of a run somewhere."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of a step that are numbers, and ignore the others."""

    def close(self) -> None:
        """Flush everything."""


class TensorBoardLogger:
    """Event files in the run folder: `tensorboard --logdir FOLDER`.

    A resumed run repeats the steps after its checkpoint. TensorBoard then shows the repeated steps only.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = hide_tensorboard_errors
        self._folder = folder / "tensorboard"
        self._make_writer = SummaryWriter
        self._writer: Any = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a scalar for each numeric metric."""
        if self._writer is None:
            self._writer = self._make_writer(str(self._folder), purge_step=step)
        for name, value in numeric_metrics(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.flush()  # raises what the thread that writes the file has raised
            self._writer.close()


class WandbLogger:
    """One Weights & Biases run for a run folder. Its id is stored in the folder, so that a resumed run continues it.

    The environment variables of Weights & Biases configure it: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, ...
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        id_file = folder / "wandb" / "run_id"
        run_id = id_file.read_text("utf-8").strip() if id_file.exists() else uuid4().hex[:12]
        make_folder(id_file.parent)
        write_text(id_file, run_id)
        self._run = wandb.init(
            id=run_id, resume="allow", dir=str(folder), config=dict(config), settings=wandb.Settings(silent=True)
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log the numeric metrics."""
        self._run.log(numeric_metrics(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def hide_tensorboard_errors(hook: threading.ExceptHookArgs) -> None:
    """Do not print the OSErrors of TensorBoard's thread: the next call of its writer raises them in this one."""
    from_tensorboard = type(hook.thread).__module__.startswith("tensorboard")
    if not (from_tensorboard and isinstance(hook.exc_value, OSError)):
        threading.__excepthook__(hook)


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], MetricLogger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}


def make_loggers(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[MetricLogger]:
    """Make the loggers listed in the key `loggers`.

    Args:
        names: keys of LOGGERS.
        folder: the run folder.
        config: the resolved configuration, which some loggers record.

    Raises:
        ConfigError: the package of a logger is not installed.
    """
    loggers: list[MetricLogger] = []
    for name in names:
        try:
            with writing(folder):
                loggers.append(LOGGERS[name](folder, config))
        except ImportError as error:
            reason = missing_package(error) or error
            raise ConfigError(f"loggers: {reason}; or remove {name} from the list") from error
    return loggers


def numeric_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
