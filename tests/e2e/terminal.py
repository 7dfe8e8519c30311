"""Run a command on a terminal, as a user sees it, and note when it prints."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time
from itertools import pairwise
from typing import NamedTuple

from tests.commands import ROOT

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Shown(NamedTuple):
    """What a command showed.

    text: without the terminal's codes. gap: seconds of the longest silence before the last line. status: exit status.
    """

    text: str
    gap: float
    status: int


def on_terminal(module, *arguments, home, columns=80):
    """Run `python -m MODULE ARGUMENTS` on a terminal, with an empty home folder and no settings of the user."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS") if name in os.environ}
    environment = {**kept, "HOME": str(home), "TERM": "xterm", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(home)
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [sys.executable, "-m", module, *map(str, arguments)]
        os.execve(sys.executable, command, environment)
    shown, times = b"", [time.monotonic()]
    while True:
        try:
            added = os.read(terminal, 65536)
        except OSError:  # the command has ended
            added = b""
        if not added:
            break
        shown += added
        times.append(time.monotonic())
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    gap = max(after - before for before, after in pairwise(times))
    return Shown(CODES.sub("", shown.decode("utf-8", "replace")), gap, status)
