"""Families of policies: categorical, Gaussian, and several of them in one module."""

import pytest
import torch

from didactic.families import Categorical, Gaussian, Policies

POSITION = torch.linspace(-6, 6, 121, dtype=torch.float64)


def normal_logp(mean, std):
    return torch.distributions.Normal(mean, std).log_prob(POSITION).log_softmax(-1)


STARTS = torch.stack([normal_logp(0.5, 1.0), normal_logp(-1.0, 0.7), normal_logp(1.0, 0.5)])


def test_a_categorical_policy_begins_at_any_distribution():
    start = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    policies = Categorical(start, torch.arange(5))
    torch.testing.assert_close(policies(), start)
    policies.logits.data += 3.0  # a constant changes nothing
    torch.testing.assert_close(policies(), start)


def test_a_gaussian_policy_begins_with_the_moments_of_its_start():
    policies = Gaussian(STARTS, POSITION)
    assert policies.mean.tolist() == pytest.approx([0.5, -1.0, 1.0], abs=1e-6)
    assert policies.log_std.exp().tolist() == pytest.approx([1.0, 0.7, 0.5], abs=1e-6)
    torch.testing.assert_close(policies().exp(), STARTS.exp(), atol=1e-8, rtol=0)
    bimodal = (STARTS[1].exp() + STARTS[2].exp()).log() - torch.tensor(2.0).log()
    assert (Gaussian(bimodal.unsqueeze(0), POSITION)().exp() - bimodal.exp()).abs().max() > 0.01  # control


def test_policies_keep_the_order_of_their_cells():
    families = ["gaussian", "categorical", "gaussian"]
    policies = Policies(families, STARTS, POSITION)
    assert policies.rows == {"gaussian": [0, 2], "categorical": [1]}
    torch.testing.assert_close(policies().exp(), STARTS.exp(), atol=1e-8, rtol=0)
    gradients = torch.autograd.grad(policies()[1].square().sum(), list(policies.parameters()), allow_unused=True)
    by_name = dict(zip([name for name, _ in policies.named_parameters()], gradients, strict=True))
    assert by_name["parts.categorical.logits"].abs().max() > 0
    assert not by_name["parts.gaussian.mean"].any()  # the policies do not influence each other
