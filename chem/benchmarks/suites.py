"""The benchmarks: tasks, the oracle of each, and what is measured in a finished run."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from chem.benchmarks.auc import top_auc, top_mean
from chem.oracles.molexp import TARGETS as MOLEXP_TARGETS
from chem.oracles.pmo import TASKS as PMO_TASKS

TOP = (1, 10, 100)


class Suite(NamedTuple):
    """A benchmark.

    Attributes:
        tasks: names of the tasks.
        metric: the figure that tables show, a key of what `measure` returns.
        overrides: task -> overrides of `python -m chem` that choose its oracle.
        measure: lines of samples.jsonl, in the order of the oracle calls, and the budget -> figures.
    """

    tasks: tuple[str, ...]
    metric: str
    overrides: Callable[[str], list[str]]
    measure: Callable[[Sequence[Mapping[str, Any]], int], dict[str, float]]


def task_oracle(oracle: str) -> Callable[[str], list[str]]:
    """Overrides of an oracle whose first component has the parameter `task`."""
    return lambda task: [f"oracle={oracle}", f"oracle.components.0.parameters.task={task}"]


def calls(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One line for each molecule, in the order of the first: a molecule that failed may be asked about again."""
    return list({row["smiles"]: row for row in samples}.values())


def measure_tops(samples: Sequence[Mapping[str, Any]], budget: int) -> dict[str, float]:
    """PMO's figures: area under the curve and final mean of the 1, 10 and 100 best. A failed call scores 0."""
    return tops([row["score"] or 0.0 for row in calls(samples)], budget)


def tops(scores: Sequence[float], budget: int) -> dict[str, float]:
    """PMO's figures of scores in the order of the oracle calls."""
    return {f"auc_top{n}": top_auc(scores, n, budget) for n in TOP} | {f"top{n}": top_mean(scores, n) for n in TOP}


def measure_exploration(samples: Sequence[Mapping[str, Any]], budget: int) -> dict[str, float]:
    """MolExp's figures: those of PMO for the similarity to each target, multiplied over the targets."""
    details = [row["details"].get("molexp") or [] for row in calls(samples)]
    targets = max(map(len, details), default=0)
    similarities = [[row[target] if row else 0.0 for row in details] for target in range(targets)]
    figures = [tops(values, budget) for values in similarities]
    return {name: math.prod(row[name] for row in figures) for name in tops([], budget)}


SUITES = {
    "pmo": Suite(tuple(PMO_TASKS), "auc_top10", task_oracle("pmo"), measure_tops),
    "molexp": Suite(tuple(MOLEXP_TARGETS), "top1", task_oracle("molexp"), measure_exploration),
    "molexpl": Suite(tuple(MOLEXP_TARGETS), "top1", task_oracle("molexpl"), measure_exploration),
}
