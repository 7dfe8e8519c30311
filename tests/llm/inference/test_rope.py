"""Positions whose frequencies depend on the longest row of a pass, and the length up to which they do not."""

import pytest
import torch
from transformers import LlamaConfig, Phi3Config

from conf.schema.base import ConfigError
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, pad_completions
from llm.inference.rope import check_length, length_limit
from llm.inference.sampling import sample

from ..architectures import build, make_config
from .plain import plain_logp

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def make_prompts(*lengths):
    ids = torch.randint(64, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return Prompts(ids, torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths).unsqueeze(-1))


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (make_config("phi3-longrope"), 32),
        (make_config("phi3"), None),
        (LlamaConfig(max_position_embeddings=128), None),
        (LlamaConfig(max_position_embeddings=128, rope_parameters=DYNAMIC), 128),
        (LlamaConfig(rope_parameters=DYNAMIC | {"original_max_position_embeddings": 64}), 64),
        (
            LlamaConfig(
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            ),
            None,
        ),
    ],
    ids=["longrope", "phi3", "llama", "dynamic", "dynamic original", "yarn"],
)
def test_the_limit_is_that_of_the_configuration(config, limit):
    assert length_limit(config) == limit


def test_layers_with_parameters_of_their_own():
    config = Phi3Config()
    layers = {"rope_type": "longrope", "original_max_position_embeddings": 48}
    config.rope_parameters = {"full_attention": layers, "sliding_attention": {"rope_type": "default"}}
    assert length_limit(config) == 48


def test_the_message_says_what_to_set():
    config = make_config("phi3-longrope")
    check_length(config, make_prompts(12, 3), 20)
    message = r"^max_new_tokens: must be at most 20 with prompts of 12 tokens, .* past 32 tokens [^\n]*, got 21$"
    with pytest.raises(ConfigError, match=message):
        check_length(config, make_prompts(12, 3), 21)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(monkeypatch):
    """Past the limit it does, which is refused in sampling and in scoring; control: without the check."""
    model, prompts = build("phi3-longrope"), make_prompts(12, 10)
    tokens, mask = pad_completions([[5, 6, 7], list(range(30))], 0)
    short = tokens[:, :20], mask[:, :20]
    expected = plain_logp(model, prompts, *short)
    assert (completion_logp(model, prompts, *short) - expected).abs().max() < 1e-5
    with pytest.raises(ConfigError, match=r"^max_new_tokens"):
        completion_logp(model, prompts, tokens, mask)
    with pytest.raises(ConfigError, match=r"^max_new_tokens"):
        sample(model, prompts, torch.rand(2, 30), group_size=1, eos_ids=torch.tensor([1]), pad_id=0)
    monkeypatch.setattr("llm.inference.logprobs.check_length", lambda *_: None)
    ours = completion_logp(model, prompts, tokens, mask)
    assert (ours[0, :3] - expected[0, :3]).abs().max() > 1e-3
