"""The learning-rate schedule and the optimiser that all engines share."""

import math

import pytest
import torch

from conf.schema.base import ConfigError
from conf.schema.run import OptimizerConfig
from launch.engines.base import lr_factor, make_adamw, overflow_in_one_line


def test_schedules():
    factors = [lr_factor(step, 10, 4, "constant") for step in range(10)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])
    assert [lr_factor(s, 4, 0, "linear") for s in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert [lr_factor(s, 4, 0, "cosine") for s in range(5)] == pytest.approx(
        [(1 + math.cos(math.pi * s / 4)) / 2 for s in range(5)]
    )


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (3, 5), (20, 7)])
def test_a_factor_is_positive_in_the_run_and_never_above_1(decay, steps, warmup):
    """Warm-ups that are longer than the run included; beyond the last step a decayed factor stays at 0."""
    factors = [lr_factor(step, steps, warmup, decay) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    decayed = factors[warmup:]
    assert decayed == sorted(decayed, reverse=True)
    beyond = [lr_factor(step, steps, warmup, decay) for step in range(max(steps, warmup + 1), steps + 50)]
    assert beyond == pytest.approx([float(decay == "constant")] * len(beyond), abs=1e-12)


def test_adamw_has_the_settings():
    settings = OptimizerConfig(
        lr=0.3, weight_decay=0.2, beta1=0.7, beta2=0.8, warmup_steps=0, decay="constant", max_grad_norm=None
    )
    optimizer = make_adamw([torch.nn.Parameter(torch.ones(2))], settings)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"], group["fused"]) == (0.3, 0.2, (0.7, 0.8), True)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("policy_logp is NaN at [0, 0], which is a valid sample", r"^the log-probabilities .* lower optimizer\.lr"),
        ("another", "^another$"),
    ],
)
def test_log_probabilities_that_overflow_are_one_line(message, expected):
    optimizer = OptimizerConfig(1e30, 0.0, 0.9, 0.99, 0, "constant", None)
    with pytest.raises(ValueError, match=expected) as error, overflow_in_one_line(optimizer):
        raise ValueError(message)
    assert isinstance(error.value, ConfigError) == (message != "another")
