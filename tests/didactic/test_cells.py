"""Cells of a grid: their losses, gradients, targets, metrics and schedules."""

import pytest
import torch
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import ConfigError
from core.stats import coefficient_of_variation
from didactic.cells import exact_loss, sample_outcomes, sampled_loss

from .grids import make_grid


def test_lists_combine_into_cells():
    _, cells = make_grid("experiment=figure5")
    assert len(cells) == 2 * 2 * 2 * 2
    assert len({cell.label for cell in cells}) == len(cells)
    _, narrowed = make_grid("experiment=figure5", "objective.beta=.3", "transform=mara", "start=uniform")
    assert [cell.config.objective.beta for cell in narrowed] == [0.3, 0.3]
    assert {cell.config.transform.name for cell in narrowed} == {"mara"}
    assert [cell.label for cell in narrowed] == ["reverse", "forward"]
    _, ablation = make_grid("experiment=ablation")
    pairs = {(cell.config.transform.name, cell.config.beta_schedule.name) for cell in ablation}
    assert pairs == {(t, s) for t in ("identity", "mara") for s in ("constant", "adaptive")}


def test_the_exact_loss_is_minus_the_objective_written_out():
    _, cells = make_grid("experiment=figure4", "transform=both", "objective.beta=.3", "objective.entropy_coef=.2")
    logp = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    losses = exact_loss(cells, logp, [0.3] * 4)
    for cell, row, loss in zip(cells, logp, losses, strict=True):
        reward, ref = cell.transformed(0.3)
        p = row.exp()
        if cell.objective.direction == "reverse":
            divergence = (p * (row - ref)).sum()
        else:
            divergence = (ref.exp() * (ref - row)).sum()
        value = (p * reward).sum() - 0.3 * divergence - 0.2 * (p * row).sum()
        torch.testing.assert_close(loss, -value)
    assert len({round(float(loss), 6) for loss in losses}) == 4  # control: the cells differ


def test_the_target_is_where_the_exact_gradient_vanishes():
    _, cells = make_grid("experiment=figure4", "transform=both", "objective.beta=[.05,.5]")
    for cell in cells:
        beta = cell.config.objective.beta
        for logits, vanishes in ((cell.target(beta).log(), True), (cell.start_logp(), False)):
            logits = logits.clone().requires_grad_()
            (grad,) = torch.autograd.grad(
                exact_loss([cell], logits.log_softmax(-1).unsqueeze(0), [beta]).sum(), logits
            )
            assert (grad.abs().max() < 1e-9) == vanishes


def test_the_sampled_gradient_averages_to_the_exact_one():
    config, (cell,) = make_grid(
        "experiment=figure4", "objective.direction=reverse", "objective.beta=.3", "samples=64"
    )
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    exact = torch.autograd.grad(exact_loss([cell], logits.log_softmax(-1).unsqueeze(0), [0.3]).sum(), logits)[0]
    total, count = torch.zeros(3, dtype=torch.float64), 3000
    for _ in range(count):
        uniforms = torch.rand(config.samples, generator=generator, dtype=torch.float64)
        loss, _ = sampled_loss(cell, logits.log_softmax(-1), 0.3, uniforms)
        total += torch.autograd.grad(loss, logits)[0]
    assert (total / count - exact).abs().max() < 0.01
    assert exact.abs().max() > 0.1  # control: zero would not pass


def test_sampled_outcomes_follow_the_probabilities():
    probability = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.bincount(sample_outcomes(probability, uniforms), minlength=4).tolist() == [200, 0, 500, 300]


def test_algorithm_1_under_forward_kl_concentrates_on_the_rarest():
    """Control for Algorithm 2 as the default: the exact target of Algorithm 1 is far from uniform."""
    variation = {}
    for algorithm in (1, 2):
        options = ("objective.direction=forward", "objective.beta=1.0", f"transform.algorithm='{algorithm}'")
        _, (cell,) = make_grid("transform=mara", *options)
        variation[algorithm] = float(coefficient_of_variation(cell.target(1.0)[cell.good()]))
    assert variation[2] < 1e-9
    assert variation[1] > 1


