"""The runs of a finished sweep with short names, for the tables and plots that a package makes after a sweep."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.analysis.labels import configuration_labels
from launch.analysis.palette import Style, method_name, styles
from launch.runs.run_folder import flatten, read_config, read_json, read_jsonl, read_yaml, write_json


class SweepRun(NamedTuple):
    """A run of a sweep. name: the overrides that distinguish it. metrics: the rows of metrics.jsonl."""

    name: str
    folder: Path
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


class SweepRow(NamedTuple):
    """The runs of a sweep that differ only in the seed, and how they are named and drawn in its figures."""

    label: str
    style: Style
    runs: Sequence[SweepRun]

    def values(self, key: str) -> list[float]:
        """A number of the summaries, in the runs that have it."""
        return [run.summary[key] for run in self.runs if run.summary.get(key) is not None]


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


def fold_seeds(runs: Sequence[SweepRun]) -> list[SweepRow]:
    """Group the runs of a sweep that differ only in the seed."""
    groups: dict[tuple[str, ...], list[SweepRun]] = {}
    for run in runs:
        typed = tuple(o for o in recorded_overrides(run.folder) if not o.lstrip("+").startswith("seed="))
        groups.setdefault(typed, []).append(run)
    common = set.intersection(*map(set, groups)) if groups else set()
    settings = [
        dict(text.lstrip("+").partition("=")[::2] for text in typed if text not in common) for typed in groups
    ]
    methods = [run_method(folded[0].folder) for folded in groups.values()]
    labels = configuration_labels(settings)
    return [SweepRow(*row) for row in zip(labels, styles(methods), groups.values(), strict=True)]


def run_method(folder: Path) -> str:
    """The name of a run's method, by which it has its colour; empty if the folder holds no configuration."""
    if not (folder / "config.yaml").is_file():
        return ""
    return method_name(flatten(read_config(folder)), recorded_overrides(folder))


def recorded_overrides(folder: Path) -> list[str]:
    """What was typed for a run; nothing if that is not recorded."""
    path = folder / "overrides.yaml"
    return [str(override) for override in read_yaml(path)] if path.exists() else []


def write_summaries(folder: Path, runs: Sequence[SweepRun]) -> None:
    """Write summaries.json of a sweep: the summary of each run by its name."""
    write_json(folder / "summaries.json", {run.name: run.summary for run in runs})


def run_names(folders: Sequence[Path], without_key: Collection[str]) -> list[str]:
    """Name each run by the overrides that not all runs share, for example `mara, beta=0.1`."""
    overrides = [recorded_overrides(folder) for folder in folders]
    common = set.intersection(*map(set, overrides))
    names = [", ".join(_short_override(o, without_key) for o in of_run if o not in common) for of_run in overrides]
    return [name or f"run {number}" for number, name in enumerate(names)]


def _short_override(override: str, without_key: Collection[str]) -> str:
    key, _, value = override.partition("=")
    last = key.rpartition(".")[2]
    return value if last in without_key else f"{last}={value}"
