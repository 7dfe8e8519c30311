"""Where commands import from: our code first, then libraries, and last a user's modules in the working folder.

A file of the user's, such as a package `conf` or a module `random`, then hides none of ours and none of a library's.
Only `python -m` as a user types it imports from the working folder first. Standard library only.
"""

import os
import sys
from contextlib import suppress

from launch.cli.shadowing import HOME

USER_MODULES = "MARA_MODULES"  # environment variable of a child process: the folder of the user's modules


def set_import_path() -> None:
    """Set `sys.path` of the command `mara`."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of the script `mara`, or the working folder with `python -m`
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    with suppress(FileNotFoundError):  # the working folder was removed
        append_folder(os.getcwd())


def append_folder(folder: str) -> None:
    """Import from a folder as well, after everything else."""
    if folder and folder not in sys.path:
        sys.path.append(folder)


def append_user_modules() -> None:
    """Import from the folder that the process that started this one named in `module_environment`."""
    append_folder(os.environ.get(USER_MODULES, ""))


def module_command(module: str) -> list[str]:
    """`python -m MODULE` for a child process, without the working folder on its import path."""
    return [sys.executable, "-P", "-m", module]


def module_environment(user_modules: str = "") -> dict[str, str]:
    """The environment of a `module_command`, with our code first on its import path.

    Args:
        user_modules: the folder of the user's modules; empty: none.
    """
    return {**os.environ, "PYTHONPATH": python_path(HOME), USER_MODULES: user_modules}


def python_path(*folders: os.PathLike[str] | str) -> str:
    """PYTHONPATH of a child process: folders, then this process's own PYTHONPATH."""
    return join_folders(*folders, *os.environ.get("PYTHONPATH", "").split(os.pathsep))


def join_folders(*folders: os.PathLike[str] | str) -> str:
    """The value of PYTHONPATH for these folders. It cannot hold those with a colon in their name."""
    return os.pathsep.join(path for path in dict.fromkeys(map(str, folders)) if path and os.pathsep not in path)
