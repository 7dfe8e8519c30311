"""Post-training by KL-regularised policy gradient: one batch of completions after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from core.losses import mean_valid
from core.objective import Objective, make_objective
from core.schedules import Observed, linear, make_schedule, progress
from core.sequence import masked_sum
from core.transforms import class_diversity
from launch.engines.base import Engine
from launch.engines.distributed import gather_objects, gather_rows
from launch.engines.factory import make_engine
from launch.runs.checkpoint import LoopState
from launch.runs.run import Run
from llm.batch import Batch, BatchSettings, Completions, draw_batch
from llm.evaluation.collapse import CollapseWatch, answer_shares, mode_ratio
from llm.evaluation.equivalence import Partition, group_classes, make_partition
from llm.evaluation.policy import EvaluationSettings, evaluate_policy
from llm.inference.logprobs import completion_logp_and_entropy
from llm.inference.prompts import Chat
from llm.inference.sampling import Rollout, sample
from llm.microbatch import MicroBatchLimits, backward_through_logp, make_reader
from llm.models import Models, load_models, save_policy
from llm.report import report_run
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.tasks.base import Task, load_task


class Learner(NamedTuple):
    """What every step works with.

    partition: of a group's completions into classes, for a transform that takes diversity; else None.
    drop_truncated: whether truncated completions do not count.
    """

    models: Models
    engine: Engine
    task: Task
    reward: Reward
    limits: MicroBatchLimits
    partition: Partition | None = None
    drop_truncated: bool = False


class Experience(NamedTuple):
    """What the updates of a step learn from: this rank's completions, and what the loss needs of all ranks'.

    reward: [P, G], NaN where it failed; parts: of several, each by name, [P * G]. ref_logp, mask: [P, G, T].
    valid, complete, diversity: [P, G], see `core.objective.Objective.loss`.
    failure: why a completion has no reward; None where all have one.
    """

    own: Completions
    chats: list[Chat]
    texts: list[str]
    reward: Tensor
    ref_logp: Tensor
    mask: Tensor
    valid: Tensor | None
    complete: Tensor
    diversity: Tensor | None
    truncated_share: Tensor
    parts: dict[str, Tensor]
    failure: str | None


class Step(NamedTuple):
    """What one step reports, of all ranks' completions: numbers by name; [P, G] rewards, texts, log-probabilities.

    failure: why a completion has no reward, NaN among the rewards; None where all have one.
    """

    metrics: dict[str, Tensor | float | None]
    kl: Tensor  # nats, the divergence of the objective
    chats: list[Chat]
    reward: Tensor
    texts: list[str]
    policy_seq_logp: Tensor
    ref_seq_logp: Tensor
    good: Tensor | None  # [P, G] bool, the first of equal completions only; None without a threshold
    failure: str | None


def train(config: LlmConfig, run: Run) -> None:
    """Load everything, evaluate the base, train, evaluate again, report."""
    if config.prompts_per_step < run.ranks.world:
        raise ConfigError(
            f"prompts_per_step: must be >= the number of ranks, groups are never split across ranks, got "
            f"{config.prompts_per_step} and {run.ranks.world} ranks"
        )
    task = load_task(config.task.name, config)
    objective = config.build_objective(make_objective)
    models = load_models(config.model, config.seed)
    reference_hash = models.reference_hash()
    updates = config.steps * config.update.count
    engine = make_engine(config.engine.name, models.policy, config.optimizer, updates, shared=True)
    learner = make_learner(config, task, models, engine)
    reward = learner.reward
    next_beta = make_schedule(config.beta_schedule.name, config.objective.beta, config.beta_schedule.options())
    watch = CollapseWatch()
    state = LoopState(beta=config.objective.beta, warned_of_failure=False)
    data = {f"data/{name}": records.sha256 for name, records in task.data.items()}
    identity = {"reference": reference_hash, **reward.identity, **data}
    run.register_state(identity, engine=engine, watch=watch, values=state)
    further = make_evaluation_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    evaluation = EvaluationSettings.of(config)
    with engine.gather() as policy, models.as_reference(policy) as reference:
        base = evaluate_policy(reference, models, task, reward, further, evaluation)

    batches = BatchSettings.of(config)
    shown = {"reward": "reward/raw", "KL": objective.divergence_metric}
    shown |= {f'"{answer}"': f"share/{answer}" for answer in task.answers}
    for step in run.steps(config.steps, show=shown):
        batch = draw_batch(batches, models, task, step)
        objective = with_entropy(objective, config, step)
        result = train_step(learner, objective, batch, state.beta)
        run.log({"beta": state.beta, "entropy_coef": objective.entropy_coef, **result.metrics})
        if config.sample_every and step % config.sample_every == 0:
            run.log_samples(sample_rows(result))
        if result.failure and not state.warned_of_failure:
            state.warned_of_failure = True
            run.warn(f"{result.failure}; such completions do not count (reward/invalid_share)")
        warning = watch.update(result.texts, task.correct(result.reward.flatten().tolist()), result.chats, task)
        if warning:
            run.warn(warning)
        done = progress(step + 1, config.steps)
        observed = Observed(done, float(result.kl), result.reward, result.ref_seq_logp, result.good)
        state.beta = next_beta(state.beta, observed)

    with engine.gather() as policy:
        if run.is_main:
            save_policy(policy, models.tokenizer, config.model, run.folder)
        trained = evaluate_policy(policy, models, task, reward, further, evaluation)
    if run.is_main:
        report_run(run, base, trained, {name: records.facts() for name, records in task.data.items()})


def make_learner(config: LlmConfig, task: Task, models: Models, engine: Engine) -> Learner:
    """What the steps of a configuration work with.

    Raises:
        ConfigError: a reward, or a model that the transform needs, cannot be loaded.
    """
    device = models.eos_ids.device
    return Learner(
        models=models,
        engine=engine,
        task=task,
        reward=make_reward(config.reward, task, device, models.policy.dtype),
        limits=MicroBatchLimits(config.micro_batch, config.micro_batch_tokens),
        partition=make_partition(config.transform, task, device),
        drop_truncated=config.truncated == "drop",
    )


def train_step(learner: Learner, objective: Objective, batch: Batch, beta: float) -> Step:
    """One batch and its updates, usually one: sample, score, reference, transform, advantage, loss, update.

    Each rank samples, scores and reads its own prompts' completions. What the loss needs of them is small and goes to
    every rank, so that the loss, and with it the step, is that of all completions whatever the number of ranks.
    """
    drawn = make_experience(learner, batch)
    metrics, policy_logp, entropy = update_policy(learner, objective, batch, drawn, beta)

    task, reward, mask, texts = learner.task, drawn.reward, drawn.mask, drawn.texts
    policy_seq_logp = masked_sum(policy_logp.view(mask.shape), mask)
    ref_seq_logp = masked_sum(drawn.ref_logp, mask)
    metrics |= {"length": mask.sum(-1).float().mean(), "truncated_share": drawn.truncated_share}
    counted = mask if drawn.valid is None else mask & drawn.valid.unsqueeze(-1)
    metrics["policy/token_entropy_nats"] = mean_valid(entropy.view(mask.shape), counted)
    metrics |= {f"reward/{name}": part.nanmean() for name, part in drawn.parts.items()}
    if learner.reward.on_failure == "drop":
        metrics["reward/invalid_share"] = (~reward.isfinite()).float().mean()
    correct = task.correct(reward.flatten().tolist())
    ratio = mode_ratio(objective, beta, reward, policy_seq_logp, ref_seq_logp, drawn.complete, texts, correct)
    logged = {**metrics, **answer_shares(texts, correct, drawn.chats, task), **ratio}
    kl = metrics[objective.divergence_metric]
    good = objective.good(reward, ref_seq_logp, drawn.complete)
    if good is not None:
        good = good & first_occurrences(texts, len(reward)).to(good.device)
    return Step(logged, kl, drawn.chats, reward, texts, policy_seq_logp, ref_seq_logp, good, drawn.failure)


def make_experience(learner: Learner, batch: Batch) -> Experience:
    """Sample this rank's completions, score them, read them with the reference; and gather those of all ranks."""
    P, G = batch.prompts_of_all, batch.group_size
    models, engine = learner.models, learner.engine
    with engine.gather() as policy:
        rollout = sample(
            policy, batch.prompts, batch.uniforms, group_size=G, eos_ids=models.eos_ids, pad_id=models.pad_id
        )
    own = Completions(batch.prompts, rollout.tokens, rollout.mask)
    texts = rollout.texts(models.tokenizer)
    scores = learner.reward([chat for chat in batch.chats for _ in range(G)], texts)
    reward = scores.reward.view(-1, G).to(rollout.mask.device)  # [P, G], NaN where it failed
    ref_logp = reference_logp(learner, own)

    classes = None
    if learner.partition is not None:
        classes = gather_rows(group_classes(texts, G, learner.partition).to(rollout.mask.device))
    reward, complete = gather_rows(reward), gather_rows(rollout.complete).view(P, G)
    mask, ref_logp = (gather_rows(t).view(P, G, -1) for t in (rollout.mask, ref_logp))
    truncated_share = (~complete).float().mean()
    valid, scored = complete if learner.drop_truncated else None, reward.isfinite()
    if not bool(scored.all()):  # on any rank
        valid, complete = scored if valid is None else scored & valid, scored & complete
    return Experience(
        own=own,
        chats=[chat for chats in gather_objects(list(batch.chats)) for chat in chats],
        texts=[text for part in gather_objects(texts) for text in part],
        reward=reward,
        ref_logp=ref_logp,
        mask=mask,
        valid=valid,
        complete=complete,
        diversity=None if classes is None else class_diversity(classes, valid).to(reward.dtype),
        truncated_share=truncated_share,
        parts={name: gather_rows(part) for name, part in scores.parts.items()} if len(scores.parts) > 1 else {},
        failure=scores.failure,
    )


