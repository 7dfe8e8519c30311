"""Post-training of a language model by KL-regularised policy gradient."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from core.answer_counts import AnswerCounts, make_answer_counts
from core.classes import ClassMemory, StepMasses, make_class_memory
from core.objective import Objective, make_objective
from core.schedules import StepStatistics, known, linear, make_schedule, run_progress
from core.sequence import first_occurrences, masked_sum
from core.stats import mean_or_nan
from core.transforms import class_diversity, mean_dissimilarity
from launch.engines.base import Engine, overflow_in_one_line
from launch.engines.distributed import gather_lists, gather_rows
from launch.engines.factory import make_engine
from launch.runs.checkpoint import LoopState
from launch.runs.progress import working
from launch.runs.rng import rollout_uniforms, torch_generator
from launch.runs.run import Run
from llm.batch import Batch, BatchSettings, Completions, draw_batch
from llm.evaluation.collapse import CollapseWatch, answer_shares, mode_ratio
from llm.evaluation.equivalence import (
    Labels,
    PromptPartition,
    Similarity,
    group_classes,
    make_labels,
    make_partition,
    make_similarity,
)
from llm.evaluation.policy import EvaluationSettings, evaluate_policy
from llm.inference.context import check_context
from llm.inference.logprobs import completion_logp_and_entropy
from llm.inference.prompts import Chat, set_clock
from llm.inference.stopping import NEARLY_ALL, truncation_warning
from llm.microbatch import MicroBatchLimits, backward_through_logp, make_forward_plan
from llm.models import Models, load_models, save_policy
from llm.prompt_statistics import (
    ReferenceCompletions,
    ReferenceStatistics,
    class_labels,
    make_statistics,
    prompt_key,
    statistics_seed,
    step_counts,
    step_masses,
)
from llm.redraw import Drawn, Redraw
from llm.reference import (
    ReferenceSamples,
    draw_reference_samples,
    reference_logp,
    sample_reference,
    samples_under_policy,
)
from llm.report import report_run
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.rollout.base import LocalSampler, RolloutFailed, Sampler, check_gap
from llm.rollout.vllm import make_sampler
from llm.startup import announce
from llm.tasks.base import Task, load_task


class Learner(NamedTuple):
    """What every training step uses.

    partition: splits a group's completions into classes, for a transform that takes diversity; else None.
    similarity: of a group's completions, for a transform that takes diversity from it; else None.
    sampler: samples the completions of a step.
    max_gap: nats per token by which policy and sampler may differ on average.
    drop_truncated: whether truncated completions are excluded from the loss.
    memory: the classes of each prompt, for MARA; None where it needs none.
    counts: how often each answer was sampled, for a transform that needs it; else None.
    labels: names the class of each completion, for MARA over answers and for the counts; else None.
    statistics: what is taken once for each prompt from completions of the reference; None if nothing is.
    redraw: draws groups again whose rewards tie; None: they are kept.
    seed: of the run.
    kl_samples: completions of the reference on which the divergence is measured; None: it is not measured on any.
    """

    models: Models
    engine: Engine
    task: Task
    reward: Reward
    limits: MicroBatchLimits
    sampler: Sampler
    max_gap: float = math.inf
    partition: PromptPartition | None = None
    similarity: Similarity | None = None
    drop_truncated: bool = False
    memory: ClassMemory | None = None
    counts: AnswerCounts | None = None
    labels: Labels | None = None
    statistics: ReferenceStatistics | None = None
    redraw: Redraw | None = None
    seed: int = 0
    kl_samples: ReferenceSamples | None = None


class Experience(NamedTuple):
    """The completions of all ranks, P prompts with G completions each, and what the loss needs of them.

    chats: P prompts; texts: P * G completions.
    reward: [P, G] raw, NaN where scoring failed.
    ref_logp, mask: [P, G, T].
    sampler_logp: [P, G, T] under the program that sampled; None: it is the policy itself.
    valid, complete, diversity: [P, G], see `core.objective.Objective.loss`.
    truncated_share: of all completions, also of those that scoring failed on.
    reward_parts: name -> [P * G], the parts of a reward that has several; else empty.
    failure: message of a completion that could not be scored; None if all were.
    masses: the class masses of the groups, for a transform that needs them; else None.
    threshold: [P, 1] lowest good reward of each prompt, if it is the prompt's own; else None.
    answer_count: [P, G] samples of earlier steps with each completion's answer; None if not needed.
    """

    chats: list[Chat]
    texts: list[str]
    reward: Tensor
    ref_logp: Tensor
    mask: Tensor
    sampler_logp: Tensor | None
    valid: Tensor | None
    complete: Tensor
    diversity: Tensor | None
    truncated_share: Tensor
    reward_parts: dict[str, Tensor]
    failure: str | None
    masses: StepMasses | None = None
    threshold: Tensor | None = None
    answer_count: Tensor | None = None


class StepResult(NamedTuple):
    """What one step reports about the completions of all ranks.

    metrics: by name, as logged.
    kl: nats, the divergence of the objective, measured on completions of the reference if there are any; None if it
        is not known.
    reward, policy_seq_logp, ref_seq_logp: [P, G]; policy_seq_logp is under the policy that sampled.
    good: [P, G] bool, good completions, repeats of a text excluded; None without a threshold.
    failure: message of a completion that could not be scored; None if all were.
    """

    metrics: dict[str, Tensor | float | None]
    kl: float | None
    chats: list[Chat]
    reward: Tensor
    texts: list[str]
    policy_seq_logp: Tensor
    ref_seq_logp: Tensor
    good: Tensor | None
    failure: str | None


def train(config: LlmConfig, run: Run) -> None:
    """Load everything, evaluate the base model, train, evaluate the policy and report."""
    if config.prompts_per_step < run.ranks.world:
        raise ConfigError(
            "prompts_per_step: must be at least the number of ranks, because groups are never split across ranks, "
            f"got {config.prompts_per_step} prompts for {run.ranks.world} ranks"
        )
    with working("reading the task and its data"):
        task = load_task(config.task.name, config)
    objective = config.build_objective(make_objective)
    set_clock(run.clock)
    with working("loading the model"):
        models = load_models(config.model, config.seed)
        check_prompts(config, task, models)
        reference_hash = models.reference_hash()
    total_updates = config.steps * config.update.count
    engine = make_engine(config.engine.name, models.policy, config.optimizer, total_updates, shared=True)
    learner = make_learner(config, task, models, engine, make_sampler(config, task, models, engine))
    reward = learner.reward
    watch = CollapseWatch(config.choices().mara)
    state = LoopState(
        beta=config.objective.beta, warned_of_failure=False, warned_of_range=False, warned_of_truncation=False
    )
    data_hashes = {f"data/{name}": records.sha256 for name, records in task.data.items()}
    identity = {"reference": reference_hash, **reward.identity, **data_hashes}
    ahead = learner.sampler if config.rollout.behind else None
    optional = {
        "classes": learner.memory,
        "counts": learner.counts,
        "statistics": learner.statistics,
        "rollout": ahead,
    }
    remembered = {name: part for name, part in optional.items() if part is not None}
    run.register_state(identity, engine=engine, watch=watch, values=state, **remembered)
    warn_of_moving_threshold(config, run)
    extra_reward = make_evaluation_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    evaluation = EvaluationSettings.from_config(config)
    with engine.gather() as policy, models.as_reference(policy) as reference:
        with working("estimating memory and time"):
            announce(run, config, task, models, policy)
        with working("evaluating the base model"):
            base = evaluate_policy(reference, models, task, reward, extra_reward, evaluation)

    batch_settings = BatchSettings.from_config(config)
    kl_samples = draw_reference_samples(
        models, engine, learner.limits, task, batch_settings, config.objective.measured_on
    )
    learner = learner._replace(kl_samples=kl_samples)
    if run.first_step < config.steps:
        with learner.sampler.running(run):
            train_steps(config, run, learner, objective, state, watch)

    with engine.gather() as policy:
        if run.is_main:
            with working("saving the policy"):
                save_policy(policy, models.tokenizer, config.model, run.folder)
        with working("evaluating the policy"):
            trained = evaluate_policy(policy, models, task, reward, extra_reward, evaluation)
    if run.is_main:
        with working("drawing the report"):
            report_run(run, base, trained, {name: records.facts() for name, records in task.data.items()})


def train_steps(
    config: LlmConfig, run: Run, learner: Learner, objective: Objective, state: LoopState, watch: CollapseWatch
) -> None:
    """The steps of a run, with their metrics, samples and warnings."""
    task, batch_settings = learner.task, BatchSettings.from_config(config)
    next_beta = make_schedule(config.beta_schedule.name, config.objective.beta, config.beta_schedule.options())
    progress_line = {"reward": "reward/raw", "KL": objective.kl_metric(learner.kl_samples is not None)}
    progress_line |= {f'"{answer}"': f"share/{answer}" for answer in task.answers}
    for step in run.steps(config.steps, show=progress_line):
        batch = draw_batch(batch_settings, learner.models, task, step)
        objective = with_entropy(objective, config, step)
        with overflow_in_one_line(config.optimizer), saved_if_nothing_is_sampled(run):
            result = train_step(learner, objective, batch, state.beta)
        run.log({"beta": state.beta, "entropy_coef": objective.entropy_coef, **result.metrics})
        if config.sample_every and step % config.sample_every == 0:
            run.log_samples(sample_rows(result))
        if result.failure and not state.warned_of_failure:
            state.warned_of_failure = True
            run.warn(f"{result.failure}; such completions do not count (reward/invalid_share)")
        truncated = result.metrics["truncated_share"]
        if not state.warned_of_truncation and truncated is not None and float(truncated) >= NEARLY_ALL:
            state.warned_of_truncation = True
            run.warn(truncation_warning(float(truncated), config.max_new_tokens))
        warning = None if state.warned_of_range else objective.wide_rewards(result.reward, result.reward.isfinite())
        if warning:
            state.warned_of_range = True
            run.warn(warning)
        warning = watch.update(result.texts, task.correct(result.reward.flatten().tolist()), result.chats, task)
        if warning:
            run.warn(warning)
        finished = run_progress(step + 1, config.steps)
        observed = StepStatistics(finished, result.kl, result.reward, result.ref_seq_logp, result.good)
        state.beta = next_beta(state.beta, observed)


@contextmanager
def saved_if_nothing_is_sampled(run: Run) -> Iterator[None]:
    """Save the completed steps if no completions can be sampled for the next one, which has then changed nothing."""
    try:
        yield
    except RolloutFailed:
        run.save_completed()
        raise


def check_prompts(config: LlmConfig, task: Task, models: Models) -> None:
    """Raise ConfigError if a prompt of training or evaluation does not fit into the model's context."""
    chats = [*task.prompts(), *(chat for chats in task.evaluation_prompts().values() for chat in chats)]
    distinct = list({prompt_key(chat): chat for chat in chats}.values())
    check_context(models.policy.config, models.tokenizer, distinct, config.max_new_tokens, config.model.chat_template)


