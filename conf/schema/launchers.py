"""Launchers of sweeps: `hydra/launcher=local` and `hydra/launcher=slurm`."""

import re
from dataclasses import dataclass
from typing import Any

from conf.schema.base import ConfigError, Section, check_config, check_range, key, option, yaml_text

PREFIX = "hydra.launcher."
# Parameters of sbatch that the launcher sets itself
OWN_PARAMETERS = {"array", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "time", "nodes"}


@option("hydra/launcher", "local")
@dataclass
class LocalLauncherConfig(Section):
    """hydra/launcher=local: each job of a sweep is a process on this machine, started by submitit."""

    _target_: str = "hydra_plugins.mara.ClusterLauncher"
    cluster: str = key("where jobs run", default="local", choices=("local", "slurm"))
    name: str = key("name of the jobs", default="${hydra.job.name}")
    nodes: int = key("nodes per job", default=1, low=1, high=100_000)
    tasks_per_node: int = key("ranks per node", default=1, low=1, high=1024)
    gpus_per_node: int | None = key("GPUs per node; null: none", default=None, low=1, high=1024)
    array_parallelism: int = key("maximum number of jobs that run at the same time", low=1, high=100_000)
    timeout_min: int = key("time limit of a job, minutes", low=1, high=5_256_000)
    on_failure: str = key(
        "when a job fails: continue with the others; stop the sweep; retry:N: run it again, up to N times"
    )
    wait: bool = key("wait for the jobs to end (launch.submit does not)", default=True)
    dry_run: bool = key("only show what would be submitted", default=False)

    def __post_init__(self) -> None:
        check_config(self, PREFIX)

    def check(self, prefix: str) -> None:
        """Check that each rank has a GPU, and the form of on_failure."""
        if self.gpus_per_node is not None and self.tasks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"{prefix}tasks_per_node: must be <= {prefix}gpus_per_node, because each rank needs its own GPU, got "
                f"{self.tasks_per_node} ranks and {self.gpus_per_node} GPUs"
            )
        if not re.fullmatch(r"continue|stop|retry:[1-9]\d*", self.on_failure):
            raise ConfigError(
                f"{prefix}on_failure: must be continue, stop or retry:N with N >= 1, got {yaml_text(self.on_failure)}"
            )


@option("hydra/launcher", "slurm")
@dataclass
class SlurmLauncherConfig(LocalLauncherConfig):
    """hydra/launcher=slurm: each job of a sweep is a job of an array, with one task per rank."""

    cluster: str = key("where jobs run", default="slurm", choices=("local", "slurm"))
    partition: str | None = key("--partition of sbatch", default=None)
    account: str | None = key("--account of sbatch", default=None)
    qos: str | None = key("--qos of sbatch", default=None)
    constraint: str | None = key("--constraint of sbatch", default=None)
    exclude: str | None = key("--exclude of sbatch", default=None)
    gres: str | None = key("--gres of sbatch", default=None)
    comment: str | None = key("--comment of sbatch", default=None)
    cpus_per_task: int | None = key("CPU cores per rank", default=None, low=1, high=100_000)
    mem_gb: float | None = key("memory per node, GB", default=None, low=0.001, high=1e6)  # 0 MB is all memory
    signal_delay_s: int = key(
        "seconds before the time limit at which the run saves a checkpoint and stops", low=1, high=65_535
    )
    setup: list[str] = key("shell commands to run before the job", factory=list)
    srun_args: list[str] = key("further arguments of srun", factory=list)
    additional_parameters: dict[str, Any] = key("further parameters of sbatch, as --key=value", factory=dict)

    def check(self, prefix: str) -> None:
        """Check the time of the signal, and that no parameter of the launcher is overridden."""
        super().check(prefix)
        limit = 60 * self.timeout_min
        note = f" (60 * {prefix}timeout_min), or the run is stopped as soon as it starts"
        check_range(f"{prefix}signal_delay_s", self.signal_delay_s, below=limit, note=note)
        reserved = sorted(OWN_PARAMETERS & {name.replace("_", "-") for name in self.additional_parameters})
        if reserved:
            raise ConfigError(
                f"{prefix}additional_parameters: must not hold parameters that the launcher sets itself, got "
                f"{', '.join(reserved)}"
            )

    @property
    def ranks(self) -> int:
        """Ranks of a job on all its nodes."""
        return self.nodes * self.tasks_per_node
