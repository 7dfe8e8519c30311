"""The problems, the cells and their gradients."""

import math

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import ConfigError, check_config
from conf.schema.didactic import ProblemConfig
from core.divergences import exact_forward_kl, exact_reverse_kl
from core.stats import coefficient_of_variation
from didactic.cells import draw, exact_loss, make_cells, sampled_loss
from didactic.gaussian import forward_kl, minimisers, moments, reverse_kl
from didactic.problems import make_problem
from didactic.train import make_policies, next_betas
from launch.cli.groups import CONF
from launch.cli.validation import register


def make_config(*overrides):
    register("didactic")
    with initialize_config_module("conf.didactic", version_base="1.3"):
        return OmegaConf.to_object(compose("config", overrides=list(overrides)))


def grid(*overrides):
    config = make_config(*overrides)
    return config, make_cells(config, make_problem(config.problem))


def test_the_problems_are_the_papers():
    bumps = make_problem(ProblemConfig("two_bumps"))
    a, b = (mode.start for mode in bumps.modes)
    assert [float(bumps.ref_logp[i]) for i in (a, b)] == pytest.approx([-4.05, -5.95])
    assert [float(bumps.reward[i]) for i in (a, b)] == pytest.approx([0.75, 1.0])
    plateaus = make_problem(ProblemConfig("plateaus"))
    ref = plateaus.ref_logp.exp()
    assert float(ref[0]) == pytest.approx(0.05, abs=0.002)
    assert float(ref[99]) < 1e-8
    assert plateaus.reward.sum() == 50
    assert plateaus.reward[24] == 1
    assert plateaus.reward[25] == 0
    shares = [float(ref[mode].sum()) for mode in plateaus.modes]
    assert shares[0] / sum(shares) == pytest.approx(0.96, abs=0.005)  # 96:4
    for name in ("two_bumps", "plateaus", "bimodal"):
        logp = make_problem(ProblemConfig(name)).ref_logp
        assert float(logp.logsumexp(-1)) == pytest.approx(0, abs=1e-12)


def test_lists_combine_into_cells():
    _, cells = grid("experiment=figure5")
    assert len(cells) == 2 * 2 * 2 * 2
    assert len({cell.label for cell in cells}) == len(cells)
    _, narrowed = grid("experiment=figure5", "objective.beta=.3", "transform=mara", "start=uniform")
    assert [cell.config.objective.beta for cell in narrowed] == [0.3, 0.3]
    assert {cell.config.transform.name for cell in narrowed} == {"mara"}
    assert [cell.label for cell in narrowed] == ["reverse", "forward"]
    _, ablation = grid("experiment=ablation")
    pairs = {(cell.config.transform.name, cell.config.beta_schedule.name) for cell in ablation}
    assert pairs == {(t, s) for t in ("identity", "mara") for s in ("constant", "adaptive")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.beta=[.1,-1]", r"objective\.beta: must be finite and >= 0, got -1"),
        ("objective.beta=[]", r"objective\.beta: must be a value or a list"),
        ("objective.beta=[.1,.1]", r"objective\.beta: must not repeat"),
        ("objective.direction=[reverse,sideways]", r"objective\.direction: must be one of"),
        ("start=nowhere", r"start: must be one of"),
        ("objective.placement=loss", r"objective\.placement: only used with gradient=sampled"),
        ("advantage=centred", r"advantage: only used with gradient=sampled"),
        ("problem.ref=[.5,.5]", r"problem\.name: must be table"),
        ("samples=1", r"samples: must be >= 2"),
    ],
)
def test_mistakes_name_their_key(override, message):
    with pytest.raises((ConfigError, OmegaConfBaseException), match=message):
        make_config(override)
    make_config()  # its legal neighbour


@pytest.mark.parametrize("figure", [f"figure{n}" for n in range(1, 6)])
def test_each_cell_of_a_figure_is_an_experiment(figure):
    """Together the files of a figure are its grid, each a single cell of it."""
    folder = CONF / "didactic" / "experiment" / figure
    found = []
    for path in folder.glob("*.yaml"):
        (cell,) = make_config(f"experiment={figure}/{path.stem}").cells()
        found.append(cell)
    grid_of_figure = make_config(f"experiment={figure}").cells()
    assert len(found) == len(grid_of_figure)
    assert all(found.count(cell) == 1 for cell in grid_of_figure)
    assert make_config("experiment=bandit").cells()[0] not in grid_of_figure  # control


def test_a_table_must_be_probabilities_and_rewards():
    assert make_problem(ProblemConfig("table", [0.5, 0.5], [0.0, 1.0])).reward.tolist() == [0, 1]
    for ref, reward in (([0.5, 0.4], [0.0, 1.0]), ([0.5, 0.5], [1.0]), ([1.5, -0.5], [0.0, 1.0]), (None, [1.0])):
        with pytest.raises(ConfigError, match=r"problem\.(ref|reward): must be"):
            check_config(ProblemConfig("table", ref, reward), "problem.")