def warn_of_moving_threshold(config: LlmConfig, run: Run) -> None:
    """Say what a quantile of each group's own rewards does to MARA."""
    threshold = config.transform.threshold
    if config.transform.name == "mara" and threshold.kind == "quantile" and threshold.value is not None:
        run.warn(
            "transform.threshold.kind=quantile follows the policy: the optimum without MARA is then a fixed point "
            "with it "
            "as well; use kind=reference_quantile (docs/mara.md)"
        )


def make_learner(
    config: LlmConfig, task: Task, models: Models, engine: Engine, sampler: Sampler | None = None
) -> Learner:
    """Build what the training steps of a configuration use. By default the policy samples.

    Raises:
        ConfigError: a reward, or a model that the transform needs, cannot be loaded.
    """
    device = models.eos_ids.device
    memory = make_class_memory(config.choices())
    reward = make_reward(config.reward, task, device, models.policy.dtype)
    drop_truncated, rounds = config.truncated == "drop", config.update.redraw
    sampler = LocalSampler(models, engine) if sampler is None else sampler
    return Learner(
        models=models,
        engine=engine,
        task=task,
        reward=reward,
        limits=MicroBatchLimits(config.micro_batch, config.micro_batch_tokens),
        sampler=sampler,
        max_gap=config.rollout.gap_limit,
        partition=make_partition(config.transform, task, device),
        similarity=make_similarity(config.transform, device),
        drop_truncated=drop_truncated,
        redraw=Redraw(models, sampler, reward, config.seed, rounds, drop_truncated) if rounds else None,
        memory=memory,
        counts=make_answer_counts(config.transform.name),
        labels=make_labels(config.transform, task, device),
        statistics=make_statistics(config.transform, memory),
        seed=config.seed,
    )


