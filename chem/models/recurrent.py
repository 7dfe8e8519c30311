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
        """See `Network.hidden`."""
        return self.cells(self.embedding(inputs))[0]

    def reader(self, rows: int, trace: Trace | None = None) -> Reader:
        """See `Network.reader`."""
        return LstmReader(self.lstm, rows, trace) if isinstance(self.cells, nn.LSTM) else GruReader(self, rows)

    @property
    def lstm(self) -> LstmModules:
        """The modules of an LSTM network, for `chem.models.lstm_kernel`."""
        return LstmModules(self.embedding, self.cells, self.head)

    @property
    def traceable(self) -> bool:
        """Whether `chem.models.lstm_kernel.TracedRows` can compute its gradient: an LSTM without active dropout."""
        return isinstance(self.cells, nn.LSTM) and not (self.training and self.cells.dropout)


class GruReader:
    """Reads one token at a time. The first layer's product with its input is looked up in a table by token."""

    def __init__(self, network: Recurrent, rows: int) -> None:
        self.layers = [[t.detach() for t in layer] for layer in layer_weights(network.cells)]
        w_in, w_rec, b_in, _ = self.layers[0]
        self.table = torch.addmm(b_in, network.embedding.weight.detach(), w_in.T)  # [V, 3H]
        self.hidden = [w_rec.new_zeros(rows, w_rec.shape[1]) for _ in self.layers]

    def step(self, token: Tensor) -> Tensor:
        """See `Reader.step`."""
        from_input = self.table[token]
        for layer, (w_in, w_rec, b_in, b_rec) in enumerate(self.layers):
            if layer:
                from_input = torch.addmm(b_in, self.hidden[layer - 1], w_in.T)
            from_hidden = torch.addmm(b_rec, self.hidden[layer], w_rec.T)
            (reset, update, new), (h_reset, h_update, h_new) = from_input.chunk(3, 1), from_hidden.chunk(3, 1)
            candidate = (new + (reset + h_reset).sigmoid() * h_new).tanh()
            self.hidden[layer] = candidate + (update + h_update).sigmoid() * (self.hidden[layer] - candidate)
        return self.hidden[-1]

    def keep(self, rows: Tensor) -> None:
        """See `Reader.keep`."""
        self.hidden = [hidden[rows] for hidden in self.hidden]
