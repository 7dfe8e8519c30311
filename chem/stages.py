"""Stages of a run: oracles one after the other, each with a budget, a threshold and an end of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from chem.oracles import Oracle, OracleError, Result
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig, StageConfig
from conf.schema.oracle import OracleConfig


def stage_configs(config: ChemConfig) -> list[ChemConfig]:
    """The configuration of each stage: the run's, with the oracle, threshold and end of the stage."""
    return [_stage_config(config, stage) for stage in config.stages] or [config]


def _stage_config(config: ChemConfig, stage: StageConfig) -> ChemConfig:
    transform, stop = config.transform, config.stop
    if stage.threshold is not None:
        transform = replace(transform, threshold=replace(transform.threshold, value=stage.threshold))
    if stage.max_score is not None:
        stop = replace(stop, max_score=stage.max_score)
    if stage.min_steps is not None:
        stop = replace(stop, min_steps=stage.min_steps)
    return replace(config, oracle=stage.oracle or config.oracle, transform=transform, stop=stop)


class StageOracle:
    """The oracle of the current stage; the workers of one at a time are running. Use it as a context manager."""

    def __init__(self) -> None:
        self.oracle: Oracle | None = None

    def use(self, config: OracleConfig) -> Oracle:
        """Start the oracle of a stage, unless it is the one that is running.

        Raises:
            ConfigError: its workers do not start.
        """
        if self.oracle is None or self.oracle.config != config:
            self.close()
            try:
                self.oracle = Oracle(config)
            except OracleError as error:
                raise ConfigError(str(error)) from error
        return self.oracle

    def check(self, stages: Sequence[ChemConfig]) -> list[Oracle]:
        """Start the oracle of each stage, the first one last, so that a mistake shows before the run."""
        return [self.use(config.oracle) for config in reversed(stages)][::-1]

    def __call__(self, smiles: Sequence[str]) -> list[Result]:
        """Score molecules."""
        if self.oracle is None:
            raise OracleError("oracle: none was started")
        return self.oracle(smiles)

    def close(self) -> None:
        """End the workers."""
        if self.oracle is not None:
            self.oracle.close()
            self.oracle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StageState:
    """Where a run is in its stages. Part of the checkpoint of a run that has stages.

    Attributes:
        index: of the current stage, from 0.
        steps: completed in this stage.
        begun: whether its first step has begun; before, the stage before has left its state.
        ended: for each earlier stage, its `steps`, `calls` and `stopped_by`.
    """

    def __init__(self, stages: Sequence[StageConfig]) -> None:
        self.stages = list(stages)
        self.index = self.steps = 0
        self.begun = False
        self.ended: list[dict[str, Any]] = []

    @property
    def stage(self) -> StageConfig | None:
        """The current stage; None in a run without stages."""
        return self.stages[self.index] if self.stages else None

    @property
    def number(self) -> dict[str, int]:
        """What each line of a run's files says of the stage: its number, from 1; nothing in a run without stages."""
        return {"stage": self.index + 1} if self.stages else {}

    def budget(self, run_budget: int | None, earlier: int) -> int | None:
        """Calls after which the stage ends, counted from the start of the run; None: no limit.

        Args:
            run_budget: that of the whole run.
            earlier: calls of the stages before.
        """
        own = None if self.stage is None or self.stage.budget is None else earlier + self.stage.budget
        limits = [limit for limit in (own, run_budget) if limit is not None]
        return min(limits, default=None)

    def finish_step(self, reason: str | None) -> str | None:
        """Count a step.

        Args:
            reason: why the stage ends with it; None: for none that the caller knows.

        Returns:
            Why the stage ends with this step; None: it does not.
        """
        self.steps += 1
        full = self.stage is not None and self.stage.steps is not None and self.steps >= self.stage.steps
        return reason or ("steps" if full else None)

    def advance(self, reason: str, calls: int) -> bool:
        """Note the end of the stage, and go to the next one if there is one.

        Args:
            reason: why it ended.
            calls: distinct molecules that it scored.

        Returns:
            Whether there is a next stage.
        """
        self.ended.append({"stopped_by": reason, "steps": self.steps, "calls": calls})
        if self.index + 1 >= len(self.stages):
            return False
        self.index, self.steps, self.begun = self.index + 1, 0, False
        return True

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"index": self.index, "steps": self.steps, "begun": self.begun, "ended": self.ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.index, self.steps, self.begun = state["index"], state["steps"], state["begun"]
        self.ended = [dict(stage) for stage in state["ended"]]
