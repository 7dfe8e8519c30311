"""Post-training by KL-regularised policy gradient: one on-policy update after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from conf.schema import AdaptiveBetaConfig, ConfigError, DarlingConfig, LlmConfig, RewardFailure, Truncated
from core.objective import Objective, make_objective
from core.schedules import adaptive_beta
from core.sequence import masked_sum
from core.transforms import class_diversity
from launch import distributed
from launch.checkpoint import Values
from launch.distributed import gather, gather_rows, portion
from launch.engine import Engine, make_engine
from launch.run import Run
from launch.streams import rollout_uniforms, torch_generator
from llm.diagnostics import CollapseWatch, answer_shares, mode_ratio
from llm.evaluation import evaluate_policy
from llm.logp import completion_logp
from llm.models import Models, load_models, save_policy
from llm.prompts import Chat, Prompts, encode_chats
from llm.report import report_run
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.rollout import sample
from llm.tasks.base import Task, load_task


class Batch(NamedTuple):
    """What one step samples from on this rank: P chats, their tokens and [P * G, T] uniforms.

    slots: the chats' places among those of all ranks.
    """

    slots: range
    chats: list[Chat]
    prompts: Prompts
    uniforms: Tensor


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
    engine = make_engine(config.engine.name, models.policy, config.optimizer, config.steps, shared=True)
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
        result = train_step(models, engine, objective, task, reward, batch, values.beta, config)
        run.log({"beta": values.beta, **result.metrics})
        if config.sample_every and step % config.sample_every == 0:
            run.sample(sample_rows(result))
        if result.failure and not values.warned_of_failure:
            values.warned_of_failure = True
            run.warn(f"{result.failure}; such completions do not count (reward/invalid_share)")
        warning = watch.update(result.texts, task.correct(result.reward.flatten().tolist()), result.chats, task)
        if warning:
            run.warn(warning)
        if isinstance(config.beta_schedule, AdaptiveBetaConfig):
            values.beta = adaptive_beta(values.beta, float(result.kl), config.beta_schedule.kl_target)

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
) -> Step:
    """One on-policy update: sample, score, reference, transform, advantage, loss, update.

    Each rank samples, scores and reads its own prompts' completions. What the loss is made of is small and goes to
    every rank, so that the loss, and with it the step, is that of all completions whatever the number of ranks.
    """
    G = config.group_size
    with engine.gather() as policy:
        rollout = sample(
            policy, batch.prompts, batch.uniforms, group_size=G, eos_ids=models.eos_ids, pad_id=models.pad_id
        )
    texts = rollout.texts(models.tokenizer)
    scores = reward_of([chat for chat in batch.chats for _ in range(G)], texts)
    reward = scores.reward.view(-1, G).to(rollout.mask.device)  # [P, G], NaN where it failed

    passes = plan_passes(batch.prompts, rollout.mask, config)
    logp = partial(logp_by_pass, passes=passes, prompts=batch.prompts, tokens=rollout.tokens, mask=rollout.mask)
    with torch.no_grad(), models.as_reference(models.policy) as reference:
        alone = models.reference is not None  # and not the policy, which the engine may have to gather
        ref_logp = torch.cat(list(logp((lambda read: read(reference)) if alone else engine.apply)))  # [P * G, T]
    # The loss's gradient with respect to the log-probabilities is all that the backward passes need.
    one_pass = len(passes) == 1
    with torch.set_grad_enabled(one_pass):
        policy_logp = torch.cat(list(logp(engine.apply)))  # [P * G, T]

    mine, T = slice(batch.slots.start * G, batch.slots.stop * G), rollout.mask.shape[1]
    P, texts = config.prompts_per_step, [text for some in gather(texts) for text in some]
    chats = [chat for some in gather(list(batch.chats)) for chat in some]
    reward, complete = gather_rows(reward), gather_rows(rollout.complete).view(P, G)
    mask, ref_logp, leaf = (gather_rows(t).view(P, G, -1) for t in (rollout.mask, ref_logp, policy_logp))
    leaf.requires_grad_()
    truncated_share = (~complete).float().mean()
    valid, scored = complete if config.truncated is Truncated.drop else None, reward.isfinite()
    if scores.failure is not None:
        valid, complete = scored if valid is None else scored & valid, scored & complete
    loss, metrics = objective.loss(
        reward,
        leaf,
        ref_logp,
        mask,
        beta=beta,
        valid=valid,
        complete=complete,
        diversity=diversity(config, task, texts, reward, valid),
    )
    (weight,) = torch.autograd.grad(loss, leaf)
    weight = weight.view(P * G, -1)[mine, :T]
    done = 0
    for part in [policy_logp] if one_pass else logp(engine.apply):
        engine.backward((part * weight[done : done + len(part)]).sum())
        done += len(part)
    grad_norm = engine.step()

    policy_seq_logp, ref_seq_logp = masked_sum(leaf.detach(), mask), masked_sum(ref_logp, mask)
    metrics |= {"loss": loss.detach(), "grad_norm": grad_norm, "length": mask.sum(-1).float().mean()}
    metrics |= {"truncated_share": truncated_share}
    if len(scores.parts) > 1:
        metrics |= {f"reward/{name}": gather_rows(part).nanmean() for name, part in scores.parts.items()}
    if config.reward.on_failure is RewardFailure.drop:
        metrics["reward/invalid_share"] = (~scored).float().mean()
    good = task.correct(reward.flatten().tolist())
    ratio = mode_ratio(objective, beta, reward, policy_seq_logp, ref_seq_logp, complete, texts, good)
    logged = {**metrics, **answer_shares(texts, good, chats, task), **ratio}
    kl = metrics[f"kl/{objective.direction}_nats"]
    return Step(logged, kl, chats, reward, texts, policy_seq_logp, ref_seq_logp, scores.failure)


def diversity(
    config: LlmConfig, task: Task, texts: Sequence[str], reward: Tensor, valid: Tensor | None
) -> Tensor | None:
    """[P, G] of the completions within their groups, by the transform's equivalence; None where it has none."""
    if not isinstance(config.transform, DarlingConfig):
        return None
    of = {"answer": task.answer, "text": lambda text: " ".join(text.lower().split())}[config.transform.equivalence]
    classes = [of(text) for text in texts]
    ids = {name: number for number, name in enumerate(dict.fromkeys(classes))}
    numbers = torch.tensor([ids[name] for name in classes], device=reward.device).view(reward.shape)
    return class_diversity(numbers, valid).to(reward.dtype)


