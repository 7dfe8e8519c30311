"""Micro-batches stay within their limits and cover every row once; ranks make the same number of passes."""

import math
from itertools import product
from unittest.mock import patch

import pytest
import torch

from launch.engines import distributed
from llm.batch import Completions
from llm.inference.logprobs import completion_logp, completion_logp_and_entropy
from llm.inference.prompts import Prompts, encode_chats
from llm.microbatch import (
    MicroBatchLimits,
    backward_through_logp,
    forward_micro_batches,
    make_forward_plan,
    plan_micro_batches,
)

from .helpers import user_chat


def test_micro_batches_stay_within_their_limits():
    """Each row once and in order; whole groups or parts of one; within both limits, or a single row."""
    G, lengths = 4, torch.tensor([5, 1, 9, 2, 9, 9, 9, 9, 1, 1, 2, 3])
    prompts = Prompts(torch.zeros(3, 20), torch.arange(20).flip(0) < torch.tensor([[20], [3], [7]]))
    mask = torch.arange(9) < lengths.unsqueeze(-1)

    def cost(batch, more=0):
        rows, sizes = range(12)[batch.rows.start : batch.rows.stop + more], prompts.mask[batch.prompts].sum(-1)
        return len(rows), len(sizes) * int(sizes.max()) + len(rows) * int(lengths[list(rows)].max())

    for max_rows, max_tokens in product((1, 3, 4, 5, 8, 11, 12), (None, 1, 20, 41, 60, 1000)):
        batches = plan_micro_batches(prompts, mask, MicroBatchLimits(max_rows, max_tokens))
        assert [row for batch in batches for row in range(12)[batch.rows]] == list(range(12))
        for batch in batches:
            first, last, _ = batch.prompts.indices(3)
            assert first * G <= batch.rows.start
            assert batch.rows.stop <= last * G
            assert batch.counted
            assert last == first + 1 or (batch.rows.start, batch.rows.stop) == (first * G, last * G)
            (rows, tokens), limit = cost(batch), max_tokens or math.inf
            assert (rows <= max_rows and tokens <= limit) or rows == 1
            if last == first + 1 and batch.rows.stop < last * G:
                rows, tokens = cost(batch, more=1)
                assert rows > max_rows or tokens > limit  # no pass is smaller than necessary


@pytest.fixture
def one_prompt(tokenizer):
    tokens, mask = torch.tensor([[5, 6, 7], [8, 9, 9]]), torch.tensor([[True] * 3, [True, False, False]])
    return Completions(encode_chats(tokenizer, [user_chat("hi")]), tokens, mask)


def test_a_rank_with_fewer_passes_makes_passes_without_rows(models, one_prompt):
    """A pass that only another rank needs contributes no value, and gradients through it are 0."""
    with patch.object(distributed, "max_over_ranks", lambda values: [values[0] + 1]):
        batches = plan_micro_batches(one_prompt.prompts, one_prompt.mask, MicroBatchLimits(64))
    assert [batch.counted for batch in batches] == [True, False]

    def apply(function):
        return function(models.policy)

    real, empty = forward_micro_batches(apply, completion_logp, batches, one_prompt)
    assert real.shape == (2, 3)
    assert empty.shape == (0, 3)
    gradients = torch.autograd.grad(empty.sum(), list(models.policy.parameters()))
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_a_plan_covers_the_completions_of_the_given_prompts(models, completions):
    batch = Completions(*completions)

    def apply(function):
        return function(models.policy)

    everything = torch.cat(list(make_forward_plan(batch, MicroBatchLimits(1)).run(apply)))
    torch.testing.assert_close(everything, completion_logp(models.policy, *completions))
    second = torch.cat(list(make_forward_plan(batch, MicroBatchLimits(8), [1]).run(apply)))
    width = int(batch.mask[2:].sum(-1).max())
    torch.testing.assert_close(second[:, :width], everything[2:, :width])
    assert make_forward_plan(batch, MicroBatchLimits(8), []).micro_batches == []
    with patch.object(distributed, "max_over_ranks", lambda values: [2]):
        waiting = make_forward_plan(batch, MicroBatchLimits(8), [])
    assert [micro.counted for micro in waiting.micro_batches] == [False, False]
    assert [len(part) for part in waiting.run(apply)] == [0, 0]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_gradient_goes_back_through_the_log_probabilities(models, completions, rows):
    """In one pass or several: a loss of all log-probabilities that is not a sum over rows."""
    policy = models.policy

    def compute_loss(logp):
        return logp.exp().sum().square(), {"rows": torch.tensor(float(len(logp)))}

    class PlainEngine:
        def apply(self, function):
            return function(policy)

        def backward(self, loss):
            loss.backward()

    plan = make_forward_plan(Completions(*completions), MicroBatchLimits(rows))
    assert len(plan.micro_batches) == {1: 4, 2: 2, 4: 1}[rows]
    metrics, logp, entropy = backward_through_logp(PlainEngine(), plan, 0, compute_loss)
    ours = [p.grad.clone() for p in policy.parameters()]
    loss, _ = compute_loss(completion_logp(policy, *completions))
    for gradient, expected in zip(ours, torch.autograd.grad(loss, list(policy.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()))
    assert metrics["rows"] == 4
    expected = completion_logp_and_entropy(policy, *completions)
    torch.testing.assert_close(torch.stack([logp, entropy]), expected.detach())
    assert not logp.requires_grad
    assert not entropy.requires_grad
