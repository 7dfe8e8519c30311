"""The LSTM that keeps its trace, against torch's LSTM and autograd."""

import pytest
import torch
from torch import nn

from chem.models.lstm_kernel import (
    LstmReader,
    Trace,
    TracedRows,
    layer_weights,
    lstm_parameters,
    reorder_gates,
    restore_gates,
)
from chem.models.network import sample, token_logp
from chem.models.prior import make_network
from chem.models.recurrent import Recurrent
from chem.parallel.sampler import ParallelSampler
from chem.parallel.threads import RowThreads
from conf.schema.chem import RecurrentConfig

CONFIG = RecurrentConfig("lstm", layers=3, hidden=7, embedding=5, dropout=0.0)


@pytest.fixture
def network() -> Recurrent:
    torch.manual_seed(2)
    network = make_network(6, CONFIG).double().eval()
    assert isinstance(network, Recurrent)
    return network


def test_gates_are_reordered_and_restored():
    gates = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4])  # torch: in, forget, new, out
    assert reorder_gates(gates).tolist() == [4, 4, 1, 1, 2, 2, 3, 3]  # out, in, forget, new
    assert torch.equal(restore_gates(reorder_gates(gates)), gates)


def test_parameters_are_all_of_the_networks(network):
    parameters = lstm_parameters(network.lstm)
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters()}
    assert [len(layer) for layer in layer_weights(network.cells)] == [4] * 3


def test_reading_token_by_token_is_torchs_lstm(network):
    tokens = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(0))
    expected = network.hidden(tokens)
    reader = LstmReader(network.lstm, 4)
    for t in range(5):
        torch.testing.assert_close(reader.step(tokens[:, t]), expected[:, t])
    assert (expected[:, 1] - expected[:, 2]).abs().max() > 1e-3  # control


def test_rows_that_are_kept_continue_with_their_states(network):
    tokens = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([0, 3])
    reader = LstmReader(network.lstm, 4)
    reader.step(tokens[:, 0])
    reader.keep(rows)
    expected = network.hidden(tokens)
    torch.testing.assert_close(reader.step(tokens[rows, 1]), expected[rows, 1])


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_gradients_are_those_of_autograd(network, block, monkeypatch):
    """One weight per token, so that no gradient of a token can stand for another's."""
    monkeypatch.setattr("chem.models.lstm_kernel.BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    trace = Trace()
    rollout = sample(network, torch.rand(20, 8, generator=generator, dtype=torch.float64), trace)
    assert rollout.mask.sum(1).unique().numel() > 3  # rows end at different steps
    rows = TracedRows(rollout.tokens, rollout.mask, trace)
    weights = torch.randn(rollout.mask.shape, generator=generator, dtype=torch.float64)
    logp = token_logp(network, rollout.tokens, rollout.mask)
    with torch.no_grad():
        torch.testing.assert_close(rows.logp(), logp)
        gradients = rows.gradients(network.lstm, weights)
    parameters: list[nn.Parameter] = lstm_parameters(network.lstm)  # type: ignore[assignment]
    expected = torch.autograd.grad((logp * weights).sum(), parameters, retain_graph=True)
    torch.testing.assert_close(gradients, list(expected))
    other = torch.autograd.grad((logp * weights.roll(1, 0)).sum(), parameters)  # control: the weights matter
    assert max(float((a - b).abs().max()) for a, b in zip(gradients, other, strict=True)) > 1e-2


def test_single_precision_agrees_to_a_millionth():
    """Log-probabilities of whole sequences, and gradients, with a network of the shipped prior's size."""
    torch.manual_seed(0)
    network = make_network(40, RecurrentConfig("lstm", layers=3, hidden=256, embedding=128, dropout=0.0)).eval()
    uniforms = torch.rand(64, 40, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with RowThreads(64, 2) as row_threads, ParallelSampler(network, row_threads) as sampler:
        rollout, logp = sampler.draw(uniforms)
        seq_logp = [values.double().sum(-1) for values in (logp, token_logp(network, rollout.tokens, rollout.mask))]
        gradients = [torch.autograd.grad(values.sum(), list(network.parameters())) for values in seq_logp]
    torch.testing.assert_close(*seq_logp, rtol=1e-6, atol=0)
    for ours, autograd in zip(*gradients, strict=True):
        assert float((ours - autograd).abs().max()) < 1e-5 * float(autograd.abs().max())
