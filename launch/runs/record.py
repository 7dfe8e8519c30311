"""run.json of the run that this process is: taking the folder, and saying what became of the run."""

import os
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.schema.base import ConfigError
from launch.cli.shadowing import HOME
from launch.runs.checkpoint import check_equal, result_config
from launch.runs.line_files import unwritable
from launch.runs.provenance import code_version, hardware, package_versions
from launch.runs.run_folder import lock_folder, read_config, read_record, unusable_folder, write_json, write_text


class RunRecord:
    """Owns a run folder from the moment it is opened until it is closed.

    Raises:
        ConfigError: the folder cannot be written to, another process has it, it holds a run with another
            configuration, or `resume` forbids what is in it.
    """

    def __init__(
        self,
        folder: Path,
        package: str,
        config: DictConfig,
        command: Sequence[str],
        ranks: int,
        warn: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {
            "state": "running",
            "package": package,
            "command": list(command),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": now(),
            "ended": None,
            "seed": config.seed,
            "ranks": ranks,
            "code": code_version(HOME),
            "versions": package_versions(),
            "hardware": hardware(),
            "traceback": None,
            "earlier": [],
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(folder)
        except OSError as error:
            raise ConfigError(unusable_folder(error)) from error
        try:
            earlier = check_earlier(folder, plain_config(config))
            if earlier is not None:
                self._continue(earlier, warn)
        except BaseException:
            self.release()
            raise

    def _continue(self, earlier: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """Keep what an earlier process recorded, and warn where code or packages have changed since."""
        kept = {key: earlier[key] for key in ("state", "started", "ended", "host", "pid", "versions", "code")}
        kept["state"] = "dead" if kept["state"] == "running" else kept["state"]
        self.content |= {"started": earlier["started"], "earlier": [*earlier["earlier"], kept]}
        before, now = (f"{code['commit']}, dirty {code['dirty']}" for code in (earlier["code"], self.content["code"]))
        if before != now:
            warn(f"the run started with other code (commit {before}; now {now}): its results may differ")
        for name, version in self.content["versions"].items():
            if earlier["versions"].get(name) != version:
                warn(f"the run started with {name} {earlier['versions'].get(name)}, now {version}")

    def write(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Write config.yaml, overrides.yaml and run.json."""
        try:
            write_text(self.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            write_text(self.folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
            self._write()
        except OSError as error:
            raise ConfigError(unusable_folder(error)) from error

    def _write(self) -> None:
        patch = self.content["code"].pop("patch", "")
        if patch:
            write_text(self.folder / "code.patch", patch)
        write_json(self.folder / "run.json", self.content)

    def close(self, error: BaseException | None) -> None:
        """Record how the run ended and release the folder.

        Raises:
            ConfigError: run.json cannot be written, and there is no `error` to be reported instead.
        """
        self.content["state"] = "finished"
        if isinstance(error, KeyboardInterrupt):
            self.content["state"] = "preempted"
        elif error is not None:
            self.content["state"] = "failed"
            self.content["traceback"] = "".join(traceback.format_exception(error))
        self.content["ended"] = now()
        try:
            self._write()
        except OSError as second:
            if error is None:
                raise ConfigError(unwritable(second, self.folder / "run.json")) from second
        finally:
            self.release()

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_earlier(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the run that the folder holds, once it is clear that this run may continue it; else None."""
    resume = config["resume"]
    if not (folder / "run.json").exists():
        if resume == "must":
            raise ConfigError(f"resume: must be auto or never for a new run, got must and no run in {folder}")
        return None
    if resume == "never":
        raise ConfigError(f"resume: must be auto or must where the folder holds a run, got never and {folder}")
    check_same_config(folder, config)
    return read_record(folder)


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds this very run, finished.

    Raises:
        ConfigError: it holds a finished run with another configuration.
    """
    if not (folder / "run.json").exists() or read_record(folder)["state"] != "finished":
        return False
    check_same_config(folder, plain_config(config))
    return True


def check_same_config(folder: Path, ours: Mapping[str, Any]) -> None:
    """Raise ConfigError where the folder's configuration gives other results than `ours`."""
    theirs = result_config(read_config(folder))
    check_equal(str(folder / "config.yaml"), theirs, result_config(ours), "use a new folder for another run")


def plain_config(config: DictConfig) -> dict[str, Any]:
    """A configuration as config.yaml has it."""
    container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return container


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
