"""Forward and backward passes over a batch in micro-batches that fit into memory.

The loss is a function of the log-probabilities of the whole batch. Its gradient with respect to them is computed
first, and then sent back through the model one micro-batch after another.
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
    """The most sequences, and tokens including prompts and padding, in a micro-batch; None: any number."""

    sequences: int
    tokens: int | None = None


class MicroBatch(NamedTuple):
    """Rows that go through the model together: whole groups, or consecutive completions of one group.

    prompts, rows: slices of this rank's prompts and completions.
    counted: False for a pass whose result is discarded: this rank only makes it because another rank has one more.
    """

    prompts: slice
    rows: slice
    counted: bool = True


class ForwardPlan(NamedTuple):
    """Completions and the micro-batches in which they go through a model."""

    completions: Completions
    micro_batches: list[MicroBatch]

    def run(self, apply: Apply, logp_of: LogpFunction = completion_logp) -> Iterator[Tensor]:
        """`forward_micro_batches` over all micro-batches."""
        return forward_micro_batches(apply, logp_of, self.micro_batches, self.completions)


def make_forward_plan(
    completions: Completions, limits: MicroBatchLimits, prompts: Sequence[int] | None = None
) -> ForwardPlan:
    """Plan the passes over this rank's completions.

    Args:
        completions: this rank's completions.
        limits: sizes of a micro-batch.
        prompts: indices of the prompts whose completions are needed, possibly none; None for all of them.
    """
    everything = prompts is None or len(prompts) == len(completions.prompts.ids)
    # Without any prompt there still is one row for the passes that other ranks wait for.
    subset = completions if everything or prompts is None else completions.select(prompts or [0])
    count = 0 if not everything and not prompts else None
    return ForwardPlan(subset, plan_micro_batches(subset.prompts, subset.mask, limits, count=count))


def plan_micro_batches(
    prompts: Prompts, mask: Tensor, limits: MicroBatchLimits, count: int | None = None
) -> list[MicroBatch]:
    """Split the completions into micro-batches within the limits; a single completion may exceed them.

    All ranks get the same number of micro-batches, because engines that gather parameters need every rank in each
    pass.

    Args:
        prompts: p prompts.
        mask: [p * G, T] of their completions.
        limits: sizes of a micro-batch.
        count: use only the first `count` prompts; None for all.
    """
    P, G = len(prompts.ids) if count is None else count, len(mask) // len(prompts.ids)
    prompt_lengths, lengths = prompts.mask.sum(-1).tolist(), mask.sum(-1).tolist()
    max_tokens = float("inf") if limits.tokens is None else limits.tokens

    def fits(first: int, last: int, row: int, end: int) -> bool:
        tokens = (last - first) * max(prompt_lengths[first:last]) + (end - row) * max(lengths[row:end])
        return end - row <= limits.sequences and tokens <= max_tokens

    batches, first = [], 0
    while first < P:
        last = first
        while last < P and fits(first, last + 1, first * G, (last + 1) * G):
            last += 1
        if last > first:  # whole groups
            batches.append(MicroBatch(slice(first, last), slice(first * G, last * G)))
            first = last
            continue
        row, group_end = first * G, (first + 1) * G
        while row < group_end:  # parts of one group
            end = row + 1
            while end < group_end and fits(first, first + 1, row, end + 1):
                end += 1
            batches.append(MicroBatch(slice(first, first + 1), slice(row, end)))
            row = end
        first += 1
    (most_batches,) = distributed.max_over_ranks([len(batches)])
    return batches + [MicroBatch(slice(0, 1), slice(0, 1), counted=False)] * (most_batches - len(batches))


def forward_micro_batches(
    apply: Apply, logp_of: LogpFunction, micro_batches: Sequence[MicroBatch], completions: Completions
) -> Iterator[Tensor]:
    """Yield `logp_of` of each micro-batch's rows, [..., rows, T]; no rows for a micro-batch that is not counted."""
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
    plan: ForwardPlan,
    offset: int,
    compute_loss: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Compute a loss of all ranks' log-probabilities and give this rank's part of its gradient to the engine.

    Args:
        engine: runs the policy and takes the gradient.
        plan: this rank's rows.
        offset: number of rows of the ranks before this one.
        compute_loss: maps log-probabilities [rows of all ranks, T] to a scalar and metrics.

    Returns:
        The metrics including "loss"; the log-probabilities; and the entropy of the distribution that each token was
        drawn from. Both are [rows of all ranks, T], nats, without gradient.
    """
    one_pass = len(plan.micro_batches) == 1
    with torch.set_grad_enabled(one_pass):  # the graph of a single pass is used again for the backward pass
        logp, entropy = torch.cat(list(plan.run(engine.apply, completion_logp_and_entropy)), 1)  # [rows, T] each
    all_logp = gather_rows(logp).requires_grad_()
    loss, metrics = compute_loss(all_logp)
    (all_grad,) = torch.autograd.grad(loss, all_logp)
    grad = all_grad[offset : offset + len(logp), : logp.shape[1]]
    done = 0
    for part in [logp] if one_pass else plan.run(engine.apply):
        engine.backward((part * grad[done : done + len(part)]).sum())
        done += len(part)
    return {**metrics, "loss": loss.detach()}, all_logp.detach(), gather_rows(entropy.detach())
