"""A crash, a hang, an error in one molecule touches no other, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chem.oracles import Oracle, OracleError, Result, Status
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig

HOME = Path(__file__).resolve().parents[2]
TROUBLE = '''
import ctypes, os, subprocess, time

class Trouble:
    """Carbon is well; nitrogen, oxygen, fluorine, sulphur and phosphorus are each a trouble of their own."""
    unit_range = True

    def __init__(self, pids=None):
        self.pids = pids

    def __call__(self, molecule):
        smiles = molecule.smiles
        if "N" in smiles:
            ctypes.string_at(0)  # segmentation fault
        if "O" in smiles:
            child = subprocess.Popen(["sleep", "1000"])
            if self.pids:
                with open(self.pids, "a") as file:
                    file.write(f"{child.pid}\\n")
            while True:
                time.sleep(1)
        if "F" in smiles:
            raise RuntimeError("no fluorine here")
        if "S" in smiles:
            return float("nan")
        if "P" in smiles:
            return 1.5
        return (molecule.seed % 1000) / 1000
'''


@pytest.fixture
def trouble(tmp_path, monkeypatch):
    (tmp_path / "trouble.py").write_text(TROUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    pids = tmp_path / "pids"

    def make(**options):
        component = ComponentConfig("trouble:Trouble", {"pids": str(pids)}, label="trouble")
        return Oracle(OracleConfig([component], **{"workers": 2, "time_limit_s": 1.0, **options}))

    return make, pids


def children():
    return {process.pid for process in psutil.Process().children(recursive=True)}


def alive(pids):
    return [pid for pid in map(int, pids.read_text().split()) if psutil.pid_exists(pid)]


def gone(pids, seconds=10.0):
    """Whether all processes end; killed ones vanish once somebody has waited for them."""
    until = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pids)


def test_each_molecule_meets_its_own_fate(trouble):
    make, pids = trouble
    before = children()
    carbons = ["C" * n for n in range(1, 40)]
    smiles = [*carbons[:20], "CN", "CO", "CF", "CS", "CP", "C1CC", *carbons[20:]]
    with make() as oracle:
        results = oracle(smiles)
        assert [result.smiles for result in results] == smiles
        expected = dict.fromkeys(carbons, Status.ok) | {
            "CN": Status.failed,
            "CO": Status.timed_out,
            "CF": Status.failed,
            "CS": Status.failed,
            "CP": Status.failed,
            "C1CC": Status.invalid,
        }
        assert {result.smiles: result.status for result in results} == expected
        by = {result.smiles: result for result in results}
        assert {by[s].score for s in ("CN", "CO", "CF", "CS", "CP")} == {None}
        assert by["C1CC"].score == 0
        assert "SIGSEGV" in by["CN"].message
        assert "within 1 s" in by["CO"].message
        assert by["CF"].message == "trouble: RuntimeError: no fluorine here"
        assert "finite, got nan" in by["CS"].message
        assert "[0, 1], got 1.5" in by["CP"].message
        assert oracle.counts == {Status.ok: 39, Status.failed: 4, Status.timed_out: 1, Status.invalid: 1}
        assert 0.9 < by["CO"].seconds < 5
        assert by["C"].seconds < 0.5
        assert alive(pids) == [] or gone(pids)  # what the hanging molecule had started

        again = oracle(carbons)
        assert [result.score for result in again] == [by[s].score for s in carbons]  # whoever scored them
        assert len({result.score for result in again}) > 20
    assert children() <= before


def test_too_many_failures_stop_the_run_with_the_first_error(trouble):
    make, _ = trouble
    before = children()
    with make() as oracle:
        with pytest.raises(OracleError, match=r"of the last \d+ molecules failed.*the first: C+F failed: .*no fluor"):
            oracle(["C" * n + "F" for n in range(1, 40)])
        with pytest.raises(OracleError, match="closed"):
            oracle(["C"])
    assert children() <= before
    with make(max_failed_share=1.0) as oracle:  # control: as many, allowed
        assert oracle(["C" * n + "F" for n in range(1, 40)])[0].status is Status.failed


def test_closing_ends_a_batch_under_way(trouble):
    make, pids = trouble
    before = children()
    oracle = make(time_limit_s=600.0)
    future = oracle.submit(["CO", "CCO"])
    while not pids.exists() or len(alive(pids)) < 2:
        time.sleep(0.02)
    oracle.close()
    with pytest.raises(OracleError, match="closed"):
        future.result(timeout=5)
    assert gone(pids)
    assert children() <= before


def test_workers_end_with_the_run_however_it_ends(trouble, tmp_path):
    """kill -9 of the run: nothing it could still do about its workers and what they started."""
    _, pids = trouble
    script = tmp_path / "run.py"
    script.write_text(
        "from chem.oracles import Oracle\nfrom conf.schema.oracle import ComponentConfig, OracleConfig\n"
        f"parts = [ComponentConfig('trouble:Trouble', {{'pids': {str(pids)!r}}})]\n"
        "Oracle(OracleConfig(parts, workers=2, time_limit_s=600.0))(['CO', 'CCO'])\n"
    )
    path = os.pathsep.join([str(HOME), str(tmp_path)])
    run = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": path})
    while not pids.exists() or len(alive(pids)) < 2:
        time.sleep(0.02)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 6  # two workers, their guards, what they started
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


def test_what_cannot_start_is_a_mistake(monkeypatch, tmp_path):
    before = children()
    with pytest.raises(ConfigError, match="name must be one of"):
        Oracle(OracleConfig([ComponentConfig("nothing")], workers=2))
    (tmp_path / "dies.py").write_text("import os\nclass Dies:\n    def __init__(self):\n        os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OracleError, match=r"a worker ended while it started \(exit status 3\)"):
        Oracle(OracleConfig([ComponentConfig("dies:Dies")], workers=2))
    assert children() <= before


def test_key_and_record():
    def key(**options):
        with Oracle(OracleConfig([ComponentConfig("qed")], workers=1, **options)) as oracle:
            return oracle.key, oracle(["CCO"])[0]

    (first, result), (same, _), (other, _) = key(), key(time_limit_s=5.0), key(seed=1)
    assert first == same != other
    assert Result.from_json(result.to_json()) == result


def test_signals_to_every_process_of_a_run_spare_its_workers():
    """SLURM sends the signal of a time limit to all of them; a molecule must not fail by it."""
    with Oracle(OracleConfig([ComponentConfig("qed")], workers=1, max_failed_share=1.0)) as oracle:
        process = psutil.Process(oracle._workers[0].process.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
            for one in (process, *process.children()):
                one.send_signal(number)
        assert [result.status for result in oracle(["CCO", "CCN"])] == [Status.ok] * 2
        assert process.is_running()
        assert len(process.children()) == 1
        process.kill()  # control
        assert [result.status for result in oracle(["CCO", "CCN"])] == [Status.failed, Status.ok]
