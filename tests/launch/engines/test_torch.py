"""The plain engine against AdamW written out, and torch's own loop."""

import math

import pytest
import torch
from torch import nn

from conf.schema.base import ConfigError
from conf.schema.run import OptimizerConfig
from launch.engines.torch import TorchEngine


def config(**changes):
    values = {"lr": 0.05, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95, "warmup_steps": 0}
    return OptimizerConfig(**{**values, "decay": "constant", "max_grad_norm": None, **changes})


def module():
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def loss(model, step):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return model(x).square().sum()


def run(engine, steps):
    norms = []
    for step in steps:
        engine.backward(loss(engine.module, step) / 2)
        engine.backward(loss(engine.module, step) / 2)  # accumulates
        norms.append(engine.step())
    return norms


def test_steps_are_adamw_written_out():
    engine = TorchEngine(module(), config(), steps=5)
    run(engine, range(5))
    plain = module()
    parameters = list(plain.parameters())
    first, second = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    for step in range(5):
        grads = torch.autograd.grad(loss(plain, step), parameters)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, grads, first, second, strict=True):
                m.mul_(0.8).add_(0.2 * g)
                v.mul_(0.95).add_(0.05 * g * g)
                p.mul_(1 - 0.05 * 0.1)
                p.sub_(0.05 * (m / (1 - 0.8 ** (step + 1))) / ((v / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8))
    for ours, theirs in zip(engine.module.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    untouched = module()
    assert not torch.allclose(engine.module.weight, untouched.weight)


def test_steps_are_torchs_bit_for_bit():
    """The loop one would write without an engine, clipping and a falling learning rate included."""
    options = config(warmup_steps=2, decay="linear", max_grad_norm=0.3)
    engine = TorchEngine(module(), options, steps=6)
    norms = run(engine, range(6))
    plain = module()
    adamw = torch.optim.AdamW(plain.parameters(), betas=(0.8, 0.95), weight_decay=0.1, fused=True)
    for step, factor in enumerate([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]):
        adamw.param_groups[0]["lr"] = 0.05 * factor
        adamw.zero_grad()
        (loss(plain, step) / 2).backward()
        (loss(plain, step) / 2).backward()
        assert torch.equal(nn.utils.clip_grad_norm_(plain.parameters(), 0.3), norms[step])
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(engine.module.parameters(), plain.parameters(), strict=True))
    unclipped = TorchEngine(module(), config(warmup_steps=2, decay="linear"), steps=6)
    run(unclipped, range(6))
    assert not torch.equal(unclipped.module.weight, plain.weight)  # control


def test_what_does_not_learn_is_left_alone():
    model = module()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    engine = TorchEngine(model, config(), 1)
    run(engine, [0])
    assert torch.equal(model.bias, before)
    assert model.weight.grad is None


def test_the_norm_is_reported_before_clipping():
    free, clipped = (TorchEngine(module(), config(max_grad_norm=n), 1) for n in (None, 1e-6))
    before = [p.detach().clone() for p in free.module.parameters()]
    norms = [run(engine, [0])[0] for engine in (free, clipped)]
    assert norms[0] == norms[1] > 1
    moved = [(p - b).abs().max() for p, b in zip(free.module.parameters(), before, strict=True)]
    assert max(moved) > 1e-3


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    engine = TorchEngine(module(), config(), 1)
    before = engine.module.weight.detach().clone()
    engine.backward(engine.module.weight.sum() * math.nan)
    with pytest.raises(ConfigError, match=r"update 1: the loss overflowed .*optimizer\.lr"):
        engine.step()
    assert torch.equal(engine.module.weight, before)


def test_the_error_names_what_overflowed_first():
    engine = TorchEngine(module().float(), config(), 1)
    engine.backward((engine.module.weight * 1e30).sum())  # its square is beyond float32
    with pytest.raises(ConfigError, match="update 1: the gradient overflowed"):
        engine.step()
    with torch.no_grad():
        engine.module.weight[0] = math.inf
    for action in (engine.step, engine.state_dict):
        with pytest.raises(ConfigError, match="update 0: the weights of the policy overflowed"):
            action()


def test_a_state_continues_bit_for_bit():
    whole = TorchEngine(module(), config(decay="cosine"), 6)
    run(whole, range(6))
    half = TorchEngine(module(), config(decay="cosine"), 6)
    run(half, range(3))
    resumed = TorchEngine(nn.Linear(3, 2).double(), config(decay="cosine"), 6)
    resumed.load_state_dict(half.state_dict())
    run(resumed, range(3, 6))
    assert torch.equal(resumed.module.weight, whole.module.weight)
    fresh = TorchEngine(module(), config(decay="cosine"), 6)
    fresh.module.load_state_dict(half.state_dict()["module"])
    run(fresh, range(3, 6))  # control: weights alone do not continue the run
    assert not torch.equal(fresh.module.weight, whole.module.weight)


def half(lr, steps=1):
    """An engine on a bfloat16 weight of 1 whose gradient is 1: Adam moves it by lr in each step."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    engine = TorchEngine(model, config(lr=lr, weight_decay=0.0), 100)
    for _ in range(steps):
        for _ in range(2):
            engine.backward(model.weight.sum() / 2)
        engine.step()
    return engine


def test_small_updates_of_16_bits_are_not_lost():
    """A bfloat16 weight of 1 cannot take a step of 1e-6. Its master copy does, and the weight follows later."""
    engine = half(1e-6, steps=3)
    assert float(engine.masters["weight"].detach()) == pytest.approx(1 - 3e-6, abs=1e-7)
    assert float(engine.module.weight.detach()) == 1.0
    assert float(half(5e-4, steps=10).module.weight.detach()) == pytest.approx(1 - 5e-3, abs=2e-3)
    plain = nn.Parameter(torch.ones(1, 1, dtype=torch.bfloat16))  # control: without one it would never move
    adamw = torch.optim.AdamW([plain], lr=5e-4, weight_decay=0.0)
    for _ in range(10):
        plain.grad = torch.ones_like(plain)
        adamw.step()
    assert float(plain.detach()) == 1.0


def test_a_state_keeps_the_master_copies():
    whole, resumed = half(1e-3, steps=3), half(1e-3, steps=0)
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(resumed.masters["weight"], whole.masters["weight"])
    assert float(resumed.masters["weight"].detach()) != float(whole.module.weight.detach())
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_a_frozen_parameter_is_not_in_the_state():
    model = module()
    model.bias.requires_grad_(False)
    engine = TorchEngine(model, config(), 1)
    run(engine, [0])
    state = engine.state_dict()
    assert set(state["module"]) == {"weight"}
    other = module()
    other.bias.requires_grad_(False)
    nn.init.constant_(other.bias, 7.0)
    resumed = TorchEngine(other, config(), 1)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.module.weight, engine.module.weight)
    assert resumed.module.bias.tolist() == [7.0, 7.0]


def test_apply_and_gather_give_the_policy():
    engine = TorchEngine(module(), config(), 1)
    x = torch.ones(1, 3, dtype=torch.float64)
    assert torch.equal(engine.apply(lambda policy: policy(x)), engine.module(x))
    with engine.gather() as policy:
        assert policy is engine.module


def test_the_decay_follows_total_updates():
    """The rate is that of the number of updates now expected, and a checkpoint of torch's scheduler is read."""
    engine = TorchEngine(module(), config(decay="linear"), steps=100)
    rates = []
    for step, expected in enumerate([100, 50, 5, 4]):
        engine.total_updates = expected
        run(engine, [step])
        rates.append(engine.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05 * factor for factor in (1, 49 / 50, 3 / 5, 1 / 4)])
    plain = torch.optim.AdamW(module().parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1.0)
    for _ in range(3):
        plain.step()
        schedule.step()
    resumed = TorchEngine(module(), config(decay="linear"), steps=4)
    resumed.load_state_dict({**engine.state_dict(), "schedule": schedule.state_dict()})
    run(resumed, [3])
    assert resumed.optimizer.param_groups[0]["lr"] == rates[-1]
    fresh = TorchEngine(module(), config(decay="linear"), steps=4)
    run(fresh, [3])
    assert fresh.optimizer.param_groups[0]["lr"] != rates[-1]  # control
