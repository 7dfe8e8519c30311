"""Figures of trained policies and their exact targets, in the style of the paper's figures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from didactic.outcomes import Outcome, mode_switches
from didactic.problems import Problem
from launch.analysis.figures import draw_line, integer_ticks, legend_below, panels, save_figure
from launch.analysis.labels import DIRECTIONS, TRANSFORMS
from launch.analysis.palette import GREEN, GREY, Style, method_colours, method_name

BetaHistory = Sequence[Sequence[float]]  # beta of each cell, by step


def draw_figure(problem: Problem, outcomes: Sequence[Outcome], beta_history: BetaHistory, path: Path) -> None:
    """Draw the figure of a run as PNG."""
    drawings: dict[str, Callable[[Problem, Sequence[Outcome], BetaHistory], Figure]] = {
        "table": draw_table,
        "two_bumps": draw_switch,
        "bimodal": draw_families,
    }
    figure = drawings.get(problem.name, draw_curves)(problem, outcomes, beta_history)
    save_figure(figure, path)


def draw_curves(problem: Problem, outcomes: Sequence[Outcome], beta_history: BetaHistory) -> Figure:
    """Figure 5: one panel per direction, beta and schedule, with the policies and their targets.

    If beta changes during training, a last panel shows it over the steps.
    """
    shown = dict.fromkeys(_panel(o) for o in outcomes)
    directions = list(dict.fromkeys(direction for direction, _ in shown))
    columns = list(dict.fromkeys(column for _, column in shown))
    beta_changes = any(len(set(betas)) > 1 for betas in zip(*beta_history, strict=True))
    width = len(columns) + beta_changes
    figure, grid = panels(len(directions), width, (4.4, 3.2))
    for row, direction in enumerate(directions):
        for column, settings in enumerate(columns):
            axes = grid[row][column]
            in_panel = [o for o in outcomes if _panel(o) == (direction, settings)]
            _draw_reference(axes, problem, in_panel[0])
            for outcome in in_panel:
                _draw_policy(axes, problem, outcome)
            axes.set(title=f"{direction_name(direction)}, {settings}", xlabel="outcome", ylabel="probability")
            axes.set_ylim(bottom=0)
    if beta_changes:
        _draw_betas(grid[0][-1], outcomes, beta_history)
        for axes in grid[1:, -1]:
            axes.set_axis_off()
    legend_below(figure, *grid[:, : len(columns)].flat)
    return figure


def outcome_colour(outcome: Outcome) -> str:
    """The colour of the method of an outcome."""
    config = outcome.cell.config
    keys = {"transform.name": config.transform.name, "objective.direction": config.objective.direction}
    method = method_name(keys)
    return method_colours([method])[method]


def outcome_name(outcome: Outcome) -> str:
    """The method of an outcome in words."""
    config = outcome.cell.config
    return f"{transform_name(config.transform.name)}, {direction_name(config.objective.direction)}"


def transform_name(name: str) -> str:
    """A reward transform in words."""
    return TRANSFORMS.get(name, name)


def direction_name(name: str) -> str:
    """A divergence in words."""
    return DIRECTIONS.get(name, name)


def _panel(outcome: Outcome) -> tuple[str, str]:
    """Direction (row) and settings (column) of the panel that shows an outcome."""
    config = outcome.cell.config
    schedule = config.beta_schedule.name
    beta = f"beta {config.objective.beta:g}"
    return config.objective.direction, beta if schedule == "constant" else f"{schedule} {beta}"


def _draw_reference(axes: Axes, problem: Problem, outcome: Outcome) -> None:
    axes.fill_between(
        problem.position, problem.ref_logp.exp(), color=GREY, alpha=0.35, linewidth=0, label="reference"
    )
    good = outcome.cell.good()
    if good is not None:
        for start, stop in _stretches(good):
            axes.axvspan(start - 0.5, stop + 0.5, color=GREEN, alpha=0.10, linewidth=0, label="good")


def _draw_policy(axes: Axes, problem: Problem, outcome: Outcome) -> None:
    start = outcome.cell.config.start
    name = outcome_name(outcome) if start == "uniform" else "thin: trained from the reference"
    width = 2.0 if start == "uniform" else 0.9
    colour = outcome_colour(outcome)
    axes.plot(problem.position, outcome.policy, color=colour, linewidth=width, alpha=0.85, label=name)
    if outcome.target is not None and start == "uniform":
        axes.plot(problem.position, outcome.target, "k:", linewidth=1.1, label="exact optimum")


def _stretches(good: torch.Tensor) -> list[tuple[int, int]]:
    """First and last index of each stretch of consecutive True values."""
    indices = good.nonzero().flatten().tolist()
    starts = [i for i in indices if i - 1 not in set(indices)]
    stops = [i for i in indices if i + 1 not in set(indices)]
    return list(zip(starts, stops, strict=True))


def _draw_betas(axes: Axes, outcomes: Sequence[Outcome], beta_history: BetaHistory) -> None:
    for outcome, betas in zip(outcomes, zip(*beta_history, strict=True), strict=True):
        config = outcome.cell.config
        dashes = "-" if config.beta_schedule.name == "adaptive" else "--"
        label = f"{transform_name(config.transform.name)}, {config.beta_schedule.name}"
        draw_line(axes, range(len(betas)), betas, Style(outcome_colour(outcome), dashes, "o"), label)
    axes.set(title="beta over the steps", xlabel="step", ylabel="beta", yscale="log")
    axes.legend()
    integer_ticks(axes)


def draw_table(problem: Problem, outcomes: Sequence[Outcome], beta_history: BetaHistory) -> Figure:
    """Figures 3 and 4: bars over a few outcomes, one panel per cell; crosses mark the exact optimum."""
    directions = list(dict.fromkeys(o.cell.config.objective.direction for o in outcomes))
    columns = max(sum(o.cell.config.objective.direction == d for o in outcomes) for d in directions)
    figure, grid = panels(len(directions), columns, (3.4, 3.0), sharey=True)
    for row, direction in enumerate(directions):
        in_row = [o for o in outcomes if o.cell.config.objective.direction == direction]
        for axes, outcome in zip(grid[row], in_row, strict=False):
            _draw_bars(axes, problem, outcome)
    legend_below(figure, *grid.flat)
    return figure


def _draw_bars(axes: Axes, problem: Problem, outcome: Outcome) -> None:
    config, policy = outcome.cell.config, outcome.policy
    x = torch.arange(len(policy)).double().numpy()
    axes.bar(x - 0.2, problem.ref_logp.exp().numpy(), 0.4, color=GREY, alpha=0.6, label="reference")
    axes.bar(x + 0.2, policy.numpy(), 0.4, color=outcome_colour(outcome), label=outcome_name(outcome))
    if outcome.target is not None:
        axes.plot(x + 0.2, outcome.target, "kx", markersize=7, label="exact optimum")
    for bar, value in zip(x + 0.2, policy, strict=True):
        axes.text(float(bar), float(value) + 0.04, f"{value:.3f}".removeprefix("0"), ha="center", fontsize="small")
    axes.set_xticks(x.tolist(), [f"R = {reward:g}" for reward in problem.reward])
    direction = config.objective.direction
    axes.set(title=f"{direction_name(direction)}, beta {config.objective.beta:g}", ylim=(0, 1.15))
    axes.set_ylabel("probability")


def draw_switch(problem: Problem, outcomes: Sequence[Outcome], beta_history: BetaHistory) -> Figure:
    """Figure 2: policies at several beta for each direction, and which of the two modes they favour."""
    switches = mode_switches(outcomes)
    directions = list(dict.fromkeys(o.cell.objective.direction for o in outcomes))
    count = len(directions) + 1
    figure, grid = panels(1, count, (4.4, 3.6))
    colours = colormaps["viridis"]
    for axes, direction in zip(grid[0], directions, strict=False):
        by_beta = sorted((o for o in outcomes if o.cell.objective.direction == direction), key=lambda o: o.beta)
        for number, outcome in enumerate(by_beta):
            beta_colour = colours(number / max(len(by_beta) - 1, 1) * 0.92)
            axes.plot(problem.position, outcome.policy, color=beta_colour, linewidth=1.6, label=f"{outcome.beta:g}")
            if outcome.target is not None:
                axes.plot(problem.position, outcome.target, "k:", linewidth=0.8)
        axes.fill_between(problem.position, problem.ref_logp.exp(), color=GREY, alpha=0.35, linewidth=0)
        axes.set(title=f"{direction_name(direction)} (dotted: exact)", xlabel="outcome", ylabel="probability")
        axes.set(yscale="log", ylim=(1e-4, 2.0))
        axes.legend(title="beta", fontsize="x-small", ncols=3, loc="upper left")
    a, b = (mode.start for mode in problem.modes)
    last = grid[0][-1]
    lines: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.beta):
        lines.setdefault(outcome_name(outcome), []).append(outcome)
    for label, by_beta in sorted(lines.items(), reverse=True):
        config, colour = by_beta[0].cell.config, outcome_colour(by_beta[0])
        direction, transform = config.objective.direction, config.transform.name
        log_ratio = [float(o.logp[b] - o.logp[a]) for o in by_beta]
        last.plot([o.beta for o in by_beta], log_ratio, "o-", color=colour, label=label)
        predicted = switches.get(direction, {}).get("predicted") if transform == "identity" else None
        if predicted is not None:
            last.axvline(predicted, color=colour, linestyle=":", label=f"predicted switch, {predicted:.3f}")
    last.axhline(0, color="k", linewidth=0.6)
    reward_a, reward_b = float(problem.reward[a]), float(problem.reward[b])
    last.set(xscale="log", xlabel="beta", title="Which mode is favoured")
    last.set_ylabel(f"log pi(R={reward_b:g}) / pi(R={reward_a:g})")
    last.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def draw_families(problem: Problem, outcomes: Sequence[Outcome], beta_history: BetaHistory) -> Figure:
    """Figure 1: the policies of each family under each direction, as densities over the target."""
    families = list(dict.fromkeys(o.cell.config.family for o in outcomes))
    figure, grid = panels(1, len(families), (4.6, 3.4))
    spacing = float(problem.position[1] - problem.position[0])
    titles = {
        "gaussian": "Gaussian: mean and standard deviation",
        "categorical": "Categorical: one logit per outcome",
    }
    for axes, family in zip(grid[0], families, strict=True):
        target = problem.ref_logp.exp() / spacing
        axes.fill_between(problem.position, target, color=GREY, alpha=0.35, linewidth=0, label="target")
        for outcome in outcomes:
            if outcome.cell.config.family == family:
                direction = outcome.cell.objective.direction
                dashes, colour = "-" if direction == "reverse" else "--", outcome_colour(outcome)
                label = direction_name(direction)
                axes.plot(problem.position, outcome.policy / spacing, dashes, color=colour, label=label)
        support = problem.position[target > 1e-6]
        axes.set(title=titles[family], xlabel="x", ylabel="density", xlim=(float(support[0]), float(support[-1])))
        axes.legend()
    return figure
