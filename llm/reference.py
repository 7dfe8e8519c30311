"""The reference: log-probabilities under it, completions of it, and the divergence measured on them."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from core.sequence import masked_sum
from launch.engines.base import Engine
from launch.engines.distributed import gather_rows
from launch.runs.rng import stream_seed
from llm.batch import BatchSettings, Completions, draw_batch
from llm.inference.prompts import Prompts
from llm.inference.sampling import Rollout, sample
from llm.microbatch import MicroBatchLimits, make_forward_plan
from llm.models import Models
from llm.tasks.base import Task


class ReferenceSamples(NamedTuple):
    """Completions of the reference that are kept over a run.

    completions: this rank's, K rows.
    ref_seq_logp: [N] of all ranks, under the reference, nats.
    """

    completions: Completions
    ref_seq_logp: Tensor


def reference_logp(models: Models, engine: Engine, limits: MicroBatchLimits, completions: Completions) -> Tensor:
    """Log-probabilities of this rank's completions under the reference: [R, T] nats."""
    plan = make_forward_plan(completions, limits)
    with torch.no_grad(), engine.gather() as policy, models.as_reference(policy) as reference:
        return torch.cat(list(plan.run(lambda function: function(reference))))


def sample_reference(models: Models, engine: Engine, prompts: Prompts, uniforms: Tensor) -> Rollout:
    """Sample the reference for this rank's prompts, as many completions per prompt as there are rows of uniforms."""
    per_prompt = len(uniforms) // len(prompts.ids)
    with torch.no_grad(), engine.gather() as policy, models.as_reference(policy) as reference:
        return sample(reference, prompts, uniforms, group_size=per_prompt, **models.ends())


def draw_reference_samples(
    models: Models, engine: Engine, limits: MicroBatchLimits, task: Task, settings: BatchSettings, count: int
) -> ReferenceSamples | None:
    """Draw at least `count` completions of the reference, spread evenly over as many prompts as a step has.

    They depend on the seed only, so that a run that resumes has the same ones.

    Returns:
        The completions; None if `count` is 0.
    """
    if not count:
        return None
    once = replace(
        settings,
        seed=stream_seed(settings.seed, "kl_samples"),
        group_size=-(-count // settings.prompts),
        reference_completions=0,
        epochs=1,
        minibatches=1,
    )
    batch = draw_batch(once, models, task, step=0)
    rollout = sample_reference(models, engine, batch.prompts, batch.uniforms)
    completions = Completions(batch.prompts, rollout.tokens, rollout.mask)
    ref_logp = reference_logp(models, engine, limits, completions)
    return ReferenceSamples(completions, gather_rows(masked_sum(ref_logp, completions.mask)))


@torch.no_grad()
def samples_under_policy(engine: Engine, limits: MicroBatchLimits, samples: ReferenceSamples) -> Tensor:
    """Log-probabilities of the samples of all ranks under the present policy: [N] nats."""
    plan = make_forward_plan(samples.completions, limits)
    logp = torch.cat(list(plan.run(engine.apply)))
    return gather_rows(masked_sum(logp, samples.completions.mask))
