"""Networks over SMILES: probabilities, sampling, files; by enumerating sequences of a small vocabulary."""

from itertools import product

import pytest
import torch

from chem.models.network import sample, token_logp
from chem.models.prior import Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import END_ID, START_ID, Tokenizer
from chem.parallel.sampler import ParallelSampler
from chem.parallel.threads import RowThreads
from conf.schema.base import ConfigError
from conf.schema.chem import RecurrentConfig, TransformerConfig

VOCABULARY = 4  # END, START and two others
KINDS = {
    "lstm": RecurrentConfig("lstm", layers=2, hidden=6, embedding=5, dropout=0.0),
    "gru": RecurrentConfig("gru", layers=1, hidden=6, embedding=5, dropout=0.0),
    "transformer": TransformerConfig("transformer", layers=2, width=8, heads=2, positions=8, dropout=0.0),
}


@pytest.fixture(params=KINDS)
def network(request):
    torch.manual_seed(1)
    network = make_network(VOCABULARY, KINDS[request.param]).double().eval()
    with torch.no_grad():
        network.head.weight.mul_(3)  # far from uniform
    return network


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


def test_a_drawn_token_is_the_inverse_cdf_of_its_uniform(network):
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


def test_a_sequence_depends_on_its_own_uniforms_alone(network):
    uniforms = torch.rand(30, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = sample(network, uniforms)
    for row in range(30):
        alone = sample(network, uniforms[row : row + 1])
        count = int(alone.mask.sum())
        assert alone.tokens[0, :count].tolist() == together.tokens[row, :count].tolist()
        assert int(together.mask[row].sum()) == count
        assert bool(alone.complete[0]) == bool(together.complete[row])


@pytest.mark.parametrize(("threads", "block"), [(1, 150), (3, 10)])  # blocks of some steps, and of one or some
def test_drawing_gives_the_log_probabilities_and_the_gradient_of_a_second_reading(
    network, threads, block, monkeypatch
):
    monkeypatch.setattr("chem.models.lstm_kernel.BLOCK", block)
    uniforms = torch.rand(100, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = torch.rand(100, 1, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    if isinstance(network.longest, int):
        uniforms = uniforms[:, : network.longest]

    def gradients(logp):
        return torch.autograd.grad((weights * logp).sum(), list(network.parameters()), retain_graph=True)

    with RowThreads(100, threads) as cores, ParallelSampler(network, cores) as shares:
        assert cores.count == threads
        rollout, logp = shares.draw(uniforms)
        plain = sample(network, uniforms)
        assert all(map(torch.equal, rollout, plain))
        assert not rollout.complete.all()
        again = token_logp(network, rollout.tokens, rollout.mask)
        torch.testing.assert_close(logp, again, rtol=1e-12, atol=1e-12)
        own = gradients(logp)
    torch.testing.assert_close(own, gradients(again), rtol=1e-10, atol=1e-12)
    with RowThreads(100, threads) as cores:
        prior = token_logp(network, rollout.tokens, rollout.mask, cores)
        assert torch.equal(prior, again)
        assert not prior.requires_grad
    other = rollout.tokens.clone()  # control: one token of one row is another
    other[7, 0] = next(i for i in range(VOCABULARY) if i not in (END_ID, int(other[7, 0])))
    changed = token_logp(network, other, rollout.mask)
    assert (changed - logp).abs().max() > 1e-3
    assert max(float((a - b).abs().max()) for a, b in zip(gradients(changed), own, strict=True)) > 1e-3


def test_in_single_precision_they_agree_to_a_millionth():
    """Of a whole sequence, with a network of the shipped prior's size."""
    torch.manual_seed(0)
    network = make_network(40, RecurrentConfig("lstm", layers=3, hidden=256, embedding=128, dropout=0.0)).eval()
    uniforms = torch.rand(64, 40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with RowThreads(64, 2) as cores, ParallelSampler(network, cores) as shares:
        rollout, logp = shares.draw(uniforms)
        whole = [values.double().sum(-1) for values in (logp, token_logp(network, rollout.tokens, rollout.mask))]
        gradients = [torch.autograd.grad(values.sum(), list(network.parameters())) for values in whole]
    torch.testing.assert_close(*whole, rtol=1e-6, atol=0)
    for one, other in zip(*gradients, strict=True):
        assert float((one - other).abs().max()) < 1e-5 * float(other.abs().max())


def test_sampled_frequencies_are_the_probabilities(network):
    rows = sequences(2)
    uniforms = torch.rand(20000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rollout = sample(network, uniforms)
    tokens = torch.tensor([[*row, *[END_ID] * (2 - len(row))] for row in rows])
    mask = torch.tensor([[t < len(row) for t in range(2)] for row in rows])
    expected = token_logp(network, tokens, mask).sum(-1).exp()
    seen = torch.tensor([float((rollout.tokens == row).all(-1).double().mean()) for row in tokens])
    assert (seen - expected).abs().max().item() < 0.015


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_is_saved_and_loaded(tmp_path, kind):
    tokenizer = Tokenizer.of(["C", "O"])
    network = make_network(len(tokenizer), KINDS[kind]).eval()
    save_prior(tmp_path, Prior(network, tokenizer, KINDS[kind], 8))
    again = load_prior(tmp_path)
    tokens, mask = tokenizer.encode_batch(["CO", "CCO", "O"])
    assert torch.equal(token_logp(network, tokens, mask), token_logp(again.network, tokens, mask))
    assert again.config == KINDS[kind]
    assert again.max_tokens == 8
    assert again.tokenizer.tokens == tokenizer.tokens

    (tmp_path / "vocabulary.json").write_text('["$", "^", "C"]')
    with pytest.raises(ConfigError, match="must be a prior that was saved whole"):
        load_prior(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"got no model\.safetensors"):
        load_prior(tmp_path)
