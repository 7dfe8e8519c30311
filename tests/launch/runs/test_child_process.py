"""A command in a child process gets the signals of this process, and time to end."""

import os
import signal
import sys
import threading
import time

import pytest

from launch.runs.child_process import run_process

from .test_signals import handlers  # noqa: F401  # a fixture for every test of this module

SAVES = """
import signal, sys, time
def save(number, frame):
    time.sleep(0.5)
    open("saved", "w").write(str(number))
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, signal.SIG_DFL)
open("ready", "w")
time.sleep(60)
"""


def when(condition, action):
    """Do something in a thread as soon as a condition holds."""

    def wait():
        while not condition():
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_the_exit_status_folder_and_environment(tmp_path):
    script = "import os, sys; sys.exit(int(os.environ['STATUS']) if os.getcwd() == sys.argv[1] else 1)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert run_process(command, str(tmp_path), {**os.environ, "STATUS": "7"}) == 7


def test_a_signal_is_passed_on_and_the_child_has_time_to_save(tmp_path):
    when((tmp_path / "ready").exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt) as interruption:
        run_process([sys.executable, "-c", SAVES], str(tmp_path))
    assert interruption.value.args == (signal.SIGTERM,)
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGTERM))
