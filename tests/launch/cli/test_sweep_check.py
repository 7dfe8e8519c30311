"""All jobs of a sweep are checked and recorded before the first one starts."""

import json
from types import SimpleNamespace

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig
from launch.cli.sweep_check import basic_sweeper, check_sweep, refuse_empty
from launch.cli.validation import register
from launch.cluster.sweep import SweepLock, read_sweep, write_sweep

from ..made_up import write_run

SETTINGS = {"array_parallelism": 1, "timeout_min": 1, "on_failure": "continue"}


def composed(*overrides):
    register("didactic")
    with initialize_config_module("conf.didactic", version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)


class Loader:
    """Composes each job as Hydra's loader does."""

    subdir = "run_${hydra.job.num}"

    def load_sweep_config(self, config, overrides):
        job = composed(*overrides)
        with open_dict(job):
            job.hydra.sweep.dir, job.hydra.sweep.subdir = config.hydra.sweep.dir, self.subdir
        return job


@pytest.fixture
def sweeper(tmp_path, monkeypatch):
    """Makes what `check_sweep` uses of Hydra's sweeper, for a sweep into tmp_path/sweep; Hydra made the folder."""
    monkeypatch.setattr("sys.argv", ["python -m didactic", "-m", "seed=0,1"])
    monkeypatch.chdir(tmp_path)
    config = composed()
    with open_dict(config):
        config.hydra.sweep.dir = str(tmp_path / "sweep")
        config.hydra.runtime.config_sources = []
    made = []

    def make(subdir=Loader.subdir, **launcher):
        (tmp_path / "sweep").mkdir(exist_ok=True)
        (tmp_path / "sweep" / "multirun.yaml").touch()
        loader = Loader()
        loader.subdir = subdir
        with open_dict(config):
            if launcher:
                schema = OmegaConf.structured(LocalLauncherConfig)
                config.hydra.launcher = OmegaConf.merge(schema, SETTINGS | launcher)
        context = SimpleNamespace(config_loader=loader)
        made.append(SimpleNamespace(config=config, hydra_context=context, launcher=SimpleNamespace()))
        return made[-1]

    def end():
        for one in made:
            plan = getattr(one.launcher, "plan", None)
            if plan is not None and plan.lock is not None:
                plan.lock.release()

    yield SimpleNamespace(make=make, end=end)
    end()
    HydraConfig.instance().cfg = None


def jobs(folder):
    return [(job.number, job.overrides, job.folder) for job in read_sweep(folder / "sweep").jobs]


def test_a_sweep_of_good_jobs_is_recorded(sweeper, tmp_path):
    check_sweep("didactic", sweeper.make(), [["seed=0"], ["seed=1", "hydra.job.chdir=false"]])
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert content["jobs"] == [
        {"number": 0, "overrides": ["seed=0"], "folder": "run_0", "id": None},
        {"number": 1, "overrides": ["seed=1"], "folder": "run_1", "id": None},  # Hydra's own overrides are not kept
    ]
    assert (content["package"], content["launcher"], content["cwd"]) == ("didactic", "basic", str(tmp_path))
    assert content["command"] == ["python", "-m", "didactic", "-m", "seed=0,1"]


def test_a_bad_job_rejects_the_sweep_and_leaves_no_folder(sweeper, tmp_path):
    message = r"^seed: must be >= 0, got -1 \(in job 1 of 3, seed=-1 steps=2; no job was started\)$"
    with pytest.raises(ConfigError, match=message):
        check_sweep("didactic", sweeper.make(), [["seed=0"], ["seed=-1", "steps=2"], ["seed=2"]])
    assert not (tmp_path / "sweep").exists()


def test_bad_settings_of_a_launcher_reject_the_sweep(sweeper, tmp_path):
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.array_parallelism: must be >= 1 and <= 100000, got 0$"):
        check_sweep("didactic", sweeper.make(array_parallelism=0), [["seed=0"]])
    assert not (tmp_path / "sweep").exists()


def test_our_launchers_write_the_record_themselves(sweeper, tmp_path):
    one = sweeper.make(on_failure="stop")
    batch = [["seed=0"]]
    check_sweep("didactic", one, batch)
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    record = one.launcher.plan.record
    assert (record.launcher, record.on_failure, record.settings["array_parallelism"]) == ("local", "stop", 1)
    assert batch == [["seed=0"]]
    with pytest.raises(ConfigError, match="is starting the jobs"):
        SweepLock(tmp_path / "sweep")
    dry = sweeper.make(dry_run=True)
    (tmp_path / "sweep" / ".sweep.lock").unlink()
    check_sweep("didactic", dry, [["seed=0"]])
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


def test_a_refused_sweep_does_not_touch_the_record(sweeper, tmp_path):
    check_sweep("didactic", sweeper.make(), [["seed=0"], ["seed=1"]])
    config = OmegaConf.to_container(composed("seed=0"), resolve=False)
    config.pop("hydra")
    write_run(tmp_path / "sweep" / "run_0", config, package="didactic")
    before = (tmp_path / "sweep" / "sweep.json").read_bytes()
    with pytest.raises(ConfigError, match="is starting the jobs of this sweep"):
        check_sweep("didactic", sweeper.make(), [["seed=0"], ["seed=2"]])
    sweeper.end()
    with pytest.raises(
        ConfigError, match=r"seed is 0 there and 3 here; .*\(in job 0 of 2, seed=3; no job was started"
    ):
        check_sweep("didactic", sweeper.make(), [["seed=3"], ["seed=4"]])
    with pytest.raises(ConfigError, match=r"resume=never: .*run_0 already holds a run"):
        check_sweep("didactic", sweeper.make(), [["seed=0", "resume=never"]])
    assert (tmp_path / "sweep" / "sweep.json").read_bytes() == before
    check_sweep(
        "didactic", sweeper.make(), [["seed=0"], ["seed=1"], ["seed=2"]]
    )  # control: the same sweep with a job more
    assert [job[1] for job in jobs(tmp_path)] == [["seed=0"], ["seed=1"], ["seed=2"]]


