"""Write run.json for the run of this process: lock the folder, and record how the run started and ended."""

import os
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.schema.base import ConfigError
from launch.cli.recorded_command import recorded_cwd
from launch.cli.shadowing import HOME
from launch.runs.atomic import WriteError, remove_partial
from launch.runs.checkpoint import check_equal, result_config
from launch.runs.checksums import SHOWN_FILES, START_FILES, file_checksums
from launch.runs.provenance import code_version, hardware, package_versions
from launch.runs.run_folder import (
    CLOCK,
    clock_of,
    lock_folder,
    read_config,
    read_record,
    unusable_folder_message,
    write_json,
    write_text,
)

CONTINUED = {  # what a run that resumes reads from the record of the earlier process, and its type
    **dict.fromkeys(("state", "started", "host"), str),
    **dict.fromkeys(("versions", "code"), dict),
    "pid": int,
    "earlier": list,
}


class RunRecord:
    """Locks a run folder when it is created and releases it when it is closed.

    Args:
        folder: the run folder, created if it does not exist.
        package: what follows `python -m`.
        config: the resolved configuration.
        command: the command line of the run.
        ranks: the number of ranks.
        warn: prints a warning.

    Raises:
        ConfigError: the folder cannot be written, another process uses it, it holds a run with another
            configuration, or `resume` does not allow the run it holds.
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
            "cwd": recorded_cwd(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": utc_now(),
            "clock": read_clock(),
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
            raise ConfigError(unusable_folder_message(error)) from error
        try:
            earlier = earlier_record(folder, resolved_config(config))
            if earlier is not None:
                self._add_earlier(earlier, warn)
            for place in (folder, folder / "checkpoints", folder / "report"):
                remove_partial(place)
        except BaseException:
            self.release()
            raise

    def _add_earlier(self, earlier: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """Add the record of an earlier process, and warn if the code or a package has changed since."""
        entry = {key: earlier.get(key) for key in ("state", "started", "ended", "host", "pid", "versions", "code")}
        entry["state"] = "dead" if entry["state"] == "running" else entry["state"]
        self.content |= {"started": earlier["started"], "clock": clock_of(earlier)}
        self.content["earlier"] = [*earlier["earlier"], entry]
        codes = (earlier["code"], self.content["code"])
        before, now = (f"{code.get('commit')}, dirty {code.get('dirty')}" for code in codes)
        if before != now:
            warn(f"the code has changed since the run started (commit {before}; now {now}); results may differ")
        for name, version in self.content["versions"].items():
            if earlier["versions"].get(name) != version:
                warn(f"the run started with {name} {earlier['versions'].get(name)} and continues with {version}")

    def write(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Write config.yaml, overrides.yaml and run.json.

        Raises:
            WriteError: a file cannot be written.
        """
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_text(self.folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
        self.content["checksums"] = file_checksums(self.folder, START_FILES)
        self._write()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add entries to run.json.

        Raises:
            WriteError: a file cannot be written.
        """
        self.content |= facts
        self._write()

    def _write(self) -> None:
        patch = self.content["code"].pop("patch", "")
        if patch:
            write_text(self.folder / "code.patch", patch)
        write_json(self.folder / "run.json", self.content)

    def close(self, error: BaseException | None) -> None:
        """Record how the run ended and release the folder.

        Raises:
            WriteError: run.json cannot be written and `error` is None; otherwise `error` is the one to report.
        """
        self.content["state"] = "finished"
        if isinstance(error, KeyboardInterrupt):
            self.content["state"] = "preempted"
        elif error is not None:
            self.content["state"] = "failed"
            self.content["traceback"] = "".join(traceback.format_exception(error))
        self.content["ended"] = utc_now()
        try:
            at_start = self.content.get("checksums", {})
            self.content["checksums"] = at_start | file_checksums(self.folder, SHOWN_FILES)
            self._write()
        except WriteError:
            if error is None:
                raise
        finally:
            self.release()

    def release(self) -> None:
        """Release the lock of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def earlier_record(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the run in the folder, which this run continues. None if the folder holds no run.

    Raises:
        ConfigError: `resume` does not allow this, or the run in the folder has another configuration.
    """
    resume = config["resume"]
    if not (folder / "run.json").exists():
        if resume == "must":
            raise ConfigError(f"resume=must: {folder} holds no run to resume; use auto or never to start a new one")
        return None
    if resume == "never":
        raise ConfigError(f"resume=never: {folder} already holds a run; use auto or must to resume it")
    check_same_config(folder, config)
    record = read_record(folder)
    damaged = [key for key, kind in CONTINUED.items() if not isinstance(record.get(key), kind)]
    if damaged:
        raise ConfigError(f"{folder / 'run.json'}: not the record of a run: {damaged[0]} is missing or damaged")
    return record


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds a finished run with this configuration.

    Raises:
        ConfigError: the folder holds a finished run with another configuration.
    """
    if not (folder / "run.json").exists() or read_record(folder)["state"] != "finished":
        return False
    check_same_config(folder, resolved_config(config))
    return True


def check_same_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the folder's configuration gives the same results as `config`.

    Raises:
        ConfigError: a key that affects results differs.
    """
    recorded = result_config(read_config(folder))
    check_equal(str(folder / "config.yaml"), recorded, result_config(config), "use a new folder for another run")


def resolved_config(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain values, as in config.yaml."""
    container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return container


def read_clock() -> str:
    """The time that prompts with a date show: MARA_CLOCK, which `launch.reproduce` sets, or the present time.

    Raises:
        ConfigError: MARA_CLOCK is not a time in ISO format.
    """
    text = os.environ.get(CLOCK) or utc_now()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{CLOCK}: must be a time such as 2026-11-29T10:00:00+00:00, got {text!r}") from None
    return text


def utc_now() -> str:
    """The current time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")
