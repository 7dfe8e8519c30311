"""What samples the completions of a step: the policy itself, and the check of a sampler's weights."""

import math

import pytest
import torch

from conf.schema.base import ConfigError
from launch.engines.factory import make_engine
from llm.batch import BatchSettings, draw_batch
from llm.inference.sampling import sample
from llm.rollout.base import LocalSampler, check_gap


def test_the_policy_samples_with_the_uniforms_of_the_step(models, odd_length, make_config):
    config = make_config("group_size=3", "prompts_per_step=2", "max_new_tokens=5", "threads=null")
    sampler = LocalSampler(models, make_engine("torch", models.policy, config.optimizer, 1))
    batch = draw_batch(BatchSettings.from_config(config), models, odd_length, 0)
    rollout, logp = sampler.sample_step(batch)
    expected = sample(models.policy, batch.prompts, batch.uniforms, group_size=3, **models.ends())
    assert torch.equal(rollout.tokens, expected.tokens)
    assert logp is None
    assert sampler.state_dict() == {}
    again, _ = sampler.sample(batch.prompts, 1 - batch.uniforms, 3)
    assert again.tokens.tolist() != rollout.tokens.tolist()  # control: other numbers, other completions
    with sampler.running(None):
        pass


def test_a_sampler_with_other_weights_stops_the_run():
    metrics = {"rollout/token_gap_nats": torch.tensor(0.6)}
    with pytest.raises(ConfigError, match=r"differ by 0\.6 nats on average.*more than rollout\.max_gap=0\.5: "):
        check_gap(metrics, 0.5)
    check_gap(metrics, 0.7)
    check_gap(metrics, math.inf)
    check_gap({}, 0.5)
