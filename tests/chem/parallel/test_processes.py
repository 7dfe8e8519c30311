"""Starting modules and ending sessions."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from chem.parallel.processes import (
    IGNORED_SIGNALS,
    ignore_stop_signals,
    import_path,
    kill_group,
    kill_session,
    session_members,
    start_module,
)

MODULE = """
import os, sys
with open(int(sys.argv[1]), "w") as file:
    own_session = os.getsid(0) == os.getpid()
    print(own_session, os.environ["OMP_NUM_THREADS"], os.environ["COLOUR"], sys.stdin.read(), file=file)
"""
FAMILY = """
import os, subprocess, sys, time
subprocess.Popen(["sleep", "1000"])
subprocess.Popen(["sleep", "1000"], process_group=0)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def family():
    """The leader of a session with two children, one of them in a process group of its own."""
    command = [sys.executable, "-c", FAMILY]
    leader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    leader.stdout.readline()
    children = psutil.Process(leader.pid).children()
    yield leader, children
    for process in children:
        if process.is_running():
            process.kill()
    leader.kill()
    leader.wait()
    leader.stdout.close()


def running(processes):
    """Those that have not been killed; an orphan's zombie may stay until it is waited for."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_the_import_path_has_names(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "/a"])
    assert import_path() == [os.getcwd(), "/a"]


@pytest.mark.parametrize("session", [False, True])
def test_a_module_is_started_with_its_descriptors_and_one_core(tmp_path, monkeypatch, session):
    (tmp_path / "module_to_start.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    read_end, write_end = os.pipe()
    process = start_module("module_to_start", (write_end,), session=session, COLOUR="green")
    os.close(write_end)
    with os.fdopen(read_end) as file:
        assert file.read().split() == [str(session), "1", "green"]  # and nothing on standard input
    assert process.wait() == 0


def test_a_session_is_killed_with_all_its_process_groups(family):
    leader, children = family
    assert set(session_members(leader.pid)) == {leader.pid, *(child.pid for child in children)}
    assert os.getpid() not in session_members(leader.pid)
    kill_session(leader.pid)
    assert session_members(leader.pid) == []
    assert leader.wait() == -signal.SIGKILL
    wait_until(lambda: not running(children))


def test_a_process_can_be_spared(family):
    leader, children = family
    kill_session(leader.pid, spare=children[0].pid)
    wait_until(lambda: running(children) == [children[0]])


def test_a_group_is_killed_without_the_rest_of_its_session(family):
    leader, children = family
    (other_group,) = [child for child in children if os.getpgid(child.pid) == child.pid]
    kill_group(other_group.pid)
    wait_until(lambda: not running([other_group]))
    assert len(running(children)) == 1
    assert leader.poll() is None
    kill_group(2**22 + 1)  # no such group: nothing happens


def test_stop_signals_can_be_ignored():
    handlers = {number: signal.getsignal(number) for number in IGNORED_SIGNALS}
    try:
        ignore_stop_signals()
        for number in IGNORED_SIGNALS:
            os.kill(os.getpid(), number)
        assert [signal.getsignal(number) for number in IGNORED_SIGNALS] == [signal.SIG_IGN] * 4
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
