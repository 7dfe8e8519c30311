"""LSTM and GRU networks: readers against torch's modules, and when an LSTM's gradient can be traced."""

import pytest
import torch

from chem.models.lstm_kernel import LstmReader
from chem.models.recurrent import GruReader, Recurrent
from conf.schema.chem import RecurrentConfig


def make(name="gru", layers=2, dropout=0.0):
    torch.manual_seed(0)
    return Recurrent(6, RecurrentConfig(name, layers=layers, hidden=7, embedding=5, dropout=dropout)).double().eval()


@pytest.mark.parametrize("layers", [1, 3])
def test_the_gru_reader_is_torchs_gru(layers):
    network = make(layers=layers)
    tokens = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(0))
    expected = network.hidden(tokens)
    reader = network.reader(4)
    assert isinstance(reader, GruReader)
    for t in range(3):
        torch.testing.assert_close(reader.step(tokens[:, t]), expected[:, t])
    rows = torch.tensor([1, 2])
    reader.keep(rows)
    torch.testing.assert_close(reader.step(tokens[rows, 3]), expected[rows, 3])
    assert (expected[1, 3] - expected[2, 3]).abs().max() > 1e-3  # control: rows cannot be mixed up


def test_the_layers_are_reinvents():
    network = make("lstm", layers=3, dropout=0.2)
    assert isinstance(network.reader(1), LstmReader)
    assert (network.cells.num_layers, network.cells.input_size, network.cells.hidden_size) == (3, 5, 7)
    assert network.cells.dropout == 0.2
    assert make("lstm", layers=1, dropout=0.2).cells.dropout == 0  # one layer has no dropout between layers
    assert (network.head.in_features, network.head.out_features) == (7, 6)


def test_only_an_lstm_without_active_dropout_is_traceable():
    assert make("lstm").traceable
    assert make("lstm").train().traceable
    assert make("lstm", dropout=0.5).traceable  # in evaluation mode
    assert not make("lstm", dropout=0.5).train().traceable
    assert not make("gru").traceable
