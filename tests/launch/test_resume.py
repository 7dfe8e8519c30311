"""`launch.resume`: which jobs of a sweep it runs, how, and when it refuses."""

import json
import shutil

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch import resume
from launch.cli.compose import compose
from launch.cli.recorded_command import RecordedCommand
from launch.cluster.sweep import Sweep, SweepJob, SweepLock, read_sweep, write_sweep

from .made_up import DAMAGES, write_run


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """The reports on sweeps that are asked for: package, folders of the runs, folder of the sweep."""
    asked: list[tuple] = []
    monkeypatch.setattr(resume, "report_sweep", lambda *arguments: asked.append(arguments))
    return asked


def test_it_runs_what_is_missing_or_failed_and_nothing_else(sweep, monkeypatch, capsys):
    ran = []

    def run_job(folder, sweep, job):
        ran.append(job.number)
        return int(job.number == 4)

    monkeypatch.setattr(resume, "check_unchanged", lambda folder, sweep, job: None)
    monkeypatch.setattr(resume, "run_job", run_job)
    assert resume.main([str(sweep), "--dry-run"]) == 0
    assert ran == []
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "will run" in line] == [
        "[2] failed, will run: experiment=one_two transform=identity seed=2",
        "[4] missing, will run: experiment=one_two transform=mara seed=1",
        "[5] dead, will run: experiment=one_two transform=mara seed=2",
    ]
    assert len([line for line in out if line.startswith("[")]) == 6
    assert out[-2:] == [f"next: python -m launch.{name} {sweep}" for name in ("resume", "collect")]
    assert resume.main([str(sweep)]) == 1  # job 4 failed again
    assert ran == [2, 4, 5]


def test_the_finished_runs_are_compared_at_the_end(sweep, monkeypatch, capsys, reports):
    """What has failed again is left out. Nothing is compared where nothing ran."""

    def run_job(folder, sweep, job):
        if job.number == 4:
            return 1
        (folder / "figure.png").touch()
        write_run(folder / job.folder, {"seed": job.number}, summary={"reward": 1.0})
        return 0

    monkeypatch.setattr(resume, "check_unchanged", lambda folder, sweep, job: None)
    monkeypatch.setattr(resume, "run_job", run_job)
    before = [int(line[1]) for line in states(sweep, capsys) if "] finished" in line]
    assert reports == []
    assert resume.main([str(sweep)]) == 1
    assert reports == [("llm", [sweep / str(number) for number in sorted([*before, 2, 5])], sweep)]
    assert f"picture: {sweep / 'figure.png'}" in capsys.readouterr().out.splitlines()


def states(sweep, capsys):
    """The lines of jobs that `--dry-run` prints."""
    assert resume.main([str(sweep), "--dry-run"]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]


def jobs_that_run(monkeypatch):
    """The numbers of the jobs that are run from now on. All of them succeed."""
    ran = []

    def run_job(folder, sweep, job):
        ran.append(job.number)
        return 0

    monkeypatch.setattr(resume, "check_unchanged", lambda folder, sweep, job: None)
    monkeypatch.setattr(resume, "run_job", run_job)
    return ran


@pytest.mark.parametrize(
    "damage", ["truncated record", "foreign record", "summary that is a list", "metrics that are bytes"]
)
def test_an_unreadable_run_is_shown_and_not_run(sweep, monkeypatch, capsys, damage):
    ran = jobs_that_run(monkeypatch)
    DAMAGES[damage](sweep / "0")
    assert resume.main([str(sweep)]) == 1
    assert ran == [2, 4, 5]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[0]")]
    assert line.startswith(f"[0] unreadable: experiment=one_two transform=identity seed=0: {sweep / '0'}/")
    for number in "235":
        shutil.rmtree(sweep / number)
    ran.clear()
    DAMAGES["truncated record"](sweep / "1")  # one that cannot be read does not hide the state of the others
    assert resume.main([str(sweep), "--dry-run"]) == 1
    assert "[3] missing, will run" in capsys.readouterr().out


def test_a_sweep_that_is_running_is_refused(sweep, monkeypatch, capsys):
    ran = jobs_that_run(monkeypatch)
    with SweepLock(sweep):
        with pytest.raises(
            SystemExit, match=r"^launch\.resume: .*sweep: process \d+ on .* is starting the jobs of this"
        ):
            resume.main([str(sweep)])
        assert resume.main([str(sweep), "--dry-run"]) == 0
    assert ran == []
    assert resume.main([str(sweep)]) == 0  # control: it has ended
    assert ran == [2, 4, 5]


