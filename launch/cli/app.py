"""`python -m PACKAGE`, `python -m PACKAGE.COMMAND`: compose, check, run, and say in one line what went wrong.

Start-up imports neither torch nor the package's training code, so that --help and mistakes are answered at once.

A mistake (a key, a type, a value, a combination) is refused before anything runs. In a sweep every job is checked
before the first one starts, and one bad job refuses the sweep: Hydra does so for a key that does not exist, and a
combination that must not run is no different. A job that fails while it runs, though, leaves the others to go on.
Either way the process ends with status 1.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from conf.schema.base import ConfigError
from launch.cli.command_line import read_command_line
from launch.cli.errors import explain, one_line
from launch.cli.shadowing import refuse_shadowing
from launch.cli.validation import check, register
from launch.cluster.sweep import config_flags
from launch.runs import signals

if TYPE_CHECKING:
    from launch.runs.run import Run


def start(
    package: str,
    train: Callable[[Any, "Run"], None],
    report: Callable[[list[Path], Path], None] | None = None,
) -> None:
    """Run a package's command line; the process ends with status 1 if any job failed.

    Args:
        package: what follows `python -m`: the package's import name, and that of its folder under conf; or
            PACKAGE.COMMAND, with its configuration in conf/PACKAGE/COMMAND.
        train: (config, run) -> None, the job itself.
        report: (run folders, sweep folder) -> None, called after a sweep with the finished runs.
    """
    refuse_shadowing()
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and we word the message
    outcomes = Outcomes(package, full_error == "1")

    def job(config: DictConfig) -> None:
        try:
            outcomes.finished.append(_run_job(package, config, train))
        except Exception as error:  # the other jobs of a sweep go on
            outcomes.complain(error)

    job.outcomes = outcomes  # type: ignore[attr-defined]  # where a launcher says what became of its jobs
    signals.install()
    register(package)
    job.__module__ = package  # Hydra names the job, and so the run folder, after it
    main = hydra.main(version_base="1.3", config_path=f"pkg://conf.{package}", config_name="config")(job)
    try:
        try:
            read_command_line(package)
            main()
        except Exception as error:  # not of a job
            raise ConfigError(explain(error, package)) from error
        if report is not None and len(outcomes.finished) > 1:
            report(outcomes.finished, Path(os.path.commonpath(outcomes.finished)))
    except KeyboardInterrupt as interruption:
        number = interruption.args[0] if interruption.args else signal.SIGINT
        print(f"{package}: interrupted by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        outcomes.complain(error)
    if outcomes.failures:
        sys.exit(1)


last_error = ""  # the traceback of this process's last failure, for who started it


class Outcomes:
    """What became of the jobs of a command line."""

    def __init__(self, package: str, full_error: bool) -> None:
        self.package = package
        self.full_error = full_error
        self.finished: list[Path] = []
        self.failures = 0

    def complain(self, error: Exception) -> None:
        """The traceback of a mistake only on request, that of a bug always."""
        global last_error
        last_error = "".join(traceback.format_exception(error))
        message = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        self.failed(message, last_error if self.full_error or not isinstance(error, ConfigError) else "")

    def failed(self, message: str, trace: str = "") -> None:
        self.failures += 1
        print(f"{trace}{self.package}: {one_line(message)}", file=sys.stderr)


def _run_job(package: str, config: DictConfig, train: Callable[[Any, "Run"], None]) -> Path:
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        typed = check(package, config)
    except ConfigError:
        with suppress(OSError):
            folder.rmdir()  # Hydra made it; it stays where it holds anything
        raise
    import torch  # not at the top: --help and mistakes need none of this

    from launch.engines import distributed
    from launch.runs.console import console
    from launch.runs.record import is_finished
    from launch.runs.run import Run

    console.quiet = distributed.init().rank != 0
    if hydra_config.mode is RunMode.MULTIRUN:
        console.rule(f"[{hydra_config.job.num}] {hydra_config.job.override_dirname}")
    folder, config, typed = _same_on_all_ranks(folder, config, typed)
    threads = torch.get_num_threads()
    torch.set_num_threads(typed.threads or threads)
    try:
        if is_finished(folder, config) and typed.resume != "never":
            console.print(f"finished already, nothing to do: {os.path.relpath(folder)}", soft_wrap=True)
            return folder
        flags = config_flags(DictConfig({"hydra": hydra_config}))
        with Run(folder, package, config, list(hydra_config.overrides.task), flags) as run:
            train(typed, run)
    finally:
        torch.set_num_threads(threads)
        register(package)  # the next job's, where this one composed another package's
    console.print(f"run folder: {os.path.relpath(folder)}", soft_wrap=True)
    return folder


def _same_on_all_ranks(folder: Path, config: DictConfig, typed: Any) -> tuple[Path, DictConfig, Any]:
    """Rank 0's folder and configuration: what was resolved from a clock may differ from rank to rank."""
    from launch.engines import distributed

    ours = [str(folder.absolute()), OmegaConf.to_yaml(config, resolve=True)]
    theirs = distributed.broadcast(ours)
    if theirs == ours:
        return folder, config, typed
    if theirs[0] != ours[0]:
        with suppress(OSError):
            folder.rmdir()  # Hydra made it
    config = cast(DictConfig, OmegaConf.merge(config, OmegaConf.create(theirs[1])))
    return Path(theirs[0]), config, OmegaConf.to_object(config)
