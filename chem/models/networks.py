"""Networks that give each SMILES a probability: REINVENT's recurrent one and a transformer, behind one interface."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from chem.models.lstm_kernel import LstmReader, Trace, layer_weights
from chem.models.tokenizer import END_ID, START_ID, Tokenizer
from chem.parallel.threads import RowThreads
from conf.schema.base import ConfigError
from conf.schema.chem import NetworkConfig, RecurrentConfig, TransformerConfig
from core.sequence import inverse_cdf

BUCKET = 32  # rows, at least, whose log-probabilities are computed together


class Reader(Protocol):
    """A network that reads N sequences one token at a time, without gradient."""

    def step(self, token: Tensor) -> Tensor:
        """Read [N] ids: hidden [N, D]."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""


class Network(nn.Module):
    """p(SMILES) = product of p(token | tokens before it); START opens and END closes a sequence.

    hidden: [N, T] ids, the first of them START -> [N, T, D], each position's before its next token.
    reader: the same one token at a time. head: hidden -> logits over the vocabulary.
    """

    head: nn.Linear
    longest: int | None = None  # tokens that the network can read; None: any number

    def hidden(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def reader(self, rows: int) -> Reader:
        """Before any token."""
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

    def reader(self, rows: int) -> Reader:
        return (LstmReader if isinstance(self.cells, nn.LSTM) else GruReader)(self, rows)

    @property
    def traceable(self) -> bool:
        """Whether `chem.models.lstm_kernel.Share` knows its gradient: an LSTM that drops nothing out."""
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

    def reader(self, rows: int) -> Reader:
        return TransformerReader(self, rows)


class TransformerReader:
    """With the keys and values of what was read."""

    def __init__(self, network: Transformer, rows: int) -> None:
        self.network = network
        self.seen = [network.head.weight.new_zeros(2, rows, 0, network.head.in_features) for _ in network.blocks]

    def step(self, token: Tensor) -> Tensor:
        place = self.seen[0].shape[2]
        x = (self.network.embedding(token) + self.network.position.weight[place]).unsqueeze(1)
        for number, block in enumerate(self.network.blocks):
            x, self.seen[number] = block(x, self.seen[number])
        return self.network.norm(x)[:, 0]

    def keep(self, rows: Tensor) -> None:
        self.seen = [seen[:, rows] for seen in self.seen]


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


def token_logp(network: Network, tokens: Tensor, mask: Tensor, cores: RowThreads | None = None) -> Tensor:
    """Log-probability of every token of complete or cut sequences, with gradient.

    Rows of similar length are computed together, so that short ones need not be as long as the longest.

    Args:
        tokens: [N, T] ids, END at each sequence's end, START left out.
        mask: [N, T] bool, True on the sequence's tokens including END.
        cores: threads to compute it in, then without gradient.

    Returns:
        [N, T] nats, 0 where masked.
    """
    buckets = max(len(tokens) // BUCKET, 1)
    parts = mask.sum(1).argsort(stable=True, descending=True).tensor_split(buckets)

    def of(rows: Tensor) -> Tensor:
        return _padded(_token_logp(network, tokens[rows], mask[rows]), tokens.shape[1])

    found = torch.cat([of(rows) for rows in parts] if cores is None else cores.map(of, parts))
    return found[torch.cat(parts).argsort()]


def _token_logp(network: Network, tokens: Tensor, mask: Tensor) -> Tensor:
    """Up to the longest of these rows."""
    width = max(int(mask.sum(1).max()), 1)
    tokens, mask = tokens[:, :width], mask[:, :width]
    start = torch.full_like(tokens[:, :1], START_ID)
    hidden = network.hidden(torch.cat([start, tokens[:, :-1]], 1))
    logits = network.head(hidden[mask])
    logp = -functional.cross_entropy(logits, tokens[mask], reduction="none")
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).masked_scatter(mask, logp)


def _padded(logp: Tensor, width: int) -> Tensor:
    return functional.pad(logp, (0, width - logp.shape[1]))


class Rollout(NamedTuple):
    """tokens [N, T] filled with END; mask [N, T] bool, True up to and including END; complete [N]: has an END."""

    tokens: Tensor
    mask: Tensor
    complete: Tensor


@torch.no_grad()
def sample(network: Network, uniforms: Tensor, trace: Trace | None = None) -> Rollout:
    """Draw one sequence for each row of uniforms, at temperature 1 and from the whole vocabulary.

    A token is the inverse of the cumulative distribution, in float64, at its uniform; so a sequence depends on its
    own row alone. Rows that have ended leave the batch.

    Args:
        uniforms: [N, T] in [0, 1), one for each token that may be drawn; T is the longest sequence, END included.
        trace: takes what the backward pass of an LSTM needs.
    """
    count, longest = uniforms.shape
    device = network.head.weight.device
    uniforms = uniforms.to(device)
    tokens = torch.full((count, longest), END_ID, device=device)
    running = torch.arange(count, device=device)  # rows without an END so far
    token = torch.full((count,), START_ID, device=device)
    reader = network.reader(count) if trace is None else LstmReader(network, count, trace)  # type: ignore[arg-type]
    for t in range(longest):
        logits = network.head(reader.step(token))
        if trace is not None:
            trace.logits.append(logits)
        token = inverse_cdf(logits, uniforms[running, t])
        tokens[running, t] = token
        going = (token != END_ID).nonzero().squeeze(-1)
        if not len(going):
            running = running[going]
            break
        if len(going) < len(running):
            running, token = running[going], token[going]
            reader.keep(going)
    complete = torch.ones(count, dtype=torch.bool, device=device)
    complete[running] = False
    ended = (tokens == END_ID).long().cumsum(-1)
    mask = ended - (tokens == END_ID).long() == 0
    width = max(int(mask.any(0).sum()), 1)
    return Rollout(tokens[:, :width], mask[:, :width], complete)


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Rows of all parts, filled with END to one width."""
    width = max(part.tokens.shape[1] for part in parts)
    fill = [(0, width - part.tokens.shape[1]) for part in parts]
    tokens = [functional.pad(part.tokens, pad, value=END_ID) for part, pad in zip(parts, fill, strict=True)]
    mask = [functional.pad(part.mask, pad) for part, pad in zip(parts, fill, strict=True)]
    return Rollout(torch.cat(tokens), torch.cat(mask), torch.cat([part.complete for part in parts]))


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


SHIPPED = Path(__file__).parents[1] / "prior"
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
        raise ConfigError(f"{folder}: must be a prior's folder with {', '.join(FILES)}, got no {missing[0]} in it")
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
            f"{folder}: must be a prior that was saved whole, got {type(error).__name__}: {reason}"
        ) from None
