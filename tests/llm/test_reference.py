"""Completions of the reference that are kept over a run, and the divergence measured on them."""

import copy

import pytest
import torch

from core.objective import make_objective
from launch.engines.factory import make_engine
from llm.batch import BatchSettings, draw_batch
from llm.inference.logprobs import completion_logp
from llm.microbatch import MicroBatchLimits
from llm.reference import draw_reference_samples, samples_under_policy
from llm.train import make_learner, train_step

SMALL = ("group_size=4", "prompts_per_step=3", "max_new_tokens=4", "steps=3", "threads=null", "objective.beta=.1")


@pytest.fixture
def moved(models):
    """Models whose policy has left the reference, with a quarter of the bytes as EOS."""
    policy = copy.deepcopy(models.policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return models._replace(policy=policy, eos_ids=torch.arange(64))


def drawn(models, task, config, count=5, micro_batch=2):
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    limits = MicroBatchLimits(micro_batch)
    samples = draw_reference_samples(models, engine, limits, task, BatchSettings.from_config(config), count)
    return samples, samples_under_policy(engine, limits, samples)


def test_the_samples_depend_on_the_seed_only_and_have_the_models_log_probabilities(moved, odd_length, make_config):
    config = make_config(*SMALL)
    samples, policy_logp = drawn(moved, odd_length, config)
    prompts, tokens, mask = samples.completions
    assert len(tokens) == 6  # at least 5, as many for each of 3 prompts
    for model, logp in ((moved.policy, policy_logp), (moved.reference, samples.ref_seq_logp)):
        with torch.no_grad():
            expected = completion_logp(model, prompts, tokens, mask).sum(-1)
        torch.testing.assert_close(logp, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(policy_logp, samples.ref_seq_logp, atol=1e-2)  # control
    again, _ = drawn(
        moved._replace(policy=copy.deepcopy(moved.reference).requires_grad_()), odd_length, config, micro_batch=6
    )
    assert torch.equal(again.completions.tokens, tokens)
    other, _ = drawn(moved, odd_length, make_config(*SMALL, "seed=1"))
    assert not torch.equal(other.completions.tokens, tokens)


@pytest.mark.parametrize("direction", ["forward", "jensen_shannon"])
def test_a_step_reports_the_divergence_of_the_policy_before_its_update(moved, odd_length, make_config, direction):
    config = make_config(*SMALL, f"objective.direction={direction}", "optimizer.lr=.1")
    samples, policy_logp = drawn(moved, odd_length, config)
    engine = make_engine("torch", moved.policy, config.optimizer, config.steps)
    objective = make_objective(**config.objective_arguments())
    learner = make_learner(config, odd_length, moved, engine)._replace(kl_samples=samples)
    batch = draw_batch(BatchSettings.from_config(config), moved, odd_length, step=0)
    result = train_step(learner, objective, batch, 0.1)
    own = result.policy_seq_logp, result.ref_seq_logp
    expected = objective.measure_divergence(own, (policy_logp, samples.ref_seq_logp))
    for name, value in expected.items():
        assert float(result.metrics[name]) == pytest.approx(float(value), rel=1e-4)
    assert result.kl == pytest.approx(float(expected[f"kl/{direction}_from_reference_nats"]), rel=1e-4)
    assert result.kl != pytest.approx(float(result.metrics[f"kl/{direction}_nats"]), rel=1e-2)  # control
    after = samples_under_policy(engine, learner.limits, samples)
    assert not torch.allclose(after, policy_logp, atol=1e-2)  # control: the update moved it


def test_no_samples_are_drawn_for_the_reverse_kl(moved, odd_length, make_config):
    reverse, forward = make_config(*SMALL), make_config(*SMALL, "objective.direction=forward")
    assert (reverse.objective.measured_on, forward.objective.measured_on) == (0, 32)
    settings = BatchSettings.from_config(reverse)
    engine = make_engine("torch", moved.policy, reverse.optimizer, 1)
    assert draw_reference_samples(moved, engine, MicroBatchLimits(2), odd_length, settings, 0) is None
