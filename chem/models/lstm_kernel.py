"""An LSTM read one token at a time by hand, so that learning from what it drew needs no second reading.

States are held as [H, N]: a weight times a state is what BLAS multiplies fastest. Of each layer's four gates the
three that pass a sigmoid stand together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chem.models.tokenizer import START_ID

BLOCK = 272  # tokens whose gates' gradients are held at a time: few enough to stay in the cache, wide enough for BLAS


class LstmModules(NamedTuple):
    """The modules of a network whose recurrent cells are an LSTM."""

    embedding: nn.Embedding
    cells: nn.RNNBase
    head: nn.Linear


@dataclass
class Trace:
    """What a reading leaves for its backward pass; of layer and step, for the n rows that then were running."""

    gates: list[list[Tensor]] = field(default_factory=list)  # [4H, n], after sigmoid (in, forget, out) and tanh (new)
    hidden_before: list[list[Tensor]] = field(default_factory=list)  # [H, n]
    hidden: list[list[Tensor]] = field(default_factory=list)
    cell_before: list[list[Tensor]] = field(default_factory=list)
    tanh_cell: list[list[Tensor]] = field(default_factory=list)
    kept: list[Tensor | None] = field(default_factory=list)  # by step: rows of the step before; None: all
    logits: list[Tensor] = field(default_factory=list)  # by step: [n, V]


class LstmReader:
    """See `chem.models.network.Reader`. The first layer's product with a token's embedding is looked up."""

    def __init__(self, modules: LstmModules, rows: int, trace: Trace | None = None) -> None:
        cells = modules.cells
        self.size, self.trace = cells.hidden_size, trace
        weights = [[ordered(t.detach()) for t in layer] for layer in layer_weights(cells)]
        w_in, w_rec, b_in, b_rec = weights[0]
        self.table = torch.addmm((b_in + b_rec).unsqueeze(1), w_in, modules.embedding.weight.detach().T)  # [4H, V]
        self.first = w_rec
        self.later = [(torch.cat(layer[:2], 1), (layer[2] + layer[3]).unsqueeze(1)) for layer in weights[1:]]
        self.hidden = [w_rec.new_zeros(self.size, rows) for _ in weights]
        self.cell = [torch.zeros_like(hidden) for hidden in self.hidden]
        self.kept: Tensor | None = None
        if trace is not None:
            for part in (trace.gates, trace.hidden_before, trace.hidden, trace.cell_before, trace.tanh_cell):
                part.extend([] for _ in weights)

    def step(self, token: Tensor) -> Tensor:
        if self.trace is not None:
            self.trace.kept.append(self.kept)
            self.kept = None
        self._update(0, self.table.index_select(1, token).addmm_(self.first, self.hidden[0]))
        for layer, (weight, bias) in enumerate(self.later, 1):
            seen = torch.cat([self.hidden[layer - 1], self.hidden[layer]])
            self._update(layer, torch.addmm(bias, weight, seen))
        return self.hidden[-1].T

    def _update(self, layer: int, gates: Tensor) -> None:
        gates[: 3 * self.size].sigmoid_()
        gates[3 * self.size :].tanh_()
        out, enter, forget, new = gates.chunk(4)
        cell = torch.addcmul(forget * self.cell[layer], enter, new)
        tanh_cell = cell.tanh()
        hidden = out * tanh_cell
        if self.trace is not None:
            self.trace.gates[layer].append(gates)
            self.trace.hidden_before[layer].append(self.hidden[layer])
            self.trace.cell_before[layer].append(self.cell[layer])
            self.trace.hidden[layer].append(hidden)
            self.trace.tanh_cell[layer].append(tanh_cell)
        self.hidden[layer], self.cell[layer] = hidden, cell

    def keep(self, rows: Tensor) -> None:
        self.hidden = [hidden.index_select(1, rows) for hidden in self.hidden]
        self.cell = [cell.index_select(1, rows) for cell in self.cell]
        self.kept = rows


def layer_weights(cells: nn.RNNBase) -> list[list[Tensor]]:
    """Of each layer: weight_ih, weight_hh, bias_ih, bias_hh."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [[getattr(cells, f"{name}_l{layer}") for name in names] for layer in range(cells.num_layers)]


