"""Training a grid: cells do not influence each other, and a run writes what it learned."""

import json
from unittest.mock import patch

import pytest
import torch
from omegaconf import OmegaConf

from didactic.cells import exact_loss, sampled_loss
from didactic.train import cell_metrics, make_policies, next_betas, sampled_losses, train_grid
from launch.engines.factory import make_engine
from launch.runs.rng import torch_generator
from launch.runs.run import Run

from .grids import compose_config, make_grid


def train_steps(*overrides):
    config, cells = make_grid("experiment=figure4", "family=[categorical]", *overrides)
    policies = make_policies(cells, cells[0].problem)
    engine = make_engine("torch", policies, config.optimizer, config.steps)
    for _ in range(5):
        betas = [cell.config.objective.beta for cell in cells]
        engine.backward(exact_loss(cells, policies(), betas).sum())
        engine.step()
    return policies().detach()


def test_cells_trained_together_are_cells_trained_alone():
    """A step on the grid gives each cell the parameters of its own step."""
    together = train_steps()  # reverse, forward x .01, 1
    alone = [
        train_steps(f"objective.direction={d}", f"objective.beta={b}")
        for d in ("reverse", "forward")
        for b in (0.01, 1)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)
    assert not torch.allclose(together[0], together[1])


def test_an_adaptive_beta_uses_the_divergence_of_each_cell():
    _, cells = make_grid("experiment=ablation", "objective.beta=.1")
    logp = torch.stack([cell.problem.ref_logp for cell in cells])  # divergence 0: below any budget
    betas = next_betas(cells, logp, [0.1] * len(cells), 0)
    expected = [0.098 if cell.config.beta_schedule.name == "adaptive" else 0.1 for cell in cells]
    assert betas == pytest.approx(expected)


def test_rewards_wider_than_the_range_of_the_cap_are_told_once(tmp_path):
    def warnings(folder, *overrides):
        options = ("experiment=figure4", "gradient=sampled", "samples=8", "objective.direction=forward", "steps=2")
        composed = compose_config(*options, "objective.beta=[.1,1]", *overrides)
        report = patch("didactic.train.report_run")
        with Run(folder, "didactic", composed, []) as run, patch.object(run, "warn") as warn, report:
            train_grid(OmegaConf.to_object(composed), run)
        return [call.args[0] for call in warn.call_args_list]

    (warning,) = warnings(tmp_path / "a", "objective.reward_range=.5")
    assert warning.startswith("objective.reward_range: the rewards of a step range over 1, more than 0.5; set it")
    assert warnings(tmp_path / "b") == []  # control


def test_each_cell_samples_from_its_own_stream():
    config, cells = make_grid("experiment=figure4", "gradient=sampled", "samples=32", "objective.beta=[.1,.1001]")
    logp = torch.stack([cell.start_logp() for cell in cells])
    betas = [cell.config.objective.beta for cell in cells]
    losses = sampled_losses(config, cells, logp, betas, 7)
    assert torch.equal(losses, sampled_losses(config, cells, logp, betas, 7))
    assert not torch.equal(losses, sampled_losses(config, cells, logp, betas, 8))
    uniforms = torch.rand(32, generator=torch_generator(config.seed, "rollout", 7, 1), dtype=torch.float64)
    torch.testing.assert_close(losses[1], sampled_loss(cells[1], logp[1], betas[1], uniforms)[0])


def test_metrics_are_labelled_if_there_are_several_cells():
    _, cells = make_grid("experiment=figure4", "objective.direction=reverse", "objective.beta=[.1,.2]")
    logp = torch.stack([cell.start_logp() for cell in cells])
    metrics = cell_metrics(cells, logp, [0.1, 0.2])
    assert (metrics["beta=0.1/beta"], metrics["beta=0.2/beta"]) == (0.1, 0.2)
    assert metrics["beta=0.1/reward/raw"] == metrics["beta=0.2/reward/raw"]
    assert set(cell_metrics(cells[:1], logp[:1], [0.1])) == {
        name.removeprefix("beta=0.1/") for name in metrics if name.startswith("beta=0.1/")
    }


@pytest.mark.parametrize("gradient", ["exact", "sampled"])
def test_a_run_ends_near_its_target(tmp_path, gradient):
    options = [f"gradient={gradient}", "steps=200", "log_every=50", "samples=256", "optimizer.lr=0.05"]
    config = compose_config("experiment=bandit", *options)
    with Run(tmp_path, "didactic", config, options) as run:
        train_grid(OmegaConf.to_object(config), run)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (cell,) = summary["cells"]
    tolerance = 0.01 if gradient == "exact" else 0.05
    assert cell["total_variation"] < tolerance
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 50, 100, 150, 199]
    assert abs(lines[0]["reward/raw"] - cell["reward"]) > tolerance  # control: it began elsewhere
    assert (tmp_path / "figure.png").stat().st_size > 5000
