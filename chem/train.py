"""Post-training of a prior over SMILES: one update after another, the batch being one group."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chem.filters import DiversityFilter, batch_diversity
from chem.models.network import Rollout, token_logp
from chem.models.prior import SHIPPED, Prior, load_prior, save_prior
from chem.oracles import Oracle, OracleError
from chem.parallel.sampler import ParallelSampler
from chem.parallel.threads import RowThreads
from chem.replay import ReplayMemory, Rows, augmented, rows_of, stack
from chem.report import report_run
from chem.scoring import Batch, Cache, Scoring, treat_duplicates
from conf.schema.base import ConfigError
from conf.schema.chem import ChemConfig, StopConfig
from core import losses
from core.objective import Group, Objective, make_objective
from core.schedules import Observed, make_schedule, progress
from core.sequence import masked_sum
from launch.engines.base import Engine
from launch.engines.factory import make_engine
from launch.runs.checkpoint import LoopState, tensors_hash
from launch.runs.rng import rollout_uniforms
from launch.runs.run import Run, Scalar
from launch.runs.run_folder import cache_folder, user_path


class Reinvent(Objective):
    """REINVENT's loss (Olivecrona et al., 2017): mean of (log prior' + R' / beta - log policy)^2; sigma is 1 / beta.

    R' and prior' are the transform's. On-policy its gradient is 2 / beta times that of the policy gradient without a
    baseline whose reward holds the reverse KL.
    """

    def _estimate(self, group: Group, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        if group.behaviour_logp is not None:
            raise ValueError("REINVENT's loss has no weights for completions of another policy")
        to = group.transformed
        loss = losses.reinvent(group.policy_seq_logp, to.ref_seq_logp, to.reward, sigma=1 / beta, valid=group.valid)
        return loss, {}


class Step(NamedTuple):
    """What one step reports: numbers by name; the batch as molecules, as drawn, and which rows were filtered."""

    metrics: dict[str, Scalar]
    seen: Observed  # what the next beta is of
    batch: Batch


class Learner(NamedTuple):
    """What a step works with."""

    prior: Prior  # the reference
    engine: Engine  # its module is the policy
    objective: Objective
    scoring: Callable[[Sequence[str]], Batch]
    diversity: DiversityFilter
    memory: ReplayMemory
    thread: ThreadPoolExecutor  # in which the scoring waits for the oracle
    cores: RowThreads  # threads for what needs no other row
    shares: ParallelSampler  # draws from the policy


def train(config: ChemConfig, run: Run) -> None:
    """The whole job: load, train until steps, budget or a reason to stop, report."""
    prior = load_prior(SHIPPED if config.prior == "shipped" else user_path(config.prior))
    policy = deepcopy(prior.network)
    updates = config.steps * (1 + config.replay.augmentations)
    engine = make_engine(config.engine.name, policy, config.optimizer, updates)
    cores = RowThreads(config.batch_size, torch.get_num_threads())
    with (
        cores,
        ParallelSampler(policy, cores) as shares,
        open_oracle(config) as oracle,
        ThreadPoolExecutor(1) as thread,
    ):
        for note in oracle.notes:
            run.info(note)
        scoring = Scoring(oracle, open_cache(config.cache, oracle.key), config.budget)
        memory, diversity = ReplayMemory(config.replay, prior.tokenizer), DiversityFilter(config.diversity_filter)
        objective = make_chem_objective(config)
        learner = Learner(prior, engine, objective, scoring, diversity, memory, thread, cores, shares)
        watch, best = StopMonitor(config.stop), BestPolicy(engine)
        values = LoopState(beta=config.objective.beta)
        identity = {"prior": tensors_hash(prior.network.named_parameters()), "oracle": oracle.key}
        run.register_state(
            identity,
            engine=engine,
            scoring=scoring,
            memory=memory,
            diversity=diversity,
            watch=watch,
            best=best,
            values=values,
        )
        for line in off_policy(config):
            run.info(f"off-policy: {line}")
        reason = learn(config, run, learner, scoring, watch, best, values)
        run.info(f"oracle: {scoring.calls:,} distinct molecules, {scoring.cached:,} answers from the cache")
    save_prior(run.folder / "policy", prior._replace(network=policy))
    report_run(run, scoring.calls, scoring.failures, reason)


def learn(
    config: ChemConfig,
    run: Run,
    learner: Learner,
    scoring: Scoring,
    watch: "StopMonitor",
    best: "BestPolicy",
    values: LoopState,
) -> str:
    """The loop; why it ended."""
    next_beta = make_schedule(config.beta_schedule.name, config.objective.beta, config.beta_schedule.options())
    kl_key = learner.objective.divergence_metric
    shown = {"reward": "reward/raw", "valid": "valid", "unique": "unique", "KL": kl_key, "calls": "oracle/calls"}
    for step in run.steps(config.steps, show=shown):
        try:
            result = train_step(learner, config, step, values.beta)
        except OracleError as error:
            raise ConfigError(str(error)) from error
        run.log_samples(sample_rows(result.batch))
        calls: dict[str, Scalar] = {"oracle/calls": scoring.calls, "oracle/failed": scoring.failures}
        run.log({"beta": values.beta, **result.metrics, **calls})
        reason = watch.update(result.metrics)
        best.update(watch.mean("reward/raw"), watch.full and reason is None)
        if reason is not None:
            run.warn(f"stopped after step {step + 1}: {reason}; " + best.restore())
            return reason
        if scoring.spent:
            run.info(f"stopped after step {step + 1}: the budget of {config.budget:,} molecules is spent")
            return "budget"
        values.beta = next_beta(values.beta, result.seen._replace(done=progress(step + 1, config.steps)))
    return "steps"


def train_step(learner: Learner, config: ChemConfig, step: int, beta: float) -> Step:
    """One update: sample, score, prior, transform, KL, advantage, loss, update; then those of augmented memory."""
    prior, policy = learner.prior, learner.engine.module
    rows = list(range(config.batch_size))
    uniforms = rollout_uniforms(config.seed, step, [0] * len(rows), rows, prior.max_tokens)
    rollout, own_logp = learner.shares.draw(uniforms)
    smiles = prior.decode(rollout)

    answer = learner.thread.submit(learner.scoring, smiles)  # the oracle's processes work meanwhile
    replayed = rows_of(learner.memory.draw(config.seed, step), prior.tokenizer)
    tokens, mask = stack(rollout.tokens, replayed.tokens), stack(rollout.mask, replayed.mask)
    ref_logp = token_logp(prior.network, tokens, mask, learner.cores)
    policy_logp = own_logp if not len(replayed.tokens) else stack(own_logp, token_logp(policy, *replayed[:2]))  # type: ignore[arg-type]

    scored = answer.result()
    batch, filtered = learner.diversity(treat_duplicates(scored, config.duplicates))
    outcome = (torch.cat(pair) for pair in zip(batch[1:4], replayed[2:], strict=True))  # reward, valid, complete
    needs_diversity = "diversity" in learner.objective.transform_inputs
    diversity = batch_diversity(scored.canonical).unsqueeze(0) if needs_diversity else None
    metrics, seen = update(learner, Rows(tokens, mask, *outcome), (policy_logp, ref_logp), beta, diversity)

    learner.memory.add(smiles, batch, filtered)
    if config.replay.purge:
        learner.memory.purge(learner.diversity.penalises)
    for number in range(config.replay.augmentations):
        again = augmented(
            smiles, batch, learner.memory, longest=prior.max_tokens, seed=config.seed, step=step, number=number
        )
        update(learner, again, likelihoods(learner, again.tokens, again.mask), beta)
    return Step({**metrics, **describe(scored, filtered, rollout)}, seen, scored)


def likelihoods(learner: Learner, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, T] under the policy, with gradient, and under the prior."""
    policy: Any = learner.engine.module
    return token_logp(policy, tokens, mask), token_logp(learner.prior.network, tokens, mask, learner.cores)


