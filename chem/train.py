"""Post-training of a prior over SMILES. The batch of a step is one group."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from chem.breeding import Breeder, make_breeder
from chem.filters import DiversityFilter, batch_diversity
from chem.models.network import Network, Rollout, sample, token_logp
from chem.models.prior import Prior, save_prior
from chem.models.prior_source import open_agent, open_prior, prior_facts
from chem.oracles import OracleError, Result
from chem.parallel.sampler import ParallelSampler
from chem.parallel.threads import RowThreads
from chem.reference import PROMPT, PriorStatistics, molecule_labels
from chem.replay import ReplayMemory, TrainingRows, augmented_rows, concat_padded, read_seeds, replayed_rows
from chem.report import mean_of_known, report_run
from chem.scoring import RewardFunction, ScoredBatch, open_cache, treat_duplicates
from chem.stages import StageOracle, StageState, stage_configs
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig, StopConfig
from core import losses
from core.answer_counts import AnswerCounts, make_answer_counts
from core.classes import ClassMemory, StepMasses, make_class_memory
from core.objective import Group, Objective, make_objective
from core.schedules import StepStatistics, budget_progress, known, make_schedule, run_progress
from core.sequence import first_occurrences, masked_sum
from launch.engines.base import Engine, overflow_in_one_line
from launch.engines.factory import make_engine
from launch.runs.checkpoint import LoopState, tensors_hash
from launch.runs.progress import working
from launch.runs.rng import rollout_uniforms, stream_seed
from launch.runs.run import Run, Scalar


class Reinvent(Objective):
    """REINVENT's loss (Olivecrona et al., 2017): mean of (log prior' + R' / beta - log policy)^2; sigma is 1 / beta.

    R' and prior' are the outputs of the reward transform. On samples of the policy the gradient of this loss is
    2 / beta times that of the policy gradient without a baseline and with the reverse KL in the reward.
    """

    def _estimate(self, group: Group, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        if group.behaviour_logp is not None:
            raise ValueError("REINVENT's loss has no importance weights: samples must come from the current policy")
        transformed = group.transformed
        loss = losses.reinvent(
            group.policy_seq_logp,
            transformed.ref_seq_logp,
            transformed.reward,
            sigma=1 / beta,
            valid=group.valid,
        )
        return loss, {}


class StepResult(NamedTuple):
    """Result of one training step."""

    metrics: dict[str, Scalar]
    statistics: StepStatistics  # input of the beta schedule
    batch: ScoredBatch  # as scored, before duplicates and filtered molecules were treated
    seq_logp: "Mapping[str, SeqLogp]"  # by canonical SMILES


class SeqLogp(NamedTuple):
    """Log-probabilities of the SMILES that was sampled of a molecule, nats; of the first one in a batch."""

    policy: float
    ref: float


class Learner(NamedTuple):
    """The parts that a training step works with."""

    prior: Prior  # the reference
    engine: Engine  # its module is the policy
    objective: Objective
    reward_function: RewardFunction
    diversity_filter: DiversityFilter
    memory: ReplayMemory
    classes: ClassMemory | None  # of MARA
    labels: Callable[[Sequence[str]], list[str]]  # SMILES -> the class of each, for MARA and the counts
    oracle_thread: ThreadPoolExecutor  # waits for the oracle while log-probabilities are computed
    row_threads: RowThreads
    sampler: ParallelSampler  # samples from the policy
    kl_samples: "KlSamples | None" = None  # on which the divergence is measured
    breeder: Breeder | None = None  # adds to the memory
    counts: AnswerCounts | None = None  # how often each molecule was sampled, for a transform that needs it


class KlSamples(NamedTuple):
    """Molecules that were sampled from the prior once, on which the divergence is measured.

    tokens, mask: [K, T].
    ref_seq_logp: [K] under the prior, nats.
    """

    tokens: Tensor
    mask: Tensor
    ref_seq_logp: Tensor


class LoopParts(NamedTuple):
    """What the training loop keeps, beside the parts that a step works with."""

    oracle: StageOracle
    stages: StageState
    statistics: PriorStatistics
    monitor: "StopMonitor"
    best: "BestPolicy"
    values: LoopState


def train_policy(config: ChemConfig, run: Run) -> None:
    """Load the prior, train until the run stops, save the policy and write the report."""
    with working("loading the prior"):
        prior = open_prior("prior", config.prior)
        agent = open_agent(config.agent, prior)
    run.note(model=prior_facts(config.prior))
    prior = prior._replace(max_tokens=agent.max_tokens)
    policy = deepcopy(agent.network)
    identity = {"prior": tensors_hash(prior.network.named_parameters())}
    if config.agent is not None:
        identity["agent"] = tensors_hash(policy.named_parameters())
    updates = config.steps * (1 + config.replay.augmentations)
    engine = make_engine(config.engine.name, policy, config.optimizer, updates)
    row_threads = RowThreads(config.batch_size, torch.get_num_threads())
    with (
        row_threads,
        ParallelSampler(policy, row_threads) as sampler,
        StageOracle() as oracle,
        ThreadPoolExecutor(1) as oracle_thread,
    ):
        with working("starting the oracle"):
            keys = [stage_oracle.key for stage_oracle in oracle.check(stage_configs(config))]
        classes, counts = make_class_memory(config.choices()), make_answer_counts(config.transform.name)
        learner = Learner(
            prior=prior,
            engine=engine,
            objective=make_chem_objective(config),
            reward_function=RewardFunction(oracle, None, config.budget),
            diversity_filter=DiversityFilter(config.diversity_filter),
            memory=ReplayMemory(config.replay, prior.tokenizer),
            classes=classes,
            labels=partial(molecule_labels, config=config),
            oracle_thread=oracle_thread,
            row_threads=row_threads,
            sampler=sampler,
            kl_samples=draw_kl_samples(prior, config.objective.measured_on, config.seed, row_threads),
            breeder=make_breeder(config.replay.genetic, prior),
            counts=counts,
        )
        parts = LoopParts(
            oracle,
            StageState(config.stages),
            PriorStatistics(config, classes),
            StopMonitor(config.stop),
            BestPolicy(engine),
            LoopState(beta=config.objective.beta, warned_of_range=False),
        )
        optional = {
            "classes": classes,
            "counts": counts,
            "statistics": parts.statistics if parts.statistics.needed else None,
            "stages": parts.stages if config.stages else None,
        }
        run.register_state(
            identity | {"oracle": " ".join(keys)},
            engine=engine,
            scoring=learner.reward_function,
            memory=learner.memory,
            diversity=learner.diversity_filter,
            watch=parts.monitor,
            best=parts.best,
            values=parts.values,
            **{name: part for name, part in optional.items() if part is not None},
        )
        if not config.stages:
            parts.stages.begun = run.first_step > 0
        for note in off_policy_notes(config):
            run.info(f"off-policy: {note}")
        reason = training_loop(config, run, learner, parts)
        calls, failures = learner.reward_function.calls, learner.reward_function.failures
        run.info(f"oracle: {calls:,} distinct molecules, {learner.reward_function.cached:,} answers from the cache")
    save_prior(run.folder / "policy", agent._replace(network=policy))
    with working("writing the report"):
        report_run(run, calls, failures, reason, parts.stages.ended if config.stages else None)


def call_limit(config: ChemConfig) -> int | None:
    """The most oracle calls of a run: its budget, or those of its stages if each has one and they are fewer."""
    of_stages = [stage.budget for stage in config.stages]
    limits = [] if config.budget is None else [config.budget]
    if of_stages and None not in of_stages:
        limits.append(sum(budget for budget in of_stages if budget is not None))
    return min(limits, default=None)


def training_loop(config: ChemConfig, run: Run, learner: Learner, parts: LoopParts) -> str:
    """Run the training loop and return the reason it stopped."""
    reward_function, stages, values = learner.reward_function, parts.stages, parts.values
    next_beta = make_schedule(config.beta_schedule.name, config.objective.beta, config.beta_schedule.options())
    kl_key = learner.objective.kl_metric(learner.kl_samples is not None)
    shown = {"reward": "reward/raw", "valid": "valid", "unique": "unique", "KL": kl_key, "calls": "oracle/calls"}
    limit = call_limit(config)
    budget = None if limit is None else ("oracle/calls", limit)
    learner, stage_config = enter_stage(config, run, learner, parts)
    for step in run.steps(config.steps, show=shown, budget=budget):
        try:
            recalled = begin_stage(config, run, learner, stages)
            of_prior = parts.statistics.measure(learner.prior, reward_function)
            learner = learner._replace(objective=parts.statistics.with_threshold(learner.objective))
            with overflow_in_one_line(config.optimizer):
                result = train_step(learner, stage_config, step, values.beta)
        except OracleError as error:
            raise ConfigError(str(error)) from error
        rows = [*recalled, *sample_records(of_prior), *sample_records(result.batch, result.seq_logp)]
        run.log_samples({**stages.number, **row} for row in rows)
        warn_of_first_failure(run, [*(of_prior.fresh if of_prior else []), *result.batch.fresh], reward_function)
        calls: dict[str, Scalar] = {"oracle/calls": reward_function.calls, "oracle/failed": reward_function.failures}
        run.log({**stages.number, "beta": values.beta, **result.metrics, **calls})
        wide = (
            None
            if values.warned_of_range
            else learner.objective.wide_rewards(result.batch.reward, result.batch.valid)
        )
        if wide:
            values.warned_of_range = True
            run.warn(wide)
        collapse = parts.monitor.update(result.metrics)
        parts.best.update(parts.monitor.mean("reward/raw"), parts.monitor.full and collapse is None)
        if collapse is not None:
            stages.finish_step(collapse)
            stages.advance(collapse, len(reward_function.scores))
            run.warn(f"stopped after step {step + 1}: {collapse}; " + parts.best.restore())
            return collapse
        reason = stages.finish_step(
            parts.monitor.reached(stages.steps + 1) or ("budget" if reward_function.spent else None)
        )
        progress = next_progress(config, step, reward_function.calls)
        if reason is not None:
            is_last = config.budget is not None and reward_function.calls >= config.budget
            run.info(stage_end_text(step, reason, parts, reward_function))
            if not stages.advance(reason, len(reward_function.scores)) or is_last:
                return reason
            learner, stage_config = next_stage(config, run, learner, parts)
        values.beta = next_beta(values.beta, result.statistics._replace(progress=progress))
    stages.advance("steps", len(reward_function.scores))
    return "steps"


def enter_stage(config: ChemConfig, run: Run, learner: Learner, parts: LoopParts) -> tuple[Learner, ChemConfig]:
    """Use the oracle, the threshold and the limits of the current stage; what the stage has done so far is kept.

    Returns:
        The learner with the objective of the stage, and the configuration of the stage.
    """
    stage_config = stage_configs(config)[parts.stages.index]
    oracle = parts.oracle.use(stage_config.oracle)
    for note in oracle.notes:
        run.info(note)
    reward_function = learner.reward_function
    reward_function.cache = open_cache(config.cache, oracle.key)
    reward_function.budget = parts.stages.budget(config.budget, reward_function.earlier)
    parts.monitor.config = stage_config.stop
    parts.statistics.enter_stage(stage_config)
    return learner._replace(objective=make_chem_objective(stage_config)), stage_config


def next_stage(config: ChemConfig, run: Run, learner: Learner, parts: LoopParts) -> tuple[Learner, ChemConfig]:
    """Forget what belongs to the oracle of the stage before, and enter the next stage; returns as `enter_stage`."""
    learner.reward_function.begin_stage()
    parts.monitor.recent.clear()
    parts.best.forget()
    for memory in (learner.classes, learner.counts):
        if memory is not None:
            memory.prompts.clear()
    stage = parts.stages.stage
    if stage is not None and not stage.keep_buckets:
        learner.diversity_filter.load_state_dict({"buckets": {}})
    if stage is not None and not stage.keep_memory:
        learner.memory.entries.clear()
    entered = enter_stage(config, run, learner, parts)
    parts.statistics.begin_stage()
    return entered


def begin_stage(config: ChemConfig, run: Run, learner: Learner, stages: StageState) -> list[Mapping[str, object]]:
    """In the first step of a stage, score the molecules that the replay memory starts with.

    They are the seeds in the first stage, and in later ones what the memory held.

    Returns:
        Lines of samples.jsonl.
    """
    if stages.begun:
        return []
    stages.begun = True
    if stages.index == 0 and config.replay.seeds is None:
        return []
    smiles = [sampled for sampled, _ in learner.memory.entries.values()]
    if stages.index == 0:
        smiles, counts = read_seeds(str(config.replay.seeds), learner.prior.tokenizer, learner.prior.max_tokens)
        run.info(f"seeds: {counts}")
    learner.memory.entries.clear()
    batch = learner.reward_function(smiles)
    learner.memory.add(smiles, batch, [False] * len(smiles))
    rows = sample_records(batch)
    return [{**row, "status": "seed", "score": None} for row in rows] if stages.index == 0 else rows


def stage_end_text(step: int, reason: str, parts: LoopParts, reward_function: RewardFunction) -> str:
    """One line about the end of a stage or, where a run has none, of the run."""
    name = f"stage {parts.stages.index + 1} ended" if parts.stages.stages else "stopped"
    score = parts.monitor.mean("reward/raw")
    texts = {
        "budget": f"the budget of {reward_function.calls - reward_function.earlier:,} molecules is spent",
        "steps": f"it has taken its {parts.stages.steps:,} steps",
        "max_score": f"the mean score over the last {parts.monitor.config.window} steps is {score or 0:.3f}",
    }
    return f"{name} after step {step + 1}: {texts[reason]}"


def warn_of_first_failure(run: Run, fresh: Sequence[Result], reward_function: RewardFunction) -> None:
    """Print the first failure of the oracle in a run; the report counts all of them by reason.

    Args:
        run: prints it.
        fresh: the results of this step.
        reward_function: has counted the failures so far.
    """
    failed = [result for result in fresh if result.failure]
    if failed and reward_function.failures == len(failed):
        run.warn(f"the oracle gave no score for {failed[0].smiles}: {failed[0].status.value}: {failed[0].message}")


def next_progress(config: ChemConfig, step: int, calls: int) -> float:
    """Progress of the step after `step` in [0, 1]: of the steps or of the budget, whichever is further.

    Args:
        config: with the steps and the budget of the run.
        step: the finished step, counted from 0.
        calls: distinct molecules scored so far.
    """
    by_steps = run_progress(step + 1, config.steps)
    if config.budget is None:
        return by_steps
    return max(by_steps, budget_progress(calls, config.budget, config.batch_size))


def expected_updates(config: ChemConfig, step: int, calls: int) -> float:
    """Updates of the whole run, at most `steps` steps, if the budget is spent at the mean rate so far.

    In the step that spends the last of the budget this is the number of updates of the run. Arguments as in
    `next_progress`; `calls` includes those of `step`.
    """
    steps: float = config.steps
    if config.budget is not None and calls:
        steps = min(steps, (step + 1) * config.budget / calls)
    return steps * (1 + config.replay.augmentations)


def train_step(learner: Learner, config: ChemConfig, step: int, beta: float) -> StepResult:
    """One update on N new samples and M replayed molecules as one group, then the updates of augmented memory."""
    prior, policy = learner.prior, cast(Network, learner.engine.module)
    rows = list(range(config.batch_size))
    uniforms = rollout_uniforms(config.seed, step, [0] * len(rows), rows, prior.max_tokens)
    rollout, sampled_logp = learner.sampler.draw(uniforms)  # tokens, mask, log-probabilities: [N, T]
    smiles = prior.decode(rollout)

    # The oracle's processes score the samples while this process computes log-probabilities.
    scoring = learner.oracle_thread.submit(learner.reward_function, smiles)
    replayed = replayed_rows(learner.memory.draw(config.seed, step), prior.tokenizer)
    tokens = concat_padded(rollout.tokens, replayed.tokens)  # [N + M, T]
    mask = concat_padded(rollout.mask, replayed.mask)
    ref_logp = token_logp(prior.network, tokens, mask, learner.row_threads)
    policy_logp = sampled_logp  # [N + M, T], carries gradient
    if len(replayed.tokens):
        policy_logp = concat_padded(sampled_logp, token_logp(policy, replayed.tokens, replayed.mask))
    scored = scoring.result()
    learner.engine.total_updates = expected_updates(config, step, learner.reward_function.calls)

    batch, filtered = learner.diversity_filter(treat_duplicates(scored, config.duplicates))
    group = TrainingRows(
        tokens,
        mask,
        reward=torch.cat([batch.reward, replayed.reward]),  # [N + M]
        valid=torch.cat([batch.valid, replayed.valid]),
        complete=torch.cat([batch.complete, replayed.complete]),
        smiles=[*smiles, *replayed.smiles],
    )
    diversity = batch_diversity(scored.canonical) if learner.objective.needs_diversity else None
    policy_seq_logp, ref_seq_logp = masked_sum(policy_logp.detach(), mask), masked_sum(ref_logp, mask)  # [N + M]
    seq_logp = first_seq_logp(scored.canonical, policy_seq_logp.tolist(), ref_seq_logp.tolist())
    measured: dict[str, Scalar] = {}
    if learner.kl_samples is not None:
        ref_sampled = ref_seq_logp[: config.batch_size]
        policy_sampled = policy_seq_logp[: config.batch_size]
        measured |= learner.objective.measure_divergence(
            (policy_sampled, ref_sampled), kl_samples_logp(policy, learner.kl_samples, learner.row_threads)
        )
    metrics, statistics = update_policy(learner, group, policy_logp, ref_logp, beta, len(smiles), diversity)

    learner.memory.add(smiles, batch, filtered)
    breeder = learner.breeder
    bred = breeder(learner.memory, learner.reward_function, config.seed, step) if breeder is not None else []
    if config.replay.purge:
        learner.memory.purge(learner.diversity_filter.penalises)
    for number in range(config.replay.augmentations):
        group = augmented_rows(
            smiles, batch, learner.memory, max_tokens=prior.max_tokens, seed=config.seed, step=step, number=number
        )
        policy_logp = token_logp(policy, group.tokens, group.mask)
        ref_logp = token_logp(prior.network, group.tokens, group.mask, learner.row_threads)
        update_policy(learner, group, policy_logp, ref_logp, beta, 0)
    metrics |= measured
    kl = known(metrics[learner.objective.kl_metric(bool(measured))])
    metrics |= batch_statistics(scored, filtered, rollout)
    return StepResult(metrics, statistics._replace(kl=kl), scored._replace(fresh=[*scored.fresh, *bred]), seq_logp)


def first_seq_logp(
    canonical: Sequence[str | None], policy: Sequence[float], ref: Sequence[float]
) -> dict[str, SeqLogp]:
    """Log-probabilities of the first row of each molecule, by canonical SMILES; further rows are left out."""
    by_molecule: dict[str, SeqLogp] = {}
    for molecule, *values in zip(canonical, policy, ref, strict=False):
        if molecule is not None:
            by_molecule.setdefault(molecule, SeqLogp(*values))
    return by_molecule


@torch.no_grad()
def draw_kl_samples(prior: Prior, count: int, seed: int, row_threads: RowThreads) -> KlSamples | None:
    """Sample molecules from the prior; they depend on the seed only. None if `count` is 0."""
    if not count:
        return None
    uniforms = rollout_uniforms(stream_seed(seed, "kl_samples"), 0, [0] * count, list(range(count)), prior.max_tokens)
    rollout = sample(prior.network, uniforms)
    ref_logp = token_logp(prior.network, rollout.tokens, rollout.mask, row_threads)
    return KlSamples(rollout.tokens, rollout.mask, masked_sum(ref_logp, rollout.mask))


def kl_samples_logp(policy: Network, samples: KlSamples, row_threads: RowThreads) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the samples under the policy and under the prior, [K] nats each."""
    policy_logp = token_logp(policy, samples.tokens, samples.mask, row_threads)
    return masked_sum(policy_logp, samples.mask), samples.ref_seq_logp


