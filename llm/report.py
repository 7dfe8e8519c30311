"""Tables and pictures of a run and of a sweep."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from omegaconf import OmegaConf
from rich.table import Table

from launch.record import read_jsonl, write_json
from launch.run import Run, console
from llm.metrics import Column

SMOOTHING = 12  # steps in a point of a curve
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def report_run(run: Run, base: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """summary.json, the closing table and figure.png of one run."""
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    ratios = {key: _last(metrics, f"collapse/{key}") for key in ("observed_log_ratio", "predicted_log_ratio")}
    run.finish({**trained, **ratios, "base": base})
    console.print(answer_table([("base", base), ("run", {**trained, **ratios})]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw_shares(left, metrics, base)
    draw_pareto(right, [("run", metrics)], base)
    figure.savefig(run.folder / "figure.png", dpi=130)
    plt.close(figure)


def _last(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The last value that a key had."""
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)


def report_sweep(runs: Sequence[Path], folder: Path) -> None:
    """The closing table and figure.png of a sweep, and its summaries in one file."""
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    names = run_names(runs)
    base = summaries[0]["base"]
    rows = [("base", base), *zip(names, summaries, strict=True)]
    console.print(answer_table(rows))
    write_json(folder / "summaries.json", {name: summary for name, summary in zip(names, summaries, strict=True)})

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    draw_pareto(
        left, [(name, read_jsonl(run / "metrics.jsonl")) for name, run in zip(names, runs, strict=True)], base
    )
    draw_final_shares(right, rows)
    figure.savefig(folder / "figure.png", dpi=130)
    plt.close(figure)
    console.print(f"picture: {folder / 'figure.png'}", soft_wrap=True)


def run_names(runs: Sequence[Path]) -> list[str]:
    """What distinguishes each run of a sweep: the overrides that not all of them share."""
    overrides = [[str(o) for o in OmegaConf.load(run / "overrides.yaml")] for run in runs]
    common = set.intersection(*(set(some) for some in overrides))
    names = [", ".join(_short(o) for o in some if o not in common) for some in overrides]
    return [name or f"run {number}" for number, name in enumerate(names)]


def _short(override: str) -> str:
    """objective.beta=.03 -> beta=.03; a choice of the experiment's own groups needs no key at all."""
    key, _, value = override.partition("=")
    name = key.rpartition(".")[2]
    return value if name in ("direction", "transform", "advantage") else f"{name}={value}"


def answer_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """One row a model: shares of all completions (correct, each answer, each correct token sequence), entropy of the
    correct answers, and log pi(a)/pi(b) of the two most frequent correct completions, observed and by eq. 7."""
    answers = [key for key in rows[0][1] if key.startswith("share/")]
    table = Table(title="Shares of all completions", title_justify="left")
    table.add_column("model")
    for name in ("correct", *(f'"{key.removeprefix("share/")}"' for key in answers)):
        table.add_column(name, justify="right")
    table.add_column("by sequence")
    table.add_column("entropy, nats", justify="right")
    table.add_column("log-ratio (eq. 7)", justify="right")
    for name, row in rows:
        sequences = " ".join(f"{share:.2f}" for share in row["sequences"].values())
        entropy = "-" if row["entropy_nats"] is None else f"{row['entropy_nats']:.3f} ± {row['entropy_nats/se']:.3f}"
        ratios = [row.get(key) for key in ("observed_log_ratio", "predicted_log_ratio")]
        observed, predicted = ("-" if value is None else f"{round(value, 2) + 0.0:.2f}" for value in ratios)
        shares = (f"{row[key]:.3f}" for key in ("correct", *answers))
        table.add_row(name, *shares, sequences, entropy, f"{observed} ({predicted})")
    return table


def draw_shares(axes: Axes, metrics: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> None:
    """Shares of all completions over the steps; dotted: the base's."""
    keys = [key for key in base if key.startswith("share/")]
    for colour, key in zip(COLOURS, ("correct", *keys), strict=False):
        steps, values = smoothed(metrics, key)
        axes.plot([0, *steps], [base[key], *values], color=colour, label=key.replace("share/", "answer "))
        axes.axhline(base[key], color=colour, linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel="share of completions", ylim=(-0.02, 1.02), title="Answers (dotted: base)")
    axes.legend(frameon=False)


def draw_pareto(axes: Axes, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], base: Mapping[str, Any]) -> None:
    """Correct share against entropy of the correct answers over training, from the base (cross) to the end (dot)."""
    for colour, (name, metrics) in zip(COLOURS, runs, strict=False):
        _, reward = smoothed(metrics, "correct")
        _, entropy = smoothed(metrics, "answers/entropy_nats")
        if base["entropy_nats"] is not None:
            reward, entropy = [base["correct"], *reward], [base["entropy_nats"], *entropy]
        axes.plot(entropy, reward, color=colour, linewidth=1.2, alpha=0.8, label=name)
        axes.plot(entropy[-1:], reward[-1:], "o", color=colour)
    if base["entropy_nats"] is not None:
        axes.plot([base["entropy_nats"]], [base["correct"]], "kx", label="base")
    axes.set(
        xlabel="entropy of the correct answers (nats)",
        ylabel="share of correct completions",
        title="Reward against diversity",
    )
    axes.legend(frameon=False, fontsize="small")


