"""`hydra/launcher=slurm` and `local`, in the one place where Hydra looks for launchers.

Hydra imports this at every start, so the work is in `launch.cluster.launcher`, which loads submitit.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # launch.cluster.launcher says what to install

    class BaseSubmititLauncher(Launcher):  # type: ignore[no-redef]
        def __init__(self, **params: Any) -> None:
            self.params = params

        def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
            self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class ClusterLauncher(BaseSubmititLauncher):
    """hydra-submitit-launcher with another `launch`: its own pickles the live code, loses all but the first rank's
    result, waits with sacct, and forgets the other jobs' results when one fails.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from launch.cluster.launcher import launch

        return launch(self, self.params, job_overrides, initial_job_idx)
