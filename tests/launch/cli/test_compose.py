"""Composing a configuration without starting its package, and the configuration that a run recorded."""

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from launch.cli.compose import compose, compose_typed, read_recorded_config
from launch.cli.groups import CONF

from ..made_up import write_run


def test_a_configuration_is_resolved_and_cached():
    config = compose("didactic", ["seed=3", "objective.direction=forward"])
    assert (config["seed"], config["objective"]["direction"]) == (3, "forward")
    assert "hydra" not in config
    assert compose("didactic", ("seed=3", "objective.direction=forward")) is config
    assert compose("didactic", ["seed=4", "objective.direction=forward"])["seed"] == 4


def test_packages_do_not_mix_their_schemas():
    first, second = compose("llm", []), compose("didactic", [])
    assert "max_new_tokens" in first
    assert "max_new_tokens" not in second
    assert compose("llm", ["seed=1"])["max_new_tokens"] == first["max_new_tokens"]


def test_what_cannot_be_run_composes_only_unchecked():
    with pytest.raises(ConfigError, match=r"^group_size: must be >= 2 with advantage=leave_one_out, got 1"):
        compose("llm", ["group_size=1"])
    assert compose("llm", ["group_size=1"], checked=False)["group_size"] == 1


@pytest.mark.parametrize(
    ("package", "overrides", "message"),
    [
        ("trading", [], r"^package: must be one of didactic, llm, .*, got trading$"),
        (
            "llm",
            ["objective.bta=1"],
            r"^objective\.bta: no such key \(did you mean objective\.beta\?\); allowed: beta,",
        ),
        ("llm", ["steps=${foo}"], r"^steps: cannot resolve \$\{foo\}: Interpolation key 'foo' not found$"),
        ("llm", ["transform=foo"], r"^transform: must be one of .*mara.*, got foo$"),
    ],
)
def test_a_mistake_is_one_line(package, overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(package, overrides)


def test_a_folder_of_ones_own_adds_options(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ntask: {name: one_two}\nseed: 7\n"
    )
    flags = ["--config-dir", str(tmp_path)]
    assert compose("llm", ["experiment=mine"], flags)["seed"] == 7
    with pytest.raises(ConfigError, match=r"^experiment: must be one of"):
        compose("llm", ["experiment=mine"])  # control


MINE = (CONF / "didactic" / "config.yaml").read_text("utf-8").replace("steps: 1000", "steps: 9")


@pytest.mark.parametrize("name", ["own", "é '$(x)${y},[=] ~#", "${seed}"])
def test_a_main_file_of_ones_own(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mine.yaml").write_text(MINE)
    flags = ["--config-dir", str(folder), "--config-name", "mine"]
    assert compose("didactic", ["seed=3"], flags)["steps"] == 9
    assert compose("didactic", ["seed=3"], ["--config-dir", str(folder)])["steps"] == 1000  # control
    roots = '["pkg://conf.shared", "pkg://conf.didactic"]'
    (folder / "config.yaml").write_text(MINE.replace('["pkg://conf.shared"]', roots))
    assert compose("didactic", ["seed=3"], ["--config-path", str(folder)])["steps"] == 9


def test_configuration_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(ConfigError, match=rf"^--config-dir: {tmp_path / 'no'} not found$"):
        compose("didactic", [], ["--config-dir", str(tmp_path / "no")])
    with pytest.raises(ConfigError, match=r"^configuration file: mine is not on the search path$"):
        compose("didactic", [], ["--config-name", "mine"])


def test_a_launcher_says_what_a_rank_has():
    config, launcher = compose_typed("llm", ["seed=5", "hydra/launcher=slurm_node8", "engine=zero2"])
    assert isinstance(config, LlmConfig)
    assert (config.seed, config.engine.name) == (5, "zero2")
    assert launcher == {"nodes": 1, "tasks_per_node": 8, "gpus_per_node": 8, "mem_gb": 480.0}
    assert compose_typed("llm", [])[1] == {}  # Hydra's own launcher has none of these


def test_a_recorded_configuration_is_that_of_its_file_and_command(tmp_path):
    config = dict(compose("llm", ["seed=3", "loggers=[wandb]"]))
    config["writers"] = config.pop("loggers")  # as an older run has it
    del config["threads"]  # a key that the run did not have: the command gives it
    write_run(tmp_path, config, command=["python", "-m", "llm", "seed=1", "threads=2"])
    typed = read_recorded_config(tmp_path)
    assert (typed.seed, typed.threads, typed.loggers) == (3, 2, ["wandb"])


def test_a_recorded_command_may_have_a_folder_of_its_own(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ntask: {name: one_two}\nthreads: 3\n"
    )
    config = dict(compose("llm", []))
    del config["threads"]
    command = ["python", "-m", "llm", "--config-dir", str(tmp_path / "mine"), "experiment=mine"]
    write_run(tmp_path / "run", config, command=command)
    assert read_recorded_config(tmp_path / "run").threads == 3


def test_a_record_that_this_code_cannot_run_is_refused(tmp_path):
    config = {**compose("llm", []), "nonsense": 1}
    write_run(tmp_path, config, command=["python", "-m", "llm"])
    with pytest.raises(ConfigError, match=r"^nonsense: no such key; allowed: seed, "):
        read_recorded_config(tmp_path)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(compose("llm", [])))))
    assert read_recorded_config(tmp_path).seed == 0  # control