def train_step(learner: Learner, objective: Objective, batch: Batch, beta: float) -> StepResult:
    """One batch of completions and its updates, usually one.

    Each rank samples and scores the completions of its own prompts, R rows. What the loss needs of them is small and
    is gathered on every rank, so that the loss, and with it the step, does not depend on the number of ranks.
    """
    models, engine, G = learner.models, learner.engine, batch.group_size
    rollout, sampler_logp = learner.sampler.sample_step(batch)  # tokens, mask: [R, T]
    texts = models.texts(rollout)
    scores = learner.reward([chat for chat in batch.chats for _ in range(G)], texts)
    drawn = Drawn(rollout, texts, scores, sampler_logp)
    if learner.redraw is not None:
        drawn = learner.redraw(batch, drawn)
    rollout, texts = drawn.rollout, drawn.texts  # [R]
    completions = Completions(batch.prompts, rollout.tokens, rollout.mask)
    ref_logp = reference_logp(models, engine, learner.limits, completions)  # [R, T]
    measure_reference(learner, batch)
    kl_logp = kl_samples_logp(learner)  # [N] twice; before the policy is updated
    experience = gather_experience(learner, batch, drawn, ref_logp)  # [P, G] and [P, G, T]

    # From its second update on, the policy is not the one that sampled.
    at_sampling = policy_logp_and_entropy(learner, completions) if len(batch.updates) > 1 else None
    behaviour_logp = None if at_sampling is None else at_sampling[0]  # [P * G, T]
    reference_sample = sample_for_loss(learner, objective, batch)
    updates = []
    for index, groups in enumerate(batch.updates):
        # Transform, KL term, advantages and loss: all in `Objective.loss`.
        generator = torch_generator(learner.seed, "policy_loss", batch.step, index)
        compute_loss = partial(policy_loss, objective, experience, groups, behaviour_logp, beta, generator)
        own_prompts, preceding = batch.local_prompts(groups)
        plan = make_forward_plan(completions, learner.limits, own_prompts)
        metrics, policy_logp, entropy = backward_through_logp(engine, plan, preceding * G, compute_loss)
        if reference_sample is not None:
            metrics |= backward_reference_loss(learner, objective, reference_sample, experience, groups, batch, beta)
        check_gap(metrics, learner.max_gap)
        metrics["grad_norm"] = engine.step()
        updates.append(metrics)

    metrics = updates[0]
    if at_sampling is not None:  # report the completions under the policy that sampled them
        policy_logp, entropy = at_sampling
        generator = torch_generator(learner.seed, "policy_loss", batch.step, len(updates))
        everything = range(batch.total_prompts)
        _, on_policy = policy_loss(objective, experience, everything, None, beta, generator, policy_logp)
        metrics = mean_metrics(updates) | on_policy
    if learner.redraw is not None:
        metrics |= {"redraw/groups": torch.tensor(drawn.redrawn), "redraw/tied_groups": torch.tensor(drawn.tied)}
    return step_result(learner, objective, experience, metrics, policy_logp, entropy, beta, kl_logp)


