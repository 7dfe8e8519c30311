"""Tables and figures of a run, a sweep and an evaluation."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from launch.analysis.figures import panels, plain_label, save_figure
from launch.analysis.labels import metric_label
from launch.analysis.palette import category_colours
from launch.analysis.sweep_runs import fold_seeds, read_sweep_runs, write_summaries
from launch.analysis.uncertainty import format_mean
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl
from llm.answer_figure import draw_answers
from llm.evaluation.metrics import SubjectMetrics
from llm.figures import draw_run, draw_sweep


def report_run(
    run: Run, base: Mapping[str, Any], trained: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write summary.json and figure.png of one run, and print its closing table.

    base, trained: results of `llm.evaluation.policy.evaluate_policy`.
    data: name -> origin, hash and number of records of each data set.
    """
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    ratios = {key: _last_value(metrics, f"collapse/{key}") for key in ("observed_log_ratio", "predicted_log_ratio")}
    run.finish({**trained, **ratios, "base": base, **({"data": data} if data else {})})
    console.print(answer_table([("base", base), ("run", {**trained, **ratios})]))
    draw_run(run.folder, metrics, base)


def _last_value(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The last value of a key that is not None."""
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)


def report_sweep(folders: Sequence[Path], sweep: Path) -> None:
    """Print the closing table of a sweep, and write its figure.png and its summaries in one file."""
    runs = read_sweep_runs(folders, without_key=("direction", "transform", "advantage", "method"))
    base = runs[0].summary["base"]
    rows = [("base", base), *((run.name, run.summary) for run in runs)]
    console.print(answer_table(rows))
    write_summaries(sweep, runs)

    folded = fold_seeds(runs)
    draw_sweep(folded, base, sweep / "figure.png")
    answers = [("base", [base]), *((row.label, [run.summary for run in row.runs]) for row in folded)]
    draw_answers(answers, sweep / "answers.png")


BY_SEQUENCE, ENTROPY, LOG_RATIO = "by sequence", "entropy, nats", "log-ratio (eq. 7)"
ANSWER_LEGEND = {  # what the columns of `answer_table` mean, where their names do not say it
    BY_SEQUENCE: "by sequence: shares of the most frequent correct token sequences",
    ENTROPY: "entropy: of the correct answers; ± standard error over prompts, with one prompt over completions",
    LOG_RATIO: "log-ratio: log pi(a)/pi(b) of the two most frequent correct completions, in brackets at the optimum",
}


def answer_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> FittedTable:
    """A table of the closing evaluation with one row per model and one column per metric of its task.

    Columns: shares of all completions (correct, each listed answer, each correct token sequence); mean rewards;
    coverage of the known right answers; entropy of the correct answers; log pi(a)/pi(b) of the two most frequent
    correct completions, observed and predicted by eq. 7; then the metrics of further sets of prompts.
    """
    base = rows[0][1]
    answers = [key for key in base if key.startswith("share/")]
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {}
    if "correct" in base:
        columns["correct"] = partial(_format_metric, key="correct")
    columns |= {f'"{key.removeprefix("share/")}"': partial(_format_metric, key=key) for key in answers}
    if answers:
        columns[BY_SEQUENCE] = lambda row: " ".join(f"{share:.2f}" for share in row["sequences"].values())
    rewards = [key for key in base if key.endswith("/mean") and key.count("/") == 1]
    if "correct" not in base or len(rewards) > 1:
        columns |= {key.removesuffix("/mean"): partial(_format_metric, key=key) for key in rewards}
    if "coverage" in base and not answers:
        columns["coverage"] = partial(_format_metric, key="coverage")
    columns[ENTROPY] = partial(_format_metric, key="entropy_nats")
    columns[LOG_RATIO] = _format_log_ratios
    for prefix in (key.removesuffix("completions") for key in base if key.endswith("/completions")):
        shown = [f"{prefix}{key}" for key in ("correct", "reward/mean", "coverage", "entropy_nats")]
        shown.remove(f"{prefix}reward/mean" if f"{prefix}correct" in base else f"{prefix}correct")
        columns |= {key.removesuffix("/mean"): partial(_format_metric, key=key) for key in shown if key in base}

    title = "Shares of all completions" if answers else "From new completions"
    table = FittedTable(title, "; ".join(text for name, text in ANSWER_LEGEND.items() if name in columns))
    table.add_column("model", "label")
    for name in columns:
        table.add_column(name, "text" if name == BY_SEQUENCE else "number")
    for name, row in rows:
        table.add_row(name, *(cell(row) for cell in columns.values()))
    return table


def _format_metric(row: Mapping[str, Any], key: str) -> str:
    """A value with its standard error, if present."""
    value, error = row.get(key), row.get(f"{key.removesuffix('/mean')}/se")
    return format_mean(value, error)


def _format_log_ratios(row: Mapping[str, Any]) -> str:
    ratios = [row.get(key) for key in ("observed_log_ratio", "predicted_log_ratio")]
    observed, predicted = ("-" if value is None else f"{round(value, 2) + 0.0:.2f}" for value in ratios)
    return f"{observed} ({predicted})"


# --- evaluation ----------------------------------------------------------------------------------------------


def report_evaluation(run: Run, subjects: Sequence[SubjectMetrics], summary: Mapping[str, Any]) -> None:
    """Print the table and the choices that its values depend on, and write figure.png."""
    console.print(evaluation_table(subjects, summary.get("difference")))
    for name, choice in summary["choices"].items():
        run.info(f"{name}: {'none' if choice is None else choice}")
    draw_evaluation(subjects, run.folder / "figure.png")


def available_metrics(subjects: Sequence[SubjectMetrics]) -> list[str]:
    """The metrics that are defined for at least one subject."""
    names = [key.removesuffix("/mean") for key in subjects[0].overall if key.endswith("/mean")]
    return [name for name in names if any(subject.overall[f"{name}/mean"] is not None for subject in subjects)]


def evaluation_table(
    subjects: Sequence[SubjectMetrics], difference: Mapping[str, float | None] | None
) -> FittedTable:
    """A table with one row per metric and one column per subject: mean over prompts ± standard error.

    A cell gives the number of prompts if the metric is not defined for all of them.
    """
    count = len(subjects[0].prompts)
    title = f"Mean ± standard error over {count} prompts" if count > 1 else "One prompt"
    table = FittedTable(title)
    table.add_column("metric", "label")
    for subject in subjects:
        table.add_column(subject.name)
    if difference is not None:
        table.add_column("difference")
    for name in available_metrics(subjects):
        cells = [format_average(subject.overall, name, len(subject.prompts)) for subject in subjects]
        cells += [] if difference is None else [format_average(difference, name, len(subjects[0].prompts))]
        table.add_row(metric_label(name), *cells)
    return table


def format_average(overall: Mapping[str, float | None], name: str, prompts: int) -> str:
    """A mean with its standard error, and the number of prompts if it is not `prompts`."""
    value, error, count = (overall[f"{name}/{part}"] for part in ("mean", "se", "prompts"))
    text = format_mean(value, error)
    return text if value is None or count == prompts else f"{text} (of {count:g})"


def draw_evaluation(subjects: Sequence[SubjectMetrics], path: Path) -> None:
    """Draw one panel per metric: a dot for every prompt, and beside them the mean with its standard error."""
    names = available_metrics(subjects)
    width = min(len(names), 5)
    height = -(-len(names) // width)
    figure, grid = panels(height, width, (2.6, 2.9))
    colours = category_colours(len(subjects))
    for axes, name in zip(grid.flat, names, strict=False):
        for x, (colour, subject) in enumerate(zip(colours, subjects, strict=True)):
            values = [row[name] for row in subject.prompts.values() if not math.isnan(row[name])]
            positions = [x - 0.3 + 0.4 * (i + 0.5) / len(values) for i in range(len(values))]
            axes.plot(positions, values, ".", color=colour, alpha=0.4, markersize=4)
            mean, error = subject.overall[f"{name}/mean"], subject.overall[f"{name}/se"]
            if mean is not None:
                axes.errorbar(x + 0.3, mean, yerr=error or 0, fmt="o", color=colour, capsize=4)
        axes.set(title=metric_label(name), xticks=[], xlim=(-0.5, len(subjects) - 0.5))
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    if len(subjects) > 1:
        handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in colours]
        figure.legend(handles, [plain_label(subject.name) for subject in subjects], loc="outside lower center")
    figure.suptitle("Each prompt (small dots), mean and standard error over prompts", fontsize="medium")
    save_figure(figure, path)
