"""Launchers of sweeps: `hydra/launcher=local` and `hydra/launcher=slurm`."""

import re
from dataclasses import dataclass
from typing import Any

from conf.schema.base import ConfigError, Section, check_config, check_range, key, option, show

PREFIX = "hydra.launcher."
OWN_PARAMETERS = {"array", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "time", "nodes"}


@option("hydra/launcher", "local")
@dataclass
class LocalLauncherConfig(Section):
    """hydra/launcher=local: each job of a sweep a process of its own on this machine, under submitit."""

    _target_: str = "hydra_plugins.mara.ClusterLauncher"
    cluster: str = key("where jobs run", default="local", choices=("local", "slurm"))
    name: str = key("of the jobs", default="${hydra.job.name}")
    nodes: int = key("nodes of a job", default=1, low=1)
    tasks_per_node: int = key("ranks of a job on each node", default=1, low=1)
    gpus_per_node: int | None = key("GPUs of a job on each node; null: none", default=None, low=1)
    array_parallelism: int = key("jobs that run at a time", low=1)
    timeout_min: int = key("time limit of a job, minutes", low=1)
    on_failure: str = key("continue; stop: the first failure ends the sweep; retry:N: up to N more times")
    wait: bool = key("wait for the jobs; launch.submit does not", default=True)
    dry_run: bool = key("show what would be submitted", default=False)

    def __post_init__(self) -> None:
        check_config(self, PREFIX)

    def check(self, prefix: str) -> None:
        if self.gpus_per_node is not None and self.tasks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"{prefix}tasks_per_node: must be <= {prefix}gpus_per_node, each rank needs its own GPU, got "
                f"{self.tasks_per_node} ranks and {self.gpus_per_node} GPUs"
            )
        if not re.fullmatch(r"continue|stop|retry:[1-9]\d*", self.on_failure):
            raise ConfigError(
                f"{prefix}on_failure: must be continue, stop or retry:N with N >= 1, got {show(self.on_failure)}"
            )


@option("hydra/launcher", "slurm")
@dataclass
class SlurmLauncherConfig(LocalLauncherConfig):
    """hydra/launcher=slurm: each job of a sweep a task of a job array, or several tasks where it has ranks."""

    cluster: str = key("where jobs run", default="slurm", choices=("local", "slurm"))
    partition: str | None = key("of sbatch", default=None)
    account: str | None = key("of sbatch", default=None)
    qos: str | None = key("of sbatch", default=None)
    constraint: str | None = key("of sbatch", default=None)
    exclude: str | None = key("of sbatch", default=None)
    gres: str | None = key("of sbatch", default=None)
    comment: str | None = key("of sbatch", default=None)
    cpus_per_task: int | None = key("cores of a rank", default=None, low=1)
    mem_gb: float | None = key("memory of a node, GB (SLURM reads 0 as all of it)", default=None, above=0)
    signal_delay_s: int = key("seconds before the time limit at which a run is told to save and stop", low=1)
    setup: list[str] = key("lines of shell before the job", factory=list)
    srun_args: list[str] = key("further arguments of srun", factory=list)
    additional_parameters: dict[str, Any] = key("further parameters of sbatch, as --key=value", factory=dict)

    def check(self, prefix: str) -> None:
        super().check(prefix)
        limit = 60 * self.timeout_min
        note = f" (60 * {prefix}timeout_min), or a run is told to stop as it starts"
        check_range(f"{prefix}signal_delay_s", self.signal_delay_s, below=limit, note=note)
        taken = sorted(OWN_PARAMETERS & {name.replace("_", "-") for name in self.additional_parameters})
        if taken:
            raise ConfigError(
                f"{prefix}additional_parameters: must not hold what the launcher sets itself, got {', '.join(taken)}"
            )

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node
