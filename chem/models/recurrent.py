"""REINVENT's network: an embedding, LSTM or GRU layers and a linear output."""

import torch
from torch import Tensor, nn

from chem.models.lstm_kernel import LstmModules, LstmReader, Trace, layer_weights
from chem.models.network import Network, Reader
from conf.schema.chem import RecurrentConfig


class Recurrent(Network):
    """Embedding, LSTM or GRU layers, linear output: REINVENT's network (Olivecrona et al., 2017)."""

    def __init__(self, vocabulary: int, config: RecurrentConfig) -> None:
        super().__init__()
        cell = {"lstm": nn.LSTM, "gru": nn.GRU}[config.name]
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        self.cells = cell(
            config.embedding,
            config.hidden,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.head = nn.Linear(config.hidden, vocabulary)

    def hidden(self, inputs: Tensor) -> Tensor:
        return self.cells(self.embedding(inputs))[0]

    def reader(self, rows: int, trace: Trace | None = None) -> Reader:
        return LstmReader(self.lstm, rows, trace) if isinstance(self.cells, nn.LSTM) else GruReader(self, rows)

    @property
    def lstm(self) -> LstmModules:
        """The modules of an LSTM network, for `chem.models.lstm_kernel`."""
        return LstmModules(self.embedding, self.cells, self.head)

    @property
    def traceable(self) -> bool:
        """Whether `chem.models.lstm_kernel.TracedRows` knows its gradient: an LSTM that drops nothing out."""
        return isinstance(self.cells, nn.LSTM) and not (self.training and self.cells.dropout)


class GruReader:
    """The layers by hand. What the first one makes of its input is one row a token, and is looked up."""

    def __init__(self, network: Recurrent, rows: int) -> None:
        self.layers = [[t.detach() for t in layer] for layer in layer_weights(network.cells)]
        weight, recurrent, bias, _ = self.layers[0]
        self.table = torch.addmm(bias, network.embedding.weight.detach(), weight.T)  # [V, gates]
        self.hidden = [recurrent.new_zeros(rows, recurrent.shape[1]) for _ in self.layers]

    def step(self, token: Tensor) -> Tensor:
        given = self.table[token]
        for layer, (w_in, w_rec, b_in, b_rec) in enumerate(self.layers):
            if layer:
                given = torch.addmm(b_in, self.hidden[layer - 1], w_in.T)
            own = torch.addmm(b_rec, self.hidden[layer], w_rec.T)
            (reset, update, new), (own_reset, own_update, own_new) = given.chunk(3, 1), own.chunk(3, 1)
            fresh = (new + (reset + own_reset).sigmoid() * own_new).tanh()
            self.hidden[layer] = fresh + (update + own_update).sigmoid() * (self.hidden[layer] - fresh)
        return self.hidden[-1]

    def keep(self, rows: Tensor) -> None:
        self.hidden = [hidden[rows] for hidden in self.hidden]
