"""Figures of a run and of a sweep: answers over training, reward against diversity, and the answers at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from launch.analysis.artifacts import fold_curves
from launch.analysis.figures import (
    draw_base_line,
    draw_base_point,
    draw_line,
    draw_point,
    integer_ticks,
    note_if_empty,
    panels,
    plain_label,
    save_figure,
    smoothed,
    smoothing_text,
    smoothing_window,
)
from launch.analysis.labels import method_label, metric_label
from launch.analysis.palette import BASE, GREY, Style, category_colours, method_colours
from launch.analysis.sweep_runs import SweepRow, run_method
from launch.analysis.uncertainty import standard_error

Metrics = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
MAX_ERROR_BARS = 4  # parts of a bar, above which their errors are not shown
SOLID = "#444444"  # of a curve that belongs to no method and no answer


class DrawnRuns(NamedTuple):
    """Runs that differ only in the seed, as they are drawn."""

    label: str
    style: Style
    metrics: Sequence[Metrics]


def draw_run(folder: Path, metrics: Metrics, base: Mapping[str, Any]) -> Path:
    """Write the figure of one run: its curves, and reward against diversity."""
    method = run_method(folder)
    style = Style(method_colours([method])[method], "-", "o")
    figure, grid = panels(1, 2, (4.6, 3.6))
    draw_training(grid[0, 0], metrics, base)
    draw_pareto(grid[0, 1], [DrawnRuns(method_label(method), style, [metrics])], base)
    return save_figure(figure, folder / "figure.png")


def draw_sweep(rows: Sequence[SweepRow], base: Mapping[str, Any], path: Path) -> Path:
    """Write the figure of a sweep: reward against diversity, and the answers at the end."""
    figure, grid = panels(1, 2, (5.6, max(3.8, 1.6 + 0.42 * (len(rows) + 1))))
    drawn = [DrawnRuns(row.label, row.style, [run.metrics for run in row.runs]) for row in rows]
    draw_pareto(grid[0, 0], drawn, base)
    final = [("base", [base]), *((row.label, [run.summary for run in row.runs]) for row in rows)]
    draw_final(grid[0, 1], final)
    return save_figure(figure, path)


def draw_training(axes: Axes, metrics: Metrics, base: Mapping[str, Any]) -> None:
    """Plot the metrics of the task over training. Dotted lines: the base model, for metrics that are comparable.

    Curves: shares of the listed answers; or correct share, coverage and share of the most common answer in a group;
    or, if correctness is not defined, the reward and the share of the most common answer.
    """
    keys = ["correct", *(key for key in base if key.startswith("share/"))]
    if len(keys) == 1:
        keys += ["coverage", "answers/top_share"]
    logged = {key for row in metrics for key in row}
    keys = [key for key in keys if key in logged]
    others = iter(category_colours(max(len(keys) - 1, 1)))
    for key in keys:
        style = Style(SOLID if key == "correct" else next(others), "-", "o")
        steps, values = smoothed(metrics, key)
        comparable = key == "correct" or key.startswith("share/")
        if comparable:
            steps, values = [0, *steps], [base[key], *values]
            draw_base_line(axes, base[key], label="", colour=style.colour)
        draw_line(axes, steps, values, style, metric_label(key))
    window = smoothing_text([len(metrics)])
    axes.set(xlabel=f"step{window}", ylabel="share", ylim=(-0.02, 1.02), title="Answers (dotted: base)")
    if "correct" not in base:
        right = axes.twinx()
        steps, values = smoothed(metrics, "reward/raw")
        draw_line(right, [0, *steps], [base["reward/mean"], *values], Style(BASE, "-", "s"), "reward")
        right.set(ylabel="reward")
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        axes.set(title="Reward (right) and answers")
        right.legend(loc="lower right")
    integer_ticks(axes)
    note_if_empty(axes, "no metric of the answers was logged")
    if keys:
        axes.legend()


def draw_pareto(axes: Axes, rows: Sequence[DrawnRuns], base: Mapping[str, Any]) -> None:
    """Plot correct share, or reward if correctness is not defined, against entropy of the answers in a group.

    Each row is a curve over training, averaged over its seeds, that ends in a dot with their standard errors. It
    starts at the base model (cross) if the base model's metrics are comparable with those of a group.
    """
    reward_key, start = ("correct", "correct") if "correct" in base else ("reward/raw", "reward/mean")
    comparable = base["entropy_nats"] is not None and any(name.startswith("share/") for name in base)
    for label, style, runs in rows:
        keys = ("answers/entropy_nats", reward_key)
        known = [known_rows(metrics, *keys) for metrics in runs]
        (_, *entropy), (_, *reward) = (fold_curves([by_step(rows, key) for rows in known]) for key in keys)
        if not len(entropy[0]):
            continue
        (entropies, x_error), (rewards, y_error) = entropy, reward
        x, y = entropies.tolist(), rewards.tolist()
        if comparable:
            x, y = [base["entropy_nats"], *x], [base[start], *y]
        axes.plot(x, y, color=style.colour, linestyle=style.line, linewidth=1.2, alpha=0.8)
        draw_point(axes, (x[-1], y[-1]), (x_error[-1], y_error[-1]), style, label)
    note_if_empty(axes, "no step has a correct completion" if "correct" in base else "no step has a known answer")
    if comparable:
        draw_base_point(axes, base["entropy_nats"], base[start])
    axes.set(
        xlabel="entropy of the correct answers (nats)" if "correct" in base else metric_label("answers/entropy_nats"),
        ylabel="share of correct completions" if "correct" in base else "reward",
        title="Reward against diversity",
    )
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def by_step(metrics: Metrics, key: str) -> dict[float, float]:
    """A smoothed metric by step, without the first steps, whose means are over fewer steps and therefore noisy."""
    first = smoothing_window(len(metrics)) - 1
    return dict(list(zip(*smoothed(metrics, key), strict=True))[first:])


def known_rows(metrics: Metrics, *keys: str) -> Metrics:
    """The steps at which all of the metrics are defined."""
    return [row for row in metrics if all(row.get(key) is not None for key in keys)]


def draw_final(axes: Axes, rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Bars of each model after training: stacked shares of the listed answers, or coverage, or answer entropy.

    Args:
        axes: to draw in.
        rows: models by name with the summaries of their seeds; the first is the base model. The bars are means over
            the seeds; a whisker is the standard error of where a part ends.
    """
    base = rows[0][1][0]
    keys = [key for key in base if key.startswith("share/")]
    keys = keys or ["coverage" if "coverage" in base else "entropy_nats"]
    left = np.zeros(len(rows))
    ends = [np.zeros(len(summaries)) for _, summaries in rows]  # of the bars drawn so far, in each seed
    colours = category_colours(len(keys)) if len(keys) > 1 else [GREY]
    for colour, key in zip(colours, keys, strict=True):
        seeds = [np.array([summary[key] or 0.0 for summary in summaries]) for _, summaries in rows]
        ends = [end + each for end, each in zip(ends, seeds, strict=True)]
        values = np.array([each.mean() for each in seeds])
        errors = [standard_error(end.tolist()) for end in ends]
        axes.barh(
            range(len(rows)),
            values,
            left=left,
            color=colour,
            edgecolor="white",
            linewidth=0.5,
            label=plain_label(metric_label(key)),
            xerr=errors if len(keys) <= MAX_ERROR_BARS and np.isfinite(errors).any() else None,
            ecolor="#222222",
        )
        left = left + values
    axes.set_yticks(range(len(rows)), [plain_label(name) for name, _ in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if keys == ["entropy_nats"]:
        axes.set(xlabel=metric_label("entropy_nats"), title="Diversity after training")
    else:
        axes.set(xlabel="share of completions" if len(keys) > 1 else "share of the right answers", xlim=(0, 1))
        axes.set(title="Answers after training")
    if len(keys) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(len(keys), 4))
