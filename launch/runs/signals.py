"""Signals that ask a process to stop.

Inside the training loop, the run completes the step and saves a checkpoint first; elsewhere it stops at once. In both
cases KeyboardInterrupt(number) is raised, and the run is recorded as `preempted`.
"""

import _thread
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)  # SIGUSR2: SLURM's time limit
REPEAT_SECONDS = 1.0  # signals that follow each other more quickly are one request, sent several times
IMPORT_FILE = "<frozen importlib._bootstrap>"
_deferring = False
_holding = False
_pending: int | None = None
_urgent = False
_requested_at = -REPEAT_SECONDS


def install() -> None:
    """Install the handlers and forget earlier signals. A signal that is ignored, as SIGHUP under nohup, stays so."""
    forget()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def uninstall() -> None:
    """Let signals end the process from now on, without a message: all is done, and Python is about to end."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def forget() -> None:
    """Forget the signals that have arrived, and stop deferring."""
    global _deferring, _pending, _urgent, _requested_at
    _deferring, _pending, _urgent, _requested_at = False, None, False, -REPEAT_SECONDS


def defer(deferring: bool) -> None:
    """Start or stop deferring: while deferring, a signal is stored for `pending` instead of raising."""
    global _deferring
    _deferring = deferring


def pending() -> int | None:
    """The number of the first signal that arrived, or None.

    It may have arrived before `defer`: the KeyboardInterrupt of a signal is lost where code discards exceptions.
    """
    return _pending


@contextmanager
def held() -> Iterator[None]:
    """Store all signals, also a second Ctrl-C, while a record is written; the first one is raised afterwards."""
    global _holding
    before, _holding = _pending, True
    try:
        yield
    finally:
        _holding = False
    if _pending is not None and before is None and not _deferring:
        raise KeyboardInterrupt(_pending)


def urgent() -> bool:
    """Whether a further signal has arrived: a second Ctrl-C, or any signal after REPEAT_SECONDS."""
    return _urgent


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending, _urgent, _requested_at
    if not _deferring and not _holding and _is_importing(frame):  # modules written in C may discard the exception
        _thread.start_new_thread(_send_again, (number,))
        return
    repeated = _pending is not None
    elapsed = time.monotonic() - _requested_at
    _pending = _pending or number
    _urgent = _urgent or (repeated and (number == signal.SIGINT or elapsed >= REPEAT_SECONDS))
    if not repeated:
        _requested_at = time.monotonic()
    if _holding:
        return
    # A cluster may send its signal more than once, to several processes of a job; only Ctrl-C is repeated by people.
    stop_now = repeated and number == signal.SIGINT if _deferring else elapsed >= REPEAT_SECONDS
    if stop_now:
        _requested_at = time.monotonic()
        raise KeyboardInterrupt(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORT_FILE:
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(0.05)
    os.kill(os.getpid(), number)