def test_a_sweep_whose_configuration_has_changed_is_refused(sweep):
    with pytest.raises(
        SystemExit, match=r"config\.yaml: .*the configuration has changed since .*; start a new sweep"
    ):
        resume.main([str(sweep)])


def test_an_unchanged_configuration_is_not_refused(tmp_path):
    job = SweepJob(0, ["steps=3"], "0")
    jobs = Sweep("llm", [], "basic", [job])
    (tmp_path / "0").mkdir()
    resume.check_unchanged(tmp_path, jobs, job)  # not started yet
    config = dict(compose("llm", ["steps=3"]))
    (tmp_path / "0" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    resume.check_unchanged(tmp_path, jobs, job)
    job.overrides = ["steps=4"]
    with pytest.raises(ConfigError, match="steps is 3 there and 4 here"):
        resume.check_unchanged(tmp_path, jobs, job)
    job.overrides = ["steps=3", "resume=must", "loggers=[wandb]"]  # these do not affect results
    resume.check_unchanged(tmp_path, jobs, job)


def test_a_job_runs_from_the_folder_of_its_sweep_with_its_flags(tmp_path, monkeypatch):
    commands = []

    def run(*arguments):
        commands.append(arguments)
        return statuses.pop()

    monkeypatch.setattr(RecordedCommand, "run", run)
    statuses = [0, 3]
    job = SweepJob(1, ["steps=3"], "sub/1")
    flags = ["--config-dir", "/mine", "--config-name", "mycfg"]
    jobs = Sweep("llm", [], "basic", [job], cwd=str(tmp_path), flags=flags)
    assert resume.run_job(tmp_path / "sweep", jobs, job) == 1
    assert resume.run_job(tmp_path / "sweep", jobs, job) == 0
    command = RecordedCommand("llm", tuple(flags), ("steps=3",), str(tmp_path))
    assert commands == [(command, tmp_path / "sweep" / "sub" / "1", tmp_path / "sweep")] * 2


def test_a_run_is_resumed_from_its_folder_with_its_flags(tmp_path, monkeypatch):
    """Also in a folder of runs without the record of a sweep, whose runs may have different flags."""
    commands = []

    def run(*arguments):
        commands.append(arguments)
        return 0

    monkeypatch.setattr(RecordedCommand, "run", run)
    monkeypatch.setattr(resume, "check_unchanged", lambda folder, sweep, job: None)
    flags: dict[str, list[str]] = {"a": ["--config-name", "mine"], "b": []}
    for name in flags:
        command = ["python", "-m", "llm", *flags[name], "seed=1"]
        write_run(tmp_path / "runs" / name, {"seed": 1}, state="failed", error="E", command=command, cwd=f"/{name}")
    assert resume.main([str(tmp_path / "runs")]) == 0
    runs = tmp_path / "runs"
    expected = [(RecordedCommand("llm", tuple(flags[name]), ("seed=1",), f"/{name}"), runs / name) for name in flags]
    assert commands == [(*command, runs) for command in expected]
    assert resume.main([str(tmp_path / "runs" / "a")]) == 0
    assert commands[2:] == [(*expected[0], runs / "a")]


@pytest.mark.parametrize(
    ("changes", "of_job", "message"),
    [
        ({"package": "cProfile"}, {}, "package: must be one of didactic, "),
        ({}, {"folder": "../outside"}, "is outside the sweep folder"),
        ({}, {"folder": "/outside"}, "is outside the sweep folder"),
        ({}, {"folder": "link/outside"}, "is outside the sweep folder"),
        ({}, {"folder": 3}, "not the record of a sweep"),
        ({}, {"number": "../../x"}, "not the record of a sweep"),
        ({}, {"overrides": ["+hydra.callbacks.a._target_=os.abort"]}, "a record cannot set keys of Hydra"),
        ({}, {"overrides": ["seed"]}, "cannot parse"),
        ({}, {"overrides": None}, "not the record of a sweep"),
        ({"flags": ["--experimental-rerun", "a.pickle"]}, {}, "flags: must be --config-path"),
        ({"flags": ["--config-dir", "SWEEP/conf"]}, {}, "outside the recorded folder"),
        ({"cwd": "/\0"}, {}, "not the record of a sweep"),
        ({"launcher": "local", "settings": {"nonsense": 1}}, {}, "settings: .*nonsense"),
        ({"launcher": "local", "settings": []}, {}, "not the record of a sweep"),
    ],
)
def test_a_strangers_sweep_is_refused(tmp_path, monkeypatch, changes, of_job, message):
    """It names another program, another folder, or files that would be imported or unpickled."""
    for name in ("run_job", "run_locally", "submit_jobs"):
        monkeypatch.setattr(resume, name, lambda *_: pytest.fail("it was started"))
    folder = tmp_path / "sweep"
    (folder / "conf").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    job = {"number": 0, "overrides": ["seed=1"], "folder": "0", **of_job}
    content = {"package": "didactic", "command": [], "launcher": "basic", "jobs": [job], "cwd": "/", **changes}
    (folder / "sweep.json").write_text(json.dumps(content).replace("SWEEP", str(folder)))
    with pytest.raises(SystemExit, match=message) as refusal:
        resume.main([str(folder)])
    assert str(refusal.value.code).startswith("launch.resume: ")
    assert "\n" not in str(refusal.value.code)
    assert not (tmp_path / "outside").exists()


def test_control_a_good_record_is_run(tmp_path, monkeypatch):
    jobs = [SweepJob(0, ["seed=1"], "0"), SweepJob(1, ["seed=2"], "a=1,b=../x")]
    write_sweep(tmp_path, Sweep("didactic", [], "basic", jobs, cwd="/", flags=["--config-name", "mine"]))
    ran = []

    def run_job(folder, sweep, job):
        ran.append(job.folder)
        return 0

    monkeypatch.setattr(resume, "run_job", run_job)
    assert resume.main([str(tmp_path)]) == 0
    assert ran == ["0", "a=1,b=../x"]


def test_what_else_a_sweep_runs_is_printed(tmp_path, monkeypatch, capsys):
    settings = {"array_parallelism": 2, "timeout_min": 10, "on_failure": "continue", "cluster": "slurm"}
    settings |= {"signal_delay_s": 30, "setup": ["module load cuda"]}
    write_sweep(tmp_path, Sweep("llm", [], "slurm", [SweepJob(0, [], "0")], settings=settings))
    (tmp_path / ".code").mkdir()
    monkeypatch.setattr(resume, "slurm_queue", dict)
    assert resume.main([str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"code: {tmp_path / '.code'}",
        "setup: module load cuda",
        f"next: python -m launch.resume {tmp_path}",
    ]


@pytest.mark.parametrize("launcher", ["slurm", "local"])
def test_a_sweep_of_a_launcher_is_resumed_through_it(sweep, monkeypatch, capsys, launcher):
    content = read_sweep(sweep)
    content.launcher = launcher
    content.settings = {"array_parallelism": 2, "timeout_min": 10, "on_failure": "continue", "cluster": launcher}
    content.settings |= {"signal_delay_s": 30} if launcher == "slurm" else {}
    for job in content.jobs:
        job.id = f"7_{job.number}"
    write_sweep(sweep, content)
    (sweep / ".code").mkdir()  # the jobs run the code of the snapshot, so nothing is compared
    calls = []
    monkeypatch.setattr(resume, "slurm_queue", lambda: {"7_4": "PENDING"} if launcher == "slurm" else None)
    monkeypatch.setattr(resume, "submit_jobs", lambda folder, sweep, jobs, settings: calls.append((jobs, settings)))

    def run_locally(folder, sweep, jobs, settings):
        calls.append((jobs, settings))
        return {2: "failed"}

    monkeypatch.setattr(resume, "run_locally", run_locally)
    status = resume.main([str(sweep)])
    ((jobs, settings),) = calls
    assert settings.cluster == launcher
    if launcher == "slurm":
        assert status == 0
        assert [job.number for job in jobs] == [2, 5]  # job 4 waits in the queue
        assert "submitted 2 jobs to SLURM: 7_2, 7_5" in capsys.readouterr().out
    else:
        assert status == 1
        assert [job.number for job in jobs] == [2, 4, 5]
        assert capsys.readouterr().err == "launch.resume: job 2: failed\n"


def test_a_slurm_sweep_needs_slurm(sweep, monkeypatch):
    content = read_sweep(sweep)
    content.launcher = "slurm"
    write_sweep(sweep, content)
    monkeypatch.setattr(resume, "slurm_queue", lambda: None)
    with pytest.raises(SystemExit, match="squeue does not answer; resume this sweep on a machine with SLURM"):
        resume.main([str(sweep)])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        SystemExit, match=r"^launch\.resume: .*: not a sweep or a run, it has neither sweep\.json nor"
    ):
        resume.main([str(tmp_path)])
