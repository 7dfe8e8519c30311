"""The runs of a finished sweep with short names, for the tables and plots that a package makes after a sweep."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.runs.run_folder import read_json, read_jsonl, read_yaml, write_json


class SweepRun(NamedTuple):
    """A run of a sweep. name: the overrides that distinguish it. metrics: the rows of metrics.jsonl."""

    name: str
    folder: Path
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


def read_sweep_runs(folders: Sequence[Path], without_key: Collection[str]) -> list[SweepRun]:
    """Read the runs in the given order.

    Args:
        folders: the run folders.
        without_key: keys whose overrides appear in names as VALUE instead of KEY=VALUE.
    """
    names = run_names(folders, without_key)
    return [
        SweepRun(name, folder, read_json(folder / "summary.json"), read_jsonl(folder / "metrics.jsonl"))
        for name, folder in zip(names, folders, strict=True)
    ]


def write_summaries(folder: Path, runs: Sequence[SweepRun]) -> None:
    """Write summaries.json of a sweep: the summary of each run by its name."""
    write_json(folder / "summaries.json", {run.name: run.summary for run in runs})


def run_names(folders: Sequence[Path], without_key: Collection[str]) -> list[str]:
    """Name each run by the overrides that not all runs share, for example `mara, beta=0.1`."""
    overrides = [[str(override) for override in read_yaml(folder / "overrides.yaml")] for folder in folders]
    common = set.intersection(*map(set, overrides))
    names = [", ".join(_short_override(o, without_key) for o in of_run if o not in common) for of_run in overrides]
    return [name or f"run {number}" for number, name in enumerate(names)]


def _short_override(override: str, without_key: Collection[str]) -> str:
    key, _, value = override.partition("=")
    last = key.rpartition(".")[2]
    return value if last in without_key else f"{last}={value}"
