"""Networks over SMILES tokens: one interface, log-probabilities of sequences, and sampling from them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from chem.models.lstm_kernel import Trace
from chem.models.tokenizer import END_ID, START_ID
from chem.parallel.threads import RowThreads
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

    def reader(self, rows: int, trace: Trace | None = None) -> Reader:
        """A reader before any token.

        Args:
            trace: takes what the backward pass of an LSTM needs; for no other network.
        """
        raise NotImplementedError


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
    reader = network.reader(count, trace)
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


def concat_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Rows of all parts, filled with END to one width."""
    width = max(part.tokens.shape[1] for part in parts)
    fill = [(0, width - part.tokens.shape[1]) for part in parts]
    tokens = [functional.pad(part.tokens, pad, value=END_ID) for part, pad in zip(parts, fill, strict=True)]
    mask = [functional.pad(part.mask, pad) for part, pad in zip(parts, fill, strict=True)]
    return Rollout(torch.cat(tokens), torch.cat(mask), torch.cat([part.complete for part in parts]))
