"""Post-training by KL-regularised policy gradient: one batch of completions after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from conf.schema import ConfigError, DarlingConfig, LlmConfig, Placement, RewardFailure, Truncated
from core.losses import mean_valid
from core.objective import Objective, make_objective
from core.schedules import Observed, linear, make_schedule, place_in_run
from core.sequence import masked_sum
from core.transforms import class_diversity
from launch.engines import distributed
from launch.engines.distributed import gather, gather_rows, portion
from launch.engines.torch import Engine, make_engine
from launch.runs.checkpoint import Values
from launch.runs.rng import rollout_uniforms, stream_seed, torch_generator
from launch.runs.run import Run
from llm.evaluation.collapse import CollapseWatch, answer_shares, mode_ratio
from llm.evaluation.equivalence import Embedder, make_equivalence
from llm.evaluation.policy import evaluate_policy
from llm.inference.logprobs import completion_logp, completion_logp_and_entropy
from llm.inference.prompts import Chat, Prompts, encode_chats
from llm.inference.sampling import sample
from llm.models import Models, load_models, save_policy
from llm.report import report_run
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.tasks.base import Task, load_task

Partition = Callable[[Sequence[str]], Sequence[int]]  # a group's completions -> the number of each one's class


class Batch(NamedTuple):
    """What one step samples from on this rank: P chats, their tokens and [P * G, T] uniforms.

    slots: the chats' places among those of all ranks.
    updates: the slots of all ranks that each update of the step is of, ascending.
    reference_uniforms: [P * N, T] of completions of the reference; None where none are needed.
    """

    slots: range
    chats: list[Chat]
    prompts: Prompts
    uniforms: Tensor
    updates: list[list[int]]
    reference_uniforms: Tensor | None


class Completions(NamedTuple):
    """This rank's completions, as many consecutive rows for each prompt: tokens and mask [P * G, T]."""

    prompts: Prompts
    tokens: Tensor
    mask: Tensor

    def of(self, chosen: Sequence[int]) -> "Completions":
        """Those of some of the prompts."""
        G, places = len(self.tokens) // len(self.prompts.ids), list(chosen)
        rows = [place * G + i for place in places for i in range(G)]
        return Completions(Prompts(*(t[places] for t in self.prompts)), self.tokens[rows], self.mask[rows])


