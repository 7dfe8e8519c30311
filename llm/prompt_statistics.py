"""What is measured once for each prompt on completions of the reference: thresholds, and masses of answers."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conf.schema.objective import TransformConfig
from core.answer_counts import AnswerCounts
from core.classes import ClassMemory, StepMasses
from core.mara import quantile_threshold, reaches
from launch.engines.distributed import gather_lists, gather_objects
from launch.runs.rng import stream_seed
from llm.evaluation.equivalence import Labels
from llm.inference.prompts import Chat
from llm.rewards import Scores


class ReferenceCompletions(NamedTuple):
    """N completions of the reference for each of p prompts, in order.

    texts: p * N.
    scores: of the texts.
    complete: [p, N] bool, False for truncated completions.
    """

    texts: list[str]
    scores: Scores
    complete: Tensor


class ReferenceStatistics:
    """Thresholds and class masses from completions of the reference, sampled once for each prompt. In the checkpoint.

    Args:
        samples: completions for each prompt.
        quantile: the q of `transform.threshold.kind=reference_quantile`; None: another kind.
        floor: lower bound of the threshold.
        memory: the class memory whose masses are to be counted; None: they are estimated in another way.
        fixed_threshold: lowest good reward, for the counts, without a quantile.
    """

    def __init__(
        self,
        samples: int,
        quantile: float | None,
        floor: float | None,
        memory: ClassMemory | None,
        fixed_threshold: float | None,
    ) -> None:
        self.samples, self.quantile, self.floor = samples, quantile, floor
        self.memory, self.fixed_threshold = memory, fixed_threshold
        self.thresholds: dict[str, float] = {}

    def missing(self, prompts: Sequence[str]) -> bool:
        """Whether any rank has a prompt without statistics."""
        return any(gather_objects(any(prompt not in self.thresholds for prompt in prompts)))

    def add(self, chats: Sequence[Chat], completions: ReferenceCompletions, label: Labels | None) -> None:
        """Add the statistics of this rank's prompts, and of those of the other ranks."""
        reward = completions.scores.reward.view(len(chats), -1)
        usable = completions.complete.view(reward.shape).to(reward.device) & reward.isfinite()
        rows = []
        for i, chat in enumerate(chats):
            texts = completions.texts[i * self.samples : (i + 1) * self.samples]
            threshold = self._threshold(reward[i], usable[i])
            good = (usable[i] & reaches(reward[i], threshold)).tolist()
            good_texts = [text for text, is_good in zip(texts, good, strict=True) if is_good]
            labels = [] if label is None else label(chat, [], good_texts)
            rewards = [value for value, is_good in zip(reward[i].tolist(), good, strict=True) if is_good]
            rows.append((prompt_key(chat), threshold, labels, rewards))
        for prompt, threshold, labels, rewards in gather_lists(rows):
            if prompt in self.thresholds:
                continue
            self.thresholds[prompt] = threshold
            if self.memory is not None:
                self.memory.count_reference(prompt, labels, rewards, self.samples)

    def _threshold(self, reward: Tensor, usable: Tensor) -> float:
        if self.quantile is None:
            return math.inf if self.fixed_threshold is None else self.fixed_threshold
        return float(quantile_threshold(reward, self.quantile, self.floor, usable))

    def of(self, prompts: Sequence[str]) -> Tensor | None:
        """[P, 1] thresholds of prompts; None unless they are quantiles of the reference's rewards."""
        if self.quantile is None:
            return None
        return torch.tensor([[self.thresholds[prompt]] for prompt in prompts])

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"thresholds": self.thresholds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.thresholds = dict(state["thresholds"])


def make_statistics(transform: TransformConfig, memory: ClassMemory | None) -> ReferenceStatistics | None:
    """What is to be taken from completions of the reference; None if nothing is."""
    threshold = transform.threshold
    quantile = threshold.value if threshold.kind == "reference_quantile" else None
    counted = memory if memory is not None and memory.counts_reference else None
    if quantile is None and counted is None:
        return None
    fixed = threshold.value if threshold.kind == "constant" else None
    return ReferenceStatistics(transform.reference_samples, quantile, threshold.floor, counted, fixed)


def step_masses(
    memory: ClassMemory | None,
    labels: Labels | None,
    chats: Sequence[Chat],
    texts: Sequence[str],
    prompts: Sequence[str],
) -> StepMasses | None:
    """The class masses of a step, from this rank's completions and the prompts of all ranks; None if not needed."""
    if memory is None:
        return None
    own = class_labels(memory, labels, chats, texts)
    return StepMasses(memory, prompts, gather_lists(own))


def step_counts(
    counts: AnswerCounts | None,
    labels: Labels | None,
    chats: Sequence[Chat],
    texts: Sequence[str],
    prompts: Sequence[str],
    valid: Tensor | None,
) -> Tensor | None:
    """How often each answer was sampled in earlier steps, [P, G], as in `step_masses`; None if not needed.

    The valid completions of the step, [P, G], are then counted as well.
    """
    if counts is None:
        return None
    own = class_labels(counts, labels, chats, texts)
    return counts.count(prompts, gather_lists(own), valid)


def class_labels(
    memory: ClassMemory | AnswerCounts | None, labels: Labels | None, chats: Sequence[Chat], texts: Sequence[str]
) -> list[list[str]]:
    """The class of each completion of each chat; the text itself where every sequence is a class."""
    size = len(texts) // len(chats)
    groups = [texts[first : first + size] for first in range(0, len(texts), size)]
    if labels is None or memory is None:
        return [list(group) for group in groups]
    known = [memory.known(prompt_key(chat)) for chat in chats]
    return [labels(*group) for group in zip(chats, known, groups, strict=True)]


def prompt_key(chat: Chat) -> str:
    """A short name of a prompt, the same in every run."""
    return hashlib.sha256(json.dumps(chat, sort_keys=True).encode()).hexdigest()[:16]


def statistics_seed(seed: int) -> int:
    """Seed of the completions that statistics are taken from."""
    return stream_seed(seed, "reference_statistics")
