"""The bandits of the paper's figures."""

import pytest
import torch

from conf.schema.base import ConfigError, check_config
from conf.schema.didactic import PROBLEMS as PROBLEM_NAMES
from conf.schema.didactic import ProblemConfig
from didactic.problems import BIMODAL, PROBLEMS, bimodal_logp, make_problem


def test_every_problem_of_the_schema_is_there():
    assert set(PROBLEMS) == set(PROBLEM_NAMES)


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


def test_a_table_must_be_probabilities_and_rewards():
    assert make_problem(ProblemConfig("table", [0.5, 0.5], [0.0, 1.0])).reward.tolist() == [0, 1]
    for ref, reward in (([0.5, 0.4], [0.0, 1.0]), ([0.5, 0.5], [1.0]), ([1.5, -0.5], [0.0, 1.0]), (None, [1.0])):
        with pytest.raises(ConfigError, match=r"problem\.(ref|reward): must be"):
            check_config(ProblemConfig("table", ref, reward), "problem.")


def test_the_bimodal_density_is_its_mixture():
    x = torch.linspace(-9, 9, 37, dtype=torch.float64)
    density = sum(weight * torch.distributions.Normal(mean, std).log_prob(x).exp() for weight, mean, std in BIMODAL)
    torch.testing.assert_close(bimodal_logp(x).exp(), density)
    problem = make_problem(ProblemConfig("bimodal"))
    left, right = (float(problem.ref_logp[mode].exp().sum()) for mode in problem.modes)
    assert (left, right) == (pytest.approx(0.7, abs=0.01), pytest.approx(0.3, abs=0.01))
    assert not problem.reward.any()
