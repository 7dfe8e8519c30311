"""`python -m PACKAGE`: compose, check, run, and say in one line what went wrong.

Start-up imports neither torch nor the package's training code, so that --help and mistakes are answered at once.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from conf import schema
from conf.schema import ConfigError
from launch.shadowing import refuse_shadowing

if TYPE_CHECKING:
    from launch.run import Run

CONF = Path(schema.__file__).parent
GROUP_SCHEMAS = {
    "transform": {"identity_schema": schema.IdentityConfig, "mara_schema": schema.MaraConfig},
    "beta_schedule": {
        "constant_beta_schema": schema.ConstantBetaConfig,
        "adaptive_beta_schema": schema.AdaptiveBetaConfig,
    },
}


def start(
    package: str,
    config_class: type[schema.RunConfig],
    train: Callable[[Any, "Run"], None],
    report: Callable[[list[Path], Path], None] | None = None,
) -> None:
    """Run a package's command line; the process ends with status 1 if any job failed.

    Args:
        package: its import name, and the name of its folder under conf.
        config_class: its schema.
        train: (config, run) -> None, the job itself.
        report: (run folders, sweep folder) -> None, called after a sweep with the finished runs.
    """
    refuse_shadowing()
    _register(config_class)
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and we word the message
    finished: list[Path] = []
    failures = 0

    def job(config: DictConfig) -> None:
        nonlocal failures
        try:
            finished.append(_run_job(package, config, train))
        except Exception as error:  # the other jobs of a sweep go on
            failures += 1
            _complain(package, error, full_error)

    sys.argv[0] = f"python -m {package}"
    main = hydra.main(version_base="1.3", config_path=f"pkg://conf.{package}", config_name="config")(job)
    try:
        main()
        if report is not None and len(finished) > 1:
            report(finished, Path(os.path.commonpath(finished)))
    except Exception as error:
        failures += 1
        _complain(package, error, full_error)
    if failures:
        sys.exit(1)


def _run_job(package: str, config: DictConfig, train: Callable[[Any, "Run"], None]) -> Path:
    _check_keys(config)
    typed = OmegaConf.to_object(config)
    from launch.run import Run, console  # not at the top: it loads torch

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode is RunMode.MULTIRUN:
        console.rule(f"[{hydra_config.job.num}] {hydra_config.job.override_dirname}")
    with Run(folder, package, config, list(hydra_config.overrides.task)) as run:
        train(typed, run)
    console.print(f"run folder: {os.path.relpath(folder)}", soft_wrap=True)
    return folder


def _check_keys(node: DictConfig, prefix: str = "") -> None:
    """Refuse what +key=value added to a typed node and what ~key took from it: the schema is the whole of it."""
    node_type = OmegaConf.get_type(node)
    if not is_dataclass(node_type):
        return
    allowed = [f.name for f in fields(node_type)]
    for key in node:
        if key not in allowed:
            raise ConfigError(f"{prefix}{key}: no such key; allowed: {', '.join(allowed)}; found {key}")
    for key in allowed:
        if key not in node and not OmegaConf.is_missing(node, key):
            raise ConfigError(f"{prefix}{key}: must be given, found nothing")
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig):
            _check_keys(child, f"{prefix}{key}.")


def _register(config_class: type[schema.RunConfig]) -> None:
    store = ConfigStore.instance()
    store.store(name="run_schema", node=config_class)
    for group, classes in GROUP_SCHEMAS.items():
        for name, node in classes.items():
            store.store(group=group, name=name, node=node)


def _complain(package: str, error: Exception, full_error: bool) -> None:
    """One line on standard error; the traceback of a mistake only on request, that of a bug always."""
    expected = isinstance(error, ConfigError | HydraException | OmegaConfBaseException)
    if full_error or not expected:
        traceback.print_exception(error)
    print(f"{package}: {explain(package, error)}", file=sys.stderr)


def explain(package: str, error: Exception) -> str:
    """A composition or validation error in one line: the key, what is allowed, what was found."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
    for cause in causes:
        if isinstance(cause, ConfigError):
            return _one_line(str(cause))
    text = "\n".join(str(cause) for cause in causes)
    for wording in (_unknown_key, _unknown_option, _missing_value, _wrong_value):
        message = wording(package, text, causes)
        if message:
            return _one_line(message)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _one_line(text)
    return _one_line(f"{type(error).__name__}: {error}")


def _unknown_key(package: str, text: str, causes: list[Exception]) -> str | None:
    found = re.search(r"Key '([^']*)' (?:is )?not in (?:struct|'(\w+)')[\s\S]*?full_key: (\S+)", text)
    if not found:
        return None
    name, class_name, key = found[1], found[2], found[3]
    allowed = _field_names(class_name)
    close = get_close_matches(name, allowed, n=1)
    hint = f" (did you mean {key.removesuffix(name)}{close[0]}?)" if close else ""
    return f"{key}: no such key{hint}; allowed: {', '.join(allowed)}; found {name}"


def _unknown_option(package: str, text: str, causes: list[Exception]) -> str | None:
    found = re.search(r"Could not find '([^']*)/([^'/]*)'", text)
    if not found:
        found = re.search(r"Could not override '([^']*)'[\s\S]*?No match in the defaults list", text)
        return f"{found[1]}: no such group or key, found {found[1]}" if found else None
    group, option = found[1], found[2]
    folders = [CONF / package / group, CONF / "shared" / group]
    allowed = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    elsewhere = [path.parent.parent.name for path in CONF.glob(f"*/{group}/{option}.yaml")]
    hint = f"; it belongs to python -m {elsewhere[0]}" if elsewhere and elsewhere[0] != "shared" else ""
    return f"{group}: must be one of {', '.join(allowed)}, found {option}{hint}"


def _missing_value(package: str, text: str, causes: list[Exception]) -> str | None:
    missing = next((cause for cause in causes if isinstance(cause, MissingMandatoryValue)), None)
    if missing is None:
        return None
    key = missing.full_key or re.sub(r"[\s\S]*full_key: (\S+)[\s\S]*", r"\1", str(missing))
    name = str(missing.msg).rpartition("missing mandatory value: ")[2].split()[0] if missing.msg else ""
    key = f"{key}.{name}" if name and not key.endswith(name) else key
    return f"{key}: must be given, found ??? (add {key}=VALUE)"


def _wrong_value(package: str, text: str, causes: list[Exception]) -> str | None:
    key = re.search(r"full_key: (\S+)", text)
    if not key:
        return None
    choices = re.search(r"Invalid value '([^']*)', expected one of \[([^\]]*)\]", text)
    if choices:
        return f"{key[1]}: must be one of {choices[2]}, found {choices[1]}"
    kind = re.search(r"Value '([^']*)'.*could not be converted to (\w+)", text)
    if kind:
        return f"{key[1]}: must be of type {kind[2].lower()}, found {kind[1]}"
    return f"{key[1]}: {text.splitlines()[0]}"


def _field_names(class_name: str | None) -> list[str]:
    node = getattr(schema, class_name or "", None)
    return [f.name for f in fields(node)] if is_dataclass(node) else []


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
