"""A run: its folder, record, checkpoints, and the loop around a package's training step.

with Run(folder, package, config, overrides) as run:
    run.register_state(engine=engine, values=values)  # saved in checkpoints, restored when the run resumes
    for step in run.steps(total):
        run.log(train_step(...))
    run.finish(summary)
"""

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.schema.base import ConfigError, yaml_text
from conf.schema.run import CheckpointConfig
from launch.cli.command_table import as_typed
from launch.engines import distributed
from launch.runs import checkpoint, signals
from launch.runs.atomic import WriteError, writing
from launch.runs.checkpoint import Manifest, Stateful
from launch.runs.closing import shown_path
from launch.runs.console import console
from launch.runs.line_files import LINE_FILES, LineFiles, to_json
from launch.runs.loggers import MetricLogger, make_loggers
from launch.runs.progress import StepProgress
from launch.runs.record import RunRecord, read_clock, resolved_config
from launch.runs.rng import stream_seed
from launch.runs.run_folder import write_json

NO_CHECKPOINTS = {"every_seconds": 0.0, "every_steps": None, "keep": 0, "best": None, "best_mode": "max"}

Scalar = Tensor | float | int | None


class Run:
    """Writes a run folder: configuration, record, metrics, timings, samples, checkpoints and summary.

    The state in run.json is `running` at first. When the context exits it becomes `finished`, `preempted` (a signal
    asked the run to stop) or `failed`, with the traceback. If the run is killed, the state remains `running` although
    no process holds the lock of the folder. If the folder holds a run, that run resumes from its newest undamaged
    checkpoint; its lines and final weights are then the same as without the interruption. With several ranks, only
    rank 0 writes.

    Attributes:
        clock: the time that prompts with a date show. It is that of the first start, also when the run resumes.
        saved: what an interruption leaves, for the line that says so; None: the newest checkpoint, if there is one.

    Args:
        folder: the run folder, created if it does not exist.
        package: what follows `python -m`.
        config: the configuration.
        overrides: the overrides on the command line.
        flags: `--config-path`, `--config-name` and `--config-dir` with their values, if given.

    Raises:
        ConfigError: the folder cannot be written, another process uses it, it holds a run with another
            configuration, or `config.resume` does not allow the run it holds.
    """

    def __init__(
        self, folder: Path, package: str, config: DictConfig, overrides: list[str], flags: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.step = -1
        self.ranks = distributed.current_ranks()
        self._config = resolved_config(config)
        self._checkpoint_config = CheckpointConfig(**self._config.get("checkpoint", NO_CHECKPOINTS))
        self._parts: dict[str, Stateful] = {}
        self._identity: dict[str, str] = {}
        self._first_step = 0
        self._saved_step: int | None = None
        self._saved_at = self._step_started = time.perf_counter()
        self._latest_metrics: dict[str, Any] = {}
        self._logged_step = -1  # of `_latest_metrics`
        self.saved: str | None = None
        self._files: LineFiles | None = None
        self._loggers: list[MetricLogger] = []
        self._record: RunRecord | None = None
        if self.is_main:
            command = ["python", "-m", package, *flags, *overrides]
            self._record = RunRecord(folder, package, config, command, self.ranks.world, self.warn)
            try:
                with signals.held():
                    self._loggers = make_loggers(self._config.get("loggers", []), folder, self._config)
                    self._record.write(config, overrides)
            except KeyboardInterrupt as interruption:
                self._record.close(interruption)
                raise
            except BaseException:
                self._record.release()
                raise
        clock = read_clock() if self._record is None else self._record.content["clock"]
        self.clock = datetime.fromisoformat(distributed.broadcast(clock))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the folder and prints: it is rank 0."""
        return self.ranks.rank == 0

    @property
    def first_step(self) -> int:
        """The step that `steps` starts with: 0, or that of the restored checkpoint."""
        return self._first_step

    def note(self, **facts: Any) -> None:
        """Add facts to run.json that are known only once the run has started, such as the device of its model."""
        if self._record is not None:
            self._record.note(facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with signals.held():
            self._close(error)
        signals.defer(False)

    def _close(self, error: BaseException | None) -> None:
        if self._record is None:
            return
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"saved: {self._saved_text()}")
        try:
            with writing(self.folder), ExitStack() as stack:
                for part in (self._files, *self._loggers):
                    if part is not None:
                        stack.callback(part.close)
        except WriteError as close_error:
            self._record.close(error or close_error)
            if error is None:
                raise
        else:
            self._record.close(error)

    def _saved_text(self) -> str:
        """What a run that goes on later starts from."""
        place = shown_path(self.folder)
        if self.saved is not None:
            return self.saved
        if self._saved_step is None:
            return f"no checkpoint yet; the run in {place} starts anew"
        return f"the checkpoint after step {self._saved_step}, in {place}"

    # --- checkpoints

    def register_state(self, identity: Mapping[str, str] | None = None, /, **parts: Stateful) -> None:
        """Register the objects whose state a checkpoint holds. If the folder has a checkpoint, restore them from it.

        Call this once, before anything is logged. `steps` then continues after the checkpoint's step.

        Args:
            identity: values that a checkpoint must match beside the configuration, for example the reference's hash.
            **parts: the objects by the name under which a checkpoint holds their state.

        Raises:
            ConfigError: the checkpoint has another configuration or identity, or cannot be read; or resume=must, and
                there is no checkpoint or the newest one is damaged.
        """
        self._parts, self._identity = dict(parts), dict(identity or {})
        newest = None
        if self.is_main:
            config = checkpoint.result_config(self._config)
            required = self._config["resume"] == "must" and "checkpoint" in self._config
            newest = checkpoint.newest_checkpoint(self.folder, config, self._identity, self.warn, required)
        fields = distributed.broadcast(newest)
        positions = dict.fromkeys(LINE_FILES, 0)
        if fields is not None:
            manifest = Manifest(*fields)
            state = checkpoint.read_state(self.folder, manifest.step)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self._first_step, positions = manifest.step, manifest.positions
            self._saved_step = manifest.step
            self.info(f"resuming from step {manifest.step}")
        if self.is_main:
            self._files = LineFiles(self.folder, positions)

    def _save(self, done: int) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        if self._files is not None:
            config = checkpoint.result_config(self._config)
            positions, checksums = self._files.sync(), self._files.checksums()
            manifest = Manifest(done, config, self._identity, positions, self._score(), checksums)
            checkpoint.save_checkpoint(self.folder, manifest, state, self._checkpoint_config.keep)
            self._saved_step = done
        distributed.barrier()
        self._saved_at = time.perf_counter()

    def save_completed(self) -> None:
        """Save the steps before the present one, unless a checkpoint has them. All ranks must call this together.

        For an error at which the present step has not changed the registered state.
        """
        if self._checkpoint_config.keep > 0 and self.step > 0 and self._saved_step != self.step:
            self._save(self.step)

    def _check_best(self) -> None:
        """Check, when the first metrics are logged, that one of them selects the best checkpoint.

        Raises:
            ConfigError: checkpoint.best is not a metric of this run.
        """
        best = self._checkpoint_config.best
        if best is not None and best not in self._latest_metrics and self._first_step == 0:
            similar = get_close_matches(best, self._latest_metrics, 3) or sorted(self._latest_metrics)
            raise ConfigError(
                f"checkpoint.best: this run has no metric {yaml_text(best)}; use one of {', '.join(similar)}"
            )

    def _score(self) -> float | None:
        """The value of the metric that selects the best checkpoint, negated if lower is better."""
        value = self._latest_metrics.get(self._checkpoint_config.best or "")
        return None if value is None else value if self._checkpoint_config.best_mode == "max" else -value

    # --- the loop

    def steps(
        self, total: int, show: Mapping[str, str] | Iterable[str] = (), budget: tuple[str, int] | None = None
    ) -> Iterator[int]:
        """Yield the steps from 0, or from the restored checkpoint's step, to total - 1, and show progress.

        Before each step the global random generators of Python, NumPy and torch are seeded from (seed, step, rank),
        so a checkpoint need not hold their state. After each step a checkpoint is saved if one is due.

        Args:
            total: number of steps, including those before the checkpoint.
            show: the keys of the metrics to show, or a mapping from label to key.
            budget: a metric and its limit, for the progress of a run that leaves the loop once the limit is reached.

        Raises:
            KeyboardInterrupt: a signal asked the run to stop. Its argument is the signal's number. A checkpoint has
                been saved.
        """
        if self._files is None and self.is_main:
            self.register_state()
        self._saved_at = time.perf_counter()
        with StepProgress(total, self._first_step, show, self.info, self.is_main, budget) as progress:
            signals.defer(True)
            for step in range(self._first_step, total):
                self.step, self._step_started = step, time.perf_counter()
                seed_global_generators(self._config["seed"], step, self.ranks.rank)
                try:
                    yield step
                except GeneratorExit:  # the loop is left
                    if self._logged_step == step:
                        progress.advance(step + 1, self._latest_metrics)
                    raise
                progress.advance(step + 1, self._latest_metrics)
                self._after_step(step + 1, total)
            signals.defer(False)

    def _after_step(self, done: int, total: int) -> None:
        """Save a checkpoint if one is due on any rank, and stop if any rank received a signal."""
        settings = self._checkpoint_config
        due = done == total or (settings.every_steps is not None and done % settings.every_steps == 0)
        due = due or time.perf_counter() - self._saved_at >= settings.every_seconds
        any_due, number = distributed.max_over_ranks([int(due), signals.pending() or 0])
        if (any_due or number) and settings.keep > 0:
            self._save(done)
        if number:
            raise KeyboardInterrupt(number)

    # --- output

    def log(self, metrics: Mapping[str, Scalar], *, step: int | None = None) -> None:
        """Append a line to metrics.jsonl, and the wall-clock time of the step to timings.jsonl.

        Args:
            metrics: scalars by name.
            step: the step of the line, by default the current one.
        """
        step = self.step if step is None else step
        first, self._latest_metrics, self._logged_step = not self._latest_metrics, to_json(metrics), step
        if first:
            self._check_best()
        self._append("metrics", {"step": step, **self._latest_metrics})
        self._append("timings", {"step": step, "seconds": round(time.perf_counter() - self._step_started, 6)})
        for logger in self._loggers:
            with writing(self.folder):
                logger.log(step, self._latest_metrics)

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to samples.jsonl, each with the current step."""
        for row in rows:
            self._append("samples", {"step": self.step, **row})

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if not self.is_main:
            return
        if self._files is None:
            self.register_state()
        assert self._files is not None
        self._files.append(name, row)

    def info(self, message: str) -> None:
        """Print a message on rank 0."""
        if self.is_main:
            console.print(as_typed(message), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning on rank 0."""
        if self.is_main:
            console.print(as_typed(f"warning: {message}"), style="yellow", soft_wrap=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, the results of the run."""
        if self.is_main:
            write_json(self.folder / "summary.json", to_json(summary))


def seed_global_generators(seed: int, step: int, rank: int) -> None:
    """Seed the generators of Python, NumPy and torch, for code that uses them: the reward of a task, dropout."""
    number = stream_seed(seed, "global", step, rank)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)
