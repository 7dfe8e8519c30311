"""Class masses: the reference's probability of each good answer, by all its spellings, for MARA over answers.

The mass of a class c of a prompt is ref_C(c) = sum of ref(y) over the good completions y of c, a number of the
reference alone. A group of G completions of a policy pi estimates it without bias by

    (1/G) sum_{i in c, good} ref(y_i) / pi(y_i),

and the mean of such estimates over the steps of a run is as unbiased, with noise that falls with the steps.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .mara import Anchor
from .rules import Choices


class Masses(NamedTuple):
    """What MARA needs to know of the classes of a batch of groups.

    Attributes:
        mass_logp: [..., G] log mass of each good sample's class, nats; None: each sequence is a class of its own.
        anchor: the anchor, where it is the same in all groups of a prompt; None: each group chooses its own.
    """

    mass_logp: Tensor | None
    anchor: Anchor | None


class GroupFacts(NamedTuple):
    """The samples of P groups, from which masses are estimated; tensors are [P, G].

    Attributes:
        reward: raw rewards.
        ref_seq_logp: nats.
        log_weight: log of ref / pi for the policy pi that sampled, nats.
        good: bool.
        counted: bool, samples of pi, which count in the mean; None: all. Replayed ones, for example, do not.
    """

    reward: Tensor
    ref_seq_logp: Tensor
    log_weight: Tensor
    good: Tensor
    counted: Tensor | None

    def rows(self, indices: list[int]) -> "GroupFacts":
        """The facts of some groups."""
        counted = None if self.counted is None else self.counted[indices]
        return GroupFacts(
            self.reward[indices], self.ref_seq_logp[indices], self.log_weight[indices], self.good[indices], counted
        )


def group_mass(classes: Tensor, log_weight: Tensor, good: Tensor, counted: Tensor | None = None) -> Tensor:
    """Estimate the log mass of each sample's class from its own group.

    Args:
        classes: [..., G] ids of the classes.
        log_weight: [..., G] log of ref / pi, nats.
        good: [..., G] bool.
        counted: [..., G] bool, samples that count in the mean; None: all.

    Returns:
        [..., G] nats; -inf for a class without a good sample in the group.
    """
    good = good if counted is None else good & counted
    same = (classes.unsqueeze(-1) == classes.unsqueeze(-2)) & good.unsqueeze(-2)
    weights = log_weight.double().unsqueeze(-2).masked_fill(~same, -torch.inf)
    size = classes.shape[-1] if counted is None else counted.sum(-1, keepdim=True).clamp_min(1)
    return (weights.logsumexp(-1) - torch.as_tensor(size).double().log()).to(log_weight.dtype)


@dataclass
class PromptClasses:
    """What is remembered about the classes of a prompt.

    Attributes:
        estimates: number of estimates that the masses are the mean of.
        log_sums: class -> log of the sum of its estimates.
        rewards: class -> highest reward of a good sample.
        anchor: reward and log-probability of the good sequence that is likeliest under the reference.
    """

    estimates: int = 0
    log_sums: dict[str, float] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    anchor: tuple[float, float] | None = None

    def add(self, labels: Sequence[str], log_weight: Sequence[float], reward: Sequence[float], samples: int) -> None:
        """Add the estimate of one group of `samples`: label, log weight and reward of each good one that counts."""
        self.estimates += 1
        log_samples = math.log(samples)
        for label, weight, value in zip(labels, log_weight, reward, strict=True):
            self.log_sums[label] = _log_add(self.log_sums.get(label, -math.inf), weight - log_samples)
            self.rewards[label] = max(self.rewards.get(label, -math.inf), value)

    def add_sequences(self, ref_seq_logp: Sequence[float], reward: Sequence[float]) -> None:
        """Remember the likeliest good sequence; of equally likely ones, the one with the highest reward."""
        sequences = [(logp, value) for logp, value in zip(ref_seq_logp, reward, strict=True)]
        if sequences:
            logp, value = max(sequences)
            if self.anchor is None or (logp, value) > (self.anchor[1], self.anchor[0]):
                self.anchor = value, logp

    def log_mass(self, label: str) -> float:
        """Log mass of a class, nats. A class without an estimate gets the mass of less than one completion."""
        log_sum = self.log_sums.get(label)
        if log_sum is None:
            return -math.log(self.estimates + 1)
        return log_sum - math.log(self.estimates)

    def largest(self) -> tuple[float, float]:
        """Reward and log mass of the class with the largest mass; of equals, the one with the highest reward."""
        if not self.log_sums:
            return 0.0, -math.inf
        label = max(self.log_sums, key=lambda name: (self.log_sums[name], self.rewards[name]))
        return self.rewards[label], self.log_mass(label)


class ClassMemory:
    """Class masses and anchors of every prompt, over a run. Part of the checkpoint.

    Args:
        level: sequence (each sequence is a class) or answer.
        mass: how the masses of answers are estimated: group, remembered or reference. With reference they are counted
            once, by `count_reference`, and do not change.
        anchor: group, cross_fitted or remembered; the last is the same for all groups of a prompt.
    """

    def __init__(self, level: str, mass: str, anchor: str) -> None:
        self.level, self.mass, self.anchor = level, mass, anchor
        self.prompts: dict[str, PromptClasses] = {}

    @property
    def counts_reference(self) -> bool:
        """Whether the masses are counted in completions of the reference, by `count_reference`."""
        return self.level == "answer" and self.mass == "reference"

    def count_reference(self, prompt: str, labels: Sequence[str], reward: Sequence[float], completions: int) -> None:
        """Count the good classes among completions of the reference, once for each prompt.

        Args:
            prompt: name of the prompt.
            labels: of the good completions.
            reward: of the good completions.
            completions: number of all completions.
        """
        memory = self.prompts[prompt] = PromptClasses()
        memory.add(labels, [0.0] * len(labels), reward, samples=1)  # each completion of the reference weighs 1
        memory.estimates = completions

    def update(self, prompts: Sequence[str], labels: Sequence[Sequence[str]], facts: GroupFacts) -> Masses:
        """Add one estimate for each group to the memory, and return the masses and anchors with it.

        Args:
            prompts: the name of each group's prompt, P.
            labels: the class of each sample, `[P][G]`; not used at level=sequence.
            facts: the groups.
        """
        if self.level == "sequence":
            self._remember_sequences(prompts, facts)
            return Masses(None, self._anchors(prompts, facts))
        if self.mass != "reference":
            self._remember(prompts, labels, facts)
        if self.mass == "group":
            ids = _class_ids(labels).to(facts.good.device)
            mass = group_mass(ids, facts.log_weight, facts.good, facts.counted)
        else:
            mass = self._remembered_mass(prompts, labels).to(facts.log_weight)
        return Masses(mass, self._anchors(prompts, facts))

    def _remember_sequences(self, prompts: Sequence[str], facts: GroupFacts) -> None:
        columns = [value.tolist() for value in (facts.ref_seq_logp, facts.reward)]
        for prompt, good, logp, reward in zip(prompts, facts.good.tolist(), *columns, strict=True):
            chosen = [i for i, is_good in enumerate(good) if is_good]
            memory = self.prompts.setdefault(prompt, PromptClasses())
            memory.add_sequences([logp[i] for i in chosen], [reward[i] for i in chosen])

    def _remember(self, prompts: Sequence[str], labels: Sequence[Sequence[str]], facts: GroupFacts) -> None:
        counted = torch.ones_like(facts.good) if facts.counted is None else facts.counted
        flags = counted.sum(-1).tolist(), (facts.good & counted).tolist()
        columns = (value.tolist() for value in (facts.log_weight, facts.reward))
        for prompt, names, samples, good, *values in zip(prompts, labels, *flags, *columns, strict=True):
            memory = self.prompts.setdefault(prompt, PromptClasses())
            if samples:
                chosen = [i for i, is_good in enumerate(good) if is_good]
                classes, log_weight, reward = ([column[i] for i in chosen] for column in (names, *values))
                memory.add(classes, log_weight, reward, samples)

    def _remembered_mass(self, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> Tensor:
        rows = []
        for prompt, names in zip(prompts, labels, strict=True):
            masses = {label: self.prompts[prompt].log_mass(label) for label in set(names)}
            rows.append([masses[label] for label in names])
        return torch.tensor(rows, dtype=torch.float64)

    def _anchors(self, prompts: Sequence[str], facts: GroupFacts) -> Anchor | None:
        if self.anchor != "remembered":
            return None
        anchors = []
        for prompt in prompts:
            memory = self.prompts[prompt]
            anchors.append((memory.anchor or (0.0, -math.inf)) if self.level == "sequence" else memory.largest())
        columns = torch.tensor(anchors, dtype=torch.float64).unsqueeze(-2)  # [P, 1, 2]
        return Anchor(columns[..., 0].to(facts.reward), columns[..., 1].to(facts.ref_seq_logp))

    def known(self, prompt: str) -> list[str]:
        """The classes of a prompt that have been seen, in the order in which they were."""
        memory = self.prompts.get(prompt)
        return [] if memory is None else list(memory.log_sums)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {name: asdict(memory) for name, memory in self.prompts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.prompts = {name: PromptClasses(**copy.deepcopy(values)) for name, values in state.items()}
        for memory in self.prompts.values():
            memory.anchor = None if memory.anchor is None else (memory.anchor[0], memory.anchor[1])


def make_class_memory(choices: Choices) -> ClassMemory | None:
    """The memory that MARA needs; None if every group is anchored by its own sequences."""
    return ClassMemory(choices.classes, choices.mass, choices.mara_anchor) if choices.needs_masses else None


class StepMasses:
    """The masses of one step's groups: estimated where the loss first needs them, then kept for further updates.

    Args:
        memory: what is remembered over the run.
        prompts: the name of each group's prompt, P.
        labels: the class of each sample, `[P][G]`.
    """

    def __init__(self, memory: ClassMemory, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> None:
        self._memory, self._prompts, self._labels = memory, prompts, labels
        self._known: dict[int, Masses] = {}

    def __call__(self, facts: GroupFacts, rows: Sequence[int] | None = None) -> Masses:
        """The masses of some groups; `rows` are their indices in the step, None: all in order."""
        rows = range(len(self._prompts)) if rows is None else rows
        new = [i for i, row in enumerate(rows) if row not in self._known]
        if new:
            prompts, labels = [self._prompts[rows[i]] for i in new], [self._labels[rows[i]] for i in new]
            masses = self._memory.update(prompts, labels, facts.rows(new))
            for position, i in enumerate(new):
                self._known[rows[i]] = _row(masses, position)
        return _stacked([self._known[row] for row in rows])

    def all(self) -> Masses:
        """The masses of all groups, after the loss has asked for them."""
        return _stacked([self._known[row] for row in range(len(self._prompts))])


def _row(masses: Masses, index: int) -> Masses:
    anchor = masses.anchor and Anchor(*(value[index] for value in masses.anchor))
    return Masses(None if masses.mass_logp is None else masses.mass_logp[index], anchor)


def _stacked(rows: Sequence[Masses]) -> Masses:
    mass = (
        None
        if rows[0].mass_logp is None
        else torch.stack([row.mass_logp for row in rows if row.mass_logp is not None])
    )
    anchors = [row.anchor for row in rows if row.anchor is not None]
    return Masses(mass, Anchor(*map(torch.stack, zip(*anchors, strict=True))) if anchors else None)


def _class_ids(labels: Sequence[Sequence[str]]) -> Tensor:
    """[P, G] ids, equal where the labels are."""
    numbers: dict[str, int] = {}
    return torch.tensor([[numbers.setdefault(label, len(numbers)) for label in names] for names in labels])


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    low, high = sorted((a, b))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
