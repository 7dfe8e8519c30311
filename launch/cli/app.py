"""The command line of a package, `python -m PACKAGE` or `python -m PACKAGE.COMMAND`.

Start-up imports neither torch nor the package's training code, so `--help` and errors appear at once.

A wrong key, type, value or combination is rejected before anything runs. Before a sweep starts, every job is checked,
and one invalid job rejects the whole sweep. Once the jobs are running, a job that fails does not stop the others. In
both cases the process exits with status 1.
"""

import os
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
from conf.schema.extras import missing_package
from launch.cli import sweep_check
from launch.cli.command_line import read_command_line
from launch.cli.command_table import as_typed
from launch.cli.errors import error_message, one_line
from launch.cli.import_path import append_user_modules
from launch.cli.next_steps import after_run, after_sweep, how_to_continue
from launch.cli.recorded_command import config_flags, unresolved
from launch.cli.shadowing import refuse_shadowing
from launch.cli.sweep_report import report_sweep
from launch.cli.validation import check, register
from launch.runs import signals, streams
from launch.runs.atomic import disk_full
from launch.runs.closing import is_managed, pictures_in, show_next, show_pictures, shown_path
from launch.runs.console import console
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def start(package: str, train: Callable[[Any, "Run"], None]) -> None:
    """Run a package's command line. The process exits with status 1 if any job failed.

    After a sweep the package's report compares the runs that have finished (`launch.cli.sweep_report`).

    Args:
        package: what follows `python -m`: the import name of the package, whose configuration is in conf/PACKAGE, or
            PACKAGE.COMMAND, whose configuration is in conf/PACKAGE/COMMAND.
        train: the job, called with the typed configuration and the run.
    """
    streams.protect()
    append_user_modules()
    refuse_shadowing()
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its exceptions, and we word the message
    outcomes = Outcomes(package, full_error == "1")

    def job(config: DictConfig) -> None:
        outcomes.sweep = _sweep_folder()
        try:
            outcomes.finished.append(_run_job(package, config, train))
        except Exception as error:  # the other jobs of a sweep continue
            outcomes.add_error(error)
        except KeyboardInterrupt as interruption:
            for note in how_to_continue(_output_folder(), outcomes.sweep):
                interruption.add_note(note)
            raise

    job.outcomes = outcomes  # type: ignore[attr-defined]  # a launcher reports the outcomes of its jobs here
    job.__module__ = package  # Hydra derives the job's name from it, and so the run folder
    main = hydra.main(version_base="1.3", config_path=f"pkg://conf.{package}", config_name="config")(job)
    try:
        signals.install()
        try:
            register(package)
            sweep_check.install(package)
            read_command_line(package)
            main()
        except Exception as error:  # not from a job: `job` handles those
            raise ConfigError(error_message(error, package)) from error
        if outcomes.sweep is not None:
            report_sweep(package, outcomes.finished, outcomes.sweep)
        outcomes.close()
    except KeyboardInterrupt as interruption:
        sys.exit(streams.report_interruption(package, interruption))
    except Exception as error:
        outcomes.add_error(error)
    finally:
        signals.uninstall()
    if outcomes.failures:
        sys.exit(1)


last_error = ""  # message of this process's last failure, one line; launch.cluster.job reads it


class Outcomes:
    """The finished and failed jobs of a command line. A failure is printed when it is added."""

    def __init__(self, package: str, full_error: bool) -> None:
        self.package = package
        self.full_error = full_error
        self.finished: list[Path] = []
        self.failures = 0
        self.sweep: Path | None = None  # its folder, if the command started one

    def close(self) -> None:
        """Print the pictures, and what can follow, of the run or the sweep. Nothing if there is neither."""
        if is_managed():
            return
        if self.sweep is not None:
            show_pictures(pictures_in(self.sweep))
            show_next(after_sweep(self.sweep, len(self.finished), self.failures))
        elif self.finished:
            show_pictures(pictures_in(self.finished[0]))
            show_next(after_run(self.finished[0]))

    def add_error(self, error: Exception) -> None:
        """Count a failure. Print it, with its traceback if `full_error`, or if it is no `ConfigError`.

        An optional package that is missing is a `ConfigError`.
        """
        global last_error
        missing = missing_package(error)
        error = disk_full(error) or (error if missing is None else ConfigError(missing))
        trace = "".join(traceback.format_exception(error))
        last_error = one_line(str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}")
        self.add_failure(last_error, trace if self.full_error or not isinstance(error, ConfigError) else "")

    def add_failure(self, message: str, trace: str = "") -> None:
        """Count a failure and print it on standard error, the message on one line after the traceback."""
        self.failures += 1
        print(f"{trace}{self.package}: {as_typed(one_line(message))}", file=sys.stderr)


def _sweep_folder() -> Path | None:
    """The folder of the sweep that Hydra is running, None if it is running a single run."""
    hydra_config = HydraConfig.get()
    return Path(str(hydra_config.sweep.dir)).absolute() if hydra_config.mode is RunMode.MULTIRUN else None


def _output_folder() -> Path:
    """The folder of the run."""
    return Path(unresolved(HydraConfig.get().runtime)["output_dir"])


def _run_job(package: str, config: DictConfig, train: Callable[[Any, "Run"], None]) -> Path:
    hydra_config, folder = HydraConfig.get(), _output_folder()
    try:
        typed = check(package, config)
    except ConfigError:
        with suppress(OSError):
            folder.rmdir()  # Hydra created it; rmdir keeps a folder that is not empty
        raise
    with working("loading the libraries"):
        import torch  # slow to import; --help and errors do not need it

        from launch.engines import distributed
        from launch.runs.noise import silence_libraries
        from launch.runs.record import is_finished
        from launch.runs.run import Run

    silence_libraries()
    console.quiet = distributed.init().rank != 0
    if hydra_config.mode is RunMode.MULTIRUN:
        console.rule(f"[{hydra_config.job.num}]")  # Hydra has printed its overrides
    folder, config, typed = _same_on_all_ranks(folder, config, typed)
    threads = torch.get_num_threads()
    torch.set_num_threads(typed.threads or threads)
    try:
        if is_finished(folder, config) and typed.resume != "never":
            console.print(f"already finished, nothing to do: {shown_path(folder)}", soft_wrap=True)
            return folder
        flags = config_flags(DictConfig({"hydra": hydra_config}), package)
        with Run(folder, package, config, unresolved(hydra_config.overrides.task), flags) as run, working("working"):
            train(typed, run)
    finally:
        torch.set_num_threads(threads)
        register(package)  # for the next job, in case this one composed the configuration of another package
    console.print(f"run folder: {shown_path(folder)}", soft_wrap=True)
    return folder


def _same_on_all_ranks(folder: Path, config: DictConfig, typed: Any) -> tuple[Path, DictConfig, Any]:
    """The folder and configuration of rank 0. A value resolved from a clock may differ from rank to rank."""
    from launch.engines import distributed

    ours = [str(folder.absolute()), OmegaConf.to_yaml(config, resolve=True)]
    rank_0 = distributed.broadcast(ours)
    if rank_0 == ours:
        return folder, config, typed
    if rank_0[0] != ours[0]:
        with suppress(OSError):
            folder.rmdir()  # Hydra created it
    config = cast(DictConfig, OmegaConf.merge(config, OmegaConf.create(rank_0[1])))
    return Path(rank_0[0]), config, OmegaConf.to_object(config)
