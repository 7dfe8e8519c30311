"""The benchmarks: tasks, the experiment of each run, and what is measured in a finished run."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from chem.benchmarks.auc import top_auc, top_mean
from chem.metrics import ScoredMolecules, collect_molecules, screen_metrics, yield_curve
from chem.oracles.molexp import TARGETS as MOLEXP_TARGETS
from chem.oracles.pmo import TASKS as PMO_TASKS
from core.stats import effective_modes

TOP = (1, 10, 100)
TABLE2_SCREENS = (0.8, 0.85)
TABLE2_FIGURES = ("yield", "OB1", "OB10", "OB100", "int_div1", "circles", "scaffolds")
CURVE_SPACING = 100  # oracle calls between two points of a curve

Samples = Sequence[Mapping[str, Any]]


class Suite(NamedTuple):
    """A benchmark.

    Attributes:
        tasks: names of the tasks.
        methods: names of the methods that are run if none are chosen.
        metrics: the figures that tables show, keys of what `measure` returns.
        overrides: method, task -> overrides of `python -m chem` that choose the experiment and the oracle.
        measure: lines of samples.jsonl, in the order of the oracle calls, and the budget -> figures, None if
            not reached.
        curve: what the picture shows over the oracle calls.
        progress: the same arguments -> its values after every `CURVE_SPACING` calls.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    overrides: Callable[[str, str], list[str]]
    measure: Callable[[Samples, int], Mapping[str, float | None]]
    curve: str
    progress: Callable[[Samples, int], list[float]]


def task_oracle(oracle: str) -> Callable[[str, str], list[str]]:
    """Overrides of a method of conf/chem/experiment/benchmark, with an oracle of which a parameter is the task."""
    return lambda method, task: [
        f"experiment=benchmark/{method}",
        f"oracle={oracle}",
        f"oracle.components.0.parameters.task={task}",
    ]


def task_experiment(method: str, task: str) -> list[str]:
    """Overrides of a method that has an experiment for each task."""
    return [f"experiment={task}/{method}"]


def calls(samples: Samples) -> list[Mapping[str, Any]]:
    """One line for each molecule, in the order of the first: a molecule that failed may be asked about again."""
    return list({row["smiles"]: row for row in samples}.values())


def call_scores(samples: Samples) -> list[float]:
    """The score of each call; 0 for a failed one."""
    return [row["score"] or 0.0 for row in calls(samples)]


def measure_tops(samples: Samples, budget: int) -> dict[str, float]:
    """PMO's figures: area under the curve and final mean of the 1, 10 and 100 best. A failed call scores 0."""
    return tops(call_scores(samples), budget)


def best_so_far(samples: Samples, budget: int) -> list[float]:
    """Mean score of the 10 best molecules."""
    scores = call_scores(samples)
    return [top_mean(scores[:end], 10) for end in curve_ends(budget)]


def curve_ends(budget: int) -> range:
    """The numbers of calls at which a curve has points."""
    return range(CURVE_SPACING, budget + 1, CURVE_SPACING)


def tops(scores: Sequence[float], budget: int) -> dict[str, float]:
    """PMO's figures of scores in the order of the oracle calls."""
    return {f"auc_top{n}": top_auc(scores, n, budget) for n in TOP} | {f"top{n}": top_mean(scores, n) for n in TOP}


def similarities(samples: Samples) -> list[list[float]]:
    """The similarity of each call's molecule to each target of MolExp, [targets][calls]; 0 for a failed call.

    If every call failed there is one target, so that the product over targets is 0, not 1.
    """
    details = [row["details"].get("molexp") or [] for row in calls(samples)]
    targets = max([1, *map(len, details)])
    return [[row[target] if row else 0.0 for row in details] for target in range(targets)]


def measure_exploration(samples: Samples, budget: int) -> dict[str, float]:
    """MolExp's figures: those of PMO for the similarity to each target, multiplied over the targets.

    Beside them, of each target: `top1/N`, the largest similarity, and `nearest/N`, the share that is nearest to it
    of what was scored in the last tenth of the calls (the first target, if equally near). `targets` is exp(entropy)
    of these shares, the effective number of targets at the end; 0 if nothing was scored.
    """
    by_target = similarities(samples)
    figures = [tops(values, budget) for values in by_target]
    products = {name: math.prod(row[name] for row in figures) for name in tops([], budget)}
    last = list(zip(*by_target, strict=True))[-max(len(by_target[0]) // 10, 1) :]
    nearest = [call.index(max(call)) for call in last if any(call)]
    shares = [nearest.count(target) / max(len(nearest), 1) for target in range(len(figures))]
    for target, (row, share) in enumerate(zip(figures, shares, strict=True)):
        products |= {f"top1/{target}": row["top1"], f"nearest/{target}": share}
    return products | {"targets": float(effective_modes(torch.tensor(shares))) if nearest else 0.0}


def exploration_so_far(samples: Samples, budget: int) -> list[float]:
    """The largest similarity to each target, multiplied over the targets."""
    values = similarities(samples)
    return [math.prod(max(row[:end], default=0.0) for row in values) for end in curve_ends(budget)]


def molecules_of(samples: Samples) -> ScoredMolecules:
    """The molecules that a run's oracle was asked about."""
    return collect_molecules([row["smiles"] for row in samples], [row["score"] for row in samples])


def measure_screens(samples: Samples, budget: int) -> dict[str, float | None]:
    """The figures of the paper's Table 2, at both thresholds."""
    return screen_metrics(molecules_of(samples), TABLE2_SCREENS)


def yield_so_far(samples: Samples, budget: int) -> list[float]:
    """Number of molecules that reach the lower threshold."""
    counts = [0, *yield_curve(molecules_of(samples).good(TABLE2_SCREENS[0])).tolist()]
    return [counts[min(end, len(counts) - 1)] for end in curve_ends(budget)]


MOLEXP = Suite(
    tasks=tuple(MOLEXP_TARGETS),
    methods=("reinvent", "augmented_memory", "augmented_memory_mara", "augmented_memory_mara_scaffolds"),
    metrics=("top1", "targets"),
    overrides=task_oracle("molexp"),
    measure=measure_exploration,
    curve="product of the largest similarities",
    progress=exploration_so_far,
)
SUITES = {
    "pmo": Suite(
        tasks=tuple(PMO_TASKS),
        methods=("reinvent", "augmented_memory", "reinvent_mara", "augmented_memory_mara"),
        metrics=("auc_top10",),
        overrides=task_oracle("pmo"),
        measure=measure_tops,
        curve="mean score of the 10 best",
        progress=best_so_far,
    ),
    "molexp": MOLEXP,
    "molexpl": MOLEXP._replace(overrides=task_oracle("molexpl")),
    "table2": Suite(
        tasks=("synth_fast", "all_amide_fast"),
        methods=("reinvent", "mara_0.8", "mara_0.85", "mara_0.8_molecules", "mara_0.8_scaffolds"),
        metrics=tuple(f"{screen:g}/{name}" for screen in TABLE2_SCREENS for name in TABLE2_FIGURES),
        overrides=task_experiment,
        measure=measure_screens,
        curve="molecules of score .8 and more",
        progress=yield_so_far,
    ),
}
