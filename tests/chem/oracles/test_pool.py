"""A crash, a hang or an error in one molecule affects no other molecule and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chem.oracles import Oracle, OracleError, Result, Status
from chem.oracles.pool import exit_text, wait_readable
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig

HOME = Path(__file__).resolve().parents[3]
TROUBLE = '''
import ctypes, os, subprocess, time

class Trouble:
    """Carbon is fine; nitrogen, oxygen, fluorine, sulphur and phosphorus each fail in another way."""
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


def all_end(pids, seconds=10.0):
    """Whether all processes end; a killed one vanishes when its parent has waited for it."""
    until = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pids)


def test_a_failure_affects_only_its_own_molecule(trouble):
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
        by_smiles = {result.smiles: result for result in results}
        assert {by_smiles[s].score for s in ("CN", "CO", "CF", "CS", "CP")} == {None}
        assert by_smiles["C1CC"].score == 0
        assert "SIGSEGV" in by_smiles["CN"].message
        assert "within 1 s" in by_smiles["CO"].message
        assert by_smiles["CF"].message == "trouble: RuntimeError: no fluorine here"
        assert "finite, got nan" in by_smiles["CS"].message
        assert "[0, 1], got 1.5" in by_smiles["CP"].message
        assert oracle.counts == {Status.ok: 39, Status.failed: 4, Status.timed_out: 1, Status.invalid: 1}
        assert 0.9 < by_smiles["CO"].seconds < 5
        assert by_smiles["C"].seconds < 0.5
        assert alive(pids) == [] or all_end(pids)  # what the hanging molecule had started

        second_results = oracle(carbons)
        assert [result.score for result in second_results] == [
            by_smiles[s].score for s in carbons
        ]  # whoever scored them
        assert len({result.score for result in second_results}) > 20
    assert children() <= before


def test_a_molecule_that_ends_a_worker_in_a_batch_fails_alone(trouble, tmp_path):
    """The first batch of 4 crashes, the second of 2 hangs; each is scored again, one molecule at a time."""
    code = TROUBLE + (
        "\n    def score_batch(self, molecules):\n        with open(f'{self.pids}.sizes', 'a') as file:\n"
        "            file.write(f'{len(molecules)} ')\n        return [self(molecule) for molecule in molecules]\n"
    )
    (tmp_path / "trouble.py").write_text(code)
    make, pids = trouble
    with make(workers=1, time_limit_s=0.5, max_failed_share=1.0) as oracle:
        crashed = oracle(["C", "CN", "CC", "CCCC"])
        hung = oracle(["CCC", "CO"])
        fine = oracle(["C" * n for n in range(5, 13)])
    assert [result.status for result in crashed] == [Status.ok, Status.failed, Status.ok, Status.ok]
    assert "SIGSEGV" in crashed[1].message
    assert [result.status for result in hung] == [Status.ok, Status.timed_out]
    assert hung[1].message == "no answer within 0.5 s"
    assert {result.status for result in fine} == {Status.ok}
    assert Path(f"{pids}.sizes").read_text().split() == [*"411112118"[:-1], "8"]


def test_too_many_failures_stop_the_run_with_the_first_error(trouble):
    make, _ = trouble
    before = children()
    with make() as oracle:
        with pytest.raises(
            OracleError, match=r"of the last \d+ molecules failed.*the first failure: C+F failed: .*no fluor"
        ):
            oracle(["C" * n + "F" for n in range(1, 40)])
        with pytest.raises(OracleError, match=r"it (is|was) closed"):
            oracle(["C"])
    assert children() <= before
    with make(max_failed_share=1.0) as oracle:  # control: as many, allowed
        assert oracle(["C" * n + "F" for n in range(1, 40)])[0].status is Status.failed


def test_closing_ends_a_batch_in_progress(trouble):
    make, pids = trouble
    before = children()
    oracle = make(time_limit_s=600.0)
    future = oracle.submit(["CO", "CCO"])
    while not pids.exists() or len(alive(pids)) < 2:
        time.sleep(0.02)
    oracle.close()
    with pytest.raises(OracleError, match=r"it (is|was) closed"):
        future.result(timeout=5)
    assert all_end(pids)
    assert children() <= before


def test_workers_end_with_the_run_however_it_ends(trouble, tmp_path):
    """After kill -9 the run itself can no longer end its workers and what they started."""
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
        assert run.poll() is None
        time.sleep(0.02)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 6  # two workers, their guards, what they started
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


def test_workers_that_cannot_start_are_reported(monkeypatch, tmp_path):
    before = children()
    with pytest.raises(ConfigError, match="name must be one of"):
        Oracle(OracleConfig([ComponentConfig("nothing")], workers=2))
    (tmp_path / "dies.py").write_text("import os\nclass Dies:\n    def __init__(self):\n        os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OracleError, match=r"^oracle: a worker process ended while it started \(exit status 3\)$"):
        Oracle(OracleConfig([ComponentConfig("dies:Dies")], workers=2))
    assert children() <= before


def test_the_key_is_of_what_scores_depend_on():
    def key(**options):
        with Oracle(OracleConfig([ComponentConfig("qed")], workers=1, **options)) as oracle:
            return oracle.key, oracle(["CCO"])[0]

    (first, result), (same, _), (other, _) = key(), key(time_limit_s=5.0), key(seed=1)
    assert first == same != other
    assert Result.from_json(result.to_json()) == result


def test_signals_to_every_process_of_a_run_spare_its_workers():
    """SLURM sends the signal of a time limit to all processes; no molecule may fail because of it."""
    with Oracle(OracleConfig([ComponentConfig("qed")], workers=1, max_failed_share=1.0)) as oracle:
        process = psutil.Process(oracle._workers[0].process.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
            for member in (process, *process.children()):
                member.send_signal(number)
        assert [result.status for result in oracle(["CCO", "CCN"])] == [Status.ok] * 2
        assert process.is_running()
        assert len(process.children()) == 1
        process.kill()  # control
        assert [result.status for result in oracle(["CCO", "CCN"])] == [Status.failed, Status.ok]


def test_readable_descriptors_are_waited_for():
    (first, first_end), (second, second_end) = os.pipe(), os.pipe()
    try:
        assert wait_readable([first, second], 0) == []
        start = time.monotonic()
        assert wait_readable([first, second], 0.05) == []
        assert time.monotonic() - start >= 0.05
        os.write(second_end, b"x")
        assert wait_readable([first, second], 10) == [second]
        os.close(first_end)  # a closed end counts, so that a dead worker is noticed
        assert set(wait_readable([first, second], 10)) == {first, second}
    finally:
        for descriptor in (first, second, second_end):
            os.close(descriptor)


def test_exits_in_words():
    assert [exit_text(code) for code in (0, 3, -9, -11)] == [
        "exit status 0",
        "exit status 3",
        "signal SIGKILL",
        "signal SIGSEGV",
    ]
