"""What samples the completions of a training step: the interface, and the policy itself."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from conf.schema.base import ConfigError
from launch.engines.base import Engine
from launch.runs.run import Run
from llm.batch import Batch
from llm.inference.prompts import Prompts
from llm.inference.sampling import Rollout, sample
from llm.models import Models


class RolloutFailed(ConfigError):
    """No completions could be sampled for a step. Nothing of the step has changed the state of the run."""


class Sampled(NamedTuple):
    """This rank's completions of a step.

    logp: [R, T] of each token under the program that sampled, nats, 0 where masked; None: it is the policy itself.
    """

    rollout: Rollout
    logp: Tensor | None = None


class Sampler(Protocol):
    """Samples completions. All ranks call its methods together."""

    def running(self, run: Run) -> AbstractContextManager[None]:
        """A context in which completions can be sampled.

        Raises:
            ConfigError: what samples cannot be started.
        """

    def sample_step(self, batch: Batch) -> Sampled:
        """Sample the completions of a step, G for each of this rank's prompts.

        Raises:
            RolloutFailed: on all ranks, if one of them has no completions.
        """

    def sample(self, prompts: Prompts, uniforms: Tensor, group_size: int) -> Sampled:
        """Sample further completions in the same step; arguments as in `llm.inference.sampling.sample`.

        Raises:
            RolloutFailed: as above.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """What a checkpoint keeps: completions of the next step, if they are sampled already."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""


@dataclass(frozen=True)
class LocalSampler:
    """The policy samples, with complete parameters on each rank."""

    models: Models
    engine: Engine

    def running(self, run: Run) -> AbstractContextManager[None]:
        """Nothing has to be started."""
        return nullcontext()

    def sample_step(self, batch: Batch) -> Sampled:
        """Sample the completions of a step."""
        return self.sample(batch.prompts, batch.uniforms, batch.group_size)

    def sample(self, prompts: Prompts, uniforms: Tensor, group_size: int) -> Sampled:
        """Sample completions; they depend on the policy and the uniforms alone."""
        with self.engine.gather() as policy:
            return Sampled(sample(policy, prompts, uniforms, group_size=group_size, **self.models.ends()))

    def state_dict(self) -> Mapping[str, Any]:
        """Nothing: completions are sampled in their own step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def check_gap(metrics: Mapping[str, Tensor], limit: float) -> None:
    """Check, before an update, that a sampler has the weights of the policy.

    Raises:
        ConfigError: their log-probabilities of a token differ by more than `limit` nats on average.
    """
    if math.isinf(limit) or "rollout/token_gap_nats" not in metrics:
        return
    gap = float(metrics["rollout/token_gap_nats"])
    if gap > limit:
        raise ConfigError(
            f"rollout: the log-probabilities of a token differ by {gap:.3g} nats on average between the servers and "
            f"the policy, more than rollout.max_gap={limit:g}: a server has other weights, another model or a "
            "coarser type; checkpoints are safe: check the server and run the same command to resume"
        )
