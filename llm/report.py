"""Tables and figures of a run, a sweep and an evaluation."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from launch.analysis.figures import plain_label, save_figure
from launch.analysis.palette import BLACK, COLOURS
from launch.analysis.sweep_runs import read_sweep_runs, write_summaries
from launch.analysis.uncertainty import format_mean
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl
from llm.answer_figure import draw_answers
from llm.evaluation.metrics import SubjectMetrics

SMOOTHING = 12  # steps averaged in a point of a curve


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
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw_training(left, metrics, base)
    draw_pareto(right, [("run", metrics)], base)
    save_figure(figure, run.folder / "figure.png")


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

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    draw_pareto(left, [(run.name, run.metrics) for run in runs], base)
    draw_final(right, rows)
    save_figure(figure, sweep / "figure.png")
    console.print(f"figure: {sweep / 'figure.png'}", soft_wrap=True)
    if draw_answers(rows, sweep / "answers.png"):
        console.print(f"what each model answers: {sweep / 'answers.png'}", soft_wrap=True)


BY_SEQUENCE, ENTROPY, LOG_RATIO = "by sequence", "entropy, nats", "log-ratio (eq. 7)"
ANSWER_LEGEND = {  # what the columns of `answer_table` mean, where their names do not say it
    BY_SEQUENCE: "by sequence: shares of the most frequent correct token sequences",
    ENTROPY: "entropy: of the correct answers; ± standard error over prompts, or over completions if there is one",
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


def draw_training(axes: Axes, metrics: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> None:
    """Plot the metrics of the task over training. Dotted lines: the base model, for metrics that are comparable.

    Curves: shares of the listed answers; or correct share, coverage and share of the most common answer in a group;
    or, if correctness is not defined, the reward and the share of the most common answer.
    """
    curves = {"correct": "correct"} | {
        key: key.replace("share/", "answer ") for key in base if key.startswith("share/")
    }
    if len(curves) == 1:
        curves |= {"coverage": "coverage in a group", "answers/top_share": "most common answer in a group"}
    logged = {key for row in metrics for key in row}
    curves = {key: label for key, label in curves.items() if key in logged}
    for colour, (key, label) in zip(COLOURS, curves.items(), strict=False):
        steps, values = smoothed(metrics, key)
        comparable = key == "correct" or key.startswith("share/")
        if comparable:
            steps, values = [0, *steps], [base[key], *values]
        axes.plot(steps, values, color=colour, label=plain_label(label))
        if comparable:
            axes.axhline(base[key], color=colour, linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel="share", ylim=(-0.02, 1.02), title="Answers (dotted: base)")
    if "correct" not in base:
        right = axes.twinx()
        steps, values = smoothed(metrics, "reward/raw")
        right.plot([0, *steps], [base["reward/mean"], *values], color=BLACK, label="reward")
        right.set(ylabel="reward")
        axes.set(title="Reward (right) and answers")
        right.legend(frameon=False, loc="lower right")
    axes.legend(frameon=False)


def draw_pareto(axes: Axes, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], base: Mapping[str, Any]) -> None:
    """Plot correct share, or reward if correctness is not defined, against entropy of the answers in a group.

    Each run is a curve over training that ends in a dot. It starts at the base model (cross) if the base model's
    metrics are comparable with those of a group.
    """
    key, start = ("correct", "correct") if "correct" in base else ("reward/raw", "reward/mean")
    comparable = base["entropy_nats"] is not None and any(name.startswith("share/") for name in base)
    for colour, (name, metrics) in zip(COLOURS, runs, strict=False):
        rows = [row for row in metrics if row.get(key) is not None and row.get("answers/entropy_nats") is not None]
        (_, reward), (_, entropy) = smoothed(rows, key), smoothed(rows, "answers/entropy_nats")
        if comparable:
            reward, entropy = [base[start], *reward], [base["entropy_nats"], *entropy]
        axes.plot(entropy, reward, color=colour, linewidth=1.2, alpha=0.8, label=plain_label(name))
        axes.plot(entropy[-1:], reward[-1:], "o", color=colour)
    if comparable:
        axes.plot([base["entropy_nats"]], [base[start]], "kx", label="base")
    axes.set(
        xlabel="entropy of the correct answers (nats)" if "correct" in base else "entropy of the answers (nats)",
        ylabel="share of correct completions" if "correct" in base else "reward",
        title="Reward against diversity",
    )
    axes.legend(frameon=False, fontsize="small")


def draw_final(axes: Axes, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Bars of each model after training: stacked shares of the listed answers, or coverage, or answer entropy."""
    base = rows[0][1]
    keys = [key for key in base if key.startswith("share/")]
    keys = keys or ["coverage" if "coverage" in base else "entropy_nats"]
    left = [0.0] * len(rows)
    for colour, key in zip(COLOURS, keys, strict=False):
        values = [row[key] or 0.0 for _, row in rows]
        axes.barh(range(len(rows)), values, left=left, color=colour, label=key.replace("share/", "answer "))
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    if keys == ["entropy_nats"]:
        axes.set(xlabel="entropy of the answers (nats)", title="Diversity after training")
    else:
        axes.set(xlabel="share of completions" if len(keys) > 1 else "share of the right answers", xlim=(0, 1))
        axes.set(title="Answers after training")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(keys))


def smoothed(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """The last steps of all windows of `SMOOTHING` steps that have a metric, and its means over the windows."""
    rows = [row for row in metrics if row.get(key) is not None]
    last = range(SMOOTHING - 1, len(rows))
    means = [sum(row[key] for row in rows[i - SMOOTHING + 1 : i + 1]) / SMOOTHING for i in last]
    return [rows[i]["step"] for i in last], means


# --- evaluation ----------------------------------------------------------------------------------------------

LABELS = {
    "reward_in": "reward, in distribution",
    "reward_out": "reward, out of distribution",
    "ead": "EAD",
    "semantic_diversity": "semantic diversity",
    "distinct": "distinct",
    "utility": "utility",
    "answer_entropy_nats": "answer entropy, nats",
}


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
        table.add_row(LABELS.get(name, name), *cells)
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
    figure, panels = plt.subplots(
        height, width, figsize=(2.4 * width, 2.9 * height), layout="constrained", squeeze=False
    )
    for axes, name in zip(panels.flat, names, strict=False):
        for x, (colour, subject) in enumerate(zip(COLOURS, subjects, strict=False)):
            values = [row[name] for row in subject.prompts.values() if not math.isnan(row[name])]
            positions = [x - 0.3 + 0.4 * (i + 0.5) / len(values) for i in range(len(values))]
            axes.plot(positions, values, ".", color=colour, alpha=0.4, markersize=4)
            mean, error = subject.overall[f"{name}/mean"], subject.overall[f"{name}/se"]
            if mean is not None:
                axes.errorbar(x + 0.3, mean, yerr=error or 0, fmt="o", color=colour, capsize=4)
        axes.set(title=LABELS.get(name, name), xticks=[], xlim=(-0.5, len(subjects) - 0.5))
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    if len(subjects) > 1:
        handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in COLOURS[: len(subjects)]]
        figure.legend(handles, [subject.name for subject in subjects], loc="outside lower center", frameon=False)
    figure.suptitle("Each prompt (small dots), mean and standard error over prompts", fontsize="medium")
    save_figure(figure, path)
