"""Peaks counted on the meta device: against a formula for each layer, and against sizes computed by hand."""

import json

import pytest
import torch

from llm.plan.activations import LiveBytes, measure_pass, meta_model
from llm.plan.estimate import pass_memory

from .examples import plan_settings


@pytest.mark.parametrize("tokens", [300, 1000])
def test_a_layer_saves_what_the_guide_says(tokens):
    """6 D + 4 I + 4 (H + K) d numbers per token: the peaks of models with 5 and 4 layers differ by one layer's."""
    D, inner, heads, d = 128, 384, 4 + 2, 32
    more, fewer = (pass_memory(plan_settings(layers), tokens, tokens, True) for layers in (5, 4))
    weights = more.gradients - fewer.gradients
    assert weights == 4 * (3 * D * inner + 2 * D * heads * d + 2 * D + 2 * d)
    saved = (more.bytes - fewer.bytes - weights) / (4 * tokens)
    assert saved == pytest.approx(6 * D + 4 * inner + 4 * heads * d, rel=0.01)
    assert saved != pytest.approx(6 * D + 3 * inner + 4 * heads * d, rel=0.01)  # control: one MLP tensor fewer
    without_gradient = [pass_memory(plan_settings(layers), tokens, 0, False).bytes for layers in (5, 4)]
    assert without_gradient[0] == without_gradient[1]  # nothing is saved without a gradient


def test_live_bytes_rise_and_fall_with_the_tensors():
    model = torch.nn.Linear(3, 5, device="meta")
    with LiveBytes(model) as live, torch.device("meta"):
        first = torch.empty(100)
        second = first.view(10, 10)  # shares the storage
        third = second + 1
        assert (live.live, live.peak) == (800, 800)
        del first, second
        assert (live.live, live.peak) == (400, 800)
        del third
        torch.empty(50)
    assert (live.live, live.peak) == (0, 800)
    assert live.gradients == 0
    with LiveBytes(model) as live, torch.device("meta"):
        model(torch.ones(7, 3)).sum().backward()
    assert live.gradients == 4 * (3 * 5 + 5)


def test_a_meta_model_has_the_shapes_of_a_real_one_in_either_precision(build_model):
    real = build_model("qwen3", 50)
    config = real.config.to_json_string(use_diff=False)
    for dtype_bytes in (2, 4):
        model = meta_model(config, dtype_bytes)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert shapes == {name: tuple(p.shape) for name, p in real.named_parameters()}
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert {p.element_size() for p in model.parameters()} == {dtype_bytes}
    assert json.loads(config)["model_type"] == "qwen3"


def test_gradients_from_earlier_passes_are_there_from_the_start():
    settings = plan_settings()
    arguments = (settings.model, settings.dtype_bytes, None, False, 200, 200)
    alone, among_others = measure_pass(*arguments, several=False), measure_pass(*arguments, several=True)
    weights = sum(p.nbytes for p in meta_model(settings.model, 4).parameters())
    assert among_others.gradients == weights
    assert alone.gradients < weights  # the peak comes before the backward pass has reached the first layer
    assert among_others.bytes > alone.bytes
