"""Check every job of a sweep before the first one starts, and record the sweep."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig
from launch.cli.errors import error_message
from launch.cli.new_folder import is_main_rank, remove_new_folders
from launch.cli.overrides import quote
from launch.cli.recorded_command import config_flags, recorded_cwd
from launch.cli.validation import check
from launch.cluster.sweep import (
    PlannedSweep,
    Sweep,
    SweepJob,
    SweepLock,
    check_inside,
    extend_record,
    remove_empty_sweep,
    unreadable_reason,
    write_sweep,
)


def install(package: str) -> None:
    """Let Hydra's sweepers check the sweeps of a command. Hydra's own check composes the jobs, and no more."""

    def check_batch(self: Sweeper, batch: list[Sequence[str]]) -> None:
        check_sweep(package, self, batch)

    Sweeper.validate_batch_is_legal = check_batch  # type: ignore[method-assign, assignment]
    sweeper = basic_sweeper()
    if not hasattr(sweeper.split_arguments, "__wrapped__"):
        sweeper.split_arguments = staticmethod(refuse_empty(sweeper.split_arguments))


def basic_sweeper() -> Any:
    """The class of Hydra's basic sweeper. Hydra imports its plugins again, which makes another class."""
    Plugins.instance()
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper


def refuse_empty(split: Callable[..., list[list[list[str]]]]) -> Callable[..., list[list[list[str]]]]:
    """Wrap the function that splits the overrides of a sweep into batches, so that it refuses a sweep of no jobs."""

    @wraps(split)
    def split_checked(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        try:
            if max_batch_size is not None and max_batch_size < 1:
                raise ConfigError(f"hydra.sweeper.max_batch_size: must be >= 1 or null, got {max_batch_size}")
            for override in overrides:
                if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
                    key, _, values = str(override.input_line).partition("=")
                    raise ConfigError(f"{key}: {values} has no values, so the sweep has no jobs")
        except ConfigError:
            remove_new_folders()
            raise
        return split(overrides, max_batch_size)

    return split_checked


def check_sweep(package: str, sweeper: Any, batch: list[Sequence[str]]) -> None:
    """Check the jobs of a sweep, record it, and leave its plan with the launcher.

    Hydra calls this for each batch of jobs. The basic sweeper knows all batches at the first one, so they are checked
    and recorded then; the jobs of other sweepers are added batch by batch. Our own launchers write the record
    themselves, because they may still refuse to start.

    Args:
        package: what follows `python -m`.
        sweeper: Hydra's sweeper.
        batch: the overrides of each job. The run folder is added to them, so that it is decided once: Hydra composes
            each job again, and `now` is another time then.

    Raises:
        ConfigError: the error of the first job that cannot run, or the folder cannot be used.
    """
    plan = getattr(sweeper.launcher, "plan", None)
    passed = 0 if plan is None else plan.passed
    if plan is None or passed == len(plan.jobs):
        knows_all = plan is None and isinstance(sweeper, basic_sweeper())
        jobs = [job for jobs in sweeper.overrides for job in jobs] if knows_all else batch
        plan = sweeper.launcher.plan = make_plan(package, sweeper, jobs, plan)
    plan.passed += len(batch)
    if plan.record.launcher == "basic":
        for index, job in enumerate(plan.jobs[passed : plan.passed]):
            batch[index] = [*batch[index], f"hydra.sweep.subdir={quote(job.folder)}"]


def make_plan(
    package: str, sweeper: Any, jobs: Sequence[Sequence[str]], earlier: PlannedSweep | None
) -> PlannedSweep:
    """Check jobs and add them to the plan of a sweep.

    Args:
        package: what follows `python -m`.
        sweeper: Hydra's sweeper.
        jobs: the overrides of each job.
        earlier: the plan of the earlier batches, None for the first one.

    Raises:
        ConfigError: the error of the first job that cannot run, or the folder cannot be used.
    """
    folder = Path(str(sweeper.config.hydra.sweep.dir))
    lock, done = (earlier.lock, earlier.jobs) if earlier else (None, [])
    try:
        settings = OmegaConf.to_object(sweeper.config.hydra.launcher)  # checks them
        new = check_jobs(package, sweeper, folder, jobs, len(done))
        command = ["python", "-m", package, *sys.argv[1:]]
        record = Sweep(
            package, command, "basic", new, cwd=recorded_cwd(), flags=config_flags(sweeper.config, package)
        )
        dry_run = False
        if isinstance(settings, LocalLauncherConfig):  # one of ours
            record.launcher, record.on_failure, record.settings = (
                settings.cluster,
                settings.on_failure,
                asdict(settings),
            )
            dry_run = settings.dry_run
        if is_main_rank() and not dry_run:
            lock = lock or SweepLock(folder)
            record = extend_record(folder, record)
            if record.launcher == "basic":
                write_sweep(folder, record)
    except (ConfigError, OmegaConfBaseException):
        if lock is not None:
            lock.release()
        remove_empty_sweep(folder)
        raise
    by_folder = {job.folder: job for job in record.jobs}
    passed = earlier.passed if earlier else 0
    return PlannedSweep(record, [*done, *(by_folder[job.folder] for job in new)], lock, passed)


def check_jobs(package: str, sweeper: Any, folder: Path, jobs: Sequence[Sequence[str]], first: int) -> list[SweepJob]:
    """Compose and check jobs, the first of which has the number `first`, and return them.

    Raises:
        ConfigError: the error of the first job that cannot run.
    """
    planned: dict[str, SweepJob] = {}
    for number, overrides in enumerate(jobs, first):
        try:
            config = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
                subdir = str(config.hydra.sweep.subdir)
                HydraConfig.instance().set_config(config)
                del config["hydra"]
            check(package, config)
            if subdir in planned:
                raise ConfigError(
                    f"hydra.sweep.subdir: must differ between jobs, is {subdir} for jobs "
                    f"{planned[subdir].number} and {number}; use ${{hydra.job.num}} in it"
                )
            job = SweepJob(number, list(filter_overrides(overrides)), subdir)
            check_inside(folder, job)
            check_run_folder(folder / subdir, config)
            planned[subdir] = job
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            place = f"job {number} of {len(jobs)}, {' '.join(overrides)}"
            raise ConfigError(f"{error_message(error, package)} (in {place}; no job was started)") from error
    return list(planned.values())


def check_run_folder(run: Path, config: DictConfig) -> None:
    """Check that a job can run in its folder: it holds no run, or the same one. An unreadable run fails by itself.

    Raises:
        ConfigError: the folder holds another run, or `resume` does not allow the run it holds.
    """
    if (run / "run.json").exists() and not unreadable_reason(run):
        from launch.runs.record import earlier_record, resolved_config  # imports torch

        earlier_record(run, resolved_config(config))
