"""The benchmarks: prompts and completions have the lengths of the settings, and times are counted once."""

import resource
from typing import Any

import pytest
import torch

from benchmarks import fixed_lengths, llm_step, record_cost
from benchmarks.products import CountProducts, Layout, Product, seconds_alone, total_flops
from benchmarks.scaling.meter import forget_peak
from launch.runs.run import Run
from llm.inference.prompts import encode_chats
from llm.testbed.smollm2 import smollm2_config


@pytest.mark.parametrize("name", llm_step.SETTINGS)
def test_prompts_have_exactly_the_length_of_the_setting(tokenizer, name):
    setting = llm_step.SETTINGS[name]
    chats = fixed_lengths.chats(setting)
    prompts = encode_chats(tokenizer, chats)
    assert prompts.ids.shape == (setting["P"], setting["prompt"])
    assert prompts.mask.all()
    assert len({chat[0]["content"] for chat in chats}) == setting["P"]
    lengths = fixed_lengths.lengths(setting)
    assert len(lengths) == setting["P"] * setting["G"]
    assert setting["least"] <= lengths.min()
    assert lengths.max() == setting["most"]
    assert (lengths == setting["most"]).all() == (setting["least"] == setting["most"])


def test_the_real_size_is_that_of_smollm2():
    config = smollm2_config()
    assert {key: getattr(config, key) for key in llm_step.SMOLLM2} == llm_step.SMOLLM2


def test_maras_side_runs(tmp_path, monkeypatch):
    from llm.inference import sampling
    from llm.rollout import base as rollout

    small = {"P": 2, "G": 2, "prompt": 26, "least": 2, "most": 5, "steps": 2}
    monkeypatch.setitem(llm_step.SETTINGS, "long", small)
    monkeypatch.setattr(
        sampling, "inverse_cdf", sampling.inverse_cdf
    )  # restored afterwards: the benchmark patches both
    monkeypatch.setattr(rollout, "sample", rollout.sample)
    fixed_lengths.build(str(tmp_path))
    reports: list[dict[str, Any]] = []
    waits: list[int] = []
    result = llm_step.run_mara(
        "long",
        str(tmp_path),
        lambda: llm_step.Meter("long", 2, reports.append, lambda: waits.append(len(reports)), count_products=True),
    )
    assert result["products"] > 0
    assert result["gflops"] > 0
    assert result["tokens"] == fixed_lengths.lengths(small).sum() > 4
    assert waits == [1, 2]
    assert len(reports) == 3
    for turn in reports[1:]:
        assert 0 < turn["objective"] < turn["seconds"]
        assert 0 < turn["sampling"] < turn["seconds"]


def test_the_peak_of_memory_is_that_after_the_warm_up():
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    large = bytearray(b"x") * (64 << 20)
    del large
    before = peak()
    forget_peak()
    assert peak() < before - (32 << 10)  # kB


def test_the_time_of_nested_recording_is_counted_once(monkeypatch):
    clock = iter([0.0, 1.0, 7.0])  # outer starts, inner starts, outer ends
    monkeypatch.setattr(record_cost.time, "perf_counter", lambda: next(clock))
    stopwatch = record_cost.Stopwatch()
    inner = stopwatch.wrap(lambda: None)
    stopwatch.wrap(inner)()
    assert stopwatch.seconds == 7


def test_the_methods_whose_time_is_measured_exist():
    assert [name for name in record_cost.WRITERS if not callable(getattr(Run, name, None))] == []


def test_products_are_counted_forwards_and_backwards():
    x, weight = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True)
    with CountProducts() as products:
        (x @ weight.t()).square().sum().backward()
        torch.bmm(torch.randn(2, 5, 3), torch.randn(2, 3, 7))
        torch.randn(5, 3).addmm_(torch.randn(5, 6), torch.randn(6, 3))
        with torch.inference_mode():
            torch.nn.functional.linear(x, weight)
    assert products.counts[Product(Layout((5, 3), (3, 1)), Layout((3, 4), (1, 3)))] == 2
    assert sum(products.counts.values()) == 5
    assert total_flops(products.counts) == 2 * (2 * 5 * 3 * 4 + 4 * 5 * 3 + 2 * 5 * 3 * 7 + 5 * 6 * 3)
    assert seconds_alone(products.counts) > 0
    transposed = Layout((3, 4), (1, 3)).make()
    assert (transposed.shape, transposed.stride()) == ((3, 4), (1, 3))
