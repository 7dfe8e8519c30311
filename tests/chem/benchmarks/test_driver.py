"""Runs of a benchmark: what is missing is run, recorded and removed, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from chem.benchmarks import driver
from chem.benchmarks.driver import all_cells, check_tasks, method_settings, run_benchmark
from chem.benchmarks.records import Cell, read_records
from chem.benchmarks.suites import SUITES
from conf.schema.base import ConfigError
from conf.schema.benchmark import BenchmarkConfig
from launch.runs import signals

HOME = Path(__file__).resolve().parents[3]

# Stands for `python -m chem`: locks its folder, as a run does, and writes what a finished run has.
RUN = """
import fcntl, json, os, pathlib, signal, sys, time
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / LOCK, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
with open(folder.parents[2] / "started", "a") as started:
    started.write(f"{'/'.join(folder.parts[-3:])}\\n")
if mode == "hang":
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(143)))
    (folder / "hangs").touch()
    time.sleep(60)
if mode == "fail":
    print("Traceback"); print("chem: seed: is unlucky"); sys.exit(1)
time.sleep(float(mode))
rows = [{"smiles": str(call), "score": call / 200} for call in range(200)]
(folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
(folder / "timings.jsonl").write_text('{"seconds": 1.5}\\n{"seconds": 2.0}\\n')
(folder / "summary.json").write_text(json.dumps({"calls": 200, "stopped_by": "budget"}))
"""


class FakeRun:
    """Takes the place of the command's run."""

    def __init__(self, folder):
        self.lines, self.summary, self.folder = [], {}, folder
        self.saved: str | None = None

    def info(self, line):
        self.lines.append(line)

    def finish(self, summary):
        self.summary = summary


@pytest.fixture
def modes(monkeypatch):
    """Runs take no time; `modes[cell] = "fail"`, `"hang"` or seconds changes that."""
    chosen: dict[Cell, str] = {}

    def command(job):
        script = f"LOCK = {driver_lock_name()!r}\n{RUN}"
        return [sys.executable, "-S", "-c", script, str(job.folder), chosen.get(job.cell, "0")]

    monkeypatch.setattr(driver, "job_command", command)
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.02)
    signals.install()
    yield chosen
    signals.uninstall()
    signals.forget()


def driver_lock_name():
    from launch.runs.run_folder import LOCK

    return LOCK


def configure(tmp_path, **values):
    defaults = {"methods": ["reinvent"], "tasks": ["qed", "jnk3"], "seeds": 2, "budget": 200, "workers": 2, "seed": 0}
    defaults |= {"benchmark": "pmo", "overrides": [], "keep_runs": False, "document": None, "threads": None}
    folders = {"records": str(tmp_path / "records.jsonl"), "work": str(tmp_path / "work"), "resume": "auto"}
    return BenchmarkConfig(**{**defaults, **folders, **values})


def started(tmp_path):
    path = tmp_path / "work" / "started"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def test_the_first_seed_of_everything_comes_first():
    cells = all_cells(["a", "b"], ["x", "y"], 2)
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert cells[:3] == [Cell("a", "x", 0), Cell("b", "x", 0), Cell("a", "y", 0)]


def test_tasks_keep_the_order_of_the_benchmark(tmp_path):
    assert check_tasks(configure(tmp_path), SUITES["pmo"]) == ["jnk3", "qed"]
    assert len(check_tasks(configure(tmp_path, tasks=[]), SUITES["pmo"])) == 23
    with pytest.raises(ConfigError, match=r"tasks: each must be one of albuterol_similarity, .*, got magic"):
        check_tasks(configure(tmp_path, tasks=["magic"]), SUITES["pmo"])


def test_what_has_a_record_is_not_run_again(tmp_path, modes):
    run = FakeRun(tmp_path)
    run_benchmark(configure(tmp_path, seeds=1), run)
    assert started(tmp_path) == ["reinvent/jnk3/0", "reinvent/qed/0"]
    run_benchmark(configure(tmp_path), run)
    assert started(tmp_path) == [f"reinvent/{task}/{seed}" for task in ("jnk3", "qed") for seed in (0, 1)]
    records = read_records(tmp_path / "records.jsonl")
    assert len(records) == 4
    record = next(iter(records.values()))
    assert record["auc_top1"] == pytest.approx((99 / 200 / 2 + (99 + 199) / 200 / 2) / 2, abs=1e-6)
    assert (record["calls"], record["seconds"], record["stopped_by"]) == (200, 4, "budget")
    assert set(record["versions"]) == {"python", "torch", "numpy", "rdkit"}
    assert list((tmp_path / "work").glob("*/*/*")) == []  # finished runs are removed
    assert [row[0] for row in run.summary["rows"]] == ["jnk3", "qed", "sum"]
    assert record["curve"] == pytest.approx([94.5 / 200, 194.5 / 200], abs=1e-4)  # the 10 best of 100 and of 200
    assert (run.folder / "figure.png").stat().st_size > 5000


