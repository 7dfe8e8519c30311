"""A command in a child process, which gets the signals that this process gets."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from launch.runs import signals

POLL_SECONDS = 0.1


def run_process(command: Sequence[str], cwd: str | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run a command and return its exit status. Signals are passed on to it, and it has the time it needs to end.

    It has a session of its own, so that Ctrl-C in a terminal reaches it once.

    Raises:
        KeyboardInterrupt: a signal asked to stop. Its argument is the signal's number. The process has ended.
    """
    signals.defer(True)
    sent: list[int] = []
    with subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True) as process, signals.held():
        while process.poll() is None:
            wanted = [number for number in (signals.pending(), signals.urgent() and signal.SIGINT) if number]
            for number in wanted[len(sent) :]:
                process.send_signal(number)
                sent.append(number)
            time.sleep(POLL_SECONDS)
    signals.defer(False)
    interruption = signals.pending()
    if interruption is not None:
        raise KeyboardInterrupt(interruption)
    return process.returncode
