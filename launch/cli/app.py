"""`python -m PACKAGE`, `python -m PACKAGE.COMMAND`: compose, check, run, and say in one line what went wrong.

Start-up imports neither torch nor the package's training code, so that --help and mistakes are answered at once.

A mistake (a key, a type, a value, a combination) is refused before anything runs. In a sweep every job is checked
before the first one starts, and one bad job refuses the sweep: Hydra does so for a key that does not exist, and a
combination that must not run is no different. A job that fails while it runs, though, leaves the others to go on.
Either way the process ends with status 1.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from conf import schema
from conf.schema import ConfigError, Resume
from launch.cli.errors import explain, no_such_key, not_an_override, one_line
from launch.cli.groups import option_table, options
from launch.cli.shadowing import refuse_shadowing
from launch.cluster.sweep import Sweep, SweepJob, config_flags, write_sweep
from launch.runs import signals

if TYPE_CHECKING:
    from launch.runs.run import Run

OPTION_SCHEMAS = {  # by the name under which an option file of conf/shared asks for its own
    "identity_schema": schema.IdentityConfig,
    "mara_schema": schema.MaraConfig,
    "unlikely_schema": schema.UnlikelyConfig,
    "differential_smoothing_schema": schema.DifferentialSmoothingConfig,
    "ucpo_schema": schema.UcpoConfig,
    "darling_schema": schema.DarlingConfig,
    "constant_beta_schema": schema.ConstantBetaConfig,
    "adaptive_beta_schema": schema.AdaptiveBetaConfig,
    "linear_beta_schema": schema.LinearBetaConfig,
    "cosine_beta_schema": schema.CosineBetaConfig,
    "automatic_beta_schema": schema.AutomaticBetaConfig,
    "both_transforms_schema": schema.BothTransformsConfig,
    "both_schedules_schema": schema.BothSchedulesConfig,
    "recurrent_schema": schema.RecurrentConfig,
    "transformer_schema": schema.TransformerConfig,
    "local_launcher_schema": schema.LocalLauncherConfig,
    "slurm_launcher_schema": schema.SlurmLauncherConfig,
}


def start(
    package: str,
    config_class: type[schema.JobConfig],
    train: Callable[[Any, "Run"], None],
    report: Callable[[list[Path], Path], None] | None = None,
) -> None:
    """Run a package's command line; the process ends with status 1 if any job failed.

    Args:
        package: what follows `python -m`: the package's import name, and that of its folder under conf; or
            PACKAGE.COMMAND, with its configuration in conf/PACKAGE/COMMAND.
        config_class: its schema.
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
    register(package, config_class)
    job.__module__ = package  # Hydra names the job, and so the run folder, after it
    main = hydra.main(version_base="1.3", config_path=f"pkg://conf.{package}", config_name="config")(job)
    try:
        try:
            _read_command_line(package)
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


def register(package: str, config_class: type[schema.JobConfig]) -> None:
    """Make a package's schema, and what its configuration files refer to, known to Hydra."""
    store = ConfigStore.instance()
    for name, node in {"run_schema": config_class, **OPTION_SCHEMAS}.items():
        store.store(name=name, node=node)
    OmegaConf.register_new_resolver("option_table", lambda: option_table(package), replace=True)

    # The sweeper's own check composes every job; ours validates them, too.
    def check_batch(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        _check_jobs(package, self, batch)

    Sweeper.validate_batch_is_legal = check_batch  # type: ignore[method-assign]


def check(package: str, config: DictConfig) -> Any:
    """The typed configuration. Raises ConfigError where it cannot be run with."""
    try:
        _check_keys(package, config)
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, package)) from error


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
    from launch.runs.run import Run, console, is_finished

    console.quiet = distributed.join().rank != 0
    if hydra_config.mode is RunMode.MULTIRUN:
        console.rule(f"[{hydra_config.job.num}] {hydra_config.job.override_dirname}")
    folder, config, typed = _same_on_all_ranks(folder, config, typed)
    threads = torch.get_num_threads()
    torch.set_num_threads(typed.threads or threads)
    try:
        if is_finished(folder, config) and typed.resume is not Resume.never:
            console.print(f"finished already, nothing to do: {os.path.relpath(folder)}", soft_wrap=True)
            return folder
        flags = config_flags(DictConfig({"hydra": hydra_config}))
        with Run(folder, package, config, list(hydra_config.overrides.task), flags) as run:
            train(typed, run)
    finally:
        torch.set_num_threads(threads)
        register(package, schema.RUN_CONFIGS[package])  # the next job's, where this one composed another package's
    console.print(f"run folder: {os.path.relpath(folder)}", soft_wrap=True)
    return folder