def ordered(weights: Tensor) -> Tensor:
    """Torch's gates (in, forget, new, out) as out, in, forget, new."""
    return weights.roll(len(weights) // 4, 0)


def torch_ordered(weights: Tensor) -> Tensor:
    """The inverse."""
    return weights.roll(-len(weights) // 4, 0)


def parameters(modules: LstmModules) -> list[Tensor]:
    layers = [t for layer in layer_weights(modules.cells) for t in layer]
    return [modules.embedding.weight, *layers, modules.head.weight, modules.head.bias]


class TracedRows:
    """Rows that were drawn together. S of their tokens count; in the order of reading, one step after the other."""

    def __init__(self, tokens: Tensor, mask: Tensor, trace: Trace) -> None:
        self.tokens, self.mask, self.trace = tokens, mask, trace

    def logp(self) -> Tensor:
        """[N, T], 0 where masked."""
        self.logp_all = torch.cat(self.trace.logits).log_softmax(-1)  # [S, V]
        chosen = self.logp_all.gather(-1, self._in_order(self.tokens).unsqueeze(-1)).squeeze(-1)
        return chosen.new_zeros(self.mask.T.shape).masked_scatter(self.mask.T, chosen).T

    def _in_order(self, values: Tensor) -> Tensor:
        """[N, T] -> [S]."""
        return values.T[self.mask.T]

    def gradients(self, modules: LstmModules, gradient: Tensor) -> list[Tensor]:
        """Of `parameters`, given that of the log-probabilities, [N, T]: backpropagation through time.

        Layer by layer from the top: only the recurrent product needs one step after the other, all others are
        products over blocks of steps.
        """
        trace, found = self.trace, []
        wanted = self._in_order(gradient).unsqueeze(-1)
        logits = self.logp_all.exp().mul_(-wanted)  # of the logits: gradient (1{token} - p), [S, V]
        logits.scatter_add_(1, self._in_order(self.tokens).unsqueeze(-1), wanted)
        found += [logits.sum(0), logits.T @ torch.cat(trace.hidden[-1], 1).T]
        above = modules.head.weight.detach().T @ logits.T  # of the layer's hidden states, [H, S]
        weights = layer_weights(modules.cells)
        read = self._read(modules.embedding.num_embeddings, above)
        for layer in reversed(range(len(weights))):
            w_in, w_rec = (ordered(weight.detach()) for weight in weights[layer][:2])
            bias, recurrent, below = w_rec.new_zeros(len(w_rec)), torch.zeros_like(w_rec), torch.empty_like(above)
            entering = w_rec.new_zeros(len(w_rec), w_in.shape[1] if layer else read.shape[1])
            for steps, columns, gates in self._through_time(layer, above, w_rec):
                bias.addmv_(gates, gates.new_ones(gates.shape[1]))
                recurrent.addmm_(gates, torch.cat(trace.hidden_before[layer][steps], 1).T)
                if layer:
                    entering.addmm_(gates, torch.cat(trace.hidden[layer - 1][steps], 1).T)
                    below[:, columns] = w_in.T @ gates
                else:
                    entering.addmm_(gates, read[columns])
            found += [torch_ordered(bias), torch_ordered(bias), torch_ordered(recurrent)]
            if layer:
                found.append(torch_ordered(entering))
            else:
                found += [torch_ordered(entering @ modules.embedding.weight.detach()), entering.T @ w_in]
            above = below
        return found[::-1]

    def _read(self, vocabulary: int, like: Tensor) -> Tensor:
        """[S, V], 1 at the token that was read just before each; START before the first."""
        read = torch.cat([torch.full_like(self.tokens[:, :1], START_ID), self.tokens[:, :-1]], 1)
        return like.new_zeros(like.shape[1], vocabulary).scatter_(1, self._in_order(read).unsqueeze(-1), 1.0)

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Steps, last ones first, whose tokens together are at most `BLOCK`, and their columns of S."""
        sizes = [len(logits) for logits in self.trace.logits]
        last, end = len(sizes), sum(sizes)
        while last:
            first, begin = last - 1, end - sizes[last - 1]
            while first and end - begin + sizes[first - 1] <= BLOCK:
                first, begin = first - 1, begin - sizes[first - 1]
            yield slice(first, last), slice(begin, end)
            last, end = first, begin

    def _through_time(self, layer: int, above: Tensor, w_rec: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Gradients of one layer's gates, before sigmoid or tanh, block after block from the last step to the first.

        Given that of its hidden states, `above` [H, S], and its recurrent weights in the gates' order. Yields the
        block's steps, its columns of S and [4H, columns].
        """
        size, trace, back = w_rec.shape[1], self.trace, w_rec.T.contiguous()
        hidden = cell = None  # gradients that the step after leaves
        for steps, columns in self._blocks():
            end, done = columns.stop, []
            for step in reversed(range(steps.start, steps.stop)):
                gates, tanh_cell = trace.gates[layer][step], trace.tanh_cell[layer][step]
                begin = end - gates.shape[1]
                out, enter, forget, new = gates.chunk(4)
                found = torch.empty_like(gates)
                of_out, of_enter, of_forget, of_new = found.chunk(4)
                of_hidden = above[:, begin:end] if hidden is None else hidden.add_(above[:, begin:end])
                torch.mul(of_hidden, tanh_cell, out=of_out)
                of_cell = of_hidden * out
                torch.ops.aten.tanh_backward.grad_input(of_cell, tanh_cell, grad_input=of_cell)
                if cell is not None:
                    of_cell += cell
                torch.mul(of_cell, new, out=of_enter)
                torch.mul(of_cell, trace.cell_before[layer][step], out=of_forget)
                torch.mul(of_cell, enter, out=of_new)
                sigmoids = found[: 3 * size]
                torch.ops.aten.sigmoid_backward.grad_input(sigmoids, gates[: 3 * size], grad_input=sigmoids)
                torch.ops.aten.tanh_backward.grad_input(of_new, new, grad_input=of_new)
                done.append(found)
                if step:
                    wide = (size, trace.gates[layer][step - 1].shape[1])
                    hidden, cell = _back_to(wide, trace.kept[step], back @ found, of_cell.mul_(forget))
                end = begin
            yield steps, columns, torch.cat(done[::-1], 1)


def _back_to(wide: tuple[int, int], rows: Tensor | None, *tensors: Tensor) -> list[Tensor]:
    """[H, n] of the rows that went on, among those of the step before, [H, m]; 0 for the others."""
    if rows is None:
        return list(tensors)
    return [tensor.new_zeros(wide).index_copy_(1, rows, tensor) for tensor in tensors]
