"""`launch.collect`: the tables, what it prints, and its error messages."""

import csv
import errno
import json
import math
import os
import re
import shutil

import pandas as pd
import pytest

from launch import collect
from launch.analysis.table import read_runs
from launch.cluster.sweep import SweepJob, read_sweep, write_sweep
from launch.runs.atomic import WriteError

from .made_up import DAMAGES, HOSTILE, write_llm_run


def test_the_table(sweep, capsys):
    assert collect.main([str(sweep)]) == 1
    out = capsys.readouterr().out
    assert "failed: " in out
    assert "missing: " in out
    assert "dead: " in out
    assert "3 of 6 runs finished" in out
    written = pd.read_parquet(sweep / "collected" / "table.parquet")
    assert list(written.columns[:3]) == ["transform.name", "n", "se_over"]
    assert written["se_over"].tolist() == ["seeds", "prompts"]
    assert written["transform.name"].tolist() == ["identity", "mara"]
    assert written["n"].tolist() == [2, 1]
    assert written["correct"].tolist() == pytest.approx([0.905, 0.9])
    assert written["base.correct"].tolist() == [
        0.5,
        0.5,
    ]
    assert written["correct/se"][0] == pytest.approx(0.005)
    assert math.isnan(written["correct/se"][1])
    assert written["entropy_nats/se"].tolist() == [0, 0.5]  # a single run's own, where it has one
    command = "python -m llm -m experiment=one_two transform=identity seed=0,1"
    assert written["command"].tolist() == [command, "python -m llm experiment=one_two transform=mara seed=0"]
    again = pd.read_csv(sweep / "collected" / "table.csv")
    pd.testing.assert_frame_equal(again, written, check_dtype=False)
    with (sweep / "collected" / "runs.csv").open() as rows:
        runs = list(csv.DictReader(rows))
    assert [run["state"] for run in runs] == ["finished", "finished", "failed", "finished", "missing", "dead"]
    assert runs[2]["error"] == f"ValueError: {HOSTILE}"


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_run_is_listed_and_the_others_are_read(sweep, damage):
    DAMAGES[damage](sweep / "0")
    runs = read_runs(sweep)
    assert [run.state for run in runs] == ["unreadable", "finished", "failed", "finished", "missing", "dead"]
    assert str(sweep / "0") in runs[0].error
    assert "\n" not in runs[0].error


def test_the_tables_of_the_others_are_written(sweep, capsys):
    for number, damage in ((0, "summary that is a list"), (2, "metrics that are bytes"), (5, "truncated record")):
        DAMAGES[damage](sweep / str(number))
    assert collect.main([str(sweep)]) == 1
    out = capsys.readouterr().out
    assert re.findall(r"^unreadable: .*/(\d): ", out, re.M) == ["0", "2", "5"]
    assert "2 of 6 runs finished" in out


def test_a_run_counts_once(sweep, tmp_path, capsys):
    """A folder given twice, a run of a folder that is given, and a run with the configuration and seed of another."""
    shutil.copytree(sweep / "1", sweep / "7")
    write_llm_run(sweep / "8", 0, 0.1, "identity", correct=0.9, entropy_nats=0)
    content = read_sweep(sweep)
    content.jobs += [SweepJob(7, ["seed=1"], "7"), SweepJob(8, ["seed=0"], "8")]
    write_sweep(sweep, content)
    (tmp_path / "link").symlink_to(sweep)
    assert collect.main([str(sweep), str(sweep), str(tmp_path / "link"), str(sweep / "0")]) == 1
    out = capsys.readouterr().out
    assert f"repeated: {sweep}/7: not counted, the configuration and seed are those of {sweep}/1" in out
    assert f"repeated: {sweep}/8: not counted, the configuration and seed are those of {sweep}/0" in out
    assert "3 of 8 runs finished, 2 repeated" in out
    assert "17 runs are in several of the folders that were given, and count once" in out
    written = pd.read_parquet(sweep / "collected" / "table.parquet")
    assert written["n"].tolist() == [2, 1]
    assert written["correct/se"][0] == pytest.approx(0.005)  # with four values it would be smaller
    assert "2 runs repeat another one and are not counted" in (sweep / "collected" / "report.html").read_text()


def test_repeated_runs_alone_are_no_failure(chem_sweep, capsys):
    assert collect.main([str(chem_sweep), str(chem_sweep)]) == 0
    assert "6 of 6 runs finished; report" in capsys.readouterr().out
    shutil.copytree(chem_sweep / "0", chem_sweep / "9")
    (chem_sweep / "sweep.json").unlink()
    assert collect.main([str(chem_sweep)]) == 0
    assert "6 of 7 runs finished, 1 repeated; report" in capsys.readouterr().out


