"""Passes of a batch through a model: what fits into memory at a time, and gradients through log-probabilities.

A loss is computed from the log-probabilities of a whole batch; its gradient with respect to them is all that the
backward passes need, one micro-batch after another.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from launch.engines import distributed
from launch.engines.base import Engine
from launch.engines.distributed import gather_rows
from llm.batch import Completions
from llm.inference.logprobs import completion_logp, completion_logp_and_entropy
from llm.inference.prompts import Prompts

LogpFunction = Callable[..., Tensor]  # `completion_logp` or `completion_logp_and_entropy`
Apply = Callable[[Callable[[Any], Tensor]], Tensor]  # calls a function with the model, as `Engine.apply` does


class MicroBatchLimits(NamedTuple):
    """Sequences, and tokens with prompts and padding, of a micro-batch, at most; None for any number."""

    sequences: int
    tokens: int | None = None


class MicroBatch(NamedTuple):
    """Rows that go through a model together: whole groups, or consecutive completions of one group.

    prompts, rows: which of this rank's. counted: False for a pass made only because another rank has one more.
    """

    prompts: slice
    rows: slice
    counted: bool = True


class CompletionReader(NamedTuple):
    """Completions and the micro-batches in which they are read."""

    completions: Completions
    micro_batches: list[MicroBatch]

    def __call__(self, apply: Apply, logp_of: LogpFunction = completion_logp) -> Iterator[Tensor]:
        return forward_micro_batches(apply, logp_of, self.micro_batches, self.completions)


def make_reader(
    completions: Completions, limits: MicroBatchLimits, chosen: Sequence[int] | None = None
) -> CompletionReader:
    """A reader of this rank's completions, or of those of the chosen prompts, which may be none."""
    everything = chosen is None or len(chosen) == len(completions.prompts.ids)
    subset = completions if everything or chosen is None else completions.of_prompts(chosen or [0])
    count = 0 if not everything and not chosen else None
    return CompletionReader(subset, plan_micro_batches(subset.prompts, subset.mask, limits, count=count))


def plan_micro_batches(
    prompts: Prompts, mask: Tensor, limits: MicroBatchLimits, count: int | None = None
) -> list[MicroBatch]:
    """Micro-batches of at most as many completions and tokens as the limits say, or of one completion.

    All ranks get the same number, since all of them may have to take part in each pass.

    Args:
        count: how many of the prompts are to be read, the first ones; None for all.
    """
    P, G = len(prompts.ids) if count is None else count, len(mask) // len(prompts.ids)
    prompt_lengths, lengths = prompts.mask.sum(-1).tolist(), mask.sum(-1).tolist()
    most = float("inf") if limits.tokens is None else limits.tokens

    def fits(first: int, last: int, row: int, upto: int) -> bool:
        tokens = (last - first) * max(prompt_lengths[first:last]) + (upto - row) * max(lengths[row:upto])
        return upto - row <= limits.sequences and tokens <= most

    batches, first = [], 0
    while first < P:
        last = first
        while last < P and fits(first, last + 1, first * G, (last + 1) * G):
            last += 1
        if last > first:  # whole groups
            batches.append(MicroBatch(slice(first, last), slice(first * G, last * G)))
            first = last
            continue
        row, end = first * G, (first + 1) * G
        while row < end:  # parts of one group
            upto = row + 1
            while upto < end and fits(first, first + 1, row, upto + 1):
                upto += 1
            batches.append(MicroBatch(slice(first, first + 1), slice(row, upto)))
            row = upto
        first += 1
    (most_batches,) = distributed.max_over_ranks([len(batches)])
    return batches + [MicroBatch(slice(0, 1), slice(0, 1), counted=False)] * (most_batches - len(batches))


def forward_micro_batches(
    apply: Apply, logp_of: LogpFunction, micro_batches: Sequence[MicroBatch], completions: Completions
) -> Iterator[Tensor]:
    """`logp_of` of each micro-batch's rows, [..., rows, T], without padding; no rows where not counted."""
    prompts, tokens, mask = completions
    for batch in micro_batches:
        longest, T = int(prompts.mask[batch.prompts].sum(-1).max()), int(mask[batch.rows].sum(-1).max())
        forward = partial(
            logp_of,
            prompts=Prompts(*(t[batch.prompts, -longest:] for t in prompts)),
            tokens=tokens[batch.rows, :T],
            mask=mask[batch.rows, :T],
        )
        logp = pad(apply(forward), (0, mask.shape[1] - T))
        yield logp[..., slice(None) if batch.counted else slice(0), :]


def backward_through_logp(
    engine: Engine,
    reader: CompletionReader,
    before: int,
    loss_of: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Give the engine the gradient of a loss of all ranks' log-probabilities.

    Args:
        reader: of this rank's rows.
        before: rows of earlier ranks.
        loss_of: from log-probabilities [rows of all ranks, T] to a scalar and metrics.

    Returns:
        The metrics and the loss by name, the log-probabilities, and the entropy of what each token was drawn from.
    """
    one_pass = len(reader.micro_batches) == 1
    with torch.set_grad_enabled(one_pass):
        logp, entropy = torch.cat(list(reader(engine.apply, completion_logp_and_entropy)), 1)  # [rows, T] each
    leaf = gather_rows(logp).requires_grad_()
    loss, metrics = loss_of(leaf)
    (weight,) = torch.autograd.grad(loss, leaf)
    weight = weight[before : before + len(logp), : logp.shape[1]]
    done = 0
    for part in [logp] if one_pass else reader(engine.apply):
        engine.backward((part * weight[done : done + len(part)]).sum())
        done += len(part)
    return {**metrics, "loss": loss.detach()}, leaf.detach(), gather_rows(entropy.detach())
