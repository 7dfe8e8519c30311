"""Signals that ask a run to stop.

Inside the training loop, the run completes the step and saves a checkpoint first; elsewhere it stops at once. In both
cases KeyboardInterrupt(number) is raised, and the run is recorded as `preempted`.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)  # SIGUSR2: SLURM's time limit
_deferring = False
_pending: int | None = None


def install() -> None:
    """Install the handlers. A signal that is ignored, such as SIGHUP under nohup, stays ignored."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def defer(deferring: bool) -> None:
    """Start or stop deferring: while deferring, a signal is stored for `pending` instead of raising."""
    global _deferring, _pending
    _deferring, _pending = deferring, None


def pending() -> int | None:
    """The number of the first signal that arrived while deferring, or None."""
    return _pending


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    first, _pending = _pending is None, _pending or number
    # A second Ctrl-C stops at once. A cluster may send its signal more than once, to several processes of a job.
    if not _deferring or (number == signal.SIGINT and not first):
        _pending = None
        raise KeyboardInterrupt(number)