class Experience(NamedTuple):
    """What the updates of a step learn from: this rank's completions, and of all ranks' what the loss is made of.

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
    """The whole job: load, evaluate the base, train, evaluate again, report."""
    if config.prompts_per_step < run.ranks.world:
        raise ConfigError(
            f"prompts_per_step: must be >= the number of ranks, for a group lives whole on one of them, found "
            f"{config.prompts_per_step} and {run.ranks.world} ranks"
        )
    task = load_task(config.task.name, config)
    objective = make_objective(**config.objective_arguments())
    models = load_models(config.model, config.seed)
    reference_hash = models.reference_hash()
    reward = make_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    partition = make_partition(config, task, models.eos_ids.device)
    updates = config.steps * config.update.count
    engine = make_engine(config.engine.name, models.policy, config.optimizer, updates, shared=True)
    next_beta = make_schedule(config.beta_schedule.name, config.objective.beta, config.beta_schedule.options())
    watch = CollapseWatch()
    values = Values(beta=config.objective.beta, warned_of_failure=False)
    data = {f"data/{name}": records.sha256 for name, records in task.data.items()}
    run.keep({"reference": reference_hash, **reward.identity, **data}, engine=engine, watch=watch, values=values)
    further = make_evaluation_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    with engine.gather() as policy, models.as_reference(policy) as reference:
        base = evaluate_policy(reference, models, task, reward, further, config)

    shown = {"reward": "reward/raw", "KL": f"kl/{objective.direction}_nats"}
    shown |= {f'"{answer}"': f"share/{answer}" for answer in task.answers}
    for step in run.steps(config.steps, show=shown):
        batch = draw_batch(config, models, task, step)
        in_force = with_entropy(objective, config, step)
        result = train_step(models, engine, in_force, task, reward, batch, values.beta, config, partition)
        run.log({"beta": values.beta, "entropy_coef": in_force.entropy_coef, **result.metrics})
        if config.sample_every and step % config.sample_every == 0:
            run.sample(sample_rows(result))
        if result.failure and not values.warned_of_failure:
            values.warned_of_failure = True
            run.warn(f"{result.failure}; such completions do not count (reward/invalid_share)")
        warning = watch.update(result.texts, task.correct(result.reward.flatten().tolist()), result.chats, task)
        if warning:
            run.warn(warning)
        done = place_in_run(step + 1, config.steps)
        seen = Observed(done, float(result.kl), result.reward, result.ref_seq_logp, result.good)
        values.beta = next_beta(values.beta, seen)

    with engine.gather() as policy:
        if run.is_main:
            save_policy(policy, models.tokenizer, config.model, run.folder)
        trained = evaluate_policy(policy, models, task, reward, further, config)
    if run.is_main:
        report_run(run, base, trained, {name: records.facts() for name, records in task.data.items()})


def train_step(
    models: Models,
    engine: Engine,
    objective: Objective,
    task: Task,
    reward_of: Reward,
    batch: Batch,
    beta: float,
    config: LlmConfig,
    partition: Partition | None = None,
) -> Step:
    """One batch and its updates, usually one: sample, score, reference, transform, advantage, loss, update.

    Each rank samples, scores and reads its own prompts' completions. What the loss is made of is small and goes to
    every rank, so that the loss, and with it the step, is that of all completions whatever the number of ranks.

    Args:
        partition: for a transform that takes diversity.
    """
    drawn = experience(models, engine, reward_of, batch, config, partition)
    metrics, policy_logp, entropy = update_policy(models, engine, objective, batch, drawn, beta, config)

    reward, mask, texts = drawn.reward, drawn.mask, drawn.texts
    policy_seq_logp = masked_sum(policy_logp.view(mask.shape), mask)
    ref_seq_logp = masked_sum(drawn.ref_logp, mask)
    metrics |= {"length": mask.sum(-1).float().mean(), "truncated_share": drawn.truncated_share}
    counted = mask if drawn.valid is None else mask & drawn.valid.unsqueeze(-1)
    metrics["policy/token_entropy_nats"] = mean_valid(entropy.view(mask.shape), counted)
    metrics |= {f"reward/{name}": part.nanmean() for name, part in drawn.parts.items()}
    if config.reward.on_failure is RewardFailure.drop:
        metrics["reward/invalid_share"] = (~reward.isfinite()).float().mean()
    correct = task.correct(reward.flatten().tolist())
    ratio = mode_ratio(objective, beta, reward, policy_seq_logp, ref_seq_logp, drawn.complete, texts, correct)
    logged = {**metrics, **answer_shares(texts, correct, drawn.chats, task), **ratio}
    kl = metrics[f"kl/{objective.direction}_nats"]
    good = objective.good(reward, ref_seq_logp, drawn.complete)
    if good is not None:
        good = good & first_of_equals(texts, len(reward)).to(good.device)
    return Step(logged, kl, drawn.chats, reward, texts, policy_seq_logp, ref_seq_logp, good, drawn.failure)


def experience(
    models: Models,
    engine: Engine,
    reward_of: Reward,
    batch: Batch,
    config: LlmConfig,
    partition: Partition | None,
) -> Experience:
    """Sample this rank's completions, score them, read them with the reference; and gather those of all ranks."""
    P, G = config.prompts_per_step, config.group_size
    with engine.gather() as policy:
        rollout = sample(
            policy, batch.prompts, batch.uniforms, group_size=G, eos_ids=models.eos_ids, pad_id=models.pad_id
        )
    own = Completions(batch.prompts, rollout.tokens, rollout.mask)
    texts = rollout.texts(models.tokenizer)
    scores = reward_of([chat for chat in batch.chats for _ in range(G)], texts)
    reward = scores.reward.view(-1, G).to(rollout.mask.device)  # [P, G], NaN where it failed
    with torch.no_grad(), engine.gather() as policy, models.as_reference(policy) as frozen:
        ref_logp = torch.cat(list(read(own, config)(lambda of: of(frozen))))

    classes = None if partition is None else gather_rows(classes_of(texts, G, partition).to(rollout.mask.device))
    reward, complete = gather_rows(reward), gather_rows(rollout.complete).view(P, G)
    mask, ref_logp = (gather_rows(t).view(P, G, -1) for t in (rollout.mask, ref_logp))
    truncated_share = (~complete).float().mean()
    valid, scored = complete if config.truncated is Truncated.drop else None, reward.isfinite()
    if not bool(scored.all()):  # on any rank
        valid, complete = scored if valid is None else scored & valid, scored & complete
    return Experience(
        own=own,
        chats=[chat for some in gather(list(batch.chats)) for chat in some],
        texts=[text for some in gather(texts) for text in some],
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


def update_policy(
    models: Models,
    engine: Engine,
    objective: Objective,
    batch: Batch,
    drawn: Experience,
    beta: float,
    config: LlmConfig,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The step's updates: metrics, and [P * G, T] log-probabilities and entropies under the policy that sampled."""
    P, G = drawn.reward.shape
    optional = {"valid": drawn.valid, "complete": drawn.complete, "diversity": drawn.diversity}
    given = {name: value for name, value in optional.items() if value is not None}

    def loss_of(logp: Tensor, groups: Sequence[int], behaviour: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Of some groups' log-probabilities, [len(groups) * G, T], under the policy."""
        some = {name: value[groups] for name, value in given.items()}
        if behaviour is not None:
            some["behaviour_logp"] = behaviour[groups]
        logp = logp.view(len(groups), G, -1)
        return objective.loss(
            drawn.reward[groups], logp, drawn.ref_logp[groups], drawn.mask[groups], beta=beta, **some
        )

    behaviour = None
    if len(batch.updates) > 1:  # the policy moves away from the one that sampled
        with torch.no_grad():
            both = torch.cat(list(read(drawn.own, config)(engine.apply, completion_logp_and_entropy)), 1)
        policy_logp, entropy = (gather_rows(t) for t in both)
        behaviour = policy_logp.view(P, G, -1)
    reference = reference_completions(models, engine, batch, config)
    done = []
    for groups in batch.updates:
        chosen = [slot - batch.slots.start for slot in groups if slot in batch.slots]
        before = sum(slot < batch.slots.start for slot in groups)  # groups of earlier ranks
        own_loss = partial(loss_of, groups=groups, behaviour=behaviour)
        seen, *read_last = differentiate(engine, read(drawn.own, config, chosen), before * G, own_loss)
        if reference is not None:
            seen |= differentiate_reference(engine, objective, reference, chosen, before, beta, config)
        seen["grad_norm"] = engine.step()
        done.append(seen)
    if behaviour is None:
        policy_logp, entropy = read_last
        return done[0], policy_logp, entropy
    _, whole = loss_of(policy_logp, list(range(P)), None)
    average = {name: torch.stack([seen[name].float() for seen in done]).mean() for name in done[0]}
    return {**average, **whole}, policy_logp, entropy


def with_entropy(objective: Objective, config: LlmConfig, step: int) -> Objective:
    """The objective with the entropy coefficient that is in force at a step."""
    final = config.objective.entropy_final
    if final is None:
        return objective
    coefficient = linear(config.objective.entropy_coef, final, place_in_run(step, config.steps))
    return replace(objective, entropy_coef=coefficient)


def first_of_equals(texts: Sequence[str], prompts: int) -> Tensor:
    """[P, G] bool, False where an earlier completion of the same prompt has the same text."""
    G = len(texts) // prompts
    groups = [texts[p * G : (p + 1) * G] for p in range(prompts)]
    return torch.tensor([[group.index(text) == i for i, text in enumerate(group)] for group in groups])


def reference_completions(
    models: Models, engine: Engine, batch: Batch, config: LlmConfig
) -> tuple[Completions, Tensor] | None:
    """This rank's completions of the reference, and their log-probabilities under it, [P * N, T]; None for none."""
    if batch.reference_uniforms is None:
        return None
    count = len(batch.reference_uniforms) // len(batch.chats)
    with torch.no_grad(), engine.gather() as policy, models.as_reference(policy) as frozen:
        rollout = sample(
            frozen,
            batch.prompts,
            batch.reference_uniforms,
            group_size=count,
            eos_ids=models.eos_ids,
            pad_id=models.pad_id,
        )
        drawn = Completions(batch.prompts, rollout.tokens, rollout.mask)
        return drawn, torch.cat(list(read(drawn, config)(lambda of: of(frozen))))


def differentiate_reference(
    engine: Engine,
    objective: Objective,
    reference: tuple[Completions, Tensor],
    chosen: Sequence[int],
    before: int,
    beta: float,
    config: LlmConfig,
) -> dict[str, Tensor]:
    """The divergence on completions of the reference, of the chosen prompts of this rank; metrics by name."""
    drawn, ref_logp = reference
    count = len(drawn.tokens) // len(drawn.prompts.ids)
    rows = [place * count + i for place in chosen for i in range(count)]
    all_ref_logp, all_mask = gather_rows(ref_logp[rows]), gather_rows(drawn.mask[rows])

    def loss_of(logp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return objective.reference_loss(logp, all_ref_logp, all_mask, beta=beta)

    seen, *_ = differentiate(engine, read(drawn, config, chosen), before * count, loss_of)
    return {name: value for name, value in seen.items() if name != "loss"}


def differentiate(
    engine: Engine,
    reader: "Reader",
    before: int,
    loss_of: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Give the engine the gradient of a loss of all ranks' log-probabilities.

    The loss's gradient with respect to the log-probabilities is all that the backward passes need.

    Args:
        reader: of this rank's rows.
        before: rows of earlier ranks.
        loss_of: from log-probabilities [rows of all ranks, T] to a scalar and metrics.

    Returns:
        The metrics and the loss by name, the log-probabilities, and the entropy of what each token was drawn from.
    """
    one_pass = len(reader.passes) == 1
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


def make_partition(config: LlmConfig, task: Task, device: torch.device) -> Partition | None:
    """What the transform counts as the same; None where it does not ask.

    Raises:
        ConfigError: a model that it needs cannot be loaded.
    """
    of = config.transform
    if not isinstance(of, DarlingConfig):
        return None
    if of.equivalence == "answer":
        return lambda texts: numbered([task.answer(text) for text in texts])
    try:
        embed = Embedder(str(of.embedder), device) if of.equivalence == "embedding" else None
        return make_equivalence(of, embed, device)[0]
    except ConfigError as error:
        raise ConfigError(f"transform.{error}") from None


def numbered(values: Sequence[str]) -> list[int]:
    """The number of each one's class, equal values being one."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values]


def classes_of(texts: Sequence[str], group: int, partition: Partition) -> Tensor:
    """[P, G] classes of the completions within their groups."""
    return torch.tensor([list(partition(texts[first : first + group])) for first in range(0, len(texts), group)])


def draw_batch(config: LlmConfig, models: Models, task: Task, step: int) -> Batch:
    """This rank's prompts of a step, in an order shuffled anew each epoch, and their completions' randomness."""
    chats = task.prompts()
    P, G = config.prompts_per_step, config.group_size
    slots = portion(P)
    chosen = [chats[prompt_at(config.seed, len(chats), step * P + slot)] for slot in slots]
    prompts = encode_chats(models.tokenizer, chosen, config.model.chat_template)
    prompts = Prompts(*(t.to(models.eos_ids.device) for t in prompts))

    def draws(seed: int, count: int) -> Tensor:
        rows = [slot for slot in slots for _ in range(count)]
        return rollout_uniforms(seed, step, rows, list(range(count)) * len(slots), config.max_new_tokens)

    reference = None
    if config.objective.placement is Placement.reference:
        reference = draws(stream_seed(config.seed, "reference"), config.reference_completions or G)
    return Batch(slots, chosen, prompts, draws(config.seed, G), minibatches(config, step), reference)


def minibatches(config: LlmConfig, step: int) -> list[list[int]]:
    """The groups of each update of a step, whole and ascending; an epoch of several is shuffled anew."""
    P, parts = config.prompts_per_step, config.update.minibatches
    if parts == 1:
        return [list(range(P))] * config.update.epochs
    found = []
    for epoch in range(config.update.epochs):
        order = torch.randperm(P, generator=torch_generator(config.seed, "updates", step, epoch)).tolist()
        found += [sorted(order[i * P // parts : (i + 1) * P // parts]) for i in range(parts)]
    return found


def prompt_at(seed: int, count: int, index: int) -> int:
    """Number of the index-th prompt drawn: each epoch is a permutation of its own."""
    epoch, place = divmod(index, count)
    return int(torch.randperm(count, generator=torch_generator(seed, "data", epoch))[place])


class Pass(NamedTuple):
    """Rows that go through a model together: whole groups, or consecutive completions of one.

    prompts, rows: which of this rank's. counted: False for a pass made only because another rank has one more.
    """

    prompts: slice
    rows: slice
    counted: bool = True


class Reader(NamedTuple):
    """Reads completions in passes: reader(engine.apply, of) is `by_pass` of them."""

    completions: Completions
    passes: list[Pass]

    def __call__(
        self, apply: Callable[[Callable[[Any], Tensor]], Tensor], of: Callable[..., Tensor] = completion_logp
    ) -> Iterator[Tensor]:
        return by_pass(apply, of, passes=self.passes, **self.completions._asdict())


def read(completions: Completions, config: LlmConfig, chosen: Sequence[int] | None = None) -> Reader:
    """A reader of this rank's completions, or those of the chosen prompts, which may be none."""
    everything = chosen is None or len(chosen) == len(completions.prompts.ids)
    some = completions if everything or chosen is None else completions.of(chosen or [0])
    passes = plan_passes(some.prompts, some.mask, config, count=0 if not everything and not chosen else None)
    return Reader(some, passes)


def plan_passes(prompts: Prompts, mask: Tensor, config: LlmConfig, count: int | None = None) -> list[Pass]:
    """Passes of at most `micro_batch` completions and `micro_batch_tokens` tokens, or of one completion.

    All ranks get the same number of passes, for a pass may be one that all of them must take part in.

    Args:
        count: how many of the prompts are to be read, the first ones; None for all.
    """
    P, G = len(prompts.ids) if count is None else count, len(mask) // len(prompts.ids)
    prompt_lengths, lengths = prompts.mask.sum(-1).tolist(), mask.sum(-1).tolist()
    most = float("inf") if config.micro_batch_tokens is None else config.micro_batch_tokens

    def fits(first: int, last: int, row: int, upto: int) -> bool:
        tokens = (last - first) * max(prompt_lengths[first:last]) + (upto - row) * max(lengths[row:upto])
        return upto - row <= config.micro_batch and tokens <= most

    passes, first = [], 0
    while first < P:
        last = first
        while last < P and fits(first, last + 1, first * G, (last + 1) * G):
            last += 1
        if last > first:  # whole groups
            passes.append(Pass(slice(first, last), slice(first * G, last * G)))
            first = last
            continue
        row, end = first * G, (first + 1) * G
        while row < end:  # parts of one
            upto = row + 1
            while upto < end and fits(first, first + 1, row, upto + 1):
                upto += 1
            passes.append(Pass(slice(first, first + 1), slice(row, upto)))
            row = upto
        first += 1
    (most_passes,) = distributed.highest([len(passes)])
    return passes + [Pass(slice(0, 1), slice(0, 1), counted=False)] * (most_passes - len(passes))


def by_pass(
    apply: Callable[[Callable[[Any], Tensor]], Tensor],
    of: Callable[..., Tensor],
    *,
    passes: Sequence[Pass],
    prompts: Prompts,
    tokens: Tensor,
    mask: Tensor,
) -> Iterator[Tensor]:
    """What `of` gives of each pass's rows, [..., rows, T], padding left out; no rows where a pass does not count.

    Args:
        apply: calls a function with the model, as `Engine.apply` does.
        of: `completion_logp` or `completion_logp_and_entropy`.
    """
    for some in passes:
        longest, T = int(prompts.mask[some.prompts].sum(-1).max()), int(mask[some.rows].sum(-1).max())
        read = partial(
            of,
            prompts=Prompts(*(t[some.prompts, -longest:] for t in prompts)),
            tokens=tokens[some.rows, :T],
            mask=mask[some.rows, :T],
        )
        yield pad(apply(read), (0, mask.shape[1] - T))[..., slice(None) if some.counted else slice(0), :]


def sample_rows(result: Step) -> Iterator[Mapping[str, object]]:
    """The completions of a step, for samples.jsonl."""
    G = result.reward.shape[1]
    columns = (t.flatten().tolist() for t in (result.reward, result.policy_seq_logp, result.ref_seq_logp))
    for row, (text, reward, policy, reference) in enumerate(zip(result.texts, *columns, strict=True)):
        numbers = {"reward": reward, "policy_seq_logp": policy, "ref_seq_logp": reference}
        yield {"prompt": row // G, "completion": text, **numbers}
