"""Checking a configuration, and all jobs of a sweep before the first one starts."""

import json
import types

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from conf.schema.base import ConfigError
from conf.schema.didactic import DidacticConfig
from launch.cli.validation import check, check_sweep, register


def composed(*overrides, package="didactic", **keywords):
    register(package)
    with initialize_config_module(f"conf.{package}", version_base="1.3"):
        return hydra_compose("config", overrides=list(overrides), **keywords)


def test_a_good_configuration_becomes_its_dataclass():
    config = check("didactic", composed("seed=3"))
    assert isinstance(config, DidacticConfig)
    assert config.seed == 3


def test_keys_that_were_added_or_removed_are_rejected():
    with pytest.raises(ConfigError, match=r"^objective\.bta: no such key"):
        check("didactic", composed("+objective.bta=1"))
    with pytest.raises(ConfigError, match=r"^seed: required, cannot be removed with ~seed$"):
        check("didactic", composed("~seed"))


def test_a_value_that_is_missing_or_not_allowed_is_rejected():
    with pytest.raises(ConfigError, match=r"^beta_schedule\.kl_target: no value given; must be a number$"):
        check("didactic", composed("beta_schedule=adaptive"))
    with pytest.raises(ConfigError, match=r"^seed: must be >= 0, got -1$"):
        check("didactic", composed("seed=-1"))


class Loader:
    """Composes each job as Hydra's loader does."""

    def load_sweep_config(self, config, overrides):
        job = composed(*overrides, return_hydra_config=True)
        with open_dict(job):
            job.hydra.sweep.dir, job.hydra.sweep.subdir = config.hydra.sweep.dir, "run_${hydra.job.num}"
        return job


@pytest.fixture
def sweeper(tmp_path, monkeypatch):
    """What `check_sweep` uses of Hydra's sweeper, for a sweep into tmp_path/sweep; Hydra made the folder."""
    monkeypatch.setattr("sys.argv", ["python -m didactic", "-m", "seed=0,1"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    config = composed(return_hydra_config=True)
    with open_dict(config):
        config.hydra.sweep.dir = str(tmp_path / "sweep")
        config.hydra.runtime.config_sources = []
    yield types.SimpleNamespace(config=config, hydra_context=types.SimpleNamespace(config_loader=Loader()))
    HydraConfig.instance().cfg = None


def test_a_sweep_of_good_jobs_is_recorded(sweeper, tmp_path):
    check_sweep("didactic", sweeper, [["seed=0"], ["seed=1", "hydra.job.chdir=false"]])
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
        check_sweep("didactic", sweeper, [["seed=0"], ["seed=-1", "steps=2"], ["seed=2"]])
    assert not (tmp_path / "sweep").exists()


def test_bad_settings_of_a_launcher_reject_the_sweep(sweeper, tmp_path):
    from conf.schema.launchers import LocalLauncherConfig

    settings = {"array_parallelism": 0, "timeout_min": 1, "on_failure": "continue"}
    with open_dict(sweeper.config):
        sweeper.config.hydra.launcher = OmegaConf.merge(OmegaConf.structured(LocalLauncherConfig), settings)
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.array_parallelism: must be >= 1, got 0$"):
        check_sweep("didactic", sweeper, [["seed=0"]])
    assert not (tmp_path / "sweep").exists()


def test_our_launchers_write_the_record_themselves(sweeper, tmp_path):
    from conf.schema.launchers import LocalLauncherConfig

    settings = {"array_parallelism": 1, "timeout_min": 1, "on_failure": "continue"}
    with open_dict(sweeper.config):
        sweeper.config.hydra.launcher = OmegaConf.merge(OmegaConf.structured(LocalLauncherConfig), settings)
    check_sweep("didactic", sweeper, [["seed=0"]])
    assert not (tmp_path / "sweep" / "sweep.json").exists()


@pytest.mark.parametrize(
    ("package", "override", "value"),
    [
        ("didactic", "objective.direction_options.order=2", {"order": 2}),
        ("didactic", "objective.direction_options={order: 2}", {"order": 2}),
        ("llm", "model.chat_template.thinking=false", {"thinking": False}),
    ],
)
def test_dictionaries_accept_new_entries(package, override, value):
    key = override.partition("=")[0].removesuffix(".order").removesuffix(".thinking")
    assert OmegaConf.select(composed(override, package=package), key) == value


def test_entries_of_a_typed_dictionary_are_still_checked():
    config = check("llm", composed("reward.parts.brief.function=a:b", package="llm"))
    assert config.reward.parts["brief"].function == "a:b"
    with pytest.raises(
        ConfigError, match=r"^reward.parts.brief.functoin: no such key; allowed: function, model, weight"
    ):
        check("llm", composed("reward.parts.brief.functoin=a:b", package="llm"))


def test_control_other_sections_accept_no_new_keys():
    with pytest.raises(HydraException, match=r"Could not override 'objective.order'"):
        composed("objective.order=2")