def update_policy(
    learner: Learner,
    rows: TrainingRows,
    policy_logp: Tensor,
    ref_logp: Tensor,
    beta: float,
    sampled: int,
    diversity: Tensor | None = None,
) -> tuple[dict[str, Scalar], StepStatistics]:
    """Transform, KL term, advantage, loss and update, with all rows as one group.

    Args:
        learner: its engine is stepped once.
        rows: N sequences with their rewards.
        policy_logp: [N, T] nats, with gradient.
        ref_logp: [N, T] nats, under the prior.
        beta: reward units per nat.
        sampled: how many of the rows, the first ones, the policy has just sampled. The others are replayed: they
            are trained on, and metrics and statistics leave them out.
        diversity: [N], for transforms that need it.

    Returns:
        Metrics, and the input of the beta schedule.
    """
    objective, engine = learner.objective, learner.engine
    reward, valid, complete = (t.unsqueeze(0) for t in (rows.reward, rows.valid, rows.complete))  # [1, N]
    masses = None
    if learner.classes is not None:
        masses = StepMasses(learner.classes, [PROMPT], [learner.labels(rows.smiles)])
    answer_count = None
    if learner.counts is not None:  # all rows are sampled: nothing is replayed with such a transform
        answer_count = learner.counts.count([PROMPT], [learner.labels(rows.smiles)], valid).to(reward)
    loss, metrics = objective.loss(
        reward,
        policy_logp.unsqueeze(0),
        ref_logp.unsqueeze(0),
        rows.mask.unsqueeze(0),
        beta=beta,
        valid=valid,
        complete=complete,
        measured=(torch.arange(len(rows.reward)) < sampled).unsqueeze(0),
        diversity=None if diversity is None else diversity.unsqueeze(0),
        answer_count=answer_count,
        masses=masses,
    )
    engine.backward(loss)
    grad_norm = engine.step()

    ref_seq_logp = masked_sum(ref_logp, rows.mask).unsqueeze(0)
    good = objective.good(reward, ref_seq_logp, valid & complete)
    if good is not None:
        sequences = [tuple(row[kept].tolist()) for row, kept in zip(rows.tokens, rows.mask, strict=True)]
        good = good & first_occurrences(sequences, 1)
    statistics = StepStatistics(
        progress=0.0,
        kl=None,  # `train_step` adds the divergence
        reward=reward[:, :sampled],
        ref_seq_logp=ref_seq_logp[:, :sampled],
        good=None if good is None else good[:, :sampled],
    )
    return {**metrics, "loss": loss.detach(), "grad_norm": grad_norm}, statistics


