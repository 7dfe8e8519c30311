"""Start a module as a process, and end a process with everything it started."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
CHILD_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}  # one core per process, reproducible
# A terminal or SLURM sends these signals to all processes of a run; the run decides when its workers end.
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


def import_path() -> list[str]:
    """`sys.path` of this process, with "" replaced by the working directory."""
    return [entry or os.getcwd() for entry in sys.path]


def start_module(
    name: str, descriptors: Sequence[int], *, session: bool = False, **environment: str
) -> subprocess.Popen[bytes]:
    """Start `python -m NAME DESCRIPTOR...` on one core, with the import path of this process.

    Args:
        name: module to run.
        descriptors: file descriptors, inherited by the process and passed as its arguments.
        session: make the process the leader of a new session.
        environment: additional environment variables.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", name, *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(import_path())} | CHILD_ENVIRONMENT | environment,
        start_new_session=session,
    )


def ignore_stop_signals() -> None:
    """Ignore the signals that are sent to all processes of a run. A worker calls this first."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def session_members(session: int) -> list[int]:
    """Ids of the living processes of a session, in any process group; empty on systems without /proc."""
    members = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name may contain anything
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(int(folder.name))
    return members


def kill_group(group: int) -> None:
    """Send SIGKILL to a process group, if it still exists."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_session(session: int, spare: int = 0) -> None:
    """Send SIGKILL to all processes of a session, again and again until none is left: they may start others.

    Args:
        session: id of the session. Its leader must not have been waited for: afterwards the id may be reused.
        spare: id of a process that is left alone.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.kill(session, signal.SIGKILL)
    while members := [pid for pid in session_members(session) if pid != spare]:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
