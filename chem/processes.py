"""Ending a process with everything it started."""

import os
import signal
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


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