def test_no_cell_is_a_formula(sweep):
    summary = json.loads((sweep / "0" / "summary.json").read_text())
    (sweep / "0" / "summary.json").write_text(json.dumps({**summary, "=cmd|x": -1.5}))
    record = json.loads((sweep / "2" / "run.json").read_text())
    (sweep / "2" / "run.json").write_text(json.dumps({**record, "traceback": "=cmd|' /C calc'!A0"}))
    collect.main([str(sweep)])
    for name in ("table.csv", "runs.csv"):
        with (sweep / "collected" / name).open(newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert [cell for cell in cells if cell.startswith("=")] == []
        assert "-1.5" in cells
        assert "'=cmd|x" in cells


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--metrics", "nonsense"],
            r"--metrics: no run has a result nonsense; the results are correct, entropy_nats",
        ),
        (["--pareto", "correct,nonsense"], r"--pareto: no run has a result nonsense; the results are correct"),
        (["--pareto", "correct"], r"--pareto: must be two results, DIVERSITY,REWARD, got correct$"),
        (["--against", "nonsense"], r"--against: nonsense matches 0 rows, must match one"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(sweep, arguments, message):
    with pytest.raises(SystemExit, match=rf"^launch\.collect: {message}"):
        collect.main([str(sweep), *arguments])
    assert not (sweep / "collected").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        SystemExit, match=r"^launch\.collect: .*: not a sweep or a run, it has neither sweep\.json nor"
    ):
        collect.main([str(tmp_path)])


def test_the_printed_table_has_the_chosen_results(sweep, tmp_path, capsys):
    assert collect.main([str(sweep), "--metrics", "base.correct,correct", "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"transform.*n.*base\.correct.*correct", out)
    assert "entropy_nats" not in out
    assert "0.905 ± 0.005" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {f"{name}.{suffix}" for name in ("pareto", "curves") for suffix in ("png", "svg")}
    assert names == {"table.csv", "table.parquet", "runs.csv", "report.html", *pictures}
    assert not (sweep / "collected").exists()
    report = (tmp_path / "out" / "report.html").read_text()
    table = report.split('id="results"')[1].split("</table>")[0]
    assert 'title="base.correct">base: share of correct completions' in table
    assert "entropy" not in table
    assert "entropy_nats" in pd.read_csv(tmp_path / "out" / "table.csv").columns  # the files hold all


def test_what_is_not_tested_is_said(sweep, chem_sweep, capsys):
    collect.main([str(sweep), "--against", "transform=mara"])
    reason = "transform=mara has one seed; a t-test needs at least two seeds of both rows"
    assert f"not tested against transform=mara: {reason}" in capsys.readouterr().out
    collect.main([str(sweep), "--against", "transform=identity"])
    reason = "one seed, where a t-test needs at least two: transform=mara"
    assert f"not tested against transform=identity: {reason}" in capsys.readouterr().out
    collect.main([str(chem_sweep), "--against", "plain", "--metrics", "0.8/yield,0.8/OB10"])
    out = capsys.readouterr().out
    assert "0.8/OB10: not every seed has it in method=plain; method=mara" in out
    assert "0.8/yield: not" not in out
    collect.main([str(chem_sweep / "0"), "--against", "all runs"])
    assert "not tested against all runs: there is no other row to test" in capsys.readouterr().out


def test_two_sweeps_are_one_table(sweep, chem_sweep, tmp_path):
    assert collect.main([str(chem_sweep), str(sweep)]) == 1
    table = pd.read_csv(chem_sweep / "collected" / "table.csv")
    assert table["package"].tolist() == ["chem", "chem", "llm", "llm"]
    assert table["n"].tolist() == [3, 3, 2, 1]
    assert table["0.8/yield"].isna().tolist() == [False, False, True, True]


def test_the_exit_status_is_0_if_all_runs_finished(chem_sweep, capsys):
    assert collect.main([str(chem_sweep), "--against", "plain"]) == 0
    out = capsys.readouterr().out
    assert "6 of 6 runs finished" in out
    assert "Welch's t-test against plain" in out
    assert (chem_sweep / "collected" / "tests.csv").exists()


def test_a_folder_that_cannot_be_written_is_one_line(sweep, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/out: cannot be written: Not a directory"):
        collect.collect([sweep], tmp_path / "file" / "out")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("table.parquet", "table.csv", "report.html"):
        (out / name).write_text("of earlier")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"out/.*: cannot be written: No space left on device"):
        collect.collect([sweep], out)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(
        ("table.parquet", "table.csv", "report.html"), "of earlier"
    )