def reference_logp(learner: Learner, completions: Completions) -> Tensor:
    """Log-probabilities of this rank's completions under the reference: [rows, T] nats."""
    reader = make_reader(completions, learner.limits)
    with torch.no_grad(), learner.engine.gather() as policy, learner.models.as_reference(policy) as frozen:
        return torch.cat(list(reader(lambda function: function(frozen))))


def update_policy(
    learner: Learner, objective: Objective, batch: Batch, drawn: Experience, beta: float
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The step's updates: metrics, and [P * G, T] log-probabilities and entropies under the policy that sampled."""
    P, G = drawn.reward.shape
    engine = learner.engine
    optional = {"valid": drawn.valid, "complete": drawn.complete, "diversity": drawn.diversity}
    given = {name: value for name, value in optional.items() if value is not None}

    def loss_of(logp: Tensor, groups: Sequence[int], behaviour: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some groups, from their log-probabilities under the policy, [len(groups) * G, T]."""
        chosen = {name: value[groups] for name, value in given.items()}
        if behaviour is not None:
            chosen["behaviour_logp"] = behaviour[groups]
        logp = logp.view(len(groups), G, -1)
        return objective.loss(
            drawn.reward[groups], logp, drawn.ref_logp[groups], drawn.mask[groups], beta=beta, **chosen
        )

    behaviour = None
    if len(batch.updates) > 1:  # the policy moves away from the one that sampled
        with torch.no_grad():
            both = torch.cat(
                list(make_reader(drawn.own, learner.limits)(engine.apply, completion_logp_and_entropy)), 1
            )
        policy_logp, entropy = (gather_rows(t) for t in both)
        behaviour = policy_logp.view(P, G, -1)
    reference = sample_reference(learner, batch)
    updates = []
    for groups in batch.updates:
        chosen = [slot - batch.slots.start for slot in groups if slot in batch.slots]
        before = sum(slot < batch.slots.start for slot in groups)  # groups of earlier ranks
        own_loss = partial(loss_of, groups=groups, behaviour=behaviour)
        reader = make_reader(drawn.own, learner.limits, chosen)
        metrics, *last = backward_through_logp(engine, reader, before * G, own_loss)
        if reference is not None:
            metrics |= backward_from_reference(learner, objective, *reference, chosen, before, beta)
        metrics["grad_norm"] = engine.step()
        updates.append(metrics)
    if behaviour is None:
        policy_logp, entropy = last
        return updates[0], policy_logp, entropy
    _, whole = loss_of(policy_logp, list(range(P)), None)
    average = {name: torch.stack([metrics[name].float() for metrics in updates]).mean() for name in updates[0]}
    return {**average, **whole}, policy_logp, entropy


def sample_reference(learner: Learner, batch: Batch) -> tuple[Completions, Tensor] | None:
    """This rank's completions of the reference, and their log-probabilities under it, [P * N, T]; None for none."""
    if batch.reference_uniforms is None:
        return None
    models, count = learner.models, len(batch.reference_uniforms) // len(batch.chats)
    with torch.no_grad(), learner.engine.gather() as policy, models.as_reference(policy) as frozen:
        rollout: Rollout = sample(
            frozen,
            batch.prompts,
            batch.reference_uniforms,
            group_size=count,
            eos_ids=models.eos_ids,
            pad_id=models.pad_id,
        )
    drawn = Completions(batch.prompts, rollout.tokens, rollout.mask)
    return drawn, reference_logp(learner, drawn)


def backward_from_reference(
    learner: Learner,
    objective: Objective,
    drawn: Completions,
    ref_logp: Tensor,
    chosen: Sequence[int],
    before: int,
    beta: float,
) -> dict[str, Tensor]:
    """The divergence on completions of the reference, for the chosen prompts of this rank; metrics by name."""
    count = len(drawn.tokens) // len(drawn.prompts.ids)
    rows = [place * count + i for place in chosen for i in range(count)]
    all_ref_logp, all_mask = gather_rows(ref_logp[rows]), gather_rows(drawn.mask[rows])

    def loss_of(logp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return objective.reference_loss(logp, all_ref_logp, all_mask, beta=beta)

    reader = make_reader(drawn, learner.limits, chosen)
    metrics, *_ = backward_through_logp(learner.engine, reader, before * count, loss_of)
    return {name: value for name, value in metrics.items() if name != "loss"}


def with_entropy(objective: Objective, config: LlmConfig, step: int) -> Objective:
    """The objective with the entropy coefficient that is in force at a step."""
    final = config.objective.entropy_final
    if final is None:
        return objective
    coefficient = linear(config.objective.entropy_coef, final, progress(step, config.steps))
    return replace(objective, entropy_coef=coefficient)


def first_occurrences(texts: Sequence[str], prompts: int) -> Tensor:
    """[P, G] bool, False where an earlier completion of the same prompt has the same text."""
    G = len(texts) // prompts
    groups = [texts[p * G : (p + 1) * G] for p in range(prompts)]
    return torch.tensor([[group.index(text) == i for i, text in enumerate(group)] for group in groups])


def sample_rows(result: Step) -> Iterator[Mapping[str, object]]:
    """The completions of a step, for samples.jsonl."""
    G = result.reward.shape[1]
    columns = (t.flatten().tolist() for t in (result.reward, result.policy_seq_logp, result.ref_seq_logp))
    for row, (text, reward, policy, reference) in enumerate(zip(result.texts, *columns, strict=True)):
        numbers = {"reward": reward, "policy_seq_logp": policy, "ref_seq_logp": reference}
        yield {"prompt": row // G, "completion": text, **numbers}