def test_the_exact_loss_is_minus_the_objective_written_out():
    _, cells = grid("experiment=figure4", "transform=both", "objective.beta=.3", "objective.entropy_coef=.2")
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
    _, cells = grid("experiment=figure4", "transform=both", "objective.beta=[.05,.5]")
    for cell in cells:
        beta = cell.config.objective.beta
        for logits, vanishes in ((cell.target(beta).log(), True), (cell.start_logp(), False)):
            logits = logits.clone().requires_grad_()
            (grad,) = torch.autograd.grad(
                exact_loss([cell], logits.log_softmax(-1).unsqueeze(0), [beta]).sum(), logits
            )
            assert (grad.abs().max() < 1e-9) == vanishes


def test_the_sampled_gradient_averages_to_the_exact_one():
    config, (cell,) = grid("experiment=figure4", "objective.direction=reverse", "objective.beta=.3", "samples=64")
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


def test_draws_follow_the_probabilities():
    probability = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.bincount(draw(probability, uniforms), minlength=4).tolist() == [200, 0, 500, 300]


def test_cells_trained_together_are_cells_trained_alone():
    """One optimiser step on the grid gives each cell the parameters of its own step."""
    from launch.engines.factory import make_engine

    def stepped(*overrides):
        config, cells = grid("experiment=figure4", "family=[categorical]", *overrides)
        policies = make_policies(cells, cells[0].problem)
        engine = make_engine("torch", policies, config.optimizer, config.steps)
        for _ in range(5):
            betas = [cell.config.objective.beta for cell in cells]
            engine.backward(exact_loss(cells, policies(), betas).sum())
            engine.step()
        return policies().detach()

    together = stepped()  # reverse, forward x .01, 1
    alone = [
        stepped(f"objective.direction={d}", f"objective.beta={b}") for d in ("reverse", "forward") for b in (0.01, 1)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)
    assert not torch.allclose(together[0], together[1])


def test_algorithm_1_under_forward_kl_piles_onto_the_rarest():
    """The control of Algorithm 2's being the default: its exact target is far from uniform."""
    variation = {}
    for algorithm in (1, 2):
        options = ("objective.direction=forward", "objective.beta=1.0", f"transform.algorithm='{algorithm}'")
        _, (cell,) = grid("transform=mara", *options)
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
def test_what_is_no_expected_reward_trains_on_samples_and_has_no_target(options):
    sampled = ("experiment=bandit", "gradient=sampled", "samples=8")
    _, (cell,) = grid(*sampled, *options)
    assert cell.target(0.1) is None
    assert "reward/augmented" not in cell.metrics(cell.start_logp(), 0.1)
    logp = cell.start_logp().clone().requires_grad_()
    loss, _ = sampled_loss(cell, logp, 0.1, torch.rand(8, generator=torch.Generator().manual_seed(0)).double())
    assert float(torch.autograd.grad(loss, logp)[0].abs().max()) > 0
    _, (vanilla,) = grid(*sampled)  # control
    assert vanilla.target(0.1) is not None
    with pytest.raises((ConfigError, OmegaConfBaseException), match="gradient=sampled"):
        grid("experiment=bandit", *options)


def test_adaptive_beta_uses_each_cells_divergence():
    _, cells = grid("experiment=ablation", "objective.beta=.1")
    logp = torch.stack([cell.problem.ref_logp for cell in cells])  # divergence 0: below any budget
    betas = next_betas(cells, logp, [0.1] * len(cells), 0)
    expected = [0.098 if cell.config.beta_schedule.name == "adaptive" else 0.1 for cell in cells]
    assert betas == pytest.approx(expected)


def test_the_gaussian_minimisers():
    exact = moments()
    (forward,) = minimisers("forward")
    assert forward["mean"] == pytest.approx(exact["mean"], abs=1e-4)  # moment matching
    assert forward["std"] == pytest.approx(exact["std"], abs=1e-4)
    best, *_ = minimisers("reverse")
    for mean, std in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert reverse_kl(best["mean"] + mean, best["std"] + std) > best["objective_nats"]
    assert best["objective_nats"] < reverse_kl(exact["mean"], exact["std"])  # it seeks a mode
    assert forward_kl(exact["mean"], exact["std"]) < forward_kl(best["mean"], best["std"])  # the other covers
    x = torch.linspace(-14, 14, 20001, dtype=torch.float64)
    from didactic.problems import bimodal_logp

    q = torch.distributions.Normal(0.3, 1.2).log_prob(x)
    spacing = math.log(28 / 20000)
    p = bimodal_logp(x)
    assert reverse_kl(0.3, 1.2) == pytest.approx(float(exact_reverse_kl(q + spacing, p + spacing)), abs=1e-6)
    assert forward_kl(0.3, 1.2) == pytest.approx(float(exact_forward_kl(q + spacing, p + spacing)), abs=1e-6)
