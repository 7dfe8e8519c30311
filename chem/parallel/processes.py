"""Processes of the package's own modules, and ending one with everything it started."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
FIXED = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}  # one core a process, and no chance
# A terminal or SLURM sends these to all processes of a run; it is the run that decides when one of its own ends.
SPARED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


def import_path() -> list[str]:
    """Where this process looks for modules, the working directory by its name."""
    return [entry or os.getcwd() for entry in sys.path]


def start_module(
    name: str, descriptors: Sequence[int], *, session: bool = False, **environment: str
) -> subprocess.Popen[bytes]:
    """`python -m name DESCRIPTOR...`, which inherits those, on one core; with `session`, the leader of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", name, *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(import_path())} | FIXED | environment,
        start_new_session=session,
    )


def ignore_stop_signals() -> None:
    """To be called first thing by a process that is not to end by `SPARED`."""
    for number in SPARED:
        signal.signal(number, signal.SIG_IGN)


def session_members(session: int) -> list[int]:
    """Processes of a session, whatever process groups they have made for themselves; none where there is no /proc."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # a name may hold anything
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def kill_group(group: int) -> None:
    """SIGKILL to a process group; nothing where it is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_session(session: int, spare: int = 0) -> None:
    """SIGKILL to all of a session but `spare`, again until none is left: one may just be starting another.

    Its leader must not have been waited for: afterwards the number may be another's.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.kill(session, signal.SIGKILL)
    while members := [pid for pid in session_members(session) if pid != spare]:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
