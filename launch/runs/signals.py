"""Signals that ask a run to leave: inside the loop after the step and a checkpoint, elsewhere at once.

Either way training ends in KeyboardInterrupt(number), and the run's record says `preempted`.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)  # a cluster sends SIGUSR2
_deferring = False
_pending: int | None = None


def install() -> None:
    """Handle the signals from now on; one that is ignored (SIGHUP under nohup) stays so."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def defer(deferring: bool) -> None:
    """Whether signals wait to be asked for with `pending`."""
    global _deferring, _pending
    _deferring, _pending = deferring, None


def pending() -> int | None:
    """The signal that came while deferring."""
    return _pending


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    first, _pending = _pending is None, _pending or number
    # A person who types Ctrl-C again means it; a cluster may send its signal to several processes of a job.
    if not _deferring or (number == signal.SIGINT and not first):
        _pending = None
        raise KeyboardInterrupt(number)