def update(
    learner: Learner, rows: Rows, logp: tuple[Tensor, Tensor], beta: float, diversity: Tensor | None = None
) -> tuple[dict[str, Scalar], Observed]:
    """Move the policy by the objective's gradient on these rows, one group; metrics, and what beta may follow."""
    group = [t.unsqueeze(0) for t in (rows.reward, *logp, rows.mask)]
    valid, complete = rows.valid.unsqueeze(0), rows.complete.unsqueeze(0)
    loss, metrics = learner.objective.loss(*group, beta=beta, valid=valid, complete=complete, diversity=diversity)
    learner.engine.backward(loss)
    norm = learner.engine.step()
    reward, ref_seq_logp = group[0], masked_sum(logp[1], rows.mask).unsqueeze(0)
    good = learner.objective.good(reward, ref_seq_logp, valid & complete)
    kl = float(metrics[learner.objective.divergence_metric])
    seen = Observed(0.0, kl, reward, ref_seq_logp, good)
    return {**metrics, "loss": loss.detach(), "grad_norm": norm}, seen


def make_chem_objective(config: ChemConfig) -> Objective:
    """The policy gradient's objective, or REINVENT's with the same transform."""
    objective = config.build_objective(make_objective)
    if config.loss == "reinvent":
        return Reinvent(**{f.name: getattr(objective, f.name) for f in fields(objective)})
    return objective


