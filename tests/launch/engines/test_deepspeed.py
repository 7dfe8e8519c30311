"""The DeepSpeed engine in one process. tests/llm/test_ranks.py compares two ranks with one.

`python test_deepspeed.py FOLDER` steps an engine of each stage, in a separate process because DeepSpeed connects it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conf.schema.run import OptimizerConfig
from launch.engines import deepspeed
from launch.engines.torch import TorchEngine

ROOT = Path(__file__).parents[3]
STAGES = (1, 2, 3)
STEPS = 4


def make(kind, **arguments):
    torch.manual_seed(0)
    settings = OptimizerConfig(
        lr=0.05, weight_decay=0.1, beta1=0.8, beta2=0.95, warmup_steps=1, decay="linear", max_grad_norm=0.3
    )
    return kind(nn.Linear(3, 2), settings, STEPS, **arguments)


def take(engine, steps):
    """Take steps of two backward passes each, and return the norms."""
    norms = []
    for step in steps:
        for part in range(2):
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step + part))
            engine.backward(engine.apply(lambda policy, x=x: policy(x).square().sum()))
        norms.append(engine.step())
    return torch.stack(norms)


def weights(engine):
    with engine.gather() as policy:
        return {name: p.detach().clone() for name, p in policy.named_parameters()}


def in_child(folder):
    """Norms, weights and state of each stage, and the weights of an engine that continues from step 2."""
    for stage in STAGES:
        engine = make(deepspeed.DeepSpeedEngine, stage=stage)
        norms = take(engine, range(2))
        state = engine.state_dict()
        norms = torch.cat([norms, take(engine, range(2, STEPS))])
        resumed = make(deepspeed.DeepSpeedEngine, stage=stage)
        resumed.load_state_dict(state)
        take(resumed, range(2, STEPS))
        result = {"norms": norms, "weights": weights(engine), "state": state, "resumed": weights(resumed)}
        torch.save(result, folder / f"{stage}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("deepspeed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, folder], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {stage: torch.load(folder / f"{stage}.pt") for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_the_steps_of_the_plain_engine(results, stage):
    engine = make(TorchEngine)
    start = weights(engine)
    norms = take(engine, range(STEPS))
    torch.testing.assert_close(results[stage]["norms"].float(), norms, rtol=1e-5, atol=0)
    assert norms.min() > 0.3  # so the gradient was clipped
    for name, weight in weights(engine).items():
        torch.testing.assert_close(results[stage]["weights"][name], weight, rtol=0, atol=1e-6)
        assert not torch.allclose(weight, start[name], atol=1e-2)  # control


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_is_whole_tensors_by_name_and_continues_bit_for_bit(results, stage):
    state = results[stage]["state"]
    assert state["steps"] == 2
    for part in ("weights", *deepspeed.MOMENTS):
        assert {name: tuple(value.shape) for name, value in state[part].items()} == {"weight": (2, 3), "bias": (2,)}
    for name, weight in results[stage]["weights"].items():
        assert torch.equal(results[stage]["resumed"][name], weight)
        assert not torch.equal(state["weights"][name], weight)  # control: the last two steps changed it


def test_what_is_written_to_stderr_on_import_is_discarded(capfd):
    with deepspeed._no_stderr():
        os.write(2, b"noise")
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('noise')"], check=True)
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"


def test_an_empty_copy_shares_nothing():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copy: Any = deepspeed._empty_copy(module)
    assert [name for name, _ in copy.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert all(p.numel() == 0 and not p.requires_grad for p in copy.parameters())
    assert all(p.numel() > 0 and p.requires_grad for p in module.parameters())
    module[1].running_mean.add_(1)
    assert torch.equal(copy[1].running_mean, torch.zeros(3))


if __name__ == "__main__":
    in_child(Path(sys.argv[1]))
