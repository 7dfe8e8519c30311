"""An LSTM that reads one token at a time and keeps what its backward pass needs.

The gradient on sampled tokens then needs no second forward pass. States are stored as [H, N], because BLAS multiplies
a weight with such a state fastest. Each layer's gates are stored in the order out, in, forget, new, so that the three
with a sigmoid are contiguous; torch's order is in, forget, new, out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chem.models.tokenizer import START_ID

BLOCK = 272  # tokens whose gate gradients are held at a time: they fit into the cache, and BLAS is still fast


class LstmModules(NamedTuple):
    """The modules of a network with LSTM cells."""

    embedding: nn.Embedding
    cells: nn.RNNBase
    head: nn.Linear


@dataclass
class Trace:
    """What a forward pass keeps for its backward pass. Lists are indexed by layer and step; n rows run at a step."""

    gates: list[list[Tensor]] = field(default_factory=list)  # [4H, n], after sigmoid (out, in, forget) or tanh (new)
    hidden_before: list[list[Tensor]] = field(default_factory=list)  # [H, n]
    hidden: list[list[Tensor]] = field(default_factory=list)
    cell_before: list[list[Tensor]] = field(default_factory=list)
    tanh_cell: list[list[Tensor]] = field(default_factory=list)
    kept_rows: list[Tensor | None] = field(
        default_factory=list
    )  # by step: rows of the last step that run on; None: all
    logits: list[Tensor] = field(default_factory=list)  # by step: [n, V]


class LstmReader:
    """See `chem.models.network.Reader`. The first layer's product with its input is looked up in a table by token.

    Args:
        modules: the network.
        rows: number of sequences.
        trace: filled while reading, if given.
    """

    def __init__(self, modules: LstmModules, rows: int, trace: Trace | None = None) -> None:
        cells = modules.cells
        self.size, self.trace = cells.hidden_size, trace
        weights = [[reorder_gates(t.detach()) for t in layer] for layer in layer_weights(cells)]
        w_in, w_rec, b_in, b_rec = weights[0]
        self.table = torch.addmm((b_in + b_rec).unsqueeze(1), w_in, modules.embedding.weight.detach().T)  # [4H, V]
        self.first = w_rec
        self.later = [(torch.cat(layer[:2], 1), (layer[2] + layer[3]).unsqueeze(1)) for layer in weights[1:]]
        self.hidden = [w_rec.new_zeros(self.size, rows) for _ in weights]
        self.cell = [torch.zeros_like(hidden) for hidden in self.hidden]
        self.kept_rows: Tensor | None = None
        if trace is not None:
            for by_layer in (trace.gates, trace.hidden_before, trace.hidden, trace.cell_before, trace.tanh_cell):
                by_layer.extend([] for _ in weights)

    def step(self, token: Tensor) -> Tensor:
        """See `Reader.step`."""
        if self.trace is not None:
            self.trace.kept_rows.append(self.kept_rows)
            self.kept_rows = None
        self._update(0, self.table.index_select(1, token).addmm_(self.first, self.hidden[0]))
        for layer, (weight, bias) in enumerate(self.later, 1):
            layer_input = torch.cat([self.hidden[layer - 1], self.hidden[layer]])
            self._update(layer, torch.addmm(bias, weight, layer_input))
        return self.hidden[-1].T

    def _update(self, layer: int, gates: Tensor) -> None:
        """Advance one layer's states by a step.

        Args:
            layer: index of the layer.
            gates: [4H, n] before sigmoid and tanh; overwritten.
        """
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
        """See `Reader.keep`."""
        self.hidden = [hidden.index_select(1, rows) for hidden in self.hidden]
        self.cell = [cell.index_select(1, rows) for cell in self.cell]
        self.kept_rows = rows


def layer_weights(cells: nn.RNNBase) -> list[list[Tensor]]:
    """weight_ih, weight_hh, bias_ih and bias_hh of each layer."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [[getattr(cells, f"{name}_l{layer}") for name in names] for layer in range(cells.num_layers)]