@pytest.mark.parametrize(
    "options",
    [
        ("transform=darling",),
        ("transform=ucpo",),
        ("transform=unlikely",),
        ("advantage=max_at_k",),
        ("advantage=pass_at_k", "advantage_k=4"),
    ],
)
def test_objectives_that_are_not_expected_rewards_need_samples_and_have_no_target(options):
    sampled = ("experiment=bandit", "gradient=sampled", "samples=8")
    _, (cell,) = make_grid(*sampled, *options)
    assert cell.target(0.1) is None
    assert "reward/augmented" not in cell.metrics(cell.start_logp(), 0.1)
    logp = cell.start_logp().clone().requires_grad_()
    loss, _ = sampled_loss(cell, logp, 0.1, torch.rand(8, generator=torch.Generator().manual_seed(0)).double())
    assert float(torch.autograd.grad(loss, logp)[0].abs().max()) > 0
    _, (vanilla,) = make_grid(*sampled)  # control
    assert vanilla.target(0.1) is not None
    with pytest.raises((ConfigError, OmegaConfBaseException), match="gradient=sampled"):
        make_grid("experiment=bandit", *options)


@pytest.mark.parametrize(
    ("options", "has_target"),
    [
        (("advantage=centred",), True),
        (("advantage=group_normalised",), True),
        (("objective.placement=loss",), True),
        (("advantage=centred", "objective.placement=loss"), False),  # another beta
        (("advantage=group_normalised", "objective.placement=loss"), False),
        (("objective.skip_tied_groups=true", "objective.placement=loss"), False),
        (("objective.direction=forward", "objective.max_log_weight=20"), True),
        (("objective.direction=forward", "objective.max_log_weight=.1"), False),  # the cap applies at the optimum
    ],
)
def test_a_target_is_that_of_the_estimated_gradient(options, has_target):
    """Enumerated for `Objective.has_target` in tests/core. The transformed reward is logged in any case."""
    _, (cell,) = make_grid(
        "experiment=bandit", "gradient=sampled", "samples=8", "objective.direction=reverse", *options
    )
    assert (cell.target(0.1) is not None) == has_target
    assert "reward/augmented" in cell.metrics(cell.start_logp(), 0.1)


def test_metrics_are_those_of_the_policy_written_out():
    _, (cell,) = make_grid("experiment=figure4", "transform=mara", "objective.direction=reverse", "objective.beta=.3")
    logp = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    metrics = cell.metrics(logp, 0.3)
    reward, ref = cell.problem.reward, cell.problem.ref_logp
    good = cell.good()
    expected = {
        "reward/raw": (logp.exp() * reward).sum(),
        "reward/augmented": (logp.exp() * cell.transformed(0.3).reward).sum(),
        "kl/reverse_nats": (logp.exp() * (logp - ref)).sum(),
        "policy/entropy_nats": -(logp.exp() * logp).sum(),
        "mara/good_share": logp.exp()[good].sum(),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value)
    assert not torch.equal(metrics["reward/raw"], metrics["reward/augmented"])


def test_good_outcomes_reach_the_threshold():
    _, (cell,) = make_grid("experiment=figure5", "transform=mara", "objective.beta=.1", "objective.direction=reverse",
                           "start=uniform")  # fmt: skip
    assert cell.good().nonzero().flatten().tolist() == [*range(25), *range(50, 75)]
    _, (vanilla,) = make_grid("experiment=bandit", "transform=identity", "transform.threshold.value=null")
    assert vanilla.good() is None


def test_a_policy_starts_uniform_or_at_the_reference():
    for start in ("uniform", "reference"):
        _, (cell,) = make_grid("experiment=bandit", f"start={start}")
        logp = cell.start_logp()
        expected = cell.problem.ref_logp if start == "reference" else torch.full_like(logp, 1 / len(logp)).log()
        torch.testing.assert_close(logp, expected)


def test_an_adaptive_beta_follows_the_divergence():
    _, cells = make_grid("experiment=ablation", "objective.beta=.1")
    for cell in cells:
        adaptive = cell.config.beta_schedule.name == "adaptive"
        assert (cell.next_beta(0.1, 100.0, 0) > 0.1) == adaptive
        assert (cell.next_beta(0.1, 0.0, 0) < 0.1) == adaptive
