"""A decoder-only transformer over SMILES tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from chem.models.lstm_kernel import Trace
from chem.models.network import Network, Reader
from conf.schema.chem import TransformerConfig


class Transformer(Network):
    """Decoder-only, pre-norm, with learned positions and a GELU perceptron of four times the width."""

    def __init__(self, vocabulary: int, config: TransformerConfig) -> None:
        super().__init__()
        self.max_positions = config.positions
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocabulary)
        for embedding in (self.embedding, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def hidden(self, inputs: Tensor) -> Tensor:
        """See `Network.hidden`."""
        x = self.embedding(inputs) + self.position.weight[: inputs.shape[1]]
        for block in self.blocks:
            x, _ = block(x, None)
        return self.norm(x)

    def reader(self, rows: int, trace: Trace | None = None) -> Reader:
        """See `Network.reader`."""
        return TransformerReader(self, rows)


class TransformerReader:
    """Reads one token at a time, with a cache of keys and values."""

    def __init__(self, network: Transformer, rows: int) -> None:
        self.network = network
        self.cache = [network.head.weight.new_zeros(2, rows, 0, network.head.in_features) for _ in network.blocks]

    def step(self, token: Tensor) -> Tensor:
        """See `Reader.step`."""
        position = self.cache[0].shape[2]
        x = (self.network.embedding(token) + self.network.position.weight[position]).unsqueeze(1)
        for number, block in enumerate(self.network.blocks):
            x, self.cache[number] = block(x, self.cache[number])
        return self.network.norm(x)[:, 0]

    def keep(self, rows: Tensor) -> None:
        """See `Reader.keep`."""
        self.cache = [cache[:, rows] for cache in self.cache]


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with a norm before it and a residual connection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply the block.

        Args:
            x: [N, T, W] hidden states.
            past: [2, N, P, W] keys and values of earlier tokens, T is then 1; or None.

        Returns:
            [N, T, W] hidden states, and the keys and values [2, N, P + T, W] of all tokens.
        """
        query, *new = self.mix(self.norms[0](x)).chunk(3, -1)
        cache = torch.stack(new) if past is None else torch.cat([past, torch.stack(new)], 2)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, *cache))
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=past is None, dropout_p=dropout)
        x = x + self._drop(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self._drop(self.mlp(self.norms[1](x))), cache

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)
