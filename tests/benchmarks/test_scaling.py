"""How cost grows: the fit, the records, the pictures, and the command with its smallest sizes."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks.scaling.axes import AXES
from benchmarks.scaling.fit import exponent
from benchmarks.scaling.made_sweeps import make_sweep
from benchmarks.scaling.meter import measure
from benchmarks.scaling.pictures import draw_pictures
from benchmarks.scaling.records import RECORDS, append_record, costs, missing, read_records
from launch.runs.checksums import check_files
from launch.status import main as status

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_a_power_law(power):
    sizes = [4, 8, 16, 32, 64]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)
    # A constant part counts at small sizes only, and those are not fitted.
    with_constant = [10 + 3 * size**power * 100 for size in sizes]
    assert exponent(sizes, with_constant) == pytest.approx(power, abs=0.02)
    assert exponent(sizes, [5.0] * 5) == pytest.approx(0)  # control


def test_without_two_positive_costs_there_is_no_exponent():
    assert math.isnan(exponent([4], [1.0]))
    assert math.isnan(exponent([4, 8], [1.0, 0.0]))


def test_memory_and_seconds_are_those_of_the_work():
    def work(mebibytes):
        block = bytearray(mebibytes << 20)
        block[::4096] = b"x" * len(block[::4096])
        sum(range(400_000))

    small, large = (measure(partial(work, size), repeats=2) for size in (20, 200))
    assert large.repeats == small.repeats == 2
    assert 150 < large.peak_mb - small.peak_mb < 220
    assert large.cpu_seconds > 0.001


def test_what_takes_long_is_not_repeated():
    calls = []
    cost = measure(lambda: calls.append(sum(range(3_000_000))), enough=0.01, long=0.01)
    assert len(calls) == cost.repeats == 1


def test_records_are_continued(tmp_path):
    path = tmp_path / "new" / "scaling.jsonl"
    assert read_records(path) == {}
    append_record(path, {"axis": "batch", "size": 32, "cpu_seconds": 1.0, "peak_mb": 2.0})
    append_record(path, {"axis": "batch", "size": 32, "cpu_seconds": 3.0, "peak_mb": 2.0})
    records = read_records(path)
    assert costs(records, "batch", "cpu_seconds") == ([32], [3.0])  # the last one
    assert missing(records, ["batch"]) == [("batch", size) for size in AXES["batch"].sizes[1:]]
    assert len(missing({}, ["batch"])) == len(AXES["batch"].sizes)


def test_made_folders_are_those_of_runs(tmp_path, capsys):
    sweep = make_sweep(tmp_path / "sweep", 3, 4, "finished")
    for number in range(3):
        check_files(sweep / str(number))
        assert len((sweep / str(number) / "metrics.jsonl").read_text().splitlines()) == 4
    assert status([str(sweep)]) == 0
    assert "3 finished" in capsys.readouterr().out
    (sweep / "1" / "config.yaml").write_text("seed: 7\n")  # control
    assert status([str(sweep)]) == 1


def test_a_picture_for_each_thing_that_grows(tmp_path):
    rows = [("jobs/status", 1, 0.1), ("jobs/status", 2, 0.2), ("jobs/collect", 1, 1.0), ("jobs/collect", 2, 1.1)]
    rows.append(("batch", 32, 1.0))  # one size makes no curve
    records = {(axis, size): {"cpu_seconds": cost, "peak_mb": cost} for axis, size, cost in rows}
    assert [path.name for path in draw_pictures(records, tmp_path)] == ["scaling_jobs.png"]
    assert (tmp_path / "scaling_jobs.png").stat().st_size > 10_000


def test_the_committed_records_are_of_known_axes_and_sizes():
    if not RECORDS.exists():
        pytest.skip("nothing has been measured")
    for axis, size in read_records(RECORDS):
        assert size in AXES[axis].sizes


@pytest.mark.slow
def test_the_command_measures_what_is_missing(tmp_path):
    records = tmp_path / "scaling.jsonl"
    line = [sys.executable, "-m", "benchmarks.scaling", "jobs/status", "prompt", "--largest", "32"]
    line += ["--records", str(records), "--pictures", str(tmp_path)]
    append_record(records, {"axis": "prompt", "size": 24, "cpu_seconds": 1.0, "peak_mb": 1.0})
    ended = subprocess.run(line, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [json.loads(row) for row in records.read_text().splitlines()]
    assert {(row["axis"], row["size"]) for row in rows} >= {("prompt", 32), ("jobs/status", 32)}
    assert sum((row["axis"], row["size"]) == ("prompt", 24) for row in rows) == 1  # not again
    assert "picture: " in ended.stdout
    assert (tmp_path / "scaling_jobs.png").is_file()


def test_an_unknown_axis_is_named():
    line = [sys.executable, "-m", "benchmarks.scaling", "width_of_all"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "there is no width_of_all; the axes are" in ended.stderr
