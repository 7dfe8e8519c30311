"""The estimated time: against a count of tokens, and against a step that is taken."""

import time

import pytest
import torch

from conf.schema.llm import UpdateConfig
from llm.plan import duration
from llm.plan.duration import (
    DeviceSpeed,
    PassTime,
    RunTime,
    active_share,
    estimate_time,
    fastest,
    measure_device,
    measure_passes,
)
from llm.plan.estimate import model_size

from ..helpers import one_step
from .architectures import build_config
from .examples import plan_settings

ONCE = UpdateConfig(epochs=1, minibatches=1, clip_low=None, clip_high=None, ratio="token")
FREE = DeviceSpeed(flops=torch.inf, bandwidth=torch.inf, draw=0.0)


def seconds(passes, speed=FREE, update=ONCE, **changes):
    settings = plan_settings(prompts=2, group_size=4, new_tokens=6, micro_batch=8, evaluation_rows=4, **changes)
    times = estimate_time(settings, (speed, passes), (100, 32), update, evaluation_completions=8, prompt_tokens=10.0)
    return RunTime(*(time / duration.UNCOUNTED for time in times))


def test_tokens_and_passes_are_counted():
    prompts, completions = 2 * 10, 2 * 4 * 5  # of a completion, all tokens but the last are processed
    per_token = seconds(PassTime(0.0, 1.0))
    # Sampling processes each prompt and token; the reference and the policy as much, and the gradient twice that.
    assert per_token.step == pytest.approx(prompts + 6 * 8 + (1 + 3) * (prompts + completions))
    assert per_token.evaluation == pytest.approx(2 * (10 + 6 * 4))  # two batches of 4 completions of a prompt
    started = seconds(PassTime(1.0, 0.0))
    assert started.step == pytest.approx(1 + 6 + 4)
    several = UpdateConfig(epochs=2, minibatches=2, clip_low=None, clip_high=None, ratio="token")
    assert seconds(PassTime(1.0, 0.0), update=several).step == pytest.approx(1 + 6 + (1 + 2 * 3 + 1))


def test_logits_are_counted():
    positions = 2 * 4 * 6
    arithmetic = seconds(PassTime(0.0, 0.0), DeviceSpeed(flops=2 * 32 * 100, bandwidth=torch.inf, draw=0.0))
    # Once to draw a token; the reference, the policy and its gradient as above, which computes them once more.
    assert arithmetic.step == pytest.approx(positions * (1 + 4 + 1))
    drawn = seconds(PassTime(0.0, 0.0), DeviceSpeed(flops=torch.inf, bandwidth=torch.inf, draw=0.01))
    assert drawn.step == pytest.approx(positions * 100 * 0.01)


def test_an_update_reads_and_writes_the_optimiser_state():
    update = seconds(PassTime(0.0, 0.0), DeviceSpeed(flops=torch.inf, bandwidth=1.0, draw=0.0)).step
    weights = model_size(plan_settings()).trainable
    logits = 2 * 4 * 6 * 100 * duration.LOGIT_BYTES * (1 + 3 + 1)
    assert update == pytest.approx(duration.ADAM_BYTES * weights + logits)


def test_only_the_experts_of_a_token_count():
    assert active_share(build_config("qwen3_moe")) == 0.5
    assert active_share(build_config("mixtral")) == 0.5
    assert active_share(build_config("qwen3")) == 1.0


def test_a_model_that_is_slow_to_run_is_not_run(random_model):
    body = random_model.get_decoder()
    slow = DeviceSpeed(flops=1.0, bandwidth=1e12, draw=0.0)
    body.forward = None  # would raise
    passes = measure_passes(random_model, body, slow)
    assert passes.per_token == 2 * sum(p.numel() for p in body.layers.parameters() if p.dim() > 1)


def test_the_fastest_call_after_the_first_counts(monkeypatch):
    clock, delays = [0.0], iter([0.001, 0.004, 0.002, 0.02])
    monkeypatch.setattr(duration.time, "perf_counter", lambda: clock[0])

    def call():
        clock[0] += next(delays)

    assert fastest(call, torch.device("cpu")) == pytest.approx(0.002)


@pytest.mark.long  # a measurement, which a busy machine falsifies
@pytest.mark.parametrize("limit", [8, 4])  # completions in a pass
def test_a_step_takes_about_as_long_as_estimated(models, odd_length, make_config, monkeypatch, limit):
    """In seconds of this process on the CPU, so that other processes do not matter."""
    monkeypatch.setattr(duration.time, "perf_counter", time.process_time)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        options = ("prompts_per_step=3", "group_size=8", "max_new_tokens=24", f"micro_batch={limit}")
        config = make_config(*options, "objective.kl_samples=0")
        models = models._replace(eos_ids=torch.tensor([-1]))  # completions of maximal length
        one_step(models, odd_length, config)
        start = time.process_time()
        one_step(models, odd_length, config)
        taken = time.process_time() - start
        text = models.policy.config.to_json_string(use_diff=False)
        settings = plan_settings(
            model=text, prompts=3, group_size=8, prompt_tokens=20, new_tokens=24, micro_batch=limit
        )
        speed = measure_device(torch.device("cpu"), torch.float32, 259)
        passes = measure_passes(models.policy, models.policy.get_decoder(), speed)
        estimated = estimate_time(settings, (speed, passes), (259, 32), config.update, 8, prompt_tokens=20.0).step
    finally:
        torch.set_num_threads(threads)
    assert taken / 2.5 < estimated < 2.5 * taken