def draw_final_shares(axes: Axes, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Stacked shares of the answers of each model."""
    answers = [key for key in rows[0][1] if key.startswith("share/")]
    left = [0.0] * len(rows)
    for colour, key in zip(COLOURS, answers, strict=False):
        values = [row[key] for _, row in rows]
        axes.barh(range(len(rows)), values, left=left, color=colour, label=key.replace("share/", "answer "))
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set(xlabel="share of completions", xlim=(0, 1), title="Answers at the end")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(answers))


def smoothed(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Means of `key` over `SMOOTHING` consecutive steps that have it, and the last step of each."""
    rows = [row for row in metrics if row.get(key) is not None]
    last = range(SMOOTHING - 1, len(rows))
    means = [sum(row[key] for row in rows[i - SMOOTHING + 1 : i + 1]) / SMOOTHING for i in last]
    return [rows[i]["step"] for i in last], means


# --- an evaluation -------------------------------------------------------------------------------------------

LABELS = {
    "reward_in": "reward, in distribution",
    "reward_out": "reward, out of distribution",
    "ead": "EAD",
    "semantic_diversity": "semantic diversity",
    "distinct": "distinct",
    "utility": "utility",
    "answer_entropy_nats": "answer entropy, nats",
}


def report_evaluation(run: Run, columns: Sequence[Column], summary: Mapping[str, Any]) -> None:
    """The table, the choices that its figures rest on, and figure.png."""
    console.print(evaluation_table(columns, summary.get("difference")))
    for name, choice in summary["choices"].items():
        run.say(f"{name}: {choice}")
    draw_evaluation(columns, run.folder / "figure.png")


def measured(columns: Sequence[Column]) -> list[str]:
    """The measures that some column has."""
    names = [key.removesuffix("/mean") for key in columns[0].overall if key.endswith("/mean")]
    return [name for name in names if any(column.overall[f"{name}/mean"] is not None for column in columns)]


def evaluation_table(columns: Sequence[Column], difference: Mapping[str, float | None] | None) -> Table:
    """One row a measure: mean over prompts ± bootstrap standard error, and the number of prompts that have it."""
    table = Table(title=f"Mean ± standard error over {len(columns[0].prompts)} prompts", title_justify="left")
    table.add_column("measure", no_wrap=True)
    for column in columns:
        table.add_column(column.name, justify="right", overflow="fold")
    if difference is not None:
        table.add_column("difference", justify="right", no_wrap=True)
    for name in measured(columns):
        cells = [with_error(column.overall, name, len(column.prompts)) for column in columns]
        cells += [] if difference is None else [with_error(difference, name, len(columns[0].prompts))]
        table.add_row(LABELS.get(name, name), *cells)
    return table


def with_error(overall: Mapping[str, float | None], name: str, prompts: int) -> str:
    value, error, count = (overall[f"{name}/{part}"] for part in ("mean", "se", "prompts"))
    text = "-" if value is None else f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"
    return text if value is None or count == prompts else f"{text} (of {count:g})"


def draw_evaluation(columns: Sequence[Column], path: Path) -> None:
    """A panel a measure: every prompt a dot, the mean over prompts with its standard error beside them."""
    names = measured(columns)
    width = min(len(names), 5)
    height = -(-len(names) // width)
    figure, panels = plt.subplots(
        height, width, figsize=(2.4 * width, 2.9 * height), layout="constrained", squeeze=False
    )
    for axes, name in zip(panels.flat, names, strict=False):
        for place, (colour, column) in enumerate(zip(COLOURS, columns, strict=False)):
            values = [row[name] for row in column.prompts.values() if not math.isnan(row[name])]
            spread = [place - 0.3 + 0.4 * (i + 0.5) / len(values) for i in range(len(values))]
            axes.plot(spread, values, ".", color=colour, alpha=0.4, markersize=4)
            mean, error = column.overall[f"{name}/mean"], column.overall[f"{name}/se"]
            if mean is not None:
                axes.errorbar(place + 0.3, mean, yerr=error or 0, fmt="o", color=colour, capsize=4)
        axes.set(title=LABELS.get(name, name), xticks=[], xlim=(-0.5, len(columns) - 0.5))
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    if len(columns) > 1:
        handles = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in COLOURS[: len(columns)]]
        figure.legend(handles, [column.name for column in columns], loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
