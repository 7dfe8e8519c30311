"""Status, resuming and collection of sweeps: on made-up run folders, and on one real sweep by the commands."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch import collect, resume, status
from launch.analysis import plots, table
from launch.cluster.sweep import Sweep, SweepJob, read_sweep, write_sweep
from launch.runs import run_folder
from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>document.title='owned'</script>&\"'"


def made_up_run(folder, seed, beta, transform, state="finished", error=None, **results):
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "steps": 4,
        "objective": {"beta": beta},
        "transform": {"name": transform},
        "resume": "auto",
    }
    if transform == "mara":
        config["transform"]["algorithm"] = "auto"
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    trace = None if error is None else f"Traceback\n  somewhere\n{error}"
    known = {"state": state, "package": "llm", "command": ["python", "-m", "llm"], "traceback": trace}
    (folder / "run.json").write_text(json.dumps({**known, "versions": {"torch": "2"}, "code": {}, "hardware": {}}))
    rows = [{"step": s, "reward/raw": s + seed, "loss": None if s == 2 else beta * s} for s in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "timings.jsonl").write_text("".join(json.dumps({"step": s, "seconds": 2.0}) + "\n" for s in range(3)))
    if state == "finished":
        (folder / "summary.json").write_text(json.dumps(results))


@pytest.fixture
def sweep(tmp_path):
    """2 transforms x 3 seeds; one run failed, one never started, one was killed."""
    folder, jobs = tmp_path / "sweep", []
    for number, (transform, seed) in enumerate(product(("identity", "mara"), range(3))):
        jobs.append(SweepJob(number, ["experiment=one_two", f"transform={transform}", f"seed={seed}"], str(number)))
        results = {"correct": 0.9 + seed / 100, "entropy_nats": seed * (transform == "mara"), "entropy_nats/se": 0.5}
        results |= {"base": {"correct": 0.5}, "note": "text", "none": None}
        if (transform, seed) == ("identity", 2):
            made_up_run(folder / str(number), seed, 0.1, transform, "failed", f"ValueError: {HOSTILE}")
        elif (transform, seed) == ("mara", 1):
            continue
        elif (transform, seed) == ("mara", 2):
            made_up_run(folder / str(number), seed, 0.1, transform, "running")
        else:
            made_up_run(folder / str(number), seed, 0.1, transform, **results)
    write_sweep(folder, Sweep("llm", ["python", "-m", "llm", "-m"], "basic", jobs))
    return folder


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
    shutil.rmtree(sweep / "2"), shutil.rmtree(sweep / "5")
    assert status.main([str(sweep)]) == 0


def test_time_left_is_what_the_last_steps_took(sweep):
    assert status.seconds_left(sweep / "0", 3) == 6
    (sweep / "0" / "timings.jsonl").write_text("")
    assert status.seconds_left(sweep / "0", 3) is None
    assert [status.clock(s) for s in (None, 0, 59.6, 3600)] == ["-", "0:00:00", "0:01:00", "1:00:00"]


def test_what_slurm_queues_is_pending(sweep):
    content = read_sweep(sweep)
    for job in content.jobs:
        job.id = f"7_{job.number}"
    queue = {"7_0": "PENDING", "7_4": "RUNNING", "7_2": "PENDING", "7_5": "CANCELLED"}
    states = status.job_states(sweep, content.jobs, queue)
    assert states == ["finished", "finished", "pending", "finished", "starting", "dead"]


def test_resume_runs_what_is_missing_or_failed_and_nothing_else(sweep, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(resume, "refuse_changed", lambda folder, sweep, job: None)
    monkeypatch.setattr(resume, "run_here", lambda folder, sweep, job: ran.append(job.number) or 0)
    assert resume.main([str(sweep), "--dry-run"]) == 0
    assert ran == []
    assert resume.main([str(sweep)]) == 0
    assert ran == [2, 4, 5]


def test_a_sweep_whose_configuration_has_changed_is_refused(sweep, capsys):
    with pytest.raises(SystemExit, match=r"config\.yaml: .*the configuration has changed since; start a new sweep"):
        resume.main([str(sweep)])


def test_the_table(sweep, capsys):
    assert collect.main([str(sweep)]) == 1
    out = capsys.readouterr().out
    assert "failed: " in out
    assert "missing: " in out
    assert "dead: " in out
    assert "3 of 6 runs finished" in out
    written = pd.read_parquet(sweep / "collected" / "table.parquet")
    assert list(written.columns[:2]) == ["transform.name", "n"]
    assert written["transform.name"].tolist() == ["identity", "mara"]
    assert written["n"].tolist() == [2, 1]
    assert written["correct"].tolist() == pytest.approx([0.905, 0.9])
    assert written["base.correct"].tolist() == [
        0.5,
        0.5,
    ]
    assert written["correct/se"][0] == pytest.approx(0.005 / math.sqrt(2))
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


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.3, 0.9, 0.2], [1.0, 2.0, 4.0, 8.0], [0.1, 0.1, 0.1]])
def test_standard_error_is_that_of_all_resamples(values):
    means = [sum(resample) / len(values) for resample in product(values, repeat=len(values))]
    centre = sum(means) / len(means)
    exact = math.sqrt(sum((mean - centre) ** 2 for mean in means) / len(means))
    assert table.standard_error(values) == pytest.approx(exact, abs=1e-15)
    unbiased = math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
    assert exact < 1e-12 or table.standard_error(values) != pytest.approx(unbiased)  # control
    assert math.isnan(table.standard_error(values[:1]))


def test_the_front_is_what_nothing_beats():
    points = [(0, 3), (1, 3), (1, 1), (2, 2), (3, 0), (3, 0), (2.5, -1)]
    beaten = [any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]
    front = plots.pareto_front(points)
    assert {points[i] for i in front} == {p for p, bad in zip(points, beaten, strict=True) if not bad}
    assert [points[i] for i in front] == [(1, 3), (2, 2), (3, 0)]


def test_curves_are_means_over_the_seeds(sweep):
    rows = table.fold(table.read_runs(sweep))
    steps, mean, error = plots.curve(rows[0], "reward/raw")
    assert (steps, mean.tolist()) == ([0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5])
    assert error == pytest.approx(0.5 / math.sqrt(2))
    assert plots.curve(rows[0], "loss")[0] == [0, 1, 3]


@pytest.mark.parametrize("damage", ["summary", "metrics", "config"])
def test_a_damaged_run_is_listed_and_the_others_are_collected(sweep, capsys, damage):
    name = {"summary": "summary.json", "metrics": "metrics.jsonl", "config": "config.yaml"}[damage]
    (sweep / "0" / name).write_text("{'\n")
    assert collect.main([str(sweep)]) == 1
    out = capsys.readouterr().out
    assert re.search(rf"damaged: .*{name}", out)
    assert "2 of 6 runs finished" in out


def test_what_cannot_be_collected(tmp_path, sweep, capsys):
    (tmp_path / "empty").mkdir()
    for command in (collect.main, status.main, resume.main):
        with pytest.raises(SystemExit, match=r"empty: must be a sweep or a run, got neither"):
            command([str(tmp_path / "empty")])
    with pytest.raises(SystemExit, match=r"--metrics: must be results of the runs .*got nonsense"):
        collect.main([str(sweep), "--metrics", "nonsense"])
    (sweep / "sweep.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"sweep\.json: must be the record of a sweep"):
        read_sweep(sweep)


def browse(*arguments):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no headless browser (Debian: chromium; tools/services.sh installs it)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    done = subprocess.run([browser, *flags, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_the_report_opens_offline_in_a_browser(sweep, tmp_path):
    collect.main([str(sweep)])
    page = sweep / "collected" / "report.html"
    text = page.read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;document.title" in text
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is loaded from anywhere
    log = tmp_path / "net.json"
    done = browse(f"--log-net-log={log}", "--dump-dom", page.as_uri())
    assert "<title>Report</title>" in done.stdout  # the hostile script did not run
    assert "Uncaught" not in done.stderr
    body = re.search(r'id="results">.*?<tbody>(.*?)</tbody>', done.stdout, re.S)[1]
    assert body.count("<tr>") == 2
    assert done.stdout.count("data:image/png;base64,") >= 2
    assert "3 runs did not finish" in done.stdout
    # Control: clicking sorts, so the script runs at all.
    control = tmp_path / "control.html"
    sort = "const h = document.querySelectorAll('#results th')[1]; h.click();"
    tell = "document.title = document.querySelector('#results td').textContent"
    click = f"<script>{sort}{tell}</script></body>"
    control.write_text(text.replace("</body>", click))
    assert "<title>mara</title>" in browse("--dump-dom", control.as_uri()).stdout


@pytest.mark.slow
def test_the_commands_on_a_real_sweep(tmp_path):
    """Sweep, lose two runs, see it, resume it, collect it: the lost runs come back as they were."""
    folder = tmp_path / "sweep"
    axes = ["experiment=bandit", "objective.direction=reverse,forward", "seed=0,1", "steps=20", "log_every=1"]
    sampled = ["gradient=sampled", "samples=16", f"hydra.sweep.dir={folder}"]

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200
        )

    done = command("didactic", "-m", *axes, *sampled)
    assert done.returncode == 0, done.stderr
    lines = {n: read_jsonl(folder / str(n) / "metrics.jsonl") for n in range(4)}
    shutil.rmtree(folder / "1")
    (folder / "2" / "run.json").write_text((folder / "2" / "run.json").read_text().replace('"finished"', '"failed"'))
    seen = command("launch.status", str(folder))
    assert seen.returncode == 1
    assert "1 missing" in seen.stdout
    assert "1 failed" in seen.stdout
    again = command("launch.resume", str(folder))
    assert again.returncode == 0, again.stdout + again.stderr
    assert {n: read_jsonl(folder / str(n) / "metrics.jsonl") for n in range(4)} == lines
    assert [run_folder.run_state(folder / str(n)) for n in range(4)] == ["finished"] * 4
    collected = command("launch.collect", str(folder), "--out", str(tmp_path / "out"))
    assert collected.returncode == 0
    assert "4 of 4 runs finished" in collected.stdout
    written = pd.read_csv(tmp_path / "out" / "table.csv")
    assert written["objective.direction"].tolist() == ["reverse", "forward"]
    assert written["n"].tolist() == [2, 2]
    assert all((tmp_path / "out" / name).exists() for name in ("pareto.png", "curves.png", "report.html"))


def collected(overrides, **config):
    return table.CollectedRun(Path("run"), "llm", overrides, "finished", config=config, results={"reward": 1.0})


def test_a_group_option_that_changes_several_keys_is_one_column():
    values = {"a": (1, 1), "b": (2, 1), "c": (2, 3)}

    def run(method, seed, **changed):
        x, y = values[method]
        return collected([f"method={method}", f"seed={seed}"], **{"x": x, "y": y, "seed": seed, **changed})

    runs = [run("a", 0), run("a", 1), run("b", 0), run("c", 0)]
    rows = table.fold(runs)
    assert [(row.varying, len(row.runs)) for row in rows] == [
        ({"method": "a"}, 2),
        ({"method": "b"}, 1),
        ({"method": "c"}, 1),
    ]
    assert rows[0].label == "method=a"
    changed = [*runs, run("c", 1, y=4)]  # what the option means has changed in between
    assert {tuple(row.varying) for row in table.fold(changed)} == {("x", "y")}
    assert len(table.fold(changed)) == 4
