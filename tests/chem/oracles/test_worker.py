"""A worker process, used without the pool: its messages, and how it ends."""

import os
import time
from multiprocessing.connection import Pipe

import psutil
import pytest

from chem.oracles.base import Status
from chem.oracles.compose import Scorer
from chem.parallel.processes import import_path, kill_session, start_module
from conf.schema.oracle import ComponentConfig, OracleConfig


class RunningWorker:
    def __init__(self, folder):
        self.connection, worker_end = Pipe()
        read_end, self.lifeline = os.pipe()
        descriptors = worker_end.fileno(), read_end
        self.process = start_module("chem.oracles.worker", descriptors, session=True, TMPDIR=str(folder))
        worker_end.close()
        os.close(read_end)

    def start(self, *components):
        self.connection.send((OracleConfig(list(components)), import_path()))
        return self.receive()

    def receive(self):
        assert self.connection.poll(60)
        return self.connection.recv()


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "temporary").mkdir()
    worker = RunningWorker(tmp_path / "temporary")
    yield worker
    kill_session(worker.process.pid)
    worker.process.wait()


def test_tasks_are_answered_in_order(worker):
    component = ComponentConfig("qed")
    kind, identity = worker.start(component)
    assert (kind, identity) == ("ready", Scorer(OracleConfig([component])).identity())
    worker.connection.send(("preflight", None))
    assert worker.receive() == ("preflight", [])
    worker.connection.send(("score", [(7, "CCO"), (3, "C("), (5, "c1ccccc1")]))
    answers = [worker.receive() for _ in range(3)]
    assert [(kind, number, result.smiles) for kind, number, result, _ in answers] == [
        ("result", 7, "CCO"),
        ("result", 3, "C("),
        ("result", 5, "c1ccccc1"),
    ]
    assert [result.status for _, _, result, _ in answers] == [Status.ok, Status.invalid, Status.ok]
    assert answers[0][2].score == Scorer(OracleConfig([component]))("CCO").score
    ends = [end for *_, end in answers]
    assert ends == sorted(ends)
    worker.connection.close()  # it has no more work
    assert worker.process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "oracle.components: name must be one of"),
        (
            "class Own:\n    def __init__(self):\n        raise KeyError(3)",
            "oracle: a worker cannot start: KeyError: 3",
        ),
        (
            "raise SystemError('broken')",
            "oracle.components: component_of_worker:Own: name: component_of_worker:Own cannot be imported as "
            "package.module:name (broken; SystemError in ",
        ),
    ],
)
def test_a_worker_that_cannot_start_says_why(worker, tmp_path, monkeypatch, code, message):
    if code is not None:
        (tmp_path / "component_of_worker.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
    kind, reason = worker.start(ComponentConfig("nothing" if code is None else "component_of_worker:Own"))
    assert kind == "refused"
    assert reason.startswith(message)
    assert worker.process.wait(timeout=20) == 0


def test_when_the_lifeline_breaks_the_session_ends_and_its_files_are_removed(worker, tmp_path):
    """Although the worker is busy and does not read its pipe."""
    parameters = {"command": ["sh", "-c", "sleep 1000; echo 1"], "pattern": r"(\d+)", "time_limit_s": 1000.0}
    worker.start(ComponentConfig("external_program", parameters))
    worker.connection.send(("score", [(0, "CCO")]))
    session = psutil.Process(worker.process.pid)
    while len(session.children(recursive=True)) < 3:  # the guard, the shell and its sleep
        assert session.is_running()
        time.sleep(0.01)
    family = session.children(recursive=True)
    assert any((tmp_path / "temporary").iterdir())
    os.close(worker.lifeline)
    assert worker.process.wait(timeout=20) == -9
    _, left = psutil.wait_procs(family, timeout=20)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not (tmp_path / "temporary").exists()