def gather_experience(learner: Learner, batch: Batch, drawn: Drawn, ref_logp: Tensor) -> Experience:
    """Gather this rank's completions, rewards and reference log-probabilities with those of the other ranks."""
    P, G = batch.total_prompts, batch.group_size
    rollout, texts, scores = drawn.rollout, drawn.texts, drawn.scores
    device = rollout.mask.device
    reward = gather_rows(scores.reward.view(-1, G).to(device))  # [P, G], NaN where scoring failed
    complete = gather_rows(rollout.complete).view(P, G)
    mask, ref_logp = (gather_rows(t).view(P, G, -1) for t in (rollout.mask, ref_logp))
    truncated_share = (~complete).float().mean()
    valid, scored = complete if learner.drop_truncated else None, reward.isfinite()
    if not bool(scored.all()):
        valid, complete = scored if valid is None else scored & valid, scored & complete
    several_parts = len(scores.parts) > 1
    chats = gather_lists(batch.chats)
    prompts = [prompt_key(chat) for chat in chats]
    threshold = None if learner.statistics is None else learner.statistics.of(prompts)
    counts = step_counts(learner.counts, learner.labels, batch.chats, texts, prompts, valid)
    return Experience(
        chats=chats,
        texts=gather_lists(texts),
        reward=reward,
        ref_logp=ref_logp,
        mask=mask,
        sampler_logp=None if drawn.logp is None else gather_rows(drawn.logp).view(P, G, -1),
        valid=valid,
        complete=complete,
        diversity=gather_diversity(learner, batch, texts, valid, reward),
        truncated_share=truncated_share,
        reward_parts={name: gather_rows(part) for name, part in scores.parts.items()} if several_parts else {},
        failure=scores.failure,
        masses=step_masses(learner.memory, learner.labels, batch.chats, texts, prompts),
        threshold=None if threshold is None else threshold.to(reward),
        answer_count=None if counts is None else counts.to(reward),
    )