def test_other_settings_are_other_records(tmp_path, modes):
    config = configure(tmp_path, tasks=["qed"], seeds=1)
    run_benchmark(config, FakeRun(tmp_path))
    other, run = configure(tmp_path, tasks=["qed"], seeds=1, overrides=["batch_size=32"]), FakeRun(tmp_path)
    run_benchmark(other, run)
    assert len(started(tmp_path)) == len(read_records(tmp_path / "records.jsonl")) == 2
    assert any("1 records of these methods have other settings" in line for line in run.lines)
    settings = [method_settings(one, "reinvent", "qed", SUITES["pmo"]) for one in (config, other)]
    assert [values.get("batch_size") for values in settings] == [None, 32]
    assert not any(name.startswith(("oracle", "seed", "threads")) for name in settings[0])


def test_a_failed_run_stops_no_other(tmp_path, modes):
    modes[Cell("reinvent", "jnk3", 0)] = "fail"
    with pytest.raises(
        ConfigError, match="1 runs failed; the first: reinvent jnk3 seed 0 failed: chem: seed: is unlucky"
    ):
        run_benchmark(configure(tmp_path), FakeRun(tmp_path))
    assert len(read_records(tmp_path / "records.jsonl")) == 3
    modes.clear()
    run_benchmark(configure(tmp_path), FakeRun(tmp_path))
    assert len(read_records(tmp_path / "records.jsonl")) == 4


def test_a_signal_lets_runs_save(tmp_path, modes):
    modes[Cell("reinvent", "jnk3", 0)] = "hang"
    hangs = tmp_path / "work" / "reinvent" / "jnk3" / "0" / "hangs"

    def interrupt():
        while not hangs.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    run = FakeRun(tmp_path)
    with pytest.raises(KeyboardInterrupt) as interruption:
        run_benchmark(configure(tmp_path, seeds=1, workers=1), run)
    assert run.saved.startswith("the records of finished runs, in ")
    assert interruption.value.args == (signal.SIGTERM,)
    assert (hangs.parent / "saved").exists()
    assert started(tmp_path) == ["reinvent/jnk3/0"]


def test_a_run_that_outlived_its_benchmark_is_waited_for(tmp_path, modes):
    """After kill -9 of the benchmark its runs go on. The next one starts no second process in their folders."""
    folder = tmp_path / "work" / "reinvent" / "qed" / "0"
    script = f"LOCK = {driver_lock_name()!r}\n{RUN}"
    orphan = subprocess.Popen([sys.executable, "-S", "-c", script, str(folder), "1"])
    while not started(tmp_path):
        time.sleep(0.02)
    run_benchmark(configure(tmp_path, tasks=["qed"], seeds=1), FakeRun(tmp_path))
    assert orphan.poll() == 0  # it had ended before the benchmark took over
    assert started(tmp_path) == ["reinvent/qed/0"] * 2
    assert len(read_records(tmp_path / "records.jsonl")) == 1


def test_only_the_table(tmp_path, modes):
    run = FakeRun(tmp_path)
    run_benchmark(configure(tmp_path, workers=0, tasks=["qed"]), run)
    assert started(tmp_path) == []
    assert run.summary["rows"] == [["qed", "-"], ["sum", "-"]]


def test_an_unknown_method_is_refused_before_anything_runs(tmp_path, modes):
    with pytest.raises(ConfigError, match="magic"):
        run_benchmark(configure(tmp_path, methods=["reinvent", "magic"]), FakeRun(tmp_path))
    assert started(tmp_path) == []


@pytest.mark.long
def test_the_command_runs_and_records(tmp_path):
    document = tmp_path / "results.md"
    document.write_text("<!-- benchmark:pmo -->\n<!-- /benchmark:pmo -->\n")
    options = [f"records={tmp_path / 'pmo.jsonl'}", f"work={tmp_path / 'work'}", f"document={document}", "seeds=1"]
    command = [sys.executable, "-m", "chem.benchmark", "methods=[reinvent]", "tasks=[qed]", "budget=200", *options]
    for folder in ("first", "second"):
        run = [*command, f"hydra.run.dir={tmp_path / folder}"]
        process = subprocess.run(run, cwd=HOME, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
    assert "1 of 1 runs are in" in process.stdout
    (record,) = map(json.loads, (tmp_path / "pmo.jsonl").read_text().splitlines())
    assert 0.5 < record["auc_top10"] < 0.95
    assert f"| qed | {record['auc_top10']:.3f} |" in document.read_text()
