"""Decide the folder of a run or a sweep before it starts.

A sweep has one folder, whatever the configurations of its jobs are. Each start gets a folder of its own where the
folder's name is made from the time: such names have a resolution of a second, so that several commands that start
together would share a folder.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from launch.cli.folder_name import common_name, typed_values
from launch.cli.overrides import quote
from launch.cli.recorded_command import unresolved

SECONDS = re.compile(r"\$\{now:[^}]*%[SfsTXc][^}]*\}")  # `now` with a format that includes the seconds
_new: list[Path] = []  # the folders that this process has made


class NewFolders(Callback):
    """Replaces hydra.run.dir or hydra.sweep.dir by the path of a new folder if the time is part of it.

    With several ranks, rank 0 does so, and its folder counts.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of a run."""
        refuse_nothing(config, "run")
        _claim(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Decide the folder of a sweep, once for all jobs, which are composed from the overrides: it becomes one."""
        refuse_nothing(config, "sweep")
        with _common_choices(config):
            folder = str(_claim(config, "sweep") or config.hydra.sweep.dir)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote(folder)}")


def refuse_nothing(config: DictConfig, mode: str) -> None:
    """End the command if its folder is empty, as that of a variable without a value: Hydra takes the working folder.

    Raises:
        SystemExit: status 1, with the message. Hydra ignores any other exception of a callback.
    """
    if not str(config.hydra[mode].dir or "").strip():
        key = f"hydra.{mode}.dir"
        raise SystemExit(f"{config.hydra.job.name}: {key}: must be a folder, got nothing; is a variable empty?")


@contextmanager
def _common_choices(config: DictConfig) -> Iterator[None]:
    """Let the choices of a sweep be what its jobs share: its folder may be named after an option that is swept."""
    choices = config.hydra.runtime.choices
    before = dict(choices)
    typed = typed_values(unresolved(config.hydra.overrides.task), list(before))
    with read_write(config), open_dict(config):
        choices.update({group: common_name(names) for group, names in typed.items() if names})
        try:
            yield
        finally:
            choices.update(before)


def _claim(config: DictConfig, mode: str) -> Path | None:
    """Make the folder and return it. None if its name is not made from the time."""
    section = config.hydra[mode]
    if not is_main_rank() or not any(stamp in str(section.dir) for stamp in _stamps(section)):
        return None
    folder = new_folder(Path(str(section.dir)))
    _new.append(folder)
    with read_write(config), open_dict(config):
        section.dir = str(folder)
    return folder


def _stamps(section: DictConfig) -> list[str]:
    """The times in the template of a section's `dir`, as they are written. The path may hold none of them."""
    stamps = []
    for template in SECONDS.findall(str(unresolved(section)["dir"])):
        with read_write(section), open_dict(section):
            section.stamp = template
            stamps.append(str(section.stamp))  # `now` is computed once in a process
            del section.stamp
    return stamps


def new_folder(path: Path) -> Path:
    """Create the folder `path`, or path_2, path_3 and so on if it exists already, and return it.

    Raises:
        OSError: the folder cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
        with suppress(FileExistsError):
            candidate.mkdir()  # of several processes, one succeeds
            return candidate
    raise AssertionError


def remove_new_folders() -> None:
    """Remove the folders that this process has made and left empty."""
    while _new:
        with suppress(OSError):
            _new.pop().rmdir()


def is_main_rank() -> bool:
    """Whether this process is rank 0 of torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"
