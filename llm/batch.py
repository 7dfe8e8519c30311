"""What a step samples from: prompts in a shuffled order, and the random numbers of their completions."""

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

    prompts, group_size: of a step of all ranks, and completions of each. reference_completions: of each prompt,
    sampled from the reference; 0 for none. epochs, minibatches: of the updates by a batch.
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
    def of(cls, config: LlmConfig) -> Self:
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
    """What one step samples from on this rank: P chats, their tokens and [P * G, T] uniforms.

    prompts_of_all: number of prompts of all ranks. slots: the chats' places among those.
    updates: for each update of the step the slots, of all ranks, that it learns from, ascending.
    reference_uniforms: [P * N, T] for completions of the reference; None where none are needed.
    """

    prompts_of_all: int
    group_size: int
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

    def of_prompts(self, chosen: Sequence[int]) -> "Completions":
        """The completions of some of the prompts."""
        G, places = len(self.tokens) // len(self.prompts.ids), list(chosen)
        rows = [place * G + i for place in places for i in range(G)]
        return Completions(Prompts(*(t[places] for t in self.prompts)), self.tokens[rows], self.mask[rows])


def draw_batch(settings: BatchSettings, models: Models, task: Task, step: int) -> Batch:
    """This rank's prompts of a step, in an order shuffled anew each epoch, and their completions' random numbers."""
    chats = task.prompts()
    slots = shard_range(settings.prompts)
    chosen = [chats[prompt_at(settings.seed, len(chats), step * settings.prompts + slot)] for slot in slots]
    prompts = encode_chats(models.tokenizer, chosen, settings.chat_template)
    prompts = Prompts(*(t.to(models.eos_ids.device) for t in prompts))

    def uniforms(seed: int, count: int) -> Tensor:
        rows = [slot for slot in slots for _ in range(count)]
        return rollout_uniforms(seed, step, rows, list(range(count)) * len(slots), settings.max_new_tokens)

    reference = None
    if settings.reference_completions:
        reference = uniforms(stream_seed(settings.seed, "reference"), settings.reference_completions)
    return Batch(
        prompts_of_all=settings.prompts,
        group_size=settings.group_size,
        slots=slots,
        chats=chosen,
        prompts=prompts,
        uniforms=uniforms(settings.seed, settings.group_size),
        updates=minibatches(settings, step),
        reference_uniforms=reference,
    )


def minibatches(settings: BatchSettings, step: int) -> list[list[int]]:
    """The groups of each update of a step, whole and ascending; with several minibatches, shuffled in each epoch."""
    P, parts = settings.prompts, settings.minibatches
    if parts == 1:
        return [list(range(P))] * settings.epochs
    updates = []
    for epoch in range(settings.epochs):
        order = torch.randperm(P, generator=torch_generator(settings.seed, "updates", step, epoch)).tolist()
        updates += [sorted(order[i * P // parts : (i + 1) * P // parts]) for i in range(parts)]
    return updates


def prompt_at(seed: int, count: int, index: int) -> int:
    """Number of the index-th prompt drawn: each epoch is a permutation of its own."""
    epoch, place = divmod(index, count)
    return int(torch.randperm(count, generator=torch_generator(seed, "data", epoch))[place])