def _same_on_all_ranks(folder: Path, config: DictConfig, typed: Any) -> tuple[Path, DictConfig, Any]:
    """Rank 0's folder and configuration: what was resolved from a clock may differ from rank to rank."""
    from launch.engines import distributed

    ours = [str(folder.absolute()), OmegaConf.to_yaml(config, resolve=True)]
    theirs = distributed.share(ours)
    if theirs == ours:
        return folder, config, typed
    if theirs[0] != ours[0]:
        with suppress(OSError):
            folder.rmdir()  # Hydra made it
    config = cast(DictConfig, OmegaConf.merge(config, OmegaConf.create(theirs[1])))
    return Path(theirs[0]), config, OmegaConf.to_object(config)


def _check_jobs(package: str, sweeper: Sweeper, jobs: Sequence[Sequence[str]]) -> None:
    """Compose and check every job of a sweep, and record it; raises ConfigError with the first one's mistake."""
    planned: list[SweepJob] = []
    assert sweeper.config is not None and sweeper.hydra_context is not None
    for number, overrides in enumerate(jobs):
        try:
            config = sweeper.hydra_context.config_loader.load_sweep_config(sweeper.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
                subdir = str(config.hydra.sweep.subdir)
                HydraConfig.instance().set_config(config)
                del config["hydra"]
            check(package, config)
            planned.append(SweepJob(number, list(filter_overrides(overrides)), subdir))
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            _remove_empty_sweep(sweeper)
            which = f"job {number} of {len(jobs)}, {' '.join(overrides)}"
            raise ConfigError(f"{explain(error, package)} (no job was started; this is {which})") from error
    try:
        OmegaConf.to_object(sweeper.config.hydra.launcher)  # checks it
    except (ConfigError, OmegaConfBaseException):
        _remove_empty_sweep(sweeper)
        raise
    if "BasicLauncher" in sweeper.config.hydra.launcher._target_:  # others write their own
        command = ["python", "-m", package, *sys.argv[1:]]
        flags = config_flags(sweeper.config)
        sweep = Sweep(package, command, "basic", planned, cwd=os.getcwd(), flags=flags)
        write_sweep(Path(sweeper.config.hydra.sweep.dir), sweep)


def _remove_empty_sweep(sweeper: Sweeper) -> None:
    """Take back the folder that Hydra makes before it asks whether the jobs are legal."""
    assert sweeper.config is not None
    folder = Path(sweeper.config.hydra.sweep.dir)
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _check_keys(package: str, node: DictConfig, prefix: str = "") -> None:
    """Refuse what +key=value added to a typed node and what ~key took from it: the schema is the whole of it."""
    node_type = OmegaConf.get_type(node)
    if not is_dataclass(node_type):
        return
    allowed = [f.name for f in fields(node_type)]
    for key in map(str, node):
        if key not in allowed:
            raise ConfigError(no_such_key(f"{prefix}{key}", node, package))
    for key in allowed:
        if key not in node and not OmegaConf.is_missing(node, key):
            raise ConfigError(f"{prefix}{key}: must be given, found ~{prefix}{key}")
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig):
            _check_keys(package, child, f"{prefix}{key}.")


def _read_command_line(package: str) -> None:
    """Refuse what Hydra would answer with a page, or let pass; let flags and overrides come in any order."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        what, found, unknown = message.partition("unrecognized arguments: ")
        flags = ", ".join(re.findall(r"--[\w-]+", parser.format_usage()))
        raise ConfigError(f"{unknown}: no such flag; allowed: {flags}; found {unknown}" if found else what)

    parser.error = refuse  # type: ignore[method-assign]
    overrides = parser.parse_intermixed_args().overrides
    flags = sys.argv[1:]
    for override in overrides:
        flags.remove(override)
    sys.argv = [f"python -m {package}", *flags, *overrides]

    given: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value = override.get_key_element().lstrip("+~"), str(override.input_line).partition("=")[2]
        if not key:
            raise ConfigError(not_an_override(f"={value}"))
        if key in given:
            raise ConfigError(f"{key}: must be given once, found {given[key]} and {value}")
        given[key] = value
        picks = override.is_sweep_override() or override.is_delete() or isinstance(override.value(), str | dict)
        if options(package, key) and not picks:
            raise ConfigError(f"{key}: must be one of {', '.join(options(package, key))}, found {value}")
