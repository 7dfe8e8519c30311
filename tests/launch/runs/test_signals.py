"""Signals: at once, or deferred until the loop asks for them."""

import importlib
import os
import signal
import time

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
    signals.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_stops_at_once_outside_the_loop(number):
    with pytest.raises(KeyboardInterrupt) as interruption:
        os.kill(os.getpid(), number)
    assert interruption.value.args == (number,)
    assert signals.pending() == number  # in case code that discards exceptions has discarded this one


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_a_signal_waits_inside_the_loop(number):
    signals.defer(True)
    assert signals.pending() is None
    os.kill(os.getpid(), number)
    assert signals.pending() == number
    signals.forget()
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


def test_after_a_run_signals_end_the_process():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.uninstall()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == [
        signal.SIG_DFL,
        signal.SIG_IGN,
    ]


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    signals.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def test_signals_in_quick_succession_are_one():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # would raise in the code that handles the first
    assert not signals.urgent()


def test_a_later_signal_stops_at_once_outside_the_loop(monkeypatch):
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.urgent()


def test_a_signal_is_raised_after_a_record_is_written():
    written = []

    def write():
        with signals.held():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            written.append(True)

    with pytest.raises(KeyboardInterrupt) as interruption:
        write()
    assert written
    assert interruption.value.args == (signal.SIGTERM,)


def test_a_signal_during_an_import_is_raised_after_it(tmp_path, monkeypatch):
    lines = ["import os, signal", "try: os.kill(os.getpid(), signal.SIGTERM)", "except BaseException: pass"]
    (tmp_path / "discards_a_signal.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("discards_a_signal")
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)
