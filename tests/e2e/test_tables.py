"""The tables of all commands fit terminals of 80, 100 and 120 columns, with long labels and eight answers."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from chem.benchmarks.records import console_table
from chem.csv_metrics import overall_table
from chem.file_scores import score_table
from chem.fingerprint_map import yield_table
from chem.metrics import OB_COUNTS
from chem.models.prior_report import COMPARED_PROPERTIES, property_table, sample_table
from chem.oracles.base import Status
from chem.report import CURVES, failure_table, molecule_table, run_table, screen_table
from didactic.report import cell_table
from launch import diff, status
from llm.evaluation.metrics import SubjectMetrics
from llm.report import answer_table, evaluation_table

from ..commands import ROOT, run_module
from ..tables import WIDTHS, check_fits, printed

MODELS = [
    f"mara_answers_{direction}, objective.beta=0.00{beta}" for direction in ("reverse", "forward") for beta in (1, 2)
]
FOLDERS = [f"runs/llm/open_questions/sweep_2026-11-29_10-00-0{second}/12" for second in (1, 2)]
NUMBER = 0.12345


def llm_table():
    shares = {f"share/answer_{answer}": NUMBER for answer in range(8)}
    summary = {"correct": NUMBER, **shares, "sequences": dict.fromkeys("abcde", NUMBER), "entropy_nats": NUMBER}
    summary |= {"entropy_nats/se": 0.0123, "observed_log_ratio": 2.43, "predicted_log_ratio": 1.95}
    held_out = {f"held_out/{key}": NUMBER for key in ("correct", "coverage", "entropy_nats", "completions")}
    return answer_table([(name, summary | held_out) for name in MODELS])


def evaluated_table():
    overall: dict[str, float | None] = {}
    for name in ("reward_in", "semantic_diversity", "pass@10"):
        overall |= {f"{name}/mean": NUMBER, f"{name}/se": 0.0123, f"{name}/prompts": 2}
    return evaluation_table([SubjectMetrics(name, {"p": {}, "q": {}}, overall) for name in FOLDERS], overall)


def didactic_table():
    cell: dict[str, Any] = {
        "family": "categorical",
        "direction": "reverse",
        "transform": "mara",
        "beta_schedule": "adaptive",
    }
    cell |= {"beta": 0.1, "start": "uniform", "beta_final": 0.2, "reward": NUMBER, "kl_nats": NUMBER}
    cell |= {"mode_shares": [NUMBER] * 3, "exact_mode_shares": [NUMBER] * 3, "total_variation": NUMBER}
    others = {"family": "gaussian", "beta_schedule": "constant", "start": "reference", "beta": 0.2}
    return cell_table("a title", [(MODELS[0], cell), (MODELS[1], cell | others)])


def screens_table():
    keys = ("yield", *(f"OB{count}" for count in OB_COUNTS), "int_div1", "circles", "scaffolds")
    return screen_table([(name, {f"0.8/{key}": None for key in keys}) for name in MODELS], [0.8])


def molecules_table():
    values = {f"a_component_{number}": NUMBER for number in range(6)}
    return molecule_table(
        [{"score": NUMBER, "values": values, "smiles": smiles} for smiles in ("CCO" * 40, "CCN" * 40)]
    )


def prior_table():
    sides = {
        "mean": NUMBER,
        "std": NUMBER,
        "training_mean": NUMBER,
        "training_std": NUMBER,
        "wasserstein_in_std": NUMBER,
    }
    return property_table({f"property/{name}": sides for name in COMPARED_PROPERTIES})


def samples_table():
    names = ("validation/molecule", "validity", "uniqueness", "novelty", "scaffolds", "scaffolds/new_share")
    return sample_table(dict.fromkeys(names, NUMBER) | {"samples": 1000})


def scores_table():
    names = ("strings", "molecules", "cached", *(state.value for state in Status), "score/mean", "score/best")
    return score_table(dict.fromkeys(names, 1_000_000))


def generated_table():
    names = ("generated", "calls", "unscored", "validity", "uniqueness", "novelty", "scaffolds")
    return overall_table(dict.fromkeys(names, NUMBER))


def benchmark_table():
    methods = ["reinvent", "augmented_memory", "reinvent_mara", "augmented_memory_mara", "genetic", "genetic_mara"]
    return console_table("pmo", methods, [[task, *["0.123 ± 0.012"] * 6] for task in ("perindopril_mpo", "jnk3")])


def runs_table():
    summary = dict.fromkeys(CURVES.values(), NUMBER) | {"calls": 3000, "good": None}
    return run_table([(name, summary) for name in MODELS])


def results_table():
    results = {f"held_out/a_long_name_of_a_result_{number}/mean": (NUMBER, 0.0123) for number in range(3)}
    return diff.result_table(results, results)


TABLES = {
    "llm": (llm_table, MODELS),
    "llm.evaluate": (evaluated_table, ["semantic diversity", "reward, in distribution"]),
    "didactic": (didactic_table, MODELS[:2]),
    "chem, runs": (runs_table, MODELS),
    "chem, screens": (screens_table, MODELS),
    "chem, molecules": (molecules_table, ["CCO" * 40, "CCN" * 40]),
    "chem, failures": (
        lambda: failure_table({"failed: no file " + "a/" * 90: 1, "x": 2}),
        ["failed: no file " + "a/" * 90],
    ),
    "chem.pretrain": (samples_table, []),
    "chem.pretrain, properties": (prior_table, list(COMPARED_PROPERTIES)),
    "chem.score": (scores_table, ["1,000,000"]),
    "chem.evaluate": (generated_table, []),
    "chem.space": (lambda: yield_table({name: {"a": 1, "b": NUMBER, "c": 2} for name in FOLDERS}, 0.8), FOLDERS),
    "chem.benchmark": (benchmark_table, ["perindopril_mpo", "jnk3"]),
    "launch.diff": (results_table, ["held_out/a_long_name_of_a_result_2/mean"]),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits(name, width):
    make, labels = TABLES[name]
    table = make()
    text = printed(table, width)
    check_fits(text, width, labels)
    numbers = [cell for column in table.columns if column.kind == "number" for cell in column.cells]
    assert all(re.search(rf"│ +{re.escape(cell)} +│", text) for cell in numbers)  # each on one line
    assert len(text.split("┏")[0].split("┌")[0].splitlines()) <= 2  # the title


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_states_fits(monkeypatch, tmp_path, width):
    file = io.StringIO()
    console = Console(width=width, file=file, markup=False, emoji=False, highlight=False)
    monkeypatch.setattr("launch.runs.console.console", console)
    metrics = {"reward/raw": NUMBER, "kl/reverse_from_reference_nats": NUMBER}
    jobs = [
        status.JobStatus(n, f"experiment=one_two/{name} seed={n}", "finished", 9, 9, 1.0, metrics)
        for n, name in enumerate(MODELS)
    ]
    status.print_jobs(tmp_path, jobs)
    text = file.getvalue().partition("\n")[2]
    check_fits(text, width, [f"experiment=one_two/{name} seed={n}" for n, name in enumerate(MODELS)])


@pytest.mark.slow
def test_a_command_prints_within_the_width_of_the_terminal(tmp_path):
    """A sweep, its status and its tables, where the terminal has 80 columns."""
    here = {"folder": tmp_path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    figures = "experiment=figure5/reverse_0.01_mara_uniform,figure5/forward_0.01_identity_reference"
    sweep = ["seed=0,1", "steps=5", "hydra.sweep.dir=sweep"]
    out = run_module("didactic", "-m", figures, *sweep, status=0, **here).stdout
    out += run_module("launch.status", "sweep", status=0, **here).stdout
    out += run_module("launch.collect", "sweep", "--against", "identity", status=0, **here).stdout
    lines = [line for line in out.splitlines() if line[:1] in "│┃┏┡└├┌"]
    assert len(lines) > 50
    assert max(map(len, lines)) <= 80
    assert "…" not in out
