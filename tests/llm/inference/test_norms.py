"""Fused RMS norms: values and gradients against the model's own, and norms that must not be changed."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from llm.inference.norms import RmsNorm, fuse_rms_norms

# Classes and their precision in float64: transformers' norms compute in float32.
KINDS = [(Qwen3RMSNorm, 1e-5), (LlamaRMSNorm, 1e-5), (nn.RMSNorm, 1e-12)]


def norms(kind):
    """The model's own norm and ours, in float64 with the same weights."""
    torch.manual_seed(1)
    own = kind(6, eps=1e-3).double()
    nn.init.normal_(own.weight)
    ours = deepcopy(own)
    assert fuse_rms_norms(nn.ModuleList([ours])) == 1
    assert type(ours) is RmsNorm
    return own, ours


@pytest.mark.parametrize(("kind", "precision"), KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_are_those_of_the_models_own(kind, precision, frozen):
    own, ours = norms(kind)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    for norm in (own, ours):
        norm.weight.requires_grad_(not frozen)
    inputs = [x] if frozen else [x, own.weight]
    expected = torch.autograd.grad(own(x), inputs, upstream)
    gradients = torch.autograd.grad(ours(x), [x] if frozen else [x, ours.weight], upstream)
    torch.testing.assert_close(gradients, expected, rtol=precision, atol=precision)
    scaled = (upstream * own.weight).detach()
    assert float((expected[0] - scaled).abs().max()) > 0.1  # control: scaling alone gives another gradient
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), own(x), rtol=precision, atol=precision)


def test_other_norms_are_left_alone():
    """Gemma multiplies by 1 + weight, bfloat16 norms round in between, and LayerNorm subtracts the mean."""
    others = nn.ModuleList([GemmaRMSNorm(6), nn.LayerNorm(6), Qwen3RMSNorm(6).bfloat16(), nn.RMSNorm((2, 6))])
    nn.init.normal_(others[0].weight)
    before = [type(norm) for norm in others]
    assert fuse_rms_norms(others) == 0
    assert [type(norm) for norm in others] == before


def test_a_whole_model_keeps_its_logits_and_gradients():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    own = Qwen3ForCausalLM(config).eval()
    ours = deepcopy(own)
    assert fuse_rms_norms(ours) == 2 * 4 + 1
    assert list(ours.state_dict()) == list(own.state_dict())
    ids = torch.arange(24).view(2, 12) % 31
    for model in (own, ours):
        model(input_ids=ids).logits.log_softmax(-1)[..., 3].sum().backward()
    torch.testing.assert_close(ours(input_ids=ids).logits, own(input_ids=ids).logits, rtol=0, atol=1e-6)
    for name, parameter in own.named_parameters():
        error = (ours.get_parameter(name).grad - parameter.grad).norm() / parameter.grad.norm()
        assert error < 1e-5, name


def test_a_norm_that_does_not_use_its_weight_is_left_alone():
    """As in Falcon Mamba, whose such norm is also given other widths than that of its weight."""

    class WeightlessRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x):
            return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()

    norm = WeightlessRMSNorm()
    assert fuse_rms_norms(norm) == 0
    assert norm(torch.ones(2, 3)).shape == (2, 3)
    assert torch.equal(norm.weight, torch.ones(8))
