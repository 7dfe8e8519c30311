"""The runs of a finished sweep under short names, for the closing tables and pictures of a package."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.runs.run_folder import read_json, read_jsonl, read_yaml, write_json


class SweepRun(NamedTuple):
    """name: what distinguishes the run from the others. metrics: the lines of metrics.jsonl."""

    name: str
    folder: Path
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


def read_sweep_runs(folders: Sequence[Path], without_key: Collection[str]) -> list[SweepRun]:
    """The runs in their order.

    Args:
        without_key: overrides of these keys are named by their value alone.
    """
    names = run_names(folders, without_key)
    return [
        SweepRun(name, folder, read_json(folder / "summary.json"), read_jsonl(folder / "metrics.jsonl"))
        for name, folder in zip(names, folders, strict=True)
    ]


def write_summaries(folder: Path, runs: Sequence[SweepRun]) -> None:
    """summaries.json of a sweep: each run's summary by its name."""
    write_json(folder / "summaries.json", {run.name: run.summary for run in runs})


def run_names(folders: Sequence[Path], without_key: Collection[str]) -> list[str]:
    """The overrides of each run that not all runs share, e.g. `mara, beta=0.1`."""
    overrides = [[str(override) for override in read_yaml(folder / "overrides.yaml")] for folder in folders]
    common = set.intersection(*map(set, overrides))
    names = [", ".join(_short(o, without_key) for o in of_run if o not in common) for of_run in overrides]
    return [name or f"run {number}" for number, name in enumerate(names)]


def _short(override: str, without_key: Collection[str]) -> str:
    key, _, value = override.partition("=")
    last = key.rpartition(".")[2]
    return value if last in without_key else f"{last}={value}"