def off_policy(config: ChemConfig) -> list[str]:
    """What makes the updates something else than the gradient of the objective on the policy's own samples."""
    found = []
    if config.duplicates != "keep":
        found.append(f"duplicates={config.duplicates} changes which samples count, or their reward")
    if config.diversity_filter.name != "none":
        found.append("the diversity filter's reward depends on what was sampled before")
    if config.replay.sample:
        found.append("replayed molecules are not samples of the policy")
    if config.replay.augmentations:
        found.append("neither are the spellings of augmented memory")
    if found:
        found.append("so sigma = 1 / beta and the targets hold only approximately")
    return found


def describe(scored: Batch, filtered: Sequence[bool], rollout: Rollout) -> dict[str, Scalar]:
    """Shares of the samples: valid; of the valid: distinct, distinct scaffolds, met in an earlier step."""
    molecules = [one for one in scored.canonical if one is not None]
    fresh = {result.smiles for result in scored.fresh}
    of = max(len(molecules), 1)
    return {
        "valid": len(molecules) / len(scored.canonical),
        "unique": len(set(molecules)) / of,
        "scaffolds": len(set(scored.scaffolds) - {None}) / of,
        "repeats": sum(one not in fresh for one in molecules) / of,
        "filtered": sum(filtered) / len(filtered),
        "length": rollout.mask.sum(-1).float().mean(),
    }


def sample_rows(batch: Batch) -> list[Mapping[str, object]]:
    """The molecules that a step asked about first, for samples.jsonl."""
    return [
        {
            "smiles": result.smiles,
            "score": result.score,
            "status": result.status.value,
            "values": result.values,
            "details": result.details,
        }
        for result in batch.fresh
    ]


class StopMonitor:
    """Means over the last steps, and the reason to stop that they give."""

    KEYS = ("reward/raw", "valid", "unique", "scaffolds", "repeats")

    def __init__(self, config: StopConfig) -> None:
        self.config = config
        self.recent: deque[list[float]] = deque(maxlen=config.window)

    @property
    def full(self) -> bool:
        return len(self.recent) == self.config.window

    def mean(self, key: str) -> float:
        place = self.KEYS.index(key)
        return sum(row[place] for row in self.recent) / max(len(self.recent), 1)

    def update(self, metrics: Mapping[str, Scalar]) -> str | None:
        """Take in one step; why to stop, or None."""
        self.recent.append([float(metrics[key] or 0.0) for key in self.KEYS])
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
            if limit is not None and sign * value > sign * limit:
                return f"{name} {value:.2f} over the last {self.config.window} steps, the limit is {limit:g}"
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self.recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.recent.extend(state["recent"])


class BestPolicy:
    """Policy and optimiser when the mean reward of the last steps was highest."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reward: float | None = None
        self.state: dict[str, Any] = {}

    def update(self, reward: float, eligible: bool) -> None:
        if eligible and (self.reward is None or reward > self.reward):
            self.reward, self.state = reward, deepcopy(self.engine.state_dict())

    def restore(self) -> str:
        """Set the engine back; a line that says so."""
        if self.reward is None:
            return "there is no earlier policy to go back to"
        self.engine.load_state_dict(self.state)
        return f"the policy is that of the highest mean reward, {self.reward:.3f}, with its optimiser"

    def state_dict(self) -> dict[str, Any]:
        return {"reward": self.reward, "state": self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reward, self.state = state["reward"], dict(state["state"])


def open_oracle(config: ChemConfig) -> Oracle:
    try:
        return Oracle(config.oracle)
    except OracleError as error:
        raise ConfigError(str(error)) from error


def open_cache(name: str | None, key: str) -> Cache | None:
    if name is None:
        return None
    return Cache(cache_folder() / "oracle.sqlite" if name == "shared" else user_path(name), key)
