"""Probabilities and sampling of every network, by enumerating the sequences of a small vocabulary."""

from itertools import product

import pytest
import torch

from chem.models.network import Rollout, concat_rollouts, sample, token_logp
from chem.models.tokenizer import END_ID, START_ID

from ..networks import CONFIGS, VOCABULARY, random_network


@pytest.fixture(params=CONFIGS)
def network(request):
    return random_network(CONFIGS[request.param])


def sequences(longest):
    """Every sequence up to `longest` tokens: those that end, and those cut there."""
    others = [i for i in range(VOCABULARY) if i != END_ID]
    whole = [(*body, END_ID) for n in range(longest) for body in product(others, repeat=n)]
    return whole + list(product(others, repeat=longest))


def test_the_probabilities_of_all_sequences_sum_to_one(network):
    rows = sequences(4)
    tokens = torch.tensor([[*row, *[END_ID] * (4 - len(row))] for row in rows])
    mask = torch.tensor([[t < len(row) for t in range(4)] for row in rows])
    logp = token_logp(network, tokens, mask)
    assert bool((logp <= 0).all())
    assert bool((logp[~mask] == 0).all())
    total = logp.sum(-1).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))
    # Control: with padding counted, as some implementations do, they do not.
    padded = token_logp(network, tokens, torch.ones_like(mask)).sum(-1).exp().sum()
    assert abs(padded.item() - 1) > 1e-3


def test_log_probabilities_do_not_depend_on_the_rest_of_the_batch(network):
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 9, (150,), generator=generator)
    mask = torch.arange(8) < lengths.unsqueeze(-1)
    tokens = torch.randint(1, VOCABULARY, (150, 8), generator=generator)
    tokens = torch.where(mask & (torch.arange(8) < lengths.unsqueeze(-1) - 1), tokens, END_ID)
    together = token_logp(network, tokens, mask)  # in several buckets
    for row in range(0, 150, 7):
        count = int(lengths[row])
        alone = token_logp(network, tokens[row : row + 1, :count], mask[row : row + 1, :count])
        torch.testing.assert_close(together[row, :count], alone[0], rtol=1e-9, atol=1e-12)
    gradient = torch.autograd.grad((together.sum(-1) * torch.arange(150)).sum(), network.head.weight)[0]
    one_by_one = sum(
        row * token_logp(network, tokens[row : row + 1], mask[row : row + 1]).sum() for row in range(150)
    )
    torch.testing.assert_close(gradient, torch.autograd.grad(one_by_one, network.head.weight)[0])


def test_a_sampled_token_is_the_inverse_cdf_of_its_uniform(network):
    uniforms = torch.rand(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rollout = sample(network, uniforms)
    start = torch.full_like(rollout.tokens[:, :1], START_ID)
    logits = network.head(network.hidden(torch.cat([start, rollout.tokens[:, :-1]], 1)))  # all at once
    upper = logits.softmax(-1).cumsum(-1).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    lower = upper - logits.softmax(-1).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    width = rollout.tokens.shape[1]

    def inside(u):
        return ((lower <= u + 1e-9) & (u <= upper + 1e-9))[rollout.mask].double().mean()

    assert inside(uniforms[:, :width]) == 1
    assert inside(1 - uniforms[:, :width]) < 0.7  # control
    assert rollout.complete.tolist() == [END_ID in row for row in rollout.tokens[:, :5].tolist()]
    assert rollout.complete.any()
    assert not rollout.complete.all()


def test_a_sequence_depends_only_on_its_own_uniforms(network):
    uniforms = torch.rand(30, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = sample(network, uniforms)
    for row in range(30):
        alone = sample(network, uniforms[row : row + 1])
        count = int(alone.mask.sum())
        assert alone.tokens[0, :count].tolist() == together.tokens[row, :count].tolist()
        assert int(together.mask[row].sum()) == count
        assert bool(alone.complete[0]) == bool(together.complete[row])


def test_sampled_frequencies_are_the_probabilities(network):
    rows = sequences(2)
    uniforms = torch.rand(20000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rollout = sample(network, uniforms)
    tokens = torch.tensor([[*row, *[END_ID] * (2 - len(row))] for row in rows])
    mask = torch.tensor([[t < len(row) for t in range(2)] for row in rows])
    expected = token_logp(network, tokens, mask).sum(-1).exp()
    seen = torch.tensor([float((rollout.tokens == row).all(-1).double().mean()) for row in tokens])
    assert (seen - expected).abs().max().item() < 0.015


def test_rollouts_are_concatenated_to_one_width():
    long = Rollout(torch.tensor([[2, 3, 0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([True]))
    short = Rollout(torch.tensor([[2], [3]]), torch.ones(2, 1, dtype=torch.bool), torch.tensor([False, False]))
    joined = concat_rollouts([short, long])
    assert joined.tokens.tolist() == [[2, END_ID, END_ID], [3, END_ID, END_ID], [2, 3, 0]]
    assert joined.mask.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
    assert joined.complete.tolist() == [False, False, True]
