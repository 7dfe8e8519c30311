"""The model before training, as the runs of a sweep measured it: the results `base.KEY` beside KEY."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from launch.analysis.table import CollectedRun, Row, own_error
from launch.analysis.uncertainty import standard_error


class BaseModel(NamedTuple):
    """Results of the untrained model.

    Attributes:
        runs: that measured it, one for each seed.
        shared: whether it is the same for all configurations.
    """

    runs: list[CollectedRun]
    shared: bool

    def result(self, key: str) -> tuple[float, float]:
        """The mean of a result over the seeds and its standard error, NaN where it was not measured."""
        values = base_values(self.runs, key)
        if len(values) == 1:
            return values[0], own_error(self.runs, f"base.{key}")
        return (fmean(values) if values else math.nan), standard_error(values)


def base_model(rows: Sequence[Row]) -> BaseModel:
    """What the runs of all configurations measured before training.

    Runs with one seed measure the same where model, task and evaluation are the same, so a base whose results differ
    within a seed is not shared.
    """
    first: dict[object, CollectedRun] = {}
    shared = True
    for run in (run for row in rows for run in row.runs):
        known = first.setdefault(run.config.get("seed"), run)
        shared = shared and _same(_base_results(known), _base_results(run))
    return BaseModel(list(first.values()), shared and any(map(_base_results, first.values())))


def base_values(runs: Sequence[CollectedRun], key: str) -> list[float]:
    """A result of the untrained model in the runs that measured it."""
    return [run.results[f"base.{key}"] for run in runs if f"base.{key}" in run.results]


def difference_to_base(row: Row, key: str) -> float:
    """The mean of a result minus that of the untrained model of the same runs; NaN where it was not measured."""
    pairs = [
        (run.results[key], run.results[f"base.{key}"])
        for run in row.runs
        if key in run.results and f"base.{key}" in run.results
    ]
    return fmean(after - before for after, before in pairs) if pairs else math.nan


def _base_results(run: CollectedRun) -> dict[str, float]:
    return {key: value for key, value in run.results.items() if key.startswith("base.")}


def _same(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(math.isclose(one[key], other[key], rel_tol=1e-4, abs_tol=1e-9) for key in one.keys() & other.keys())
