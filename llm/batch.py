"""What one step samples: its prompts, in a shuffled order, and the uniform random numbers of their completions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from conf.schema.llm import LlmConfig
from launch.engines.distributed import shard_range
from launch.runs.rng import rollout_uniforms, stream_seed, torch_generator
from llm.inference.prompts import Chat, Prompts, encode_chats
from llm.models import Models
from llm.tasks.base import Task


@dataclass(frozen=True)
class BatchSettings:
    """How the batches of a run are drawn.

    prompts: number of prompts in a step, all ranks together.
    group_size: completions per prompt.
    reference_completions: completions per prompt that are sampled from the reference; 0 for none.
    epochs, minibatches: passes over a batch, and updates per pass.
    """

    seed: int
    prompts: int
    group_size: int
    max_new_tokens: int
    chat_template: Mapping[str, Any]
    reference_completions: int
    epochs: int
    minibatches: int

    @classmethod
    def from_config(cls, config: LlmConfig) -> Self:
        """The settings of a run's configuration."""
        samples_reference = config.objective.placement == "reference"
        return cls(
            seed=config.seed,
            prompts=config.prompts_per_step,
            group_size=config.group_size,
            max_new_tokens=config.max_new_tokens,
            chat_template=config.model.chat_template,
            reference_completions=(config.reference_completions or config.group_size) if samples_reference else 0,
            epochs=config.update.epochs,
            minibatches=config.update.minibatches,
        )


class Batch(NamedTuple):
    """What one step samples on this rank.

    step: of the run, from 0.
    total_prompts: P, the number of prompts of all ranks.
    slots: the positions of this rank's p prompts among those P.
    chats, prompts: this rank's prompts, as chats and as token ids.
    uniforms: [p * G, T] random numbers in [0, 1), one for each token that may be sampled.
    updates: for each update of the step, the slots of all ranks that it uses, in ascending order.
    reference_uniforms: [p * N, T] the same for the completions of the reference; None if it is not sampled.
    """

    step: int
    total_prompts: int
    group_size: int
    slots: range
    chats: list[Chat]
    prompts: Prompts
    uniforms: Tensor
    updates: list[list[int]]
    reference_uniforms: Tensor | None

    def local_prompts(self, slots: Sequence[int]) -> tuple[list[int], int]:
        """Indices of this rank's prompts among some slots, and how many of the slots belong to earlier ranks."""
        own = [slot - self.slots.start for slot in slots if slot in self.slots]
        return own, sum(slot < self.slots.start for slot in slots)


class Completions(NamedTuple):
    """This rank's completions: tokens and mask [p * G, T], with G consecutive rows per prompt."""

    prompts: Prompts
    tokens: Tensor
    mask: Tensor

    def select(self, prompts: Sequence[int]) -> "Completions":
        """The completions of some of the prompts, by their indices on this rank."""
        group_size, indices = len(self.tokens) // len(self.prompts.ids), list(prompts)
        rows = [index * group_size + i for index in indices for i in range(group_size)]
        return Completions(Prompts(*(t[indices] for t in self.prompts)), self.tokens[rows], self.mask[rows])


def draw_batch(settings: BatchSettings, models: Models, task: Task, step: int) -> Batch:
    """Draw this rank's prompts of a step and the random numbers of their completions.

    Prompts are drawn without replacement; each epoch over the task's prompts has its own permutation.
    """
    task_prompts = task.prompts()
    slots = shard_range(settings.prompts)
    indices = (prompt_index(settings.seed, len(task_prompts), step * settings.prompts + slot) for slot in slots)
    chats = [task_prompts[index] for index in indices]
    prompts = encode_chats(models.tokenizer, chats, settings.chat_template)
    prompts = Prompts(*(t.to(models.eos_ids.device) for t in prompts))

    def uniforms(seed: int, count: int) -> Tensor:
        rows = [slot for slot in slots for _ in range(count)]
        return rollout_uniforms(seed, step, rows, list(range(count)) * len(slots), settings.max_new_tokens)

    reference_uniforms = None
    if settings.reference_completions:
        reference_uniforms = uniforms(stream_seed(settings.seed, "reference"), settings.reference_completions)
    return Batch(
        step=step,
        total_prompts=settings.prompts,
        group_size=settings.group_size,
        slots=slots,
        chats=chats,
        prompts=prompts,
        uniforms=uniforms(settings.seed, settings.group_size),
        updates=plan_updates(settings, step),
        reference_uniforms=reference_uniforms,
    )


def plan_updates(settings: BatchSettings, step: int) -> list[list[int]]:
    """The slots of each update of a step, in ascending order. Several minibatches are shuffled in each epoch."""
    P, count = settings.prompts, settings.minibatches
    if count == 1:
        return [list(range(P))] * settings.epochs
    updates = []
    for epoch in range(settings.epochs):
        order = torch.randperm(P, generator=torch_generator(settings.seed, "updates", step, epoch)).tolist()
        updates += [sorted(order[i * P // count : (i + 1) * P // count]) for i in range(count)]
    return updates


def prompt_index(seed: int, count: int, draw: int) -> int:
    """Index of the prompt of a draw, counted from the start of the run, among `count` prompts."""
    epoch, position = divmod(draw, count)
    return int(torch.randperm(count, generator=torch_generator(seed, "data", epoch))[position])
