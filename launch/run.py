"""One run: its folder, its record, and the loop around the package's training step.

with Run(folder, package, config, overrides) as run:
    for step in run.steps(total):
        run.log(train_step(...))
    run.finish(summary)
"""

import errno
import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
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

from conf.schema import ConfigError
from launch.explain import bad_folder

RECORDED_PACKAGES = ("mara-rl", "torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "numpy")
# Text as it is, brackets and colons included; the 80 columns of a log would cut tables.
console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)

Scalar = Tensor | float | int | None


class Run:
    """Owns a run folder: config.yaml, overrides.yaml, run.json, metrics, timings and samples, summary.json.

    run.json says `running` from the start and `finished`, or `failed` with the traceback, on leaving the context;
    a process that was killed outright is one that is still `running` and whose pid is gone.

    Raises:
        ConfigError: the folder holds a run already, or cannot be written to.
    """

    def __init__(self, folder: Path, package: str, config: DictConfig, overrides: list[str]) -> None:
        self.folder = folder
        self.step = -1
        self._shown: dict[str, str] = {}
        self._latest: dict[str, Any] = {}
        self._step_started = time.perf_counter()
        self._progress: Progress | None = None
        self._record: dict[str, Any] = {
            "state": "running",
            "package": package,
            "command": ["python", "-m", package, *overrides],
            "pid": os.getpid(),
            "started": _now(),
            "ended": None,
            "seed": config.seed,
            "code": code_version(Path(__file__).parents[1]),
            "versions": {"python": platform.python_version(), **_versions()},
            "hardware": _hardware(),
            "traceback": None,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "run.json").exists():
                raise FileExistsError(errno.EEXIST, "it holds a run", str(folder))
            write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            write_text(folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
            self._streams: dict[str, TextIO] = {
                name: (folder / f"{name}.jsonl").open("w", encoding="utf-8")
                for name in ("metrics", "timings", "samples")
            }
            self._write_record()
        except OSError as error:
            raise ConfigError(bad_folder(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()  # a loop left by an exception has not closed it
        for stream in self._streams.values():
            stream.close()
        if error is None:
            self._record["state"] = "finished"
        else:
            self._record["state"] = "failed"
            self._record["traceback"] = "".join(traceback.format_exception(kind, error, trace))
        self._record["ended"] = _now()
        self._write_record()

    def steps(self, total: int, show: Mapping[str, str] | Iterable[str] = ()) -> Iterator[int]:
        """0 .. total-1; a progress bar, or a line at each quarter, shows the logged values that `show` names.

        Args:
            show: keys of metrics, or label -> key.
        """
        self._shown = dict(show) if isinstance(show, Mapping) else {key: key for key in show}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[values]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        with self._progress as progress:
            task = progress.add_task("train", total=total, values="")
            for step in range(total):
                self.step, self._step_started = step, time.perf_counter()
                yield step
                progress.update(task, advance=1, values=self._values())
                if not console.is_terminal and 4 * (step + 1) // total > 4 * step // total:  # a quarter is done
                    console.print(f"step {step + 1}/{total}  {self._values()}", soft_wrap=True)

    def log(self, metrics: Mapping[str, Scalar], *, step: int | None = None) -> None:
        """One line of metrics.jsonl for this step, and its wall-clock time in timings.jsonl."""
        step = self.step if step is None else step
        values = plain(metrics)
        self._latest = values
        self._append("metrics", {"step": step, **values})
        self._append("timings", {"step": step, "seconds": round(time.perf_counter() - self._step_started, 6)})

    def sample(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Lines of samples.jsonl, each with this step."""
        for row in rows:
            self._append("samples", {"step": self.step, **row})

    def warn(self, message: str) -> None:
        console.print(f"warning: {message}", style="yellow", soft_wrap=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.folder / "summary.json", summary)

    def _values(self) -> str:
        shown = ((label, self._latest.get(key)) for label, key in self._shown.items())
        return "  ".join(f"{name} {value:.3f}" for name, value in shown if value is not None)

    def _append(self, stream: str, row: Mapping[str, Any]) -> None:
        self._streams[stream].write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
        self._streams[stream].flush()

    def _write_record(self) -> None:
        patch = self._record["code"].pop("patch", "")
        if patch:
            write_text(self.folder / "code.patch", patch)
        write_json(self.folder / "run.json", self._record)


def plain(value: Any) -> Any:
    """What JSON has: tensors and arrays become numbers or lists; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file whole: never half-written, even when the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:  # str.splitlines would also split at a U+2028 inside a text
        return [json.loads(line) for line in lines]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_version(root: Path) -> dict[str, Any]:
    """The commit of the code in `root` and how it differs from it; None where git does not track that code.

    `untracked` are the files of code and configuration that are in no commit; the patch does not hold them.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", "launch/run.py")  # not merely inside somebody's checkout
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
