"""Post-training by KL-regularised policy gradient: one on-policy update after another."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conf.schema import AdaptiveBetaConfig, DarlingConfig, LlmConfig, RewardFailure, Truncated
from core.objective import Objective, make_objective
from core.schedules import adaptive_beta
from core.sequence import masked_sum
from core.transforms import class_diversity
from launch.checkpoint import Values, tensors_hash
from launch.engine import Engine, make_engine
from launch.run import Run
from launch.streams import rollout_uniforms, torch_generator
from llm.diagnostics import CollapseWatch, answer_shares, mode_ratio
from llm.evaluation import evaluate_policy
from llm.logp import completion_logp
from llm.models import Models, load_models
from llm.prompts import Chat, Prompts, encode_chats
from llm.report import report_run
from llm.rewards import Reward, make_evaluation_reward, make_reward
from llm.rollout import sample
from llm.tasks.base import Task, load_task


class Batch(NamedTuple):
    """What one step samples from: P chats, their tokens and [P * G, T] uniforms."""

    chats: list[Chat]
    prompts: Prompts
    uniforms: Tensor


class Step(NamedTuple):
    """What one step reports: numbers by name, and [P, G] rewards, texts and log-probabilities of its completions.

    failure: why a completion has no reward, NaN among the rewards; None where all have one.
    """

    metrics: dict[str, Tensor | float | None]
    kl: Tensor  # nats, the divergence of the objective
    reward: Tensor
    texts: list[str]
    policy_seq_logp: Tensor
    ref_seq_logp: Tensor
    failure: str | None


def train(config: LlmConfig, run: Run) -> None:
    """The whole job: load, evaluate the base, train, evaluate again, report."""
    task = load_task(config.task.name, config)
    objective = make_objective(**config.objective_arguments())
    models = load_models(config.model)
    reward = make_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    engine = make_engine(config.engine.name, models.policy, config.optimizer, config.steps)
    watch = CollapseWatch()
    values = Values(beta=config.objective.beta, warned_of_failure=False)
    reference_hash = tensors_hash(models.reference.named_parameters())
    run.keep({"reference": reference_hash, **reward.identity}, engine=engine, watch=watch, values=values)
    further = make_evaluation_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    base = evaluate_policy(models.reference, models, task, reward, further, config)

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
        warning = watch.update(result.texts, task.correct(result.reward.flatten().tolist()), batch.chats, task)
        if warning:
            run.warn(warning)
        if isinstance(config.beta_schedule, AdaptiveBetaConfig):
            values.beta = adaptive_beta(values.beta, float(result.kl), config.beta_schedule.kl_target)

    with engine.gather():
        models.policy.save_pretrained(run.folder / "policy")
        models.tokenizer.save_pretrained(run.folder / "policy")
    report_run(run, base, evaluate_policy(models.policy, models, task, reward, further, config))


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
    """One on-policy update: sample, score, reference, transform, advantage, loss, update."""
    P, G = len(batch.chats), config.group_size
    rollout = sample(
        models.policy, batch.prompts, batch.uniforms, group_size=G, eos_ids=models.eos_ids, pad_id=models.pad_id
    )
    texts = rollout.texts(models.tokenizer)
    scores = reward_of([chat for chat in batch.chats for _ in range(G)], texts)
    reward = scores.reward.view(P, G).to(rollout.mask.device)  # NaN where it failed
    scored = reward.isfinite()
    complete = rollout.complete.view(P, G)
    valid = complete if config.truncated is Truncated.drop else None
    if scores.failure is not None:
        valid, complete = scored if valid is None else scored & valid, scored & complete

    logp = partial(micro_batched_logp, prompts=batch.prompts, tokens=rollout.tokens, mask=rollout.mask, config=config)
    with torch.no_grad():
        ref_logp = torch.cat(list(logp(models.reference)))  # [P * G, T]
    # The loss's gradient with respect to the log-probabilities is all that the backward passes need.
    one_pass = len(rollout.mask) <= config.micro_batch
    with torch.set_grad_enabled(one_pass):
        policy_logp = torch.cat(list(logp(models.policy)))  # [P * G, T]
    leaf = policy_logp.detach().requires_grad_()
    loss, metrics = objective.loss(
        reward,
        leaf.view(P, G, -1),
        ref_logp.view(P, G, -1),
        rollout.mask.view(P, G, -1),
        beta=beta,
        valid=valid,
        complete=complete,
        diversity=diversity(config, task, texts, reward, valid),
    )
    (weight,) = torch.autograd.grad(loss, leaf)
    parts = [policy_logp] if one_pass else logp(models.policy)
    done = 0
    for part in parts:
        engine.backward((part * weight[done : done + len(part)]).sum())
        done += len(part)
    grad_norm = engine.step()

    policy_seq_logp = masked_sum(leaf.detach(), rollout.mask).view(P, G)
    ref_seq_logp = masked_sum(ref_logp, rollout.mask).view(P, G)
    metrics |= {"loss": loss.detach(), "grad_norm": grad_norm, "length": rollout.mask.sum(-1).float().mean()}
    metrics |= {"truncated_share": (~rollout.complete).float().mean()}
    if len(scores.parts) > 1:
        metrics |= {f"reward/{name}": part.nanmean() for name, part in scores.parts.items()}
    if config.reward.on_failure is RewardFailure.drop:
        metrics["reward/invalid_share"] = (~scored).float().mean()
    good = task.correct(reward.flatten().tolist())
    ratio = mode_ratio(objective, beta, reward, policy_seq_logp, ref_seq_logp, complete, texts, good)
    logged = {**metrics, **answer_shares(texts, good, batch.chats, task), **ratio}
    kl = metrics[f"kl/{objective.direction}_nats"]
    return Step(logged, kl, reward, texts, policy_seq_logp, ref_seq_logp, scores.failure)


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
    """The prompts of a step, in an order shuffled anew each epoch, and the randomness of their completions."""
    chats = task.prompts()
    P, G = config.prompts_per_step, config.group_size
    chosen = [prompt_at(config.seed, len(chats), step * P + i) for i in range(P)]
    prompts = encode_chats(models.tokenizer, [chats[i] for i in chosen], config.model.chat_template)
    slots = [slot for slot in range(P) for _ in range(G)]
    uniforms = rollout_uniforms(config.seed, step, slots, list(range(G)) * P, config.max_new_tokens)
    device = models.eos_ids.device
    return Batch([chats[i] for i in chosen], Prompts(*(t.to(device) for t in prompts)), uniforms)


def prompt_at(seed: int, count: int, index: int) -> int:
    """Number of the index-th prompt drawn: each epoch is a permutation of its own."""
    epoch, place = divmod(index, count)
    return int(torch.randperm(count, generator=torch_generator(seed, "data", epoch))[place])


def micro_batched_logp(
    model: PreTrainedModel, *, prompts: Prompts, tokens: Tensor, mask: Tensor, config: LlmConfig
) -> Iterator[Tensor]:
    """`completion_logp` of consecutive rows, at most `micro_batch` at a time: whole groups, or parts of one."""
    G = config.group_size
    groups = max(config.micro_batch // G, 1)
    rows = min(config.micro_batch, G)
    for first in range(0, len(prompts.ids), groups):
        some = Prompts(*(t[first : first + groups] for t in prompts))
        start, stop = first * G, min(first + groups, len(prompts.ids)) * G
        width = stop - start if rows == G else rows
        for row in range(start, stop, width):
            upto = min(row + width, stop)
            yield completion_logp(model, some, tokens[row:upto], mask[row:upto])


def sample_rows(result: Step) -> Iterator[Mapping[str, object]]:
    """The completions of a step, for samples.jsonl."""
    G = result.reward.shape[1]
    columns = (t.flatten().tolist() for t in (result.reward, result.policy_seq_logp, result.ref_seq_logp))
    for row, (text, reward, policy, reference) in enumerate(zip(result.texts, *columns, strict=True)):
        numbers = {"reward": reward, "policy_seq_logp": policy, "ref_seq_logp": reference}
        yield {"prompt": row // G, "completion": text, **numbers}
