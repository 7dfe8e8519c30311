"""Run a command in a forked child of this process, which has imported the packages, so that imports are paid once."""

import importlib
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from benchmarks.reliability.trials import Ended, environment
from tools.as_command import become_command

IMPORTED = {  # what a command imports late
    "didactic": ("didactic.train", "didactic.report"),
    "llm": ("llm.train", "llm.report", "transformers"),
    "chem": ("chem.train", "chem.report"),
    "launch.status": ("rich.table",),
    "launch.collect": ("launch.analysis.html", "launch.analysis.plots", "launch.analysis.table", "pandas"),
}
MEMORY_BYTES = 12 << 30  # of address space: a configuration that needs more fails instead of filling the machine
GRACE_SECONDS = 60.0  # between SIGTERM and SIGKILL: a step that is running may end


def import_modules(module: str) -> None:
    """Import what the command `python -m MODULE` uses. Call it before the first `run_forked`."""
    os.environ.update(environment())
    for name in ("torch", "launch.cli.app", "launch.runs.run", *IMPORTED[module]):
        importlib.import_module(name)


def run_forked(module: str, arguments: list[str], folder: Path, limit: float) -> Ended:
    """Run `python -m MODULE ARGUMENTS` in a child process, in a folder that gets the files `.out` and `.err`.

    After `limit` seconds the child gets SIGTERM, and SIGKILL if it has not ended a minute later.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(module, arguments, folder)
    status, timed_out = _wait(child, limit), False
    if status is None:
        os.kill(child, signal.SIGTERM)
        status = _wait(child, GRACE_SECONDS)
    if status is None:
        timed_out = True
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also what the child started
    if status is None:
        status = os.waitpid(child, 0)[1]
    output, error = ((folder / name).read_text("utf-8", "replace") for name in (".out", ".err"))
    return Ended(os.waitstatus_to_exitcode(status), output, error, timed_out)


def _wait(child: int, limit: float) -> int | None:
    """The wait status of a child, None if it has not ended after `limit` seconds."""
    deadline, pause = time.monotonic() + limit, 0.001
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return None


def _child(module: str, arguments: list[str], folder: Path) -> NoReturn:
    def prepare() -> None:
        os.setsid()
        os.chdir(folder)
        for name, descriptor in ((".out", 1), (".err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    become_command([module, *arguments], prepare)