def test_an_unreadable_run_does_not_refuse_the_others(sweeper, tmp_path):
    (tmp_path / "sweep" / "run_0").mkdir(parents=True)
    (tmp_path / "sweep" / "run_0" / "run.json").write_text("{")
    check_sweep("didactic", sweeper.make(), [["seed=0"], ["seed=1"]])
    assert len(jobs(tmp_path)) == 2


def test_the_batches_of_a_sweep_are_one_record(sweeper, tmp_path):
    """The basic sweeper knows all batches; another one decides as it goes."""
    batches = [[["seed=0"]], [["seed=1"]], [["seed=2"]]]
    basic = basic_sweeper()(max_batch_size=1)
    one = sweeper.make()
    basic.config, basic.hydra_context, basic.launcher, basic.overrides = (
        one.config,
        one.hydra_context,
        one.launcher,
        batches,
    )
    check_sweep("didactic", basic, batches[0])
    expected = [(number, [f"seed={number}"], f"run_{number}") for number in range(3)]
    assert jobs(tmp_path) == expected
    for batch in batches[1:]:
        check_sweep("didactic", basic, batch)
    assert batches == [[[f"seed={number}", f"hydra.sweep.subdir='run_{number}'"]] for number in range(3)]
    assert jobs(tmp_path) == expected
    sweeper.end()
    (tmp_path / "sweep" / "sweep.json").unlink()
    other = sweeper.make()
    for number in range(3):
        check_sweep("didactic", other, [[f"seed={number}"]])
        assert jobs(tmp_path) == expected[: number + 1]


def test_a_folder_that_depends_on_the_time_is_decided_once(sweeper, tmp_path):
    times = iter(range(100))
    OmegaConf.register_new_resolver("now", lambda pattern: f"{next(times)}", replace=True)
    batch = [["seed=0"], ["seed=1"]]
    check_sweep("didactic", sweeper.make("${now:%f}"), batch)
    folders = [job[2] for job in jobs(tmp_path)]
    assert len({*folders}) == 2
    assert [job[-1] for job in batch] == [f"hydra.sweep.subdir='{folder}'" for folder in folders]


def test_jobs_that_share_a_folder_are_refused(sweeper, tmp_path):
    message = r"^hydra\.sweep\.subdir: must differ between jobs, is same for jobs 0 and 1; use \$\{hydra\.job\.num\}"
    with pytest.raises(ConfigError, match=message):
        check_sweep("didactic", sweeper.make("same"), [["seed=0"], ["seed=1"]])
    assert not (tmp_path / "sweep").exists()


def test_another_sweep_into_the_folder_keeps_the_jobs_of_the_first(sweeper, tmp_path, monkeypatch):
    check_sweep("didactic", sweeper.make("a_${seed}"), [["seed=0"], ["seed=1"]])
    sweeper.end()
    check_sweep("didactic", sweeper.make("a_${seed}"), [["seed=1"], ["seed=5"]])
    assert jobs(tmp_path) == [(0, ["seed=0"], "a_0"), (1, ["seed=1"], "a_1"), (2, ["seed=5"], "a_5")]
    sweeper.end()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"holds jobs of another sweep, whose cwd is .*; choose another folder"):
        check_sweep("didactic", sweeper.make("a_${seed}"), [["seed=7"]])
    check_sweep("didactic", sweeper.make("a_${seed}"), [["seed=0"], ["seed=1"], ["seed=5"]])  # all of them again
    assert read_sweep(tmp_path / "sweep").cwd == str(tmp_path / "elsewhere")
    sweeper.end()
    content = read_sweep(tmp_path / "sweep")
    content.launcher = "slurm"
    content.jobs[0].id = "7_0"
    write_sweep(tmp_path / "sweep", content)
    monkeypatch.setattr("launch.cluster.sweep.slurm_queue", lambda: {"7_0": "PENDING"})
    with pytest.raises(ConfigError, match=r"a_0: this job of an earlier sweep is queued; wait until it has ended"):
        check_sweep("didactic", sweeper.make("a_${seed}"), [["seed=0"]])


@pytest.mark.parametrize("max_batch_size", [None, 2])
@pytest.mark.parametrize("text", ["seed=range(3,3)", "seed=range(5,3,1)"])
def test_a_sweep_of_no_jobs_is_refused(text, max_batch_size):
    split = refuse_empty(basic_sweeper().split_arguments)
    overrides = OverridesParser.create().parse_overrides(["steps=3", text])
    with pytest.raises(ConfigError, match=r"^seed: range\(.*\) has no values, so the sweep has no jobs$"):
        split(overrides, max_batch_size)
    overrides = OverridesParser.create().parse_overrides(["steps=3", "seed=range(3,5)"])
    assert [job for batch in split(overrides, max_batch_size) for job in batch] == [
        ["steps=3", "seed=3"],
        ["steps=3", "seed=4"],
    ]
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.max_batch_size: must be >= 1 or null, got 0$"):
        split(overrides, 0)
