"""The launchers `hydra/launcher=slurm` and `hydra/launcher=local`, in the package where Hydra looks for plugins.

Hydra imports this module whenever it starts, so the work is done in `launch.cluster.launcher`, which imports
submitit.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:  # `launch.cluster.launcher` reports that submitit is not installed

    class BaseSubmititLauncher(Launcher):  # type: ignore[no-redef]
        """Stands in for the base class of hydra-submitit-launcher, with the same attributes."""

        def __init__(self, **params: Any) -> None:
            self.params = params

        def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
            """Store what Hydra passes."""
            self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class ClusterLauncher(BaseSubmititLauncher):
    """The launcher of hydra-submitit-launcher with another `launch`.

    The original pickles the live code, returns the result of the first rank only, waits with sacct, and loses the
    results of the other jobs when one fails.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs; see `launch.cluster.launcher.launch`."""
        from launch.cluster.launcher import launch

        return launch(self, self.params, job_overrides, initial_job_idx)