def reorder_gates(weights: Tensor) -> Tensor:
    """From torch's gates (in, forget, new, out) to this module's (out, in, forget, new)."""
    return weights.roll(len(weights) // 4, 0)


def restore_gates(weights: Tensor) -> Tensor:
    """The inverse of `reorder_gates`."""
    return weights.roll(-len(weights) // 4, 0)


def lstm_parameters(modules: LstmModules) -> list[Tensor]:
    """All parameters of the network, in the order of `TracedRows.gradients`."""
    layers = [t for layer in layer_weights(modules.cells) for t in layer]
    return [modules.embedding.weight, *layers, modules.head.weight, modules.head.bias]


class TracedRows:
    """Rows that were sampled together, with the trace of their forward pass.

    S is the number of their unmasked tokens. Tensors of length S are in the order of reading: step by step.

    Args:
        tokens: [N, T] ids.
        mask: [N, T] bool.
        trace: of the forward pass that sampled the tokens.
    """

    def __init__(self, tokens: Tensor, mask: Tensor, trace: Trace) -> None:
        self.tokens, self.mask, self.trace = tokens, mask, trace

    def logp(self) -> Tensor:
        """Log-probabilities [N, T] of the tokens, nats, 0 where masked."""
        self.vocabulary_logp = torch.cat(self.trace.logits).log_softmax(-1)  # [S, V]
        token_ids = self._in_reading_order(self.tokens).unsqueeze(-1)
        selected = self.vocabulary_logp.gather(-1, token_ids).squeeze(-1)
        return selected.new_zeros(self.mask.T.shape).masked_scatter(self.mask.T, selected).T

    def _in_reading_order(self, values: Tensor) -> Tensor:
        """[N, T] -> [S]."""
        return values.T[self.mask.T]

    def gradients(self, modules: LstmModules, logp_gradient: Tensor) -> list[Tensor]:
        """Gradients of `lstm_parameters` by backpropagation through time. Call `logp` first.

        Goes layer by layer from the top. Only the recurrent product needs one step after the other; all others are
        products over blocks of steps.

        Args:
            modules: the network that sampled the rows, with the same weights.
            logp_gradient: [N, T], gradient of `logp`.
        """
        trace = self.trace
        d_logp = self._in_reading_order(logp_gradient).unsqueeze(-1)
        d_logits = self.vocabulary_logp.exp().mul_(-d_logp)  # gradient * (1{token} - p), [S, V]
        d_logits.scatter_add_(1, self._in_reading_order(self.tokens).unsqueeze(-1), d_logp)
        gradients = [d_logits.sum(0), d_logits.T @ torch.cat(trace.hidden[-1], 1).T]  # in reverse order
        d_hidden = modules.head.weight.detach().T @ d_logits.T  # of the layer's hidden states, [H, S]
        weights = layer_weights(modules.cells)
        inputs = self._one_hot_inputs(modules.embedding.num_embeddings, d_hidden)
        for layer in reversed(range(len(weights))):
            w_in, w_rec = (reorder_gates(weight.detach()) for weight in weights[layer][:2])
            d_bias, d_w_rec, d_below = (
                w_rec.new_zeros(len(w_rec)),
                torch.zeros_like(w_rec),
                torch.empty_like(d_hidden),
            )
            d_w_in = w_rec.new_zeros(len(w_rec), w_in.shape[1] if layer else inputs.shape[1])
            for steps, columns, d_gates in self._through_time(layer, d_hidden, w_rec):
                d_bias.addmv_(d_gates, d_gates.new_ones(d_gates.shape[1]))
                d_w_rec.addmm_(d_gates, torch.cat(trace.hidden_before[layer][steps], 1).T)
                if layer:
                    d_w_in.addmm_(d_gates, torch.cat(trace.hidden[layer - 1][steps], 1).T)
                    d_below[:, columns] = w_in.T @ d_gates
                else:
                    d_w_in.addmm_(d_gates, inputs[columns])
            gradients += [restore_gates(d_bias), restore_gates(d_bias), restore_gates(d_w_rec)]
            if layer:
                gradients.append(restore_gates(d_w_in))
            else:  # d_w_in is that of w_in @ embedding.T
                gradients += [restore_gates(d_w_in @ modules.embedding.weight.detach()), d_w_in.T @ w_in]
            d_hidden = d_below
        return gradients[::-1]

    def _one_hot_inputs(self, vocabulary: int, like: Tensor) -> Tensor:
        """[S, V], 1 at the token that was read to predict each token: START before the first."""
        inputs = torch.cat([torch.full_like(self.tokens[:, :1], START_ID), self.tokens[:, :-1]], 1)
        indices = self._in_reading_order(inputs).unsqueeze(-1)
        return like.new_zeros(like.shape[1], vocabulary).scatter_(1, indices, 1.0)

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Blocks of steps with at most `BLOCK` tokens together, the last steps first, and their columns of S."""
        sizes = [len(logits) for logits in self.trace.logits]
        last, end = len(sizes), sum(sizes)
        while last:
            first, begin = last - 1, end - sizes[last - 1]
            while first and end - begin + sizes[first - 1] <= BLOCK:
                first, begin = first - 1, begin - sizes[first - 1]
            yield slice(first, last), slice(begin, end)
            last, end = first, begin

    def _through_time(self, layer: int, d_hidden: Tensor, w_rec: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Gradients of one layer's gates before sigmoid and tanh, block by block from the last step to the first.

        Args:
            layer: index of the layer.
            d_hidden: [H, S] gradients of its hidden states from the layer above.
            w_rec: [4H, H] its recurrent weights, with reordered gates.

        Yields:
            Steps of the block, their columns of S, and the gradients [4H, columns].
        """
        size, trace, w_rec_t = w_rec.shape[1], self.trace, w_rec.T.contiguous()
        d_hidden_next = d_cell_next = None  # gradients from the next step
        for steps, columns in self._blocks():
            end, block = columns.stop, []
            for step in reversed(range(steps.start, steps.stop)):
                gates, tanh_cell = trace.gates[layer][step], trace.tanh_cell[layer][step]
                begin = end - gates.shape[1]
                out, enter, forget, new = gates.chunk(4)
                d_gates = torch.empty_like(gates)
                d_out, d_enter, d_forget, d_new = d_gates.chunk(4)
                d_step = d_hidden[:, begin:end]
                if d_hidden_next is not None:
                    d_step = d_hidden_next.add_(d_step)
                torch.mul(d_step, tanh_cell, out=d_out)
                d_cell = d_step * out
                torch.ops.aten.tanh_backward.grad_input(d_cell, tanh_cell, grad_input=d_cell)
                if d_cell_next is not None:
                    d_cell += d_cell_next
                torch.mul(d_cell, new, out=d_enter)
                torch.mul(d_cell, trace.cell_before[layer][step], out=d_forget)
                torch.mul(d_cell, enter, out=d_new)
                sigmoids = d_gates[: 3 * size]
                torch.ops.aten.sigmoid_backward.grad_input(sigmoids, gates[: 3 * size], grad_input=sigmoids)
                torch.ops.aten.tanh_backward.grad_input(d_new, new, grad_input=d_new)
                block.append(d_gates)
                if step:
                    shape = (size, trace.gates[layer][step - 1].shape[1])
                    d_before = w_rec_t @ d_gates, d_cell.mul_(forget)
                    d_hidden_next, d_cell_next = _scatter_rows(shape, trace.kept_rows[step], *d_before)
                end = begin
            yield steps, columns, torch.cat(block[::-1], 1)


def _scatter_rows(shape: tuple[int, int], rows: Tensor | None, *tensors: Tensor) -> list[Tensor]:
    """Spread [H, n] of the rows that continued over all m rows of the step before: [H, m] with 0 for the others."""
    if rows is None:
        return list(tensors)
    return [tensor.new_zeros(shape).index_copy_(1, rows, tensor) for tensor in tensors]
