"""How often the host waits for a GPU, counted on the CPU: once a token in sampling, and the same in deep models."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llm.inference import sampling
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import encode_chats
from llm.inference.sampling import Rollout, sample

from ..helpers import user_chat
from .device_waits import DeviceWaits

KINDS = ("qwen3", "mistral", "gpt2", "gemma2", "qwen3_moe")
PASS_WAITS = 12  # three packings of rows with two each, and six indices by masks


@pytest.fixture
def prompts(tokenizer):
    return encode_chats(tokenizer, [user_chat("hi"), user_chat("a longer one")])


def draw(model, prompts, tokens, eos=(-1,)):
    uniforms = torch.rand(8, tokens, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sample(model, prompts, uniforms, group_size=4, eos_ids=torch.tensor(eos), pad_id=0)


def waits_of(function):
    with DeviceWaits() as waits:
        function()
    return waits.total


def waits_per_token(model, prompts):
    draw(model, prompts, 1)  # the trials when a model is first seen
    few, many = (waits_of(lambda tokens=tokens: draw(model, prompts, tokens)) for tokens in (4, 14))
    return (many - few) / 10


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_waits_once_a_token(build_model, prompts, tokenizer, kind):
    assert waits_per_token(build_model(kind, len(tokenizer)), prompts) == 1


def test_a_wait_in_the_loop_is_counted(random_model, prompts, monkeypatch):
    """Controls: what a GPU would wait for in each token, by several ways."""
    token_of = sampling.sample_token
    for extra in (
        lambda token: token.max().item(),
        lambda token: token.tolist(),
        lambda token: bool((token > 0).any()),
        lambda token: token[token > 0],
        lambda token: token.nonzero(),
        lambda token: torch.unique(token),
        lambda token: token.cpu(),
    ):

        def slow(head, hidden, uniform, extra=extra):
            token = token_of(head, hidden, uniform)
            extra(token)
            return token

        monkeypatch.setattr(sampling, "sample_token", slow)
        assert waits_per_token(random_model, prompts) == 2


def test_rows_that_leave_cost_a_fixed_number_of_waits(random_model, prompts):
    rollout = draw(random_model, prompts, 14)
    ends = rollout.tokens[[0, 3, 5], [4, 6, 6]].unique().tolist()
    ended = draw(random_model, prompts, 14, ends)
    assert ended.complete.any()
    times = len(set(ended.mask.sum(-1)[ended.complete].tolist()))  # at most one removal for each
    removals = waits_of(lambda: draw(random_model, prompts, 14, ends)) - waits_of(
        lambda: draw(random_model, prompts, ended.tokens.shape[1])
    )
    assert 0 <= removals <= 4 * times


@pytest.mark.parametrize("gradient", [False, True])
def test_the_waits_of_a_training_pass_do_not_grow_with_its_layers(build_model, prompts, tokenizer, gradient):
    model = build_model("qwen3", len(tokenizer))
    rollout = draw(model, prompts, 6)

    def read():
        with torch.set_grad_enabled(gradient):
            logp = completion_logp(model, prompts, rollout.tokens, rollout.mask)
        if gradient:
            logp.sum().backward()

    shallow = waits_of(read)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.layer_types = 4, 2 * config.layer_types
    model = AutoModelForCausalLM.from_config(config).eval()
    read()  # the trials of the deeper model
    assert waits_of(read) == shallow == PASS_WAITS


def by_index(tokens: Tensor, ends: Tensor) -> Rollout:
    """Lengths as an index of the rows that end gives them, from the tokens of a rollout without ends."""
    lengths = torch.full((len(tokens),), tokens.shape[1])
    complete = torch.zeros(len(tokens), dtype=torch.bool)
    for t in range(tokens.shape[1]):
        ended = (~complete & torch.isin(tokens[:, t], ends)).nonzero().squeeze(-1)
        lengths[ended], complete[ended] = t + 1, True
    width = int(lengths.max())
    return Rollout(tokens[:, :width], torch.arange(width) < lengths.unsqueeze(-1), complete)


def test_ends_are_those_that_an_index_of_ended_rows_gives(random_model, prompts):
    free = draw(random_model, prompts, 14)
    for ends in (free.tokens[:3, 4], free.tokens[:, 9], free.tokens[:, 0]):
        expected = by_index(free.tokens, ends)
        rollout = draw(random_model, prompts, 14, ends.tolist())
        assert torch.equal(rollout.mask, expected.mask)
        assert torch.equal(rollout.complete, expected.complete)
        assert torch.equal(
            rollout.tokens.masked_fill(~rollout.mask, 0), expected.tokens.masked_fill(~expected.mask, 0)
        )
    assert not torch.equal(free.mask, rollout.mask)  # control
