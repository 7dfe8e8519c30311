"""Standard output and error that may go away: a closed pipe, a full disk, a terminal that was closed.

What is printed is then lost, and the process goes on: a run must not end because nobody reads its progress.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable

from launch.runs import signals

NOBODY_READS = (errno.EPIPE, errno.EIO)  # `| head`, a closed terminal


class LossyStream(io.TextIOWrapper):
    """A text stream that discards what is written to it after an error, which it reports once on standard error."""

    def write(self, text: str) -> int:
        """Write a text, or discard it."""
        try:
            return super().write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, or discard what it holds."""
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if error.errno not in NOBODY_READS and sys.stderr is not self:
            print(f"standard output: {error.strerror}; what follows is not shown", file=sys.stderr)


def protect() -> None:
    """Let standard output and error survive errors. Does nothing to streams that something else has replaced."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed with `>&-`: without this, the next file that is opened would take its place
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=True))
        elif stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            lossy = LossyStream(stream.buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
            setattr(sys, name, lossy)


def run_command(name: str, main: Callable[[], int]) -> None:
    """Run `main` of a command such as launch.status, with protected streams, and exit with the status it returns."""
    protect()
    try:
        signals.install()
        status = main()
    except KeyboardInterrupt as interruption:
        status = report_interruption(name, interruption)
    finally:
        signals.uninstall()
    sys.exit(status)


def report_interruption(name: str, interruption: KeyboardInterrupt) -> int:
    """Say on standard error what ended a command, then the exception's notes; return the exit status.

    The notes say what is saved and how to go on. Whatever knows it adds them while the exception passes.
    """
    number = interruption.args[0] if interruption.args else signal.SIGINT
    print(f"{name}: interrupted by {signal.Signals(number).name}", file=sys.stderr)
    for note in getattr(interruption, "__notes__", ()):
        print(note, file=sys.stderr)
    return int(128 + number)
