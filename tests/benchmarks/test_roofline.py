"""The bytes and operations of a step, beside what torch counts and what a loop sums."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.fixed_lengths import SMALL
from benchmarks.roofline import decoding_bytes, forward_flops

SETTING = {"P": 1, "G": 1, "prompt": 5, "least": 3, "most": 3}


@pytest.fixture(scope="module")
def model():
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, tie_word_embeddings=True)).eval()


@pytest.mark.parametrize("completion", [3, 11])
def test_operations_are_those_that_torch_counts(model, completion):
    """Of one sequence whose logits are computed at its completion; torch counts hidden pairs of attention, too."""
    setting = SETTING | {"most": completion}
    model.set_attn_implementation("eager")
    total = setting["prompt"] + completion
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hidden = model.model(input_ids=torch.zeros(1, total, dtype=torch.long)).last_hidden_state
        model.lm_head(hidden[:, -completion:])
    width = SMALL["num_attention_heads"] * SMALL["head_dim"] * SMALL["num_hidden_layers"]
    L, T = setting["prompt"], completion
    pairs = L * L / 2 + T * (L + T / 2)
    expected = counter.get_total_flops() - 4 * width * (total**2 - pairs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ours = forward_flops(setting, SMALL, parameters)
    assert ours == pytest.approx(expected, rel=2e-3)  # the weights of norms count as matrices here
    # Control: with the output layer at all tokens.
    assert forward_flops(setting | {"most": total}, SMALL, parameters) > 1.2 * expected


@pytest.mark.parametrize("slots", [False, True])
def test_bytes_of_decoding_are_the_sum_over_tokens(slots):
    setting = {"P": 3, "G": 4, "prompt": 7, "most": 5}
    per_token = 2 * SMALL["num_hidden_layers"] * SMALL["num_key_value_heads"] * SMALL["head_dim"]
    total = 0
    for t in range(5):
        total += 1000 + 3 * 7 * per_token + sum((5 if slots else t) * per_token for _ in range(12))
    assert decoding_bytes(setting, SMALL, 1000, 2, slots) == 2 * total