def gather_diversity(
    learner: Learner, batch: Batch, texts: list[str], valid: Tensor | None, reward: Tensor
) -> Tensor | None:
    """The diversity of all ranks' completions, [P, G] like `reward`; None if the transform needs none."""
    if learner.partition is not None:
        classes = group_classes(batch.chats, texts, learner.partition)
        return class_diversity(gather_rows(classes.to(reward.device)), valid).to(reward.dtype)
    if learner.similarity is not None:
        groups = [texts[i * batch.group_size : (i + 1) * batch.group_size] for i in range(len(batch.chats))]
        similarity = torch.stack([learner.similarity(group) for group in groups])
        return mean_dissimilarity(gather_rows(similarity.to(reward)), valid)
    return None


def measure_reference(learner: Learner, batch: Batch) -> None:
    """Take the statistics of prompts that have none yet, from completions of the reference."""
    statistics, models = learner.statistics, learner.models
    prompts = [prompt_key(chat) for chat in batch.chats]
    if statistics is None or not statistics.missing(prompts):
        return
    N = statistics.samples
    numbers = [int(prompt, 16) for prompt in prompts for _ in range(N)]
    uniforms = rollout_uniforms(
        statistics_seed(learner.seed), 0, numbers, list(range(N)) * len(prompts), batch.uniforms.shape[1]
    )
    rollout = sample_reference(models, learner.engine, batch.prompts, uniforms)
    texts = models.texts(rollout)
    scores = learner.reward([chat for chat in batch.chats for _ in range(N)], texts)
    statistics.add(batch.chats, ReferenceCompletions(texts, scores, rollout.complete), learner.labels)


def kl_samples_logp(learner: Learner) -> tuple[Tensor, Tensor] | None:
    """Log-probabilities of `kl_samples` under the present policy and under the reference, [N] nats each, if any."""
    if learner.kl_samples is None:
        return None
    policy_logp = samples_under_policy(learner.engine, learner.limits, learner.kl_samples)
    return policy_logp, learner.kl_samples.ref_seq_logp


@torch.no_grad()
def policy_logp_and_entropy(learner: Learner, completions: Completions) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of all ranks' completions under the policy: [P * G, T] nats each."""
    plan = make_forward_plan(completions, learner.limits)
    logp, entropy = torch.cat(list(plan.run(learner.engine.apply, completion_logp_and_entropy)), 1)
    return gather_rows(logp), gather_rows(entropy)