def draw_batch(config: LlmConfig, models: Models, task: Task, step: int) -> Batch:
    """This rank's prompts of a step, in an order shuffled anew each epoch, and their completions' randomness."""
    chats = task.prompts()
    P, G = config.prompts_per_step, config.group_size
    slots = portion(P)
    chosen = [chats[prompt_at(config.seed, len(chats), step * P + slot)] for slot in slots]
    prompts = encode_chats(models.tokenizer, chosen, config.model.chat_template)
    rows = [slot for slot in slots for _ in range(G)]
    uniforms = rollout_uniforms(config.seed, step, rows, list(range(G)) * len(slots), config.max_new_tokens)
    device = models.eos_ids.device
    return Batch(slots, chosen, Prompts(*(t.to(device) for t in prompts)), uniforms)


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


def plan_passes(prompts: Prompts, mask: Tensor, config: LlmConfig) -> list[Pass]:
    """Passes of at most `micro_batch` completions and `micro_batch_tokens` tokens, or of one completion.

    All ranks get the same number of passes, for a pass may be one that all of them must take part in.
    """
    P, G = len(prompts.ids), config.group_size
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
    (count,) = distributed.highest([len(passes)])
    return passes + [Pass(slice(0, 1), slice(0, 1), counted=False)] * (count - len(passes))


def logp_by_pass(
    apply: Callable[[Callable[[Any], Tensor]], Tensor],
    *,
    passes: Sequence[Pass],
    prompts: Prompts,
    tokens: Tensor,
    mask: Tensor,
) -> Iterator[Tensor]:
    """`completion_logp` of each pass's rows, [rows, T] each, padding left out; [0, T] where a pass does not count.

    Args:
        apply: calls a function with the model, as `Engine.apply` does.
    """
    for some in passes:
        longest, T = int(prompts.mask[some.prompts].sum(-1).max()), int(mask[some.rows].sum(-1).max())
        read = partial(
            completion_logp,
            prompts=Prompts(*(t[some.prompts, -longest:] for t in prompts)),
            tokens=tokens[some.rows, :T],
            mask=mask[some.rows, :T],
        )
        yield pad(apply(read), (0, mask.shape[1] - T))[slice(None) if some.counted else slice(0)]


def sample_rows(result: Step) -> Iterator[Mapping[str, object]]:
    """The completions of a step, for samples.jsonl."""
    G = result.reward.shape[1]
    columns = (t.flatten().tolist() for t in (result.reward, result.policy_seq_logp, result.ref_seq_logp))
    for row, (text, reward, policy, reference) in enumerate(zip(result.texts, *columns, strict=True)):
        numbers = {"reward": reward, "policy_seq_logp": policy, "ref_seq_logp": reference}
        yield {"prompt": row // G, "completion": text, **numbers}
