"""Train all cells of a grid side by side and compare them with their exact optima."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conf.schema.didactic import DidacticConfig
from didactic.cells import Cell, exact_loss, make_cells, sampled_loss
from didactic.families import Policies
from didactic.outcomes import Outcome
from didactic.problems import Problem, make_problem
from didactic.report import report_run
from launch.engines.factory import make_engine
from launch.runs.checkpoint import LoopState
from launch.runs.rng import torch_generator
from launch.runs.run import Run


def train_grid(config: DidacticConfig, run: Run) -> None:
    """Make the grid, train it, compare it with its targets and write the report."""
    problem = make_problem(config.problem)
    cells = make_cells(config, problem)
    policies = make_policies(cells, problem)
    engine = make_engine(config.engine.name, policies, config.optimizer, config.steps)
    betas = [cell.config.objective.beta for cell in cells]
    values = LoopState(betas=betas, beta_history=[betas])
    run.register_state(engine=engine, values=values)
    wide = [cell.objective.wide_rewards(problem.reward) for cell in cells if config.gradient == "sampled"]
    for warning in dict.fromkeys(filter(None, wide)):
        run.warn(warning)

    for step in run.steps(config.steps, show={"loss": "loss", "gradient": "grad_norm"}):
        logp = policies()
        if config.gradient == "exact":
            losses = exact_loss(cells, logp, values.betas)
        else:
            losses = sampled_losses(config, cells, logp, values.betas, step)
        engine.backward(losses.sum())
        grad_norm = engine.step()
        if step % config.log_every == 0 or step == config.steps - 1:
            grid_metrics = {"loss": losses.detach().mean(), "grad_norm": grad_norm}
            run.log({**grid_metrics, **cell_metrics(cells, logp.detach(), values.betas)})
        values.betas = next_betas(cells, logp.detach(), values.betas, step)
        values.beta_history.append(values.betas)

    with torch.no_grad():
        logp = policies()
    outcomes = [Outcome(cell, row, beta) for cell, row, beta in zip(cells, logp, values.betas, strict=True)]
    report_run(run, config, problem, outcomes, policies, values.beta_history)


def make_policies(cells: Sequence[Cell], problem: Problem) -> Policies:
    """The policies of all cells before the first step."""
    start = torch.stack([cell.start_logp() for cell in cells])
    return Policies([cell.config.family for cell in cells], start, problem.position)


def sampled_losses(
    config: DidacticConfig, cells: Sequence[Cell], logp: Tensor, betas: Sequence[float], step: int
) -> Tensor:
    """[C] losses, each from samples of a random stream keyed by (seed, step, cell)."""
    losses = []
    for number, (cell, beta) in enumerate(zip(cells, betas, strict=True)):
        generator = torch_generator(config.seed, "rollout", step, number)
        uniforms = torch.rand(config.samples, generator=generator, dtype=torch.float64)
        losses.append(sampled_loss(cell, logp[number], beta, uniforms)[0])
    return torch.stack(losses)


def next_betas(cells: Sequence[Cell], logp: Tensor, betas: list[float], step: int) -> list[float]:
    """Beta of each cell for the step after `step`."""
    return [
        beta
        if cell.config.beta_schedule.name == "constant"
        else cell.next_beta(beta, float(cell.divergence(row)), step)
        for cell, row, beta in zip(cells, logp, betas, strict=True)
    ]


def cell_metrics(cells: Sequence[Cell], logp: Tensor, betas: Sequence[float]) -> dict[str, Tensor | float]:
    """Exact metrics of each policy; with several cells their names begin with the cell's label."""
    metrics: dict[str, Tensor | float] = {}
    for cell, row, beta in zip(cells, logp, betas, strict=True):
        prefix = f"{cell.label}/" if len(cells) > 1 else ""
        metrics |= {f"{prefix}{name}": value for name, value in cell.metrics(row, beta).items()}
        metrics[f"{prefix}beta"] = beta
    return metrics