def make_chem_objective(config: ChemConfig) -> Objective:
    """The objective that `config.loss` names; `reinvent` uses the same transform as the policy gradient."""
    objective = config.build_objective(make_objective)
    if config.loss == "reinvent":
        return Reinvent(**{f.name: getattr(objective, f.name) for f in fields(objective)})
    return objective


def off_policy_notes(config: ChemConfig) -> list[str]:
    """Settings with which an update is not the gradient of the objective on the policy's own samples."""
    notes = []
    if config.duplicates != "keep":
        notes.append(f"duplicates={config.duplicates} changes which samples count or what their reward is")
    if config.diversity_filter.name != "none":
        notes.append(
            f"with diversity_filter.name={config.diversity_filter.name} the reward depends on earlier samples"
        )
    if config.replay.sample:
        notes.append("replayed molecules are not samples of the current policy")
    if config.replay.genetic.offspring:
        notes.append("molecules bred from the memory are not samples of the current policy")
    if config.replay.augmentations:
        notes.append("the SMILES of augmented memory are not samples of the current policy")
    if notes:
        notes.append("therefore sigma = 1 / beta and the targets hold only approximately")
    return notes


def batch_statistics(scored: ScoredBatch, filtered: Sequence[bool], rollout: Rollout) -> dict[str, Scalar]:
    """Validity, uniqueness, scaffolds and repeats of a batch; `docs/chem.md` defines each."""
    molecules = [smiles for smiles in scored.canonical if smiles is not None]
    new_molecules = {result.smiles for result in scored.fresh}
    count = len(molecules) or math.nan  # without a molecule, no share of them is defined
    return {
        "valid": len(molecules) / len(scored.canonical),
        "unique": len(set(molecules)) / count,
        "scaffolds": len(set(scored.scaffolds) - {None}) / count,
        "repeats": sum(smiles not in new_molecules for smiles in molecules) / count,
        "filtered": sum(filtered) / len(filtered),
        "length": rollout.mask.sum(-1).float().mean(),
    }


