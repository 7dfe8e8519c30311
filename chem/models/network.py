"""Networks over SMILES tokens: their interface, log-probabilities of sequences, and sampling."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from chem.models.lstm_kernel import Trace
from chem.models.tokenizer import END_ID, START_ID
from chem.parallel.threads import RowThreads
from core.sequence import inverse_cdf

BUCKET_ROWS = 32  # smallest number of rows whose log-probabilities are computed together


class Reader(Protocol):
    """Reads N sequences one token at a time, without gradient."""

    def step(self, token: Tensor) -> Tensor:
        """Read one token of each row: [N] ids -> hidden states [N, D]."""

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""


class Network(nn.Module):
    """p(SMILES) = product of p(token | earlier tokens). START opens a sequence and END closes it.

    Attributes:
        head: hidden states -> logits over the vocabulary.
        max_positions: longest sequence that the network can read, in tokens; None: no limit.
    """

    head: nn.Linear
    max_positions: int | None = None

    def hidden(self, inputs: Tensor) -> Tensor:
        """Hidden states [N, T, D] from which the next token is predicted, for ids [N, T] that begin with START."""
        raise NotImplementedError

    def reader(self, rows: int, trace: Trace | None = None) -> Reader:
        """A reader at the start of the sequences.

        Args:
            rows: number of sequences.
            trace: filled with what the backward pass of an LSTM needs; other networks leave it empty.
        """
        raise NotImplementedError


def token_logp(network: Network, tokens: Tensor, mask: Tensor, row_threads: RowThreads | None = None) -> Tensor:
    """Log-probability of every token of complete or truncated sequences, with gradient.

    Rows of similar length are computed together, so that short ones are not padded to the longest.

    Args:
        network: the model.
        tokens: [N, T] ids, without START; END at the end of each complete sequence.
        mask: [N, T] bool, True on the tokens of the sequence, END included.
        row_threads: threads to compute in; the result then has no gradient.

    Returns:
        [N, T] nats, 0 where masked.
    """
    buckets = max(len(tokens) // BUCKET_ROWS, 1)
    parts = mask.sum(1).argsort(stable=True, descending=True).tensor_split(buckets)

    def bucket_logp(rows: Tensor) -> Tensor:
        logp = _token_logp(network, tokens[rows], mask[rows])
        return functional.pad(logp, (0, tokens.shape[1] - logp.shape[1]))

    by_length = [bucket_logp(rows) for rows in parts] if row_threads is None else row_threads.map(bucket_logp, parts)
    return torch.cat(by_length)[torch.cat(parts).argsort()]


def _token_logp(network: Network, tokens: Tensor, mask: Tensor) -> Tensor:
    """`token_logp` of one bucket: [N, length of the longest row]."""
    width = max(int(mask.sum(1).max()), 1)
    tokens, mask = tokens[:, :width], mask[:, :width]
    start = torch.full_like(tokens[:, :1], START_ID)
    hidden = network.hidden(torch.cat([start, tokens[:, :-1]], 1))
    logits = network.head(hidden[mask])
    logp = -functional.cross_entropy(logits, tokens[mask], reduction="none")
    return torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device).masked_scatter(mask, logp)


class Rollout(NamedTuple):
    """Sampled sequences.

    Attributes:
        tokens: [N, T] ids padded with END.
        mask: [N, T] bool, True up to and including the first END.
        complete: [N] bool, True for rows with an END.
    """

    tokens: Tensor
    mask: Tensor
    complete: Tensor


@torch.no_grad()
def sample(network: Network, uniforms: Tensor, trace: Trace | None = None) -> Rollout:
    """Sample one sequence for each row of uniforms, at temperature 1 and from the whole vocabulary.

    A token is the inverse of the cumulative distribution, in float64, at its uniform number, so a sequence depends
    only on its own row. Rows that have ended leave the batch.

    Args:
        network: the model.
        uniforms: [N, T] in [0, 1), one for each token; T is the length of the longest sequence, END included.
        trace: filled with what the backward pass of an LSTM needs.
    """
    count, max_tokens = uniforms.shape
    device = network.head.weight.device
    uniforms = uniforms.to(device)
    tokens = torch.full((count, max_tokens), END_ID, device=device)
    running = torch.arange(count, device=device)  # rows without an END so far
    token = torch.full((count,), START_ID, device=device)
    reader = network.reader(count, trace)
    for t in range(max_tokens):
        logits = network.head(reader.step(token))
        if trace is not None:
            trace.logits.append(logits)
        token = inverse_cdf(logits, uniforms[running, t])
        tokens[running, t] = token
        unfinished = (token != END_ID).nonzero().squeeze(-1)
        if not len(unfinished):
            running = running[unfinished]
            break
        if len(unfinished) < len(running):
            running, token = running[unfinished], token[unfinished]
            reader.keep(unfinished)
    complete = torch.ones(count, dtype=torch.bool, device=device)
    complete[running] = False
    is_end = (tokens == END_ID).long()
    mask = is_end.cumsum(-1) - is_end == 0
    width = max(int(mask.any(0).sum()), 1)
    return Rollout(tokens[:, :width], mask[:, :width], complete)


def concat_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Concatenate the rows of all parts, padded with END to the same width."""
    width = max(part.tokens.shape[1] for part in parts)
    padding = [(0, width - part.tokens.shape[1]) for part in parts]
    tokens = [functional.pad(part.tokens, pad, value=END_ID) for part, pad in zip(parts, padding, strict=True)]
    mask = [functional.pad(part.mask, pad) for part, pad in zip(parts, padding, strict=True)]
    return Rollout(torch.cat(tokens), torch.cat(mask), torch.cat([part.complete for part in parts]))
