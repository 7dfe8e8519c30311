"""Which engine a name makes, and which names and ranks are refused."""

import sys
from unittest.mock import patch

import pytest
import torch
from torch import nn

from conf.schema.base import ConfigError
from conf.schema.run import ENGINES, OptimizerConfig
from launch.engines.factory import DEEPSPEED_ARGUMENTS, make_engine
from launch.engines.torch import TorchEngine


@pytest.fixture
def optimizer():
    return OptimizerConfig(
        lr=0.05, weight_decay=0.1, beta1=0.8, beta2=0.95, warmup_steps=0, decay="constant", max_grad_norm=None
    )


def made_up(module, optimizer, steps):
    return module, optimizer, steps


def test_each_name_of_the_schema_is_an_engine(optimizer):
    assert set(ENGINES) == {"torch", *DEEPSPEED_ARGUMENTS}
    assert isinstance(make_engine("torch", nn.Linear(1, 1), optimizer, 1), TorchEngine)


def test_an_engine_of_your_own_gets_the_arguments(optimizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "made_up_engine", sys.modules[__name__])
    module = nn.Linear(1, 1)
    assert make_engine("made_up_engine:made_up", module, optimizer, 7) == (module, optimizer, 7)


def test_an_engine_without_its_package_is_refused(optimizer):
    with (
        patch.dict(sys.modules, {"deepspeed": None}),
        pytest.raises(
            ConfigError, match=r"^engine: deepspeed is not installed \(extra deepspeed\).*engine=torch does"
        ),
    ):
        make_engine("zero2", nn.Linear(1, 1), optimizer, 1)


def test_an_unknown_engine_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"engine\.name"):
        make_engine("zero9", nn.Linear(1, 1), optimizer, 1)


def test_ranks_with_nothing_to_share_are_refused(optimizer, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.tasks_per_node: must be 1 .* got 2 ranks"):
        make_engine("torch", nn.Linear(1, 1), optimizer, 1)
    assert not torch.distributed.is_initialized()
    assert isinstance(make_engine("torch", nn.Linear(1, 1), optimizer, 1, shared=True), TorchEngine)  # control
