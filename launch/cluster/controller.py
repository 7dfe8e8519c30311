"""The ranks of a job of a local sweep: the script that `launch.cluster.local` starts for each job.

submitit's own controller kills its ranks one second after a signal. This one lets them complete the step and save,
however long that takes. Standard input is a pipe that nobody writes to: its end says that the sweep was stopped or
killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from submitit.local.local import Controller

RESEND_SECONDS = 1.0  # a rank that has just been started may discard a signal
END_SECONDS = 5.0  # for ranks that are ended at once to write their record


class JobController(Controller):
    """submitit's controller, with more time for ranks that are ended."""

    def kill_tasks(self) -> None:
        """End the ranks that still run: SIGINT, and SIGKILL after END_SECONDS."""
        deadline = time.monotonic() + END_SECONDS
        for rank in self.tasks:
            rank.send_signal(signal.SIGINT)
        while time.monotonic() < deadline and any(rank.poll() is None for rank in self.tasks):
            time.sleep(0.05)
        super().kill_tasks()


def start_controller(folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start the controller of a job in a session of its own, which Ctrl-C in our terminal does not reach."""
    command = [sys.executable, "-P", __file__, str(folder)]  # a snapshot may be older than this file
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def stop_ranks(ranks: Callable[[], Iterable["subprocess.Popen[str]"]]) -> None:
    """Ask ranks to stop until they have: send SIGTERM, of which a run that saves ignores repetitions."""
    while True:
        for rank in ranks():
            rank.send_signal(signal.SIGTERM)  # nothing is sent to a rank that has ended
        time.sleep(RESEND_SECONDS)


def main() -> None:
    """Run the ranks. SIGINT stops them at once, SIGTERM and the end of standard input after their step."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a background job of a shell
    controller = JobController(Path(sys.argv[1]))

    def watch() -> None:
        while os.read(0, 1):
            pass
        stop_ranks(lambda: list(controller.tasks))

    threading.Thread(target=watch, daemon=True).start()
    try:
        controller.run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
