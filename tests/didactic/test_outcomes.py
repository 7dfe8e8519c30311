"""Where modes switch and Gaussians end, from policies that are exact optima."""

import pytest
import torch

from didactic.outcomes import Outcome, gaussian_fits, mode_switches
from didactic.train import make_policies

from .grids import make_grid, trained_perfectly

FIGURE_2 = "experiment=figure2"


def test_an_outcome_has_its_policy_and_target():
    _, (cell,) = make_grid("experiment=bandit")
    outcome = Outcome(cell, cell.start_logp(), 0.2)
    torch.testing.assert_close(outcome.policy, cell.start_logp().exp())
    torch.testing.assert_close(outcome.target, cell.target(0.2))
    assert not torch.equal(outcome.target, cell.target(0.1))


def test_the_mode_switches_where_the_exact_targets_do():
    _, cells = make_grid(FIGURE_2, "objective.beta=[.05,.1,.13,.14,.2,.5,1.0]")
    switches = mode_switches(trained_perfectly(cells))
    assert set(switches) == {"reverse", "forward"}
    assert switches["reverse"]["predicted"] == pytest.approx(0.132, abs=5e-4)
    assert switches["reverse"]["seen"] == [0.13, 0.14]
    for direction, switch in switches.items():
        low, high = switch["seen"]
        assert low < switch["predicted"] < high
        # A second way: the modes tie at the predicted beta.
        (cell,) = [c for c in cells if c.objective.direction == direction and c.config.objective.beta == 0.1]
        a, b = (mode.start for mode in cell.problem.modes)
        target = cell.target(switch["predicted"])
        assert float(target[a]) == pytest.approx(float(target[b]), rel=1e-3)


def test_policies_that_do_not_switch_once_are_not_seen_to():
    _, cells = make_grid(FIGURE_2, "objective.direction=reverse", "objective.beta=[.05,.06,.5,.6]")
    outcomes = trained_perfectly(cells)
    assert mode_switches(outcomes[:2])["reverse"]["seen"] is None
    mixed = [
        Outcome(outcomes[i].cell, outcomes[j].logp, outcomes[i].beta) for i, j in ((0, 0), (1, 3), (2, 1), (3, 2))
    ]
    assert mode_switches(mixed)["reverse"]["seen"] is None  # it switches three times
    assert mode_switches(outcomes[::-1])["reverse"]["seen"] == [0.06, 0.5]  # control; in any order


def test_there_is_no_formula_for_other_divergences_and_no_switch_with_mara():
    _, cells = make_grid(FIGURE_2, "objective.direction=jensen_shannon", "objective.beta=[.1,.2]")
    assert mode_switches(trained_perfectly(cells))["jensen_shannon"]["predicted"] is None
    _, cells = make_grid(FIGURE_2, "objective.direction=reverse", "objective.beta=[.1,.2]", "transform=mara",
                         "transform.threshold={kind:constant,value:.7}")  # fmt: skip
    assert mode_switches(trained_perfectly(cells)) == {}


def test_gaussians_are_compared_with_the_nearest_minimum():
    _, cells = make_grid("experiment=figure1")
    policies = make_policies(cells, cells[0].problem)
    family = policies.parts["gaussian"]
    with torch.no_grad():
        family.mean.copy_(torch.tensor([1.9, 0.0]))
        family.log_std.copy_(torch.tensor([0.6, 1.0]).log())
        outcomes = [Outcome(cell, row, 1.0) for cell, row in zip(cells, policies(), strict=True)]
    fits = gaussian_fits(outcomes, policies)
    assert set(fits) == {"gaussian/reverse", "gaussian/forward"}
    reverse = fits["gaussian/reverse"]
    assert (reverse["mean"], reverse["std"]) == (pytest.approx(1.9), pytest.approx(0.6))
    assert reverse["minimiser"]["mean"] == pytest.approx(2.0, abs=0.05)  # the smaller mode, which is nearer
    assert reverse["minimiser"] != reverse["all_minima"][0]
    assert "moments" in fits["gaussian/forward"]
    assert "moments" not in reverse
    _, cells = make_grid("experiment=bandit")  # control: no Gaussian
    assert gaussian_fits(trained_perfectly(cells), make_policies(cells, cells[0].problem)) == {}
