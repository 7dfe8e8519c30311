"""How often each answer to each prompt has been sampled in a run, for outcome-based exploration."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .rules import BY_ANSWER_COUNT


class AnswerCounts:
    """The number of samples with each answer to each prompt, in the steps of a run so far. Part of the checkpoint."""

    def __init__(self) -> None:
        self.prompts: dict[str, Counter[str]] = {}

    def count(self, prompts: Sequence[str], labels: Sequence[Sequence[str]], valid: Tensor | None = None) -> Tensor:
        """Return how often each sample's answer was sampled in earlier steps, then add the samples of this step.

        Args:
            prompts: the name of each group's prompt, P. Groups of one prompt do not count each other.
            labels: the answer of each sample, `[P][G]`.
            valid: [P, G] bool; other samples are not added. None: all are.

        Returns:
            [P, G] float64.
        """
        earlier = [self.prompts.get(prompt, Counter()) for prompt in prompts]
        seen = [[counts[label] for label in names] for counts, names in zip(earlier, labels, strict=True)]
        added = [[True] * len(names) for names in labels] if valid is None else valid.tolist()
        for prompt, names, is_added in zip(prompts, labels, added, strict=True):
            new = (label for label, keep in zip(names, is_added, strict=True) if keep)
            self.prompts.setdefault(prompt, Counter()).update(new)
        return torch.tensor(seen, dtype=torch.float64)

    def known(self, prompt: str) -> list[str]:
        """The answers to a prompt that have been sampled, in the order in which they first were."""
        return list(self.prompts.get(prompt, ()))

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {prompt: dict(counts) for prompt, counts in self.prompts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.prompts = {prompt: Counter(counts) for prompt, counts in state.items()}


def make_answer_counts(transform: str) -> AnswerCounts | None:
    """The counts that a transform needs; None if it needs none."""
    return AnswerCounts() if transform in BY_ANSWER_COUNT else None