def policy_loss(
    objective: Objective,
    experience: Experience,
    groups: Sequence[int],
    behaviour_logp: Tensor | None,
    beta: float,
    generator: torch.Generator,
    policy_logp: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's loss of some groups: transform, KL term, advantages, policy gradient.

    Args:
        objective: what is maximised.
        experience: all completions of the step.
        groups: indices of the prompts that the update uses.
        behaviour_logp: [P * G, T] under the policy that sampled; None where that is the present policy.
        beta: reward units per nat.
        generator: of the random choices of the loss, the same on all ranks.
        policy_logp: [len(groups) * G, T] of the groups' completions under the present policy, with gradient.
    """
    P, G = experience.reward.shape
    indices = list(groups)
    optional = {
        "valid": experience.valid,
        "complete": experience.complete,
        "diversity": experience.diversity,
        "answer_count": experience.answer_count,
        "behaviour_logp": None if behaviour_logp is None else behaviour_logp.view(P, G, -1),
        "sampler_logp": experience.sampler_logp,
    }
    if experience.threshold is not None:
        objective = objective.with_thresholds(experience.threshold[indices])
    return objective.loss(
        experience.reward[indices],
        policy_logp.view(len(indices), G, -1),
        experience.ref_logp[indices],
        experience.mask[indices],
        beta=beta,
        generator=generator,
        masses=None if experience.masses is None else partial(experience.masses, rows=indices),
        **{name: values[indices] for name, values in optional.items() if values is not None},
    )


def mean_metrics(updates: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each metric over the updates of a step in which it is defined."""
    return {name: torch.stack([metrics[name].float() for metrics in updates]).nanmean() for name in updates[0]}


class ReferenceSample(NamedTuple):
    """Completions of the reference for this rank's prompts, N for each, at placement=reference.

    ref_logp: [p * N, T] nats.
    reward: [p * N] raw, and labels, [p][N], for a transform that changes the reference; else None.
    complete: [p * N] bool.
    """

    completions: Completions
    ref_logp: Tensor
    reward: Tensor | None
    labels: list[list[str]] | None
    complete: Tensor


def sample_for_loss(learner: Learner, objective: Objective, batch: Batch) -> ReferenceSample | None:
    """Sample the reference for this rank's prompts, if the objective's divergence needs it; None if not."""
    if batch.reference_uniforms is None:
        return None
    models, engine = learner.models, learner.engine
    rollout = sample_reference(models, engine, batch.prompts, batch.reference_uniforms)
    completions = Completions(batch.prompts, rollout.tokens, rollout.mask)
    reward = labels = None
    if "masses" in objective.transform_inputs:
        texts = models.texts(rollout)
        per_prompt = len(texts) // len(batch.chats)
        reward = learner.reward([chat for chat in batch.chats for _ in range(per_prompt)], texts).reward
        labels = class_labels(learner.memory, learner.labels, batch.chats, texts)
    ref_logp = reference_logp(models, engine, learner.limits, completions)
    return ReferenceSample(completions, ref_logp, reward, labels, rollout.complete)


def backward_reference_loss(
    learner: Learner,
    objective: Objective,
    sampled: ReferenceSample,
    experience: Experience,
    groups: Sequence[int],
    batch: Batch,
    beta: float,
) -> dict[str, Tensor]:
    """Add the gradient of the divergence on completions of the reference.

    Args:
        learner: models and engine.
        objective: its divergence is the one at placement=reference.
        sampled: of `sample_for_loss`.
        experience: names the prompts of all ranks.
        groups: indices of the prompts that the update uses, among those of all ranks.
        batch: this rank's prompts.
        beta: reward units per nat.

    Returns:
        Metrics by name.
    """
    own_prompts, preceding = batch.local_prompts(groups)
    N = len(sampled.ref_logp) // len(batch.chats)
    rows = [index * N + i for index in own_prompts for i in range(N)]
    ref_logp, mask = (
        gather_rows(t[rows]).view(len(groups), N, -1) for t in (sampled.ref_logp, sampled.completions.mask)
    )
    facts: dict[str, Any] = {}
    if sampled.reward is not None and sampled.labels is not None and learner.memory is not None:
        reward = gather_rows(sampled.reward[rows].to(mask.device)).view(len(groups), N)
        complete = gather_rows(sampled.complete[rows]).view(len(groups), N) & reward.isfinite()
        own_labels = [sampled.labels[index] for index in own_prompts]
        labels = gather_lists(own_labels)
        prompts = [prompt_key(experience.chats[index]) for index in groups]
        masses = StepMasses(learner.memory, prompts, labels)
        facts = {"reward": reward.nan_to_num(), "complete": complete, "masses": masses}
        if experience.threshold is not None:
            objective = objective.with_thresholds(experience.threshold[list(groups)])

    def compute_loss(logp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return objective.reference_loss(logp.view(mask.shape), ref_logp, mask, beta=beta, **facts)

    plan = make_forward_plan(sampled.completions, learner.limits, own_prompts)
    metrics, *_ = backward_through_logp(learner.engine, plan, preceding * N, compute_loss)
    return {name: value for name, value in metrics.items() if name != "loss"}


def step_result(
    learner: Learner,
    objective: Objective,
    experience: Experience,
    update_metrics: Mapping[str, Tensor],
    policy_logp: Tensor,
    entropy: Tensor,
    beta: float,
    kl_logp: tuple[Tensor, Tensor] | None,
) -> StepResult:
    """What a step reports, from the metrics of its updates and [P * G, T] values under the policy that sampled."""
    task, reward, mask, texts = learner.task, experience.reward, experience.mask, experience.texts
    policy_seq_logp = masked_sum(policy_logp.view(mask.shape), mask)
    ref_seq_logp = masked_sum(experience.ref_logp, mask)
    valid_tokens = mask if experience.valid is None else mask & experience.valid.unsqueeze(-1)
    metrics: dict[str, Tensor | float | None] = {
        **update_metrics,
        "length": mask.sum(-1).float().mean(),
        "truncated_share": experience.truncated_share,
        "policy/token_entropy_nats": mean_or_nan(entropy.view(mask.shape), valid_tokens),
        **{f"reward/{name}": part.nanmean() for name, part in experience.reward_parts.items()},
    }
    if kl_logp is not None:
        metrics |= objective.measure_divergence((policy_seq_logp, ref_seq_logp), kl_logp)
    if learner.reward.on_failure == "drop":
        metrics["reward/invalid_share"] = (~reward.isfinite()).float().mean()
    objective = objective.with_thresholds(experience.threshold)
    correct = task.correct(reward.flatten().tolist())
    metrics |= answer_shares(texts, correct, experience.chats, task)
    metrics |= mode_ratio(
        objective, beta, reward, policy_seq_logp, ref_seq_logp, experience.complete, texts, correct, experience.masses
    )
    good = objective.good(reward, ref_seq_logp, experience.complete)
    if good is not None:
        good = good & first_occurrences(texts, len(reward)).to(good.device)
    return StepResult(
        metrics=metrics,
        kl=known(metrics[objective.kl_metric(kl_logp is not None)]),
        chats=experience.chats,
        reward=reward,
        texts=texts,
        policy_seq_logp=policy_seq_logp,
        ref_seq_logp=ref_seq_logp,
        good=good,
        failure=experience.failure,
    )


def with_entropy(objective: Objective, config: LlmConfig, step: int) -> Objective:
    """The objective with the entropy coefficient of a step."""
    final = config.objective.entropy_final
    if final is None:
        return objective
    coefficient = linear(config.objective.entropy_coef, final, run_progress(step, config.steps))
    return replace(objective, entropy_coef=coefficient)


def sample_rows(result: StepResult) -> Iterator[Mapping[str, object]]:
    """The completions of a step, as rows of samples.jsonl."""
    G = result.reward.shape[1]
    columns = (t.flatten().tolist() for t in (result.reward, result.policy_seq_logp, result.ref_seq_logp))
    for row, (text, reward, policy, reference) in enumerate(zip(result.texts, *columns, strict=True)):
        values = {"reward": reward, "policy_seq_logp": policy, "ref_seq_logp": reference}
        yield {"prompt": row // G, "completion": text, **values}
