"""One run: its folder, its record, its checkpoints, and the loop around the package's training step.

with Run(folder, package, config, overrides) as run:
    run.keep(engine=engine, values=values)  # what the next step needs; restored where the folder has a checkpoint
    for step in run.steps(total):
        run.log(train_step(...))
    run.finish(summary)
"""

import json
import math
import os
import platform
import random
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from conf.schema import BestMode, CheckpointConfig, ConfigError
from launch.runs import checkpoint
from launch.engines import distributed
from launch.runs import signals
from launch.runs.checkpoint import Damaged, Manifest, Savable
from launch.cli.errors import bad_folder
from launch.runs.run_folder import lock, read_config, read_record, write_json, write_text
from launch.runs.rng import stream_seed
from launch.runs.loggers import Writer, make_writers

RECORDED_PACKAGES = ("mara-rl", "torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "numpy")
STREAMS = ("metrics", "timings", "samples")
NO_CHECKPOINTS = {"every_seconds": 0, "every_steps": None, "keep": 0, "best": None, "best_mode": "max"}
# Text as it is, brackets and colons included; the 80 columns of a log would cut tables.
console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)

Scalar = Tensor | float | int | None


class Run:
    """Owns a run folder: its configuration, record, metrics, timings, samples, checkpoints and summary.

    run.json says `running` from the start, and on leaving the context `finished`, `preempted` (a signal asked to
    leave) or `failed` with the traceback; one that was killed outright still says `running` while no process holds
    the folder's lock. A folder that holds a run goes on with it from its newest good checkpoint, and its lines and
    final weights are those of a run that was never interrupted. With several ranks, rank 0 alone writes.

    Raises:
        ConfigError: the folder cannot be written to, another process has it, it holds a run with another
            configuration, or `config.resume` forbids what is found.
    """

    def __init__(
        self, folder: Path, package: str, config: DictConfig, overrides: list[str], flags: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.step = -1
        self.ranks = distributed.current()
        self._config = plain_config(config)
        saving = self._config.get("checkpoint", NO_CHECKPOINTS)
        self._saving = CheckpointConfig(**saving | {"best_mode": BestMode[saving["best_mode"]]})
        self._parts: dict[str, Savable] = {}
        self._identity: dict[str, str] = {}
        self._first = 0  # the step to go on from
        self._saved_at = time.perf_counter()
        self._streams: dict[str, TextIO] | None = None
        self._shown: dict[str, str] = {}
        self._latest: dict[str, Any] = {}
        self._step_started = time.perf_counter()
        self._progress: Progress | None = None
        self._lock: int | None = None
        self._writers: list[Writer] = []
        self._record: dict[str, Any] = {
            "state": "running",
            "package": package,
            "command": ["python", "-m", package, *flags, *overrides],
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": _now(),
            "ended": None,
            "seed": config.seed,
            "ranks": self.ranks.world,
            "code": code_version(Path(__file__).parents[2]),
            "versions": {"python": platform.python_version(), **_versions()},
            "hardware": _hardware(),
            "traceback": None,
            "earlier": [],
        }
        if self.is_main:
            try:
                self._open(config, overrides)
            except BaseException as error:
                self._unlock()
                if isinstance(error, OSError):
                    raise ConfigError(bad_folder(error)) from error
                raise
        distributed.barrier()

    @property
    def is_main(self) -> bool:
        """Whether this process writes: rank 0 alone does."""
        return self.ranks.rank == 0

    def _open(self, config: DictConfig, overrides: list[str]) -> None:
        """Take the folder, for a new run or to go on with the one it holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder)
        earlier = self._check_earlier(self._config["resume"])
        self._writers = make_writers(self._config.get("writers", []), self.folder, self._config)
        if earlier is not None:
            kept = {key: earlier[key] for key in ("state", "started", "ended", "host", "pid", "versions", "code")}
            kept["state"] = "dead" if kept["state"] == "running" else kept["state"]
            self._record |= {"started": earlier["started"], "earlier": [*earlier["earlier"], kept]}
            self._warn_of_change(kept)
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        write_text(self.folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
        self._write_record()

    def _check_earlier(self, resume: str) -> dict[str, Any] | None:
        """The record of the run that the folder holds, once it is sure that this run may go on with it."""
        if not (self.folder / "run.json").exists():
            if resume == "must":
                raise ConfigError(
                    f"resume: must be auto or never for a new run, found must and no run in {self.folder}"
                )
            return None
        if resume == "never":
            raise ConfigError(
                f"resume: must be auto or must where the folder holds a run, found never and {self.folder}"
            )
        refuse_other_config(self.folder, self._config)
        return read_record(self.folder)

    def _warn_of_change(self, earlier: Mapping[str, Any]) -> None:
        before, now = (f"{code['commit']}, dirty {code['dirty']}" for code in (earlier["code"], self._record["code"]))
        if before != now:
            self.warn(f"the run began with other code (commit {before}; now {now}): its figures may not be the same")
        for name, version in self._record["versions"].items():
            if earlier["versions"].get(name) != version:
                self.warn(f"the run began with {name} {earlier['versions'].get(name)}, now {version}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signals.defer(False)
        if self._progress is not None:
            self._progress.stop()  # a loop left by an exception has not closed it
        if not self.is_main:
            return
        if error is None:
            self._record["state"] = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self._record["state"] = "preempted"
        else:
            self._record["state"] = "failed"
            self._record["traceback"] = "".join(traceback.format_exception(kind, error, trace))
        self._record["ended"] = _now()
        try:
            for stream in (self._streams or {}).values():
                stream.close()
            for writer in self._writers:
                writer.close()
            self._write_record()
        except OSError as second:
            if error is None:
                raise ConfigError(_unwritable(second, self.folder / "run.json")) from second
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def keep(self, identity: Mapping[str, str] | None = None, /, **parts: Savable) -> None:
        """Say what a checkpoint must hold; where the folder has one, the parts are set to its state.

        To be called once, before anything is logged; `steps` then goes on where the checkpoint was.

        Args:
            identity: what a checkpoint must agree on beside the configuration, e.g. the reference's hash.

        Raises:
            ConfigError: the checkpoint is of another configuration or identity.
        """
        self._parts, self._identity = dict(parts), dict(identity or {})
        if self.is_main:
            checkpoint.clear_halves(self.folder)
        found = distributed.share(self._newest() if self.is_main else None)
        positions = dict.fromkeys(STREAMS, 0)
        if found is not None:
            manifest = Manifest(*found)
            state = checkpoint.read_state(self.folder, manifest.step)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self._first, positions = manifest.step, manifest.positions
            self.say(f"going on from step {manifest.step}")
        if self.is_main:
            try:
                self._streams = {name: _open_at(self._line_file(name), positions[name]) for name in STREAMS}
            except OSError as error:
                raise ConfigError(_unwritable(error, self.folder)) from error

    def _newest(self) -> Manifest | None:
        """The newest checkpoint that is whole and whose lines are all there."""
        for step in checkpoint.checkpoint_steps(self.folder):
            where = self.folder / "checkpoints" / f"step_{step:08}"
            try:
                manifest = checkpoint.read_manifest(self.folder, step)
                for name, position in manifest.positions.items():
                    if not self._line_file(name).exists() or self._line_file(name).stat().st_size < position:
                        raise Damaged(f"{name}.jsonl is shorter than when it was written")
            except Damaged as error:
                self.warn(f"{where} is damaged and is left out: {error}")
                continue
            ours = checkpoint.fixed_config(self._config)
            checkpoint.refuse_other(str(where), manifest.config, ours, "use a new folder for another run")
            checkpoint.refuse_other(
                str(where), manifest.identity, self._identity, "use a new folder for another model"
            )
            return manifest
        return None

    def steps(self, total: int, show: Mapping[str, str] | Iterable[str] = ()) -> Iterator[int]:
        """Steps up to total-1, from 0 or where a checkpoint was; a progress bar, or a line at each quarter.

        At each step's start the global random generators (of Python, NumPy and torch) are seeded from (seed, step,
        rank), so that they need no place in a checkpoint. After it, a checkpoint is saved where one is due.

        Args:
            show: keys of metrics, or label -> key, whose logged values are shown.

        Raises:
            KeyboardInterrupt: a signal asked to leave; its number is the argument, and a checkpoint is saved.
        """
        if self._streams is None and self.is_main:
            self.keep()
        self._shown = dict(show) if isinstance(show, Mapping) else {key: key for key in show}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[values]}"),
        )
        hidden = not (console.is_terminal and self.is_main)
        self._progress = Progress(*columns, console=console, disable=hidden)
        self._saved_at = time.perf_counter()
        with self._progress as progress:
            task = progress.add_task("train", total=total, completed=self._first, values="")
            signals.defer(True)
            for step in range(self._first, total):
                self.step, self._step_started = step, time.perf_counter()
                seed_global_generators(self._config["seed"], step, self.ranks.rank)
                yield step
                progress.update(task, advance=1, values=self._values())
                if hidden and 4 * (step + 1) // total > 4 * step // total:  # a quarter is done
                    self.say(f"step {step + 1}/{total}  {self._values()}")
                self._after(step + 1, total)
            signals.defer(False)

    def _after(self, done: int, total: int) -> None:
        """Save where a checkpoint is due; leave where a signal asked to. All ranks do the same."""
        saving = self._saving
        due = done == total or (saving.every_steps is not None and done % saving.every_steps == 0)
        due = due or time.perf_counter() - self._saved_at >= saving.every_seconds
        any_due, number = distributed.highest([int(due), signals.pending() or 0])
        if (any_due or number) and saving.keep > 0:
            self._save(done)
        if number:
            raise KeyboardInterrupt(number)

    def _save(self, done: int) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        if self.is_main:
            assert self._streams is not None
            try:
                for stream in self._streams.values():
                    os.fsync(stream.fileno())
                positions = {name: stream.tell() for name, stream in self._streams.items()}
                config = checkpoint.fixed_config(self._config)
                manifest = Manifest(done, config, self._identity, positions, self._score())
                checkpoint.save_checkpoint(self.folder, manifest, state, self._saving.keep)
            except OSError as error:
                raise ConfigError(_unwritable(error, self.folder / "checkpoints")) from error
        distributed.barrier()
        self._saved_at = time.perf_counter()

    def _score(self) -> float | None:
        value = self._latest.get(self._saving.best or "")
        return None if value is None else value if self._saving.best_mode is BestMode.max else -value

    def log(self, metrics: Mapping[str, Scalar], *, step: int | None = None) -> None:
        """One line of metrics.jsonl for this step, and its wall-clock time in timings.jsonl."""
        step = self.step if step is None else step
        values = plain(metrics)
        self._latest = values
        self._append("metrics", {"step": step, **values})
        self._append("timings", {"step": step, "seconds": round(time.perf_counter() - self._step_started, 6)})
        if self.is_main:
            for writer in self._writers:
                writer.log(step, values)

    def sample(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Lines of samples.jsonl, each with this step."""
        for row in rows:
            self._append("samples", {"step": self.step, **row})

    def say(self, message: str) -> None:
        if self.is_main:
            console.print(message, soft_wrap=True)

    def warn(self, message: str) -> None:
        if self.is_main:
            console.print(f"warning: {message}", style="yellow", soft_wrap=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        if self.is_main:
            write_json(self.folder / "summary.json", plain(summary))

    def _values(self) -> str:
        shown = ((label, self._latest.get(key)) for label, key in self._shown.items())
        return "  ".join(f"{name} {value:.3f}" for name, value in shown if value is not None)

    def _line_file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _append(self, stream: str, row: Mapping[str, Any]) -> None:
        if not self.is_main:
            return
        if self._streams is None:
            self.keep()
        assert self._streams is not None
        try:
            self._streams[stream].write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
            self._streams[stream].flush()
        except OSError as error:
            raise ConfigError(_unwritable(error, self._line_file(stream))) from error

    def _write_record(self) -> None:
        patch = self._record["code"].pop("patch", "")
        if patch:
            write_text(self.folder / "code.patch", patch)
        write_json(self.folder / "run.json", self._record)


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds this very run, finished.

    Raises:
        ConfigError: it holds a finished run with another configuration.
    """
    if not (folder / "run.json").exists() or read_record(folder)["state"] != "finished":
        return False
    refuse_other_config(folder, plain_config(config))
    return True


def plain_config(config: DictConfig) -> dict[str, Any]:
    """As config.yaml has it."""
    container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return container


def refuse_other_config(folder: Path, ours: Mapping[str, Any]) -> None:
    theirs = checkpoint.fixed_config(read_config(folder))
    checkpoint.refuse_other(
        str(folder / "config.yaml"), theirs, checkpoint.fixed_config(ours), "use a new folder for another run"
    )


def seed_global_generators(seed: int, step: int, rank: int) -> None:
    """Python's, NumPy's and torch's, for code that draws from them: a task's reward, dropout."""
    number = stream_seed(seed, "global", step, rank)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def _open_at(path: Path, position: int) -> TextIO:
    """A file of lines, cut at a number of bytes, to be written on from there."""
    with path.open("ab") as stream:
        if stream.tell() != position:
            stream.truncate(position)
    return path.open("a", encoding="utf-8", newline="\n")


def _unwritable(error: OSError, path: Path) -> str:
    reason = error.strerror or error
    what = "what was saved stays, and the same command goes on from it"
    return f"{error.filename or path}: must be writable, found: {reason}; {what}"


def plain(value: Any) -> Any:
    """What JSON has: tensors and arrays become numbers or lists; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_version(root: Path) -> dict[str, Any]:
    """The commit of the code in `root` and how it differs from it; None where git does not track that code.

    `untracked` are the files of code and configuration that are in no commit; the patch does not hold them.
    """
    snapshot = root / "code.json"  # of launch.cluster.snapshot, whose folder git does not track
    if snapshot.exists():
        return dict(json.loads(snapshot.read_text("utf-8")))
    try:
        _git(root, "ls-files", "--error-unmatch", "launch/runs/run.py")  # not merely inside somebody's checkout
        commit = _git(root, "rev-parse", "HEAD").strip()
        patch = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "*.py", "*.yaml").splitlines()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None, "untracked": None}
    return {"commit": commit, "dirty": bool(patch or untracked), "untracked": untracked, "patch": patch}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    return done.stdout


def _versions() -> dict[str, str]:
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
