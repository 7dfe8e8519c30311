"""Signals: at once, or deferred until the loop asks for them."""

import os
import signal

import pytest

from launch.runs import signals


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of a run, and the former ones again after the test."""
    before = {number: signal.getsignal(number) for number in signals.STOP_SIGNALS}
    for number in signals.STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    signals.install()
    yield
    signals.defer(False)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_stops_at_once_outside_the_loop(number):
    with pytest.raises(KeyboardInterrupt) as interruption:
        os.kill(os.getpid(), number)
    assert interruption.value.args == (number,)
    assert signals.pending() is None


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_waits_inside_the_loop(number):
    signals.defer(True)
    assert signals.pending() is None
    os.kill(os.getpid(), number)
    assert signals.pending() == number
    signals.defer(False)
    assert signals.pending() is None


def test_the_first_signal_counts_and_repetitions_do_nothing():
    signals.defer(True)
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    assert signals.pending() == signal.SIGUSR2


def test_a_second_ctrl_c_stops_at_once():
    signals.defer(True)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    signals.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
