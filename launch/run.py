"""One run: its folder, its record, and the loop around the package's training step.

with Run(folder, package, config, overrides) as run:
    for step in run.steps(total):
        run.log(train_step(...))
    run.finish(summary)
"""

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

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from conf.schema import ConfigError

RECORDED_PACKAGES = ("mara-rl", "torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "numpy")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)  # 80 in a log cuts tables

Scalar = Tensor | float | int | None


class Run:
    """Owns a run folder: config.yaml, overrides.yaml, run.json, metrics, timings and samples, summary.json."""

    def __init__(self, folder: Path, package: str, config: DictConfig, overrides: list[str]) -> None:
        self.folder = folder
        self.step = -1
        self._shown: tuple[str, ...] = ()
        self._latest: dict[str, float | int | None] = {}
        self._started = self._step_started = time.perf_counter()
        self._record: dict[str, Any] = {
            "state": "running",
            "package": package,
            "command": ["python", "-m", package, *overrides],
            "pid": os.getpid(),
            "started": _now(),
            "ended": None,
            "seed": config.seed,
            "code": _code_version(),
            "versions": {"python": platform.python_version(), **_versions()},
            "hardware": _hardware(),
            "traceback": None,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "run.json").exists():
                raise ConfigError(f"hydra.run.dir: must be a folder without a run in it, found {folder}/run.json")
            write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            write_text(folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
            self._write_record()
            self._streams: dict[str, TextIO] = {
                name: (folder / f"{name}.jsonl").open("w") for name in ("metrics", "timings", "samples")
            }
        except OSError as error:
            raise ConfigError(
                f"hydra.run.dir: must be a writable folder, found {folder} ({error.strerror})"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()
        if error is None:
            self._record["state"] = "finished"
        else:
            self._record["state"] = "failed"
            self._record["traceback"] = "".join(traceback.format_exception(kind, error, trace))
        self._record["ended"] = _now()
        self._write_record()

    def steps(self, total: int, show: Iterable[str] = ()) -> Iterator[int]:
        """0 .. total-1 with a progress bar that shows the logged values named in `show`."""
        self._shown = tuple(show)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("train", total=total, values="")
            for step in range(total):
                self.step, self._step_started = step, time.perf_counter()
                yield step
                progress.update(task, advance=1, values=self._values())
                if not console.is_terminal and (step + 1) % max(total // 4, 1) == 0:
                    console.print(f"step {step + 1}/{total}  {self._values()}", soft_wrap=True)

    def log(self, metrics: Mapping[str, Scalar], *, step: int | None = None) -> None:
        """One line of metrics.jsonl for this step, and its wall-clock time in timings.jsonl."""
        step = self.step if step is None else step
        values = to_numbers(metrics)
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
        shown = ((name, self._latest.get(name)) for name in self._shown)
        return "  ".join(f"{name} {value:.3f}" for name, value in shown if value is not None)

    def _append(self, stream: str, row: Mapping[str, Any]) -> None:
        self._streams[stream].write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._streams[stream].flush()

    def _write_record(self) -> None:
        patch = self._record["code"].pop("patch", "")
        if patch:
            write_text(self.folder / "code.patch", patch)
        write_json(self.folder / "run.json", self._record)


def to_numbers(metrics: Mapping[str, Scalar]) -> dict[str, float | int | None]:
    """Plain numbers; what is not finite becomes null."""
    values: dict[str, float | int | None] = {}
    for name, value in metrics.items():
        number = value.item() if isinstance(value, Tensor) else value
        values[name] = number if number is None or math.isfinite(number) else None
    return values


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file whole: never half-written, even when the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _code_version() -> dict[str, Any]:
    """The commit of the code and what differs from it; None where the code is not in a git checkout."""
    root = Path(__file__).parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        patch = _git(root, "diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(patch), "patch": patch}


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, timeout=20
    ).stdout


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
