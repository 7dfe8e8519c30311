"""What a run says about collapse while it trains."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core.objective import Objective
from core.stats import entropy
from core.targets import reverse_log_ratio
from llm.tasks.base import Task

WINDOW = 20  # steps
COLLAPSED_SHARE = 0.9  # of the correct completions, by one answer


def answer_shares(texts: Sequence[str], good: Sequence[bool], task: Task) -> dict[str, float | None]:
    """Shares of all completions: correct ones, each answer the task lists; and the entropy of the correct answers."""
    counts = Counter(task.answer(text) for text, ok in zip(texts, good, strict=True) if ok)
    correct = counts.total()
    shares: dict[str, float | None] = {"correct": correct / len(texts)}
    shares |= {f"share/{answer}": counts[answer] / len(texts) for answer in task.answers}
    counted = torch.tensor(list(counts.values()), dtype=torch.float64)
    shares["answers/entropy_nats"] = float(entropy(counted)) if correct else None
    shares["answers/top_share"] = max(counts.values()) / correct if correct else None
    return shares


def mode_ratio(
    objective: Objective,
    beta: float,
    reward: Tensor,
    policy_seq_logp: Tensor,
    ref_seq_logp: Tensor,
    complete: Tensor,
    texts: Sequence[str],
    good: Sequence[bool],
) -> dict[str, float | None]:
    """log pi(a)/pi(b) of the two most frequent good completions: as observed, and at the optimum (eq. 7).

    Taken in the first prompt that has two; both null where none has. Tensors: [P, G]. Under forward KL the optimum's
    ratio is the reference's where rewards are equal, and otherwise depends on all outcomes: null. So it is where the
    method has no target of this form.
    """
    G = reward.shape[1]
    for prompt in range(len(reward)):
        rows = [row for row in range(G) if good[prompt * G + row]]
        common = Counter(texts[prompt * G + row] for row in rows).most_common(2)
        if len(common) < 2:
            continue
        a, b = (next(row for row in rows if texts[prompt * G + row] == text) for text, _ in common)
        predicted = None
        if objective.has_target:
            group = objective.transform(reward[prompt], ref_seq_logp[prompt], beta=beta, valid=complete[prompt])
            predicted = _predicted(objective, beta, group.reward, group.ref_seq_logp, a, b)
        observed = float(policy_seq_logp[prompt, a] - policy_seq_logp[prompt, b])
        return {"collapse/observed_log_ratio": observed, "collapse/predicted_log_ratio": predicted}
    return {"collapse/observed_log_ratio": None, "collapse/predicted_log_ratio": None}


def _predicted(
    objective: Objective, beta: float, reward: Tensor, ref_seq_logp: Tensor, a: int, b: int
) -> float | None:
    if objective.direction == "reverse" and beta + objective.entropy_coef > 0:
        ratio = reverse_log_ratio(
            ref_seq_logp[a], ref_seq_logp[b], reward[a], reward[b], beta, objective.entropy_coef
        )
        return float(ratio)
    if objective.direction == "forward" and reward[a] == reward[b] and not objective.entropy_coef:
        return float(ref_seq_logp[a] - ref_seq_logp[b])
    return None


class CollapseWatch:
    """Says once when one answer has taken over the correct completions of the last steps."""

    def __init__(self) -> None:
        self.recent: deque[Counter[str]] = deque(maxlen=WINDOW)
        self.seen: set[str] = set()
        self.warned = False

    def state_dict(self) -> dict[str, Any]:
        return {
            "recent": [list(counts.items()) for counts in self.recent],
            "seen": sorted(self.seen),
            "warned": self.warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent.extend(Counter(dict(counts)) for counts in state["recent"])
        self.seen, self.warned = set(state["seen"]), state["warned"]

    def update(self, texts: Sequence[str], good: Sequence[bool], task: Task) -> str | None:
        """Take in one step; the warning, or None."""
        counts = Counter(task.answer(text) for text, ok in zip(texts, good, strict=True) if ok)
        self.recent.append(counts)
        self.seen |= set(counts)
        total = sum(self.recent, Counter())
        if self.warned or len(self.recent) < WINDOW or len(self.seen) < 2 or not total:
            return None
        answer, count = total.most_common(1)[0]
        share = count / total.total()
        if share <= COLLAPSED_SHARE:
            return None
        self.warned = True
        modes = math.exp(entropy(torch.tensor(list(total.values()), dtype=torch.float64)))
        return (
            f"collapse: {share:.0%} of the correct completions of the last {WINDOW} steps answer {answer!r} "
            f"({modes:.2f} effective answers, {len(self.seen)} seen so far); transform=mara keeps them all"
        )
