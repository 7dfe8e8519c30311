"""Networks that give each SMILES a probability: REINVENT's recurrent one and a transformer, behind one interface."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from chem.tokenizer import END_ID, START_ID, Tokenizer
from conf.schema import ConfigError, NetworkConfig, RecurrentConfig, TransformerConfig

State = tuple[Tensor, ...]  # of a network after some tokens; each tensor's second axis is the row


class Network(nn.Module):
    """p(SMILES) = product of p(token | tokens before it); START opens and END closes a sequence.

    hidden: [N, T] ids, the first of them START -> [N, T, D], each position's before its next token.
    begin, advance: the same one token at a time. head: hidden -> logits over the vocabulary.
    """

    head: nn.Linear
    longest: int | None = None  # tokens that the network can read; None: any number

    def hidden(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def begin(self, rows: int) -> State:
        """The state before any token."""
        raise NotImplementedError

    def advance(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row, [N] ids: hidden [N, D] and the state after it."""
        raise NotImplementedError


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

    def begin(self, rows: int) -> State:
        zeros = self.head.weight.new_zeros(self.cells.num_layers, rows, self.cells.hidden_size)
        return (zeros, zeros) if isinstance(self.cells, nn.LSTM) else (zeros,)

    def advance(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, after = self.cells(
            self.embedding(token.unsqueeze(1)), state if isinstance(self.cells, nn.LSTM) else state[0]
        )
        return hidden[:, 0], after if isinstance(after, tuple) else (after,)


class Transformer(Network):
    """Decoder-only, pre-norm, learned positions, GELU of four times the width."""

    def __init__(self, vocabulary: int, config: TransformerConfig) -> None:
        super().__init__()
        self.longest = config.positions
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocabulary)
        for embedding in (self.embedding, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def hidden(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs) + self.position.weight[: inputs.shape[1]]
        for block in self.blocks:
            x, _ = block(x, None)
        return self.norm(x)

    def begin(self, rows: int) -> State:
        blank = self.head.weight.new_zeros(2, rows, 0, self.head.in_features)
        return tuple(blank for _ in self.blocks)

    def advance(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        x = (self.embedding(token) + self.position.weight[state[0].shape[2]]).unsqueeze(1)
        after = []
        for block, past in zip(self.blocks, state, strict=True):
            x, seen = block(x, past)
            after.append(seen)
        return self.norm(x)[:, 0], tuple(after)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and added to what came in."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """[N, T, W] after `past` [2, N, P, W] keys and values (T is then 1): [N, T, W], and all keys and values."""
        query, *new = self.mix(self.norms[0](x)).chunk(3, -1)
        seen = torch.stack(new) if past is None else torch.cat([past, torch.stack(new)], 2)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, *seen))
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=past is None, dropout_p=dropout)
        x = x + self._drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self._drop(self.mlp(self.norms[1](x))), seen

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


def make_network(vocabulary: int, config: NetworkConfig) -> Network:
    """A network of fresh weights, drawn from torch's global generator."""
    if isinstance(config, RecurrentConfig):
        return Recurrent(vocabulary, config)
    if isinstance(config, TransformerConfig):
        return Transformer(vocabulary, config)
    raise ValueError(f"network must be recurrent or a transformer, got {type(config).__name__}")


def token_logp(network: Network, tokens: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of every token of complete or cut sequences, with gradient.

    Args:
        tokens: [N, T] ids, END at each sequence's end, START left out.
        mask: [N, T] bool, True on the sequence's tokens including END.

    Returns:
        [N, T] nats, 0 where masked.
    """
    start = torch.full_like(tokens[:, :1], START_ID)
    hidden = network.hidden(torch.cat([start, tokens[:, :-1]], 1))
    logits = network.head(hidden[mask])
    logp = -functional.cross_entropy(logits, tokens[mask], reduction="none")
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).masked_scatter(mask, logp)


class Rollout(NamedTuple):
    """tokens [N, T] filled with END; mask [N, T] bool, True up to and including END; complete [N]: has an END."""

    tokens: Tensor
    mask: Tensor
    complete: Tensor


@torch.no_grad()
def sample(network: Network, uniforms: Tensor) -> Rollout:
    """Draw one sequence for each row of uniforms, at temperature 1 and from the whole vocabulary.

    A token is the inverse of the cumulative distribution, in float64, at its uniform; so a sequence depends on its
    own row alone. Rows that have ended leave the batch.

    Args:
        uniforms: [N, T] in [0, 1), one for each token that may be drawn; T is the longest sequence, END included.
    """
    count, longest = uniforms.shape
    device = network.head.weight.device
    uniforms = uniforms.to(device)
    tokens = torch.full((count, longest), END_ID, device=device)
    running = torch.arange(count, device=device)  # rows without an END so far
    token = torch.full((count,), START_ID, device=device)
    state = network.begin(count)
    for t in range(longest):
        hidden, state = network.advance(token, state)
        token = inverse_cdf(network.head(hidden), uniforms[running, t])
        tokens[running, t] = token
        going = (token != END_ID).nonzero().squeeze(-1)
        if not len(going):
            running = running[going]
            break
        if len(going) < len(running):
            running, token = running[going], token[going]
            state = tuple(part.index_select(1, going) for part in state)
    complete = torch.ones(count, dtype=torch.bool, device=device)
    complete[running] = False
    ended = (tokens == END_ID).long().cumsum(-1)
    mask = ended - (tokens == END_ID).long() == 0
    width = max(int(mask.any(0).sum()), 1)
    return Rollout(tokens[:, :width], mask[:, :width], complete)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """Index of the outcome whose stretch of the cumulative distribution holds `uniform`: [N, V], [N] -> [N]."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Scaled to the last entry: rounding leaves the sum a little off 1, and no draw may fall beyond it.
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)


class Prior(NamedTuple):
    """A network with its vocabulary and the longest sequence, END included, that it is to draw."""

    network: Network
    tokenizer: Tokenizer
    config: NetworkConfig
    max_tokens: int

    def written(self, rollout: Rollout) -> list[str]:
        """The SMILES of a rollout; one that was cut at the longest length is no SMILES and comes as ""."""
        smiles = self.tokenizer.decode(rollout.tokens)
        return [one if whole else "" for one, whole in zip(smiles, rollout.complete.tolist(), strict=True)]


FILES = ("config.json", "vocabulary.json", "model.safetensors")
KINDS: dict[str, type[NetworkConfig]] = {
    "lstm": RecurrentConfig,
    "gru": RecurrentConfig,
    "transformer": TransformerConfig,
}


def save_prior(folder: Path, prior: Prior) -> None:
    """config.json, vocabulary.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"network": dict(vars(prior.config)), "max_tokens": prior.max_tokens}
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    prior.tokenizer.save(folder / "vocabulary.json")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in prior.network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def load_prior(folder: Path) -> Prior:
    """What `save_prior` wrote, in float32, on the CPU, in evaluation mode.

    Raises:
        ConfigError: a file is missing, damaged, or not of the others' network.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: must be a prior's folder with {', '.join(FILES)}, found no {missing[0]} in it")
    try:
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        config = KINDS[settings["network"]["name"]](**settings["network"])
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        network = make_network(len(tokenizer), config)
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return Prior(network.eval(), tokenizer, config, int(settings["max_tokens"]))
    except ConfigError:
        raise
    except Exception as error:  # of JSON, safetensors, shapes
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{folder}: must be a prior that was saved whole, found {type(error).__name__}: {reason}"
        ) from None
