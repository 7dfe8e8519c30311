"""`launch.status` on run folders that are written here."""

import json
import os
import shutil

import pytest

from launch import status
from launch.cluster.sweep import read_sweep
from launch.runs.run_folder import lock_folder

from .made_up import HOSTILE


def test_status_of_every_job(sweep, capsys):
    assert status.main([str(sweep), "--json"]) == 1
    (jobs,) = json.loads(capsys.readouterr().out).values()
    assert [job["state"] for job in jobs] == ["finished", "finished", "failed", "finished", "missing", "dead"]
    assert [job["varies"] for job in jobs[:2]] == ["transform=identity seed=0", "transform=identity seed=1"]
    assert jobs[2]["error"] == f"ValueError: {HOSTILE}"
    assert jobs[0]["error"] == ""
    assert [(job["steps"], job["total"]) for job in jobs] == [(4, 4)] * 4 + [(0, None), (4, 4)]
    assert jobs[1]["metrics"] == {"reward/raw": 4, "loss": 0.30000000000000004}
    assert status.main([str(sweep), "--metrics", "loss"]) == 1
    assert "1 missing" in capsys.readouterr().out
    for number in ("2", "5"):
        shutil.rmtree(sweep / number)
    assert status.main([str(sweep)]) == 0


def test_the_table_shows_states_steps_and_errors(sweep, capsys):
    assert status.main([str(sweep), "--metrics", "loss,nonsense"]) == 1
    out = capsys.readouterr().out
    for text in ("transform=mara seed=2", "4/4", "0/?", "0.3", f"job 2: ValueError: {HOSTILE}"):
        assert text in out
    assert "experiment=one_two" not in out  # all jobs share it
    assert "reward/raw" not in out  # only the requested metrics are shown
    assert out.splitlines()[-1] == "3 finished, 1 failed, 1 missing, 1 dead"


def test_several_sweeps_have_a_table_each(sweep, chem_sweep, capsys):
    assert status.main([str(chem_sweep), str(sweep / "0")]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith(" finished")] == ["6 finished", "1 finished"]
    assert status.main([str(chem_sweep), str(sweep)]) == 1


def test_a_running_job_has_a_time_left(sweep):
    record = json.loads((sweep / "0" / "run.json").read_text())
    (sweep / "0" / "run.json").write_text(json.dumps({**record, "state": "running"}))
    rows = (sweep / "0" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (sweep / "0" / "metrics.jsonl").write_text("".join(rows[:1]))
    lock = lock_folder(sweep / "0")
    try:
        first, second = status.job_statuses(sweep, read_sweep(sweep), {}, [])[:2]
    finally:
        os.close(lock)
    assert (first.state, first.steps, first.seconds_left) == ("running", 1, 3 * 2.0)
    assert (second.state, second.seconds_left) == ("finished", None)
    first, _ = status.job_statuses(sweep, read_sweep(sweep), {}, [])[:2]
    assert (first.state, first.seconds_left) == ("dead", None)  # control: the lock was released


def test_time_left_is_what_the_latest_steps_took(sweep):
    assert status.seconds_left(sweep / "0", 3) == 6
    timings = [100.0] * 5 + [1.0] * status.RECENT
    lines = [json.dumps({"step": s, "seconds": seconds}) for s, seconds in enumerate(timings)]
    (sweep / "0" / "timings.jsonl").write_text("\n".join([*lines, ""]))
    assert status.seconds_left(sweep / "0", 3) == 3  # the first five are too old
    (sweep / "0" / "timings.jsonl").write_text("")
    assert status.seconds_left(sweep / "0", 3) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0:00:00"), (59.6, "0:01:00"), (3600, "1:00:00"), (360_061, "100:01:01")]
)
def test_a_duration(seconds, text):
    assert status.format_duration(seconds) == text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        SystemExit, match=r"^launch\.status: .*: not a sweep or a run, it has neither sweep\.json nor"
    ):
        status.main([str(tmp_path)])
