"""Peaks counted on the meta device: against a formula for each layer, and against sizes computed by hand."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from conf.schema.base import ConfigError
from llm.inference.head import body_of
from llm.inference.paths import PACKED, path_of
from llm.plan.activations import (
    LiveBytes,
    OutOfTime,
    PassShape,
    cache_bytes,
    find_layout,
    measure_pass,
    meta_model,
    time_limit,
)
from llm.plan.estimate import model_size, pass_memory

from .architectures import ARCHITECTURES, build_config
from .examples import plan_settings


def packed_tokens(tokens):
    """A pass over a prompt of one token and a completion."""
    return PassShape(1, 1, 1, tokens)


@pytest.mark.parametrize("tokens", [300, 1000])
def test_a_layer_saves_what_the_guide_says(tokens):
    """6 D + 4 I + 4 (H + K) d numbers per token: the peaks of models with 5 and 4 layers differ by one layer's."""
    D, inner, heads, d = 128, 384, 4 + 2, 32
    shape = packed_tokens(tokens)
    more, fewer = (pass_memory(plan_settings(layers), shape, True, True) for layers in (5, 4))
    weights = more.gradients - fewer.gradients
    assert weights == 4 * (3 * D * inner + 2 * D * heads * d + 2 * D + 2 * d)
    saved = (more.bytes - fewer.bytes - weights) / (4 * tokens)
    assert saved == pytest.approx(6 * D + 4 * inner + 4 * heads * d, rel=0.01)
    assert saved != pytest.approx(6 * D + 3 * inner + 4 * heads * d, rel=0.01)  # control: one MLP tensor fewer
    without_gradient = [pass_memory(plan_settings(layers), shape, False, False).bytes for layers in (5, 4)]
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
    arguments = (settings.model, settings.dtype_bytes, None, False, packed_tokens(200), True)
    alone, among_others = measure_pass(*arguments, several=False), measure_pass(*arguments, several=True)
    weights = sum(p.nbytes for p in meta_model(settings.model, 4).parameters())
    assert among_others.gradients == weights
    assert alone.gradients < weights  # the peak comes before the backward pass has reached the first layer
    assert among_others.bytes > alone.bytes


def test_gradients_of_16_bit_weights_are_kept_in_32_bits():
    """As `launch.engines.torch` keeps them; docs/engine.md has the table."""
    settings = plan_settings()
    arguments = (None, False, packed_tokens(200), True, True)
    wide, narrow = (measure_pass(settings.model, dtype_bytes, *arguments) for dtype_bytes in (4, 2))
    assert (
        wide.gradients == narrow.gradients == 4 * sum(p.numel() for p in meta_model(settings.model, 2).parameters())
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_executed_in_either_precision(name):
    config = build_config(name)
    real, text = AutoModelForCausalLM.from_config(config), config.to_json_string(use_diff=False)
    shape, weights = PassShape(2, 10, 4, 6), sum(p.numel() for p in real.parameters())
    for dtype_bytes in (4, 2):
        peak = measure_pass(text, dtype_bytes, None, False, shape, True, True)
        assert peak.gradients == 4 * weights
        assert peak.bytes > peak.gradients + 2 * shape.scored * 32 * dtype_bytes  # hidden states of each layer
        size = model_size(plan_settings(model=text, dtype_bytes=dtype_bytes))
        assert (size.parameters, size.bytes) == (weights, dtype_bytes * weights)
        assert size.vocabulary == 259


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "qwen3_moe", "mistral", "gemma2", "llama4_text", "lfm2", "mamba"])
def test_prompts_are_packed_where_the_model_supports_it(name):
    config = build_config(name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    layout = find_layout(config.to_json_string(use_diff=False), 4)
    assert (layout.name == "packed") == (path_of(body_of(model)) is PACKED)
    assert (layout.token_bytes > 0) == (layout.name == "packed")


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "mistral", "deepseek_v3"])
def test_keys_and_values_are_those_of_the_models_cache(name):
    config = build_config(name)
    text, ids = config.to_json_string(use_diff=False), torch.zeros(1, 12, dtype=torch.long)
    with torch.no_grad():
        cache = AutoModelForCausalLM.from_config(config).eval()(ids, use_cache=True).past_key_values
    expected = sum(
        layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes() for layer in cache.layers
    )
    assert cache_bytes(text, 4, 12) == expected
    layout = find_layout(text, 4)
    if layout.name == "packed":  # latent attention is stored expanded then, with values as wide as keys
        assert 12 * layout.token_bytes == (expected if name != "deepseek_v3" else 12 * 2 * 4 * (16 + 16) * 4)


def test_a_recurrent_state_does_not_grow_with_the_sequence():
    text = build_config("mamba").to_json_string(use_diff=False)
    assert 0 < cache_bytes(text, 4, 12) == cache_bytes(text, 4, 24)
    grown = build_config("mistral").to_json_string(use_diff=False)
    assert cache_bytes(grown, 4, 24) == 2 * cache_bytes(grown, 4, 12)  # control


def test_what_cannot_be_executed_is_one_line(monkeypatch):
    text = build_config("qwen3").to_json_string(use_diff=False)
    with time_limit(-1), pytest.raises(OutOfTime):
        measure_pass(text, 4, None, False, PassShape(1, 7, 1, 7), False, False)
    find_layout.cache_clear()
    monkeypatch.setattr("llm.plan.activations.LAYOUTS", {"whole": lambda *_: torch.ones(2) @ torch.ones(3)})
    with pytest.raises(
        ConfigError, match=r"^model\.name_or_path: no estimate for the architecture Qwen3ForCausalLM"
    ) as error:
        find_layout(text, 4)
    assert "\n" not in str(error.value)
    find_layout.cache_clear()