def sample_records(
    batch: ScoredBatch | None, seq_logp: Mapping[str, SeqLogp] | None = None
) -> list[Mapping[str, object]]:
    """Lines of samples.jsonl: the molecules that this run had not met before, and those that had failed before.

    Args:
        batch: None: no lines.
        seq_logp: of molecules that the policy has sampled.
    """
    results = [*batch.fresh, *batch.retried] if batch else []
    return [sample_record(result, (seq_logp or {}).get(result.smiles)) for result in results]


def sample_record(result: Result, seq_logp: SeqLogp | None) -> Mapping[str, object]:
    """A line of samples.jsonl.

    It has a message where there is no score, or no molecule, and log-probabilities where the policy sampled it.
    """
    record: dict[str, object] = {
        "smiles": result.smiles,
        "score": result.score,
        "status": result.status.value,
        "values": result.values,
        "details": result.details,
    }
    if result.message:
        record["message"] = result.message
    if seq_logp is not None:
        record |= {"policy_seq_logp": seq_logp.policy, "ref_seq_logp": seq_logp.ref}
    return record


class StopMonitor:
    """Stops a run when a mean over the last `window` steps passes a limit of the configuration."""

    KEYS = ("reward/raw", "valid", "unique", "scaffolds", "repeats")

    def __init__(self, config: StopConfig) -> None:
        self.config = config
        self.recent: deque[list[float | None]] = deque(maxlen=config.window)

    @property
    def full(self) -> bool:
        """Whether `window` steps have been seen; before, no limit applies."""
        return len(self.recent) == self.config.window

    def mean(self, key: str) -> float | None:
        """Mean of a metric over those of the last steps in which it is defined; None if there are none."""
        column = self.KEYS.index(key)
        return mean_of_known([row[column] for row in self.recent])

    def reached(self, steps: int) -> str | None:
        """`max_score` if the mean score over `window` steps has reached that of the configuration, else None.

        Args:
            steps: taken so far; None is returned for fewer than `min_steps`.
        """
        score, goal = self.mean("reward/raw"), self.config.max_score
        if goal is None or score is None or not self.full or steps < self.config.min_steps:
            return None
        return "max_score" if score >= goal else None

    def update(self, metrics: Mapping[str, Scalar]) -> str | None:
        """Add the metrics of one step; return the reason why the run has failed, or None."""
        self.recent.append([known(metrics[key]) for key in self.KEYS])
        if not self.full:
            return None
        limits = {
            "validity": ("valid", self.config.min_validity, -1),
            "uniqueness": ("unique", self.config.min_uniqueness, -1),
            "scaffolds": ("scaffolds", self.config.min_scaffolds, -1),
            "repeats": ("repeats", self.config.max_repeats, 1),
        }
        for name, (key, limit, sign) in limits.items():
            value = self.mean(key)
            if limit is not None and value is not None and sign * value > sign * limit:
                return f"{name} {value:.2f} over the last {self.config.window} steps, the limit is {limit:g}"
        return None

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"recent": list(self.recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.recent.extend(state["recent"])


class BestPolicy:
    """Keeps the policy and the optimiser from the step with the highest mean reward over the last steps."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reward: float | None = None
        self.state: dict[str, Any] = {}

    def forget(self) -> None:
        """Forget the copy, because rewards from now on cannot be compared with those before."""
        self.reward, self.state = None, {}

    def update(self, reward: float | None, eligible: bool) -> None:
        """Copy the engine's state if it is eligible and `reward` is the highest so far."""
        if eligible and reward is not None and (self.reward is None or reward > self.reward):
            self.reward, self.state = reward, deepcopy(self.engine.state_dict())

    def restore(self) -> str:
        """Restore the best state to the engine; return a line for the log."""
        if self.reward is None:
            return "there is no earlier policy to restore"
        self.engine.load_state_dict(self.state)
        return f"restored the policy and the optimiser with the highest mean reward, {self.reward:.3f}"

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"reward": self.reward, "state": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.reward, self.state = state["reward"], dict(state["state"])
