"""The controller of a local job: its ranks have the time they need to save."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conf.schema.launchers import LocalLauncherConfig
from launch.cluster.controller import start_controller
from launch.cluster.local import controller_environment

RANK = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
(folder / "started").touch()
while not stopped:
    time.sleep(0.05)
time.sleep(2.5)  # the rest of the step
(folder / "saved").touch()
"""


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def controller(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    settings = LocalLauncherConfig(array_parallelism=1, timeout_min=5, on_failure="continue")
    command = f"{sys.executable} {script} {tmp_path}"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a shell
    process = start_controller(tmp_path, controller_environment(command, settings))
    signal.signal(signal.SIGINT, before)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def test_ranks_complete_their_step_after_the_sweep_has_gone(controller, tmp_path):
    wait_for(tmp_path / "started")
    assert os.getpgid(controller.pid) != os.getpgid(0)  # Ctrl-C in a terminal does not reach it
    controller.stdin.close()
    assert controller.wait(60) == 0
    assert (tmp_path / "saved").exists()


def test_ranks_are_ended_at_once_by_a_second_request(controller, tmp_path):
    wait_for(tmp_path / "started")
    controller.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        controller.wait(0)
    assert controller.wait(60) == 128 + signal.SIGINT
    assert not (tmp_path / "saved").exists()
