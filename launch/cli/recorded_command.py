"""The command of a run, as run.json and sweep.json record it, and how it is run again.

A record may come from somebody else, so a command is checked before it runs: it must be one of our commands and set
only keys of its own configuration. No configuration file and no module is read from the folder with the record.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.errors import invalid_override_message
from launch.cli.import_path import module_command, module_environment
from launch.cli.overrides import run_folder_override
from launch.runs.child_process import run_process

CONFIG_FLAGS = ("--config-path", "--config-name", "--config-dir")
OWN_FOLDERS = ("command-line", "hydra.searchpath in command-line")  # where Hydra got a folder of the user's from


@dataclass(frozen=True)
class RecordedCommand:
    """`python -m PACKAGE FLAGS OVERRIDES`, started in the folder `cwd`; "" if that is not known."""

    package: str
    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    cwd: str = ""

    def check(self, folder: Path) -> None:
        """Check a command that was read from a record before it is run.

        Args:
            folder: the folder of the run or sweep that holds the record.

        Raises:
            ConfigError: the command is not one of ours, or could run code that the folder holds.
        """
        words = (self.package, self.cwd, *self.flags, *self.overrides)
        if not all(isinstance(word, str) and "\0" not in word for word in words):
            raise ConfigError(f"{folder}: the recorded command is damaged: it must consist of text")
        if self.package not in COMMANDS:
            raise ConfigError(f"{folder}: package: must be one of {', '.join(COMMANDS)}, got {self.package}")
        if split_flags(self.flags)[1]:
            allowed = ", ".join(CONFIG_FLAGS)
            raise ConfigError(f"{folder}: flags: must be {allowed}, each with a value, got {' '.join(self.flags)}")
        check_keys(folder, self.overrides)
        for flag, path in flag_values(self.flags).items():
            if flag != "--config-name" and (not Path(path).is_absolute() or is_inside(path, folder)):
                raise ConfigError(
                    f"{folder}: {flag}: must be an absolute path outside the recorded folder, got {path}; type the "
                    "command instead"
                )

    def arguments(self, folder: Path | str) -> list[str]:
        """The arguments of `python -m PACKAGE` that run the command into a folder."""
        return [*self.flags, *self.overrides, run_folder_override(folder)]

    def run(self, folder: Path, record: Path, environment: Mapping[str, str] | None = None) -> int:
        """Run the command into a folder, in a child process with the code of this process.

        Args:
            folder: the run folder.
            record: the folder that holds the record. Modules in it are not imported.
            environment: further environment variables.

        Returns:
            The exit status.
        """
        cwd = self.working_folder()
        command = [*module_command(self.package), *self.arguments(folder.absolute())]
        variables = module_environment("" if is_inside(cwd, record) else cwd)
        return run_process(command, cwd, {**variables, "MARA_CWD": cwd, **(environment or {})})

    def working_folder(self) -> str:
        """The folder that relative paths are relative to: `cwd`, or the current folder if that does not exist."""
        if self.cwd and not Path(self.cwd).is_dir():
            print(f"the working folder {self.cwd} does not exist; using {os.getcwd()}", file=sys.stderr)
        return self.cwd if self.cwd and Path(self.cwd).is_dir() else os.getcwd()


def is_inside(path: Path | str, folder: Path) -> bool:
    """Whether a path is a folder or inside of it, also where links lead into it."""
    return Path(path).resolve().is_relative_to(folder.resolve())


def check_keys(folder: Path, overrides: Sequence[str]) -> None:
    """Check that overrides set keys of the configuration only; those of Hydra can call any function.

    Raises:
        ConfigError: a key is Hydra's, or an override cannot be parsed.
    """
    for text in overrides:
        try:
            key = OverridesParser.create().parse_override(text).get_key_element()
        except HydraException as error:
            raise ConfigError(f"{folder}: {invalid_override_message(text)}") from error
        if "hydra" in re.split(r"[^\w-]+", key):
            raise ConfigError(f"{folder}: {key}: a record cannot set keys of Hydra; type the command instead")


def read_command(record: Mapping[str, Any]) -> RecordedCommand:
    """The command in the content of a run.json. Earlier versions did not record the working folder.

    Raises:
        ConfigError: the record holds no command.
    """
    words = record.get("command")
    if not isinstance(words, list):
        raise ConfigError("run.json: not the record of a run: it holds no command")
    flags, overrides = split_flags([str(word) for word in words[3:]])
    return RecordedCommand(str(record.get("package")), tuple(flags), tuple(overrides), str(record.get("cwd", "")))


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words of a command line into CONFIG_FLAGS with their values, which come first, and the overrides."""
    end = 0
    while end + 1 < len(words) and words[end] in CONFIG_FLAGS:
        end += 2
    return list(words[:end]), list(words[end:])


def flag_values(flags: Sequence[str]) -> dict[str, str]:
    """The values of CONFIG_FLAGS by flag."""
    return dict(zip(flags[::2], flags[1::2], strict=True))


def config_flags(config: DictConfig, package: str) -> list[str]:
    """The CONFIG_FLAGS that a configuration was composed with, with absolute paths.

    Args:
        config: a configuration with the key `hydra`.
        package: what follows `python -m`.

    Raises:
        ConfigError: its files come from several folders of the user's.
    """
    recorded = unresolved(config.hydra.runtime.config_sources)
    sources = [(source["provider"], source.get("schema", "file"), source["path"]) for source in recorded]
    folders = [os.path.abspath(path) for where, kind, path in sources if where in OWN_FOLDERS and kind == "file"]
    if len(folders) > 1:
        raise ConfigError(
            f"hydra.searchpath: configuration files must be in one folder, to be recorded, got {', '.join(folders)}; "
            "use --config-dir FOLDER"
        )
    mains = [(kind, path) for where, kind, path in sources if where == "main" and path != f"conf.{package}"]
    paths = [os.path.abspath(path) if kind == "file" else f"{kind}://{path}" for kind, path in mains]
    name = unresolved(config.hydra.job).get("config_name") or "config"
    names = [name] if name.removesuffix(".yaml") != "config" else []
    values = zip(CONFIG_FLAGS, (paths, names, folders), strict=True)
    return [word for flag, of_flag in values for value in of_flag for word in (flag, value)]


def recorded_cwd() -> str:
    """The folder that this run's command was typed in; a job of a sweep runs in another one."""
    folder = os.environ.get("MARA_CWD") or os.getcwd()
    return os.fsencode(folder).decode("utf-8", "replace")  # a record cannot hold a name that is no UTF-8


def unresolved(node: Any) -> Any:
    """A node as plain values. Hydra writes paths and overrides into its configuration, and `${` in one is no key."""
    return OmegaConf.to_container(node, resolve=False)
