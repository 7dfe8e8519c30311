"""`launch.status` on run folders that are written here."""

import json
import os
import shutil

import pytest

from launch import collect, resume, status
from launch.cluster.sweep import Sweep, SweepJob, SweepLock, read_sweep, write_sweep
from launch.runs.run_folder import lock_folder, read_record

from .made_up import DAMAGES, HOSTILE, write_run


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
    assert out.splitlines()[-3:] == [
        "3 finished, 1 failed, 1 missing, 1 dead",
        f"next: python -m launch.resume {sweep}",
        f"next: python -m launch.collect {sweep}",
    ]


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


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_run_is_shown_with_the_reason_and_the_others_as_before(sweep, capsys, damage):
    DAMAGES[damage](sweep / "0")
    assert status.main([str(sweep), "--json"]) == 1
    (jobs,) = json.loads(capsys.readouterr().out).values()
    states = [job["state"] for job in jobs]
    if damage == "summary that is too large":  # status shows no results
        assert states[0] == "finished"
        return
    assert states == ["unreadable", "finished", "failed", "finished", "missing", "dead"]
    assert str(sweep / "0") in jobs[0]["error"]
    assert "\n" not in jobs[0]["error"]
    assert jobs[0]["varies"] == "transform=identity seed=0"  # as it was planned


def test_a_folder_of_runs_is_shown_although_one_cannot_be_read(sweep, capsys):
    (sweep / "sweep.json").unlink()
    (sweep / "0" / "run.json").write_text("{")
    assert status.main([str(sweep)]) == 1
    assert "1 unreadable, 2 finished, 1 failed, 1 dead" in capsys.readouterr().out.splitlines()
    for number in "1235":
        (sweep / number / "run.json").write_text("{")
    with pytest.raises(SystemExit, match=r"run\.json: not the record of a run: "):  # none is left to show
        status.main([str(sweep)])


def test_what_a_run_is_its_own_folder_says(sweep, capsys):
    content = read_sweep(sweep)
    content.jobs[0].overrides = ["experiment=one_two", "transform=mara", "seed=9"]
    write_sweep(sweep, content)
    (sweep / "0" / "overrides.yaml").write_text("[experiment=one_two, transform=identity, seed=0]")
    record = json.loads((sweep / "0" / "run.json").read_text())
    record["command"] = ["python", "-m", "llm", "experiment=one_two", "transform=identity", "seed=0"]
    (sweep / "0" / "run.json").write_text(json.dumps(record))
    status.main([str(sweep), "--json"])
    (jobs,) = json.loads(capsys.readouterr().out).values()
    assert jobs[0]["varies"] == "transform=identity seed=0"
    (sweep / "0" / "overrides.yaml").write_text("[experiment=one_two, transform=identity]")  # its end is lost
    assert status.main([str(sweep), "--json"]) == 1
    (jobs,) = json.loads(capsys.readouterr().out).values()
    assert jobs[0]["state"] == "unreadable"


@pytest.mark.parametrize("text", ["a=[b]", "a=[/b]", "a=[red]x", "a=[]", "a=", "a=''", r"a=\\[b]", "a=:smile:"])
def test_text_that_is_markup_is_shown_as_it_is(tmp_path, capsys, text):
    folder = tmp_path / "s[/x][red]"
    error = f"ValueError: {text} [/oops]"
    write_run(folder / "0", {"steps": 3}, "failed", error, rows=[{"step": 0, "loss[/x]": 1, "text": text}])
    write_run(folder / "1", {"steps": 3})
    jobs = [SweepJob(0, [text], "0"), SweepJob(1, ["a=1"], "1")]
    write_sweep(folder, Sweep("llm", [], "basic", jobs))
    assert status.main([str(folder), "--metrics", "text,loss[/x]"]) == 1
    out = capsys.readouterr().out
    assert f" {text} " in out.replace("│", " ")
    assert out.count(text) >= 3
    assert f"job 0: {error}" in out
    assert "s[/x][red]" in out
    assert "loss[/x]" in out


def test_a_job_that_a_live_sweep_will_start_is_not_missing(sweep, monkeypatch, capsys):
    monkeypatch.setattr(resume, "check_unchanged", lambda folder, sweep, job: None)

    def states():
        status.main([str(sweep), "--json"])
        (jobs,) = json.loads(capsys.readouterr().out).values()
        return [job["state"] for job in jobs]

    with SweepLock(sweep):
        assert states() == ["finished", "finished", "failed", "finished", "not started", "dead"]
        resume.main([str(sweep), "--dry-run"])
        assert "[4] not started: " in capsys.readouterr().out
        with pytest.raises(SystemExit, match="is starting the jobs of this sweep"):
            resume.main([str(sweep)])
    assert states()[4] == "missing"  # control: the process has ended


@pytest.mark.parametrize("command", [status.main, collect.main])
def test_a_record_is_read_once(sweep, monkeypatch, command):
    """So that a run that ends meanwhile is not shown half as it was before and half as it is after."""
    reads = []

    def read(folder):
        reads.append(folder.name)
        return read_record(folder)

    for module in ("launch.cluster.sweep", "launch.runs.run_folder", "launch.runs.checksums"):
        monkeypatch.setattr(f"{module}.read_record", read)
    command([str(sweep)])
    assert sorted(reads) == ["0", "1", "2", "3", "5"]
