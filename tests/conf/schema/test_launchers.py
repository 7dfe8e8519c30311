"""Launchers: each rule beside a legal neighbour, and what the two launchers share."""

import pytest

from conf.schema.base import ConfigError
from conf.schema.launchers import OWN_PARAMETERS, LocalLauncherConfig, SlurmLauncherConfig

LOCAL = {"array_parallelism": 1, "timeout_min": 10, "on_failure": "continue"}
SLURM = {**LOCAL, "signal_delay_s": 60}


@pytest.mark.parametrize(
    ("rejected", "message", "legal"),
    [
        ({"array_parallelism": 0}, "array_parallelism: must be >= 1 and <= 100000, got 0", {"array_parallelism": 3}),
        ({"timeout_min": 0}, "timeout_min: must be >= 1 and <= 5.256e+06, got 0", {"timeout_min": 1}),
        ({"nodes": 0}, "nodes: must be >= 1 and <= 100000, got 0", {"nodes": 1}),
        ({"cluster": "pbs"}, "cluster: must be one of local, slurm, got pbs", {"cluster": "local"}),
        (
            {"tasks_per_node": 3, "gpus_per_node": 2},
            "tasks_per_node: must be <= hydra.launcher.gpus_per_node, because each rank needs its own GPU, got 3 "
            "ranks and 2 GPUs",
            {"tasks_per_node": 3, "gpus_per_node": None},
        ),
        *(
            (
                {"on_failure": value},
                f"on_failure: must be continue, stop or retry:N with N >= 1, got {value or repr('')}",
                {"on_failure": "retry:10"},
            )
            for value in ("retry", "retry:0", "retry:-1", "stop:1", "")
        ),
    ],
)
def test_a_rule_of_both_launchers(rejected, message, legal):
    for launcher, values in ((LocalLauncherConfig, LOCAL), (SlurmLauncherConfig, {**SLURM, "signal_delay_s": 1})):
        with pytest.raises(ConfigError) as error:
            launcher(**{**values, **rejected})
        assert str(error.value) == f"hydra.launcher.{message}"
        launcher(**{**values, **legal})


@pytest.mark.parametrize(
    ("rejected", "message", "legal"),
    [
        (
            {"timeout_min": 1},
            "signal_delay_s: must be < 60 (60 * hydra.launcher.timeout_min), or the run is stopped as soon as it "
            "starts, got 60",
            {"timeout_min": 1, "signal_delay_s": 59},
        ),
        ({"mem_gb": 0.0004}, "mem_gb: must be finite and >= 0.001 and <= 1e+06, got 0.0004", {"mem_gb": 0.001}),
        ({"cpus_per_task": 0}, "cpus_per_task: must be >= 1 and <= 100000, got 0", {"cpus_per_task": 1}),
        (
            {"additional_parameters": {"time": 3, "open_mode": "append", "mail-type": "END"}},
            "additional_parameters: must not hold parameters that the launcher sets itself, got open-mode, time",
            {"additional_parameters": {"mail-type": "END"}},
        ),
    ],
)
def test_a_rule_of_slurm(rejected, message, legal):
    with pytest.raises(ConfigError) as error:
        SlurmLauncherConfig(**{**SLURM, **rejected})
    assert str(error.value) == f"hydra.launcher.{message}"
    SlurmLauncherConfig(**{**SLURM, **legal})


def test_every_parameter_of_the_launcher_is_reserved():
    for name in OWN_PARAMETERS:
        with pytest.raises(ConfigError, match=rf"sets itself, got {name}$"):
            SlurmLauncherConfig(**SLURM, additional_parameters={name: 1})


def test_a_job_has_ranks_on_every_node():
    assert SlurmLauncherConfig(**SLURM).ranks == 1
    assert SlurmLauncherConfig(**SLURM, nodes=3, tasks_per_node=8).ranks == 24


def test_the_launchers_run_where_they_say():
    assert (LocalLauncherConfig(**LOCAL).cluster, SlurmLauncherConfig(**SLURM).cluster) == ("local", "slurm")
