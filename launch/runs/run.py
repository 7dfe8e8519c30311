"""One run: its folder, its record, its checkpoints, and the loop around the package's training step.

with Run(folder, package, config, overrides) as run:
    run.register_state(engine=engine, values=values)  # what the next step needs; restored from a checkpoint
    for step in run.steps(total):
        run.log(train_step(...))
    run.finish(summary)
"""

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.run import CheckpointConfig
from launch.engines import distributed
from launch.runs import checkpoint, signals
from launch.runs.checkpoint import Manifest, Stateful
from launch.runs.console import console
from launch.runs.line_files import NAMES, LineFiles, plain, unwritable
from launch.runs.loggers import MetricLogger, make_loggers
from launch.runs.progress import StepProgress
from launch.runs.record import RunRecord, plain_config
from launch.runs.rng import stream_seed
from launch.runs.run_folder import write_json

NO_CHECKPOINTS = {"every_seconds": 0.0, "every_steps": None, "keep": 0, "best": None, "best_mode": "max"}

Scalar = Tensor | float | int | None


class Run:
    """Owns a run folder: its configuration, record, metrics, timings, samples, checkpoints and summary.

    run.json says `running` from the start, and on leaving the context `finished`, `preempted` (a signal asked the run
    to stop) or `failed` with the traceback; the record of a killed run still says `running` while no process holds
    the folder's lock. In a folder that holds a run, that run continues from its newest good checkpoint, and its lines
    and final weights are those of a run that was never interrupted. With several ranks, rank 0 alone writes.

    Raises:
        ConfigError: the folder cannot be written to, another process has it, it holds a run with another
            configuration, or `config.resume` forbids what is in it.
    """

    def __init__(
        self, folder: Path, package: str, config: DictConfig, overrides: list[str], flags: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.step = -1
        self.ranks = distributed.current()
        self._config = plain_config(config)
        self._saving = CheckpointConfig(**self._config.get("checkpoint", NO_CHECKPOINTS))
        self._parts: dict[str, Stateful] = {}
        self._identity: dict[str, str] = {}
        self._first_step = 0
        self._saved_at = self._step_started = time.perf_counter()
        self._latest: dict[str, Any] = {}
        self._files: LineFiles | None = None
        self._loggers: list[MetricLogger] = []
        self._record: RunRecord | None = None
        if self.is_main:
            command = ["python", "-m", package, *flags, *overrides]
            self._record = RunRecord(folder, package, config, command, self.ranks.world, self.warn)
            try:
                self._loggers = make_loggers(self._config.get("loggers", []), folder, self._config)
                self._record.write(config, overrides)
            except BaseException:
                self._record.release()
                raise
        distributed.barrier()

    @property
    def is_main(self) -> bool:
        """Whether this process writes: rank 0 alone does."""
        return self.ranks.rank == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signals.defer(False)
        if self._record is None:
            return
        try:
            if self._files is not None:
                self._files.close()
            for logger in self._loggers:
                logger.close()
        except OSError as second:
            self._record.close(error or second)
            if error is None:
                raise ConfigError(unwritable(second, self.folder)) from second
        else:
            self._record.close(error)

    # --- checkpoints

    def register_state(self, identity: Mapping[str, str] | None = None, /, **parts: Stateful) -> None:
        """Say what a checkpoint must hold; where the folder has one, the parts are set to its state.

        To be called once, before anything is logged; `steps` then continues where the checkpoint was.

        Args:
            identity: what a checkpoint must agree on beside the configuration, e.g. the reference's hash.

        Raises:
            ConfigError: the checkpoint is of another configuration or identity.
        """
        self._parts, self._identity = dict(parts), dict(identity or {})
        newest = None
        if self.is_main:
            checkpoint.remove_partial(self.folder)
            config = checkpoint.result_config(self._config)
            newest = checkpoint.newest_checkpoint(self.folder, config, self._identity, self.warn)
        shared = distributed.broadcast(newest)
        positions = dict.fromkeys(NAMES, 0)
        if shared is not None:
            manifest = Manifest(*shared)
            state = checkpoint.read_state(self.folder, manifest.step)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self._first_step, positions = manifest.step, manifest.positions
            self.info(f"resuming from step {manifest.step}")
        if self.is_main:
            self._files = LineFiles(self.folder, positions)

    def _save(self, done: int) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        if self._files is not None:
            config = checkpoint.result_config(self._config)
            try:
                manifest = Manifest(done, config, self._identity, self._files.sync(), self._score())
                checkpoint.save_checkpoint(self.folder, manifest, state, self._saving.keep)
            except OSError as error:
                raise ConfigError(unwritable(error, self.folder / "checkpoints")) from error
        distributed.barrier()
        self._saved_at = time.perf_counter()

    def _score(self) -> float | None:
        """The metric that chooses the best checkpoint, the higher the better."""
        value = self._latest.get(self._saving.best or "")
        return None if value is None else value if self._saving.best_mode == "max" else -value

    # --- the loop

    def steps(self, total: int, show: Mapping[str, str] | Iterable[str] = ()) -> Iterator[int]:
        """Steps up to total-1, from 0 or from where a checkpoint was, with progress shown.

        At the start of each step the global random generators (of Python, NumPy and torch) are seeded from (seed,
        step, rank), so that a checkpoint need not hold them. After it, a checkpoint is saved where one is due.

        Args:
            show: keys of metrics, or label -> key, whose logged values are shown.

        Raises:
            KeyboardInterrupt: a signal asked the run to stop; its number is the argument, and a checkpoint is saved.
        """
        if self._files is None and self.is_main:
            self.register_state()
        self._saved_at = time.perf_counter()
        with StepProgress(total, self._first_step, show, self.info, self.is_main) as progress:
            signals.defer(True)
            for step in range(self._first_step, total):
                self.step, self._step_started = step, time.perf_counter()
                seed_global_generators(self._config["seed"], step, self.ranks.rank)
                yield step
                progress.advance(step + 1, self._latest)
                self._after_step(step + 1, total)
            signals.defer(False)

    def _after_step(self, done: int, total: int) -> None:
        """Save where a checkpoint is due, and stop where a signal asked for it. All ranks do the same."""
        saving = self._saving
        due = done == total or (saving.every_steps is not None and done % saving.every_steps == 0)
        due = due or time.perf_counter() - self._saved_at >= saving.every_seconds
        any_due, number = distributed.max_over_ranks([int(due), signals.pending() or 0])
        if (any_due or number) and saving.keep > 0:
            self._save(done)
        if number:
            raise KeyboardInterrupt(number)

    # --- what is written and printed

    def log(self, metrics: Mapping[str, Scalar], *, step: int | None = None) -> None:
        """One line of metrics.jsonl for this step, and its wall-clock time in timings.jsonl."""
        step = self.step if step is None else step
        self._latest = plain(metrics)
        self._append("metrics", {"step": step, **self._latest})
        self._append("timings", {"step": step, "seconds": round(time.perf_counter() - self._step_started, 6)})
        for logger in self._loggers:
            logger.log(step, self._latest)

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Lines of samples.jsonl, each with this step."""
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
        if self.is_main:
            console.print(message, soft_wrap=True)

    def warn(self, message: str) -> None:
        if self.is_main:
            console.print(f"warning: {message}", style="yellow", soft_wrap=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        if self.is_main:
            write_json(self.folder / "summary.json", plain(summary))


def seed_global_generators(seed: int, step: int, rank: int) -> None:
    """Python's, NumPy's and torch's, for code that draws from them: a task's reward, dropout."""
    number = stream_seed(seed, "global", step, rank)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)
