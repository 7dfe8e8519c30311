"""Metrics of answer diversity during training, and a warning when the policy collapses onto few answers."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from core.classes import StepMasses
from core.objective import Objective
from core.targets import reverse_log_ratio
from core.transforms import Transformed
from llm.evaluation.metrics import answer_entropy
from llm.inference.prompts import Chat
from llm.tasks.base import Task

WINDOW = 20  # steps
COLLAPSED_SHARE = 0.9  # a warning is due when the top answers have more than this share of the correct completions


def answer_shares(
    texts: Sequence[str], correct: Sequence[bool], chats: Sequence[Chat], task: Task
) -> dict[str, float | None]:
    """Shares and diversity of the answers in a step, with G consecutive completions for each of P chats.

    Returns:
        correct (if the task defines it) and share/ANSWER for the task's listed answers: shares of all completions.
        answers/entropy_nats, answers/top_share, answers/distinct: of a prompt's correct answers, averaged over the
        prompts with at least one. coverage: share of a prompt's right answers that were given, averaged over the
        prompts whose right answers are known; coverage/NAME for prompts with a name. None if nothing can be counted.
    """
    counts = [Counter(answers) for answers in answers_by_prompt(texts, correct, chats, task)]
    pooled = sum(counts, Counter())
    shares: dict[str, float | None] = {}
    if task.correct_reward is not None:
        shares["correct"] = pooled.total() / len(texts)
    shares |= {f"share/{answer}": pooled[answer] / len(texts) for answer in task.answers}
    nonempty = [count for count in counts if count]
    shares["answers/entropy_nats"] = _mean([answer_entropy(list(count.elements())) for count in nonempty])
    shares["answers/top_share"] = _mean([max(count.values()) / count.total() for count in nonempty])
    shares["answers/distinct"] = _mean([len(count) for count in nonempty])
    coverages = [coverage(count, task.right_answers(chat)) for count, chat in zip(counts, chats, strict=True)]
    known = [share for share in coverages if share is not None]
    if known:
        shares["coverage"] = _mean(known)
    for chat, share in zip(chats, coverages, strict=True):
        if share is not None and task.prompt_name(chat):
            shares[f"coverage/{task.prompt_name(chat)}"] = share
    return shares


def answers_by_prompt(
    texts: Sequence[str], correct: Sequence[bool], chats: Sequence[Chat], task: Task
) -> list[list[str]]:
    """The correct answers to each of P chats, from G consecutive texts per chat."""
    G = len(texts) // len(chats)
    rows = list(zip(texts, correct, strict=True))
    groups = (rows[first : first + G] for first in range(0, len(rows), G))
    return [
        [task.answer_to(chat, text) for text, ok in group if ok] for chat, group in zip(chats, groups, strict=True)
    ]


def coverage(answers: Iterable[str], right: Sequence[str]) -> float | None:
    """Share of the right answers that were given; None if they are not known."""
    return len(set(answers) & set(right)) / len(right) if right else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def mode_ratio(
    objective: Objective,
    beta: float,
    reward: Tensor,
    policy_seq_logp: Tensor,
    ref_seq_logp: Tensor,
    complete: Tensor,
    texts: Sequence[str],
    correct: Sequence[bool],
    masses: StepMasses | None = None,
) -> dict[str, float | None]:
    """log pi(a)/pi(b) of the two most frequent correct completions: observed, and predicted at the optimum (eq. 7).

    They are those of the first prompt with two distinct correct completions; without one, both values are None. Under
    forward KL the predicted ratio is the reference's if the rewards are equal; otherwise it depends on all outcomes
    and is None. It is also None for methods without a target distribution of this form.

    Args:
        objective: defines the optimum.
        beta: reward units per nat.
        reward: [P, G] raw.
        policy_seq_logp: [P, G] under the policy, nats.
        ref_seq_logp: [P, G] under the reference, nats.
        complete: [P, G] bool, False for truncated completions.
        texts: P * G completions.
        correct: whether each completion is correct.
        masses: the class masses, for a transform that needs them.
    """
    G = reward.shape[1]
    for prompt in range(len(reward)):
        rows = [row for row in range(G) if correct[prompt * G + row]]
        common = Counter(texts[prompt * G + row] for row in rows).most_common(2)
        if len(common) < 2:
            continue
        a, b = (next(row for row in rows if texts[prompt * G + row] == text) for text, _ in common)
        predicted = None
        if objective.has_target:
            inputs = {} if masses is None else {"masses": masses.all()}
            groups = objective.apply_transform(reward, ref_seq_logp, beta=beta, valid=complete, **inputs)
            group = Transformed(groups.reward[prompt], groups.ref_seq_logp[prompt])
            predicted = _predicted_log_ratio(objective, beta, group.reward, group.ref_seq_logp, a, b)
        observed = float(policy_seq_logp[prompt, a] - policy_seq_logp[prompt, b])
        return {"collapse/observed_log_ratio": observed, "collapse/predicted_log_ratio": predicted}
    return {"collapse/observed_log_ratio": None, "collapse/predicted_log_ratio": None}


def _predicted_log_ratio(
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
    """Warns once when each prompt's most frequent answer dominates the correct completions of the last steps.

    mara: whether the run uses MARA, for the advice.
    recent: for each of the last steps, prompt -> counts of its correct answers.
    varied: whether a prompt has had two different answers, so that there was diversity to lose.
    """

    def __init__(self, mara: bool = False) -> None:
        self.mara = mara
        self.recent: deque[dict[str, Counter[str]]] = deque(maxlen=WINDOW)
        self.varied = False
        self.warned = False

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        recent = [[[prompt, list(counts.items())] for prompt, counts in step.items()] for step in self.recent]
        return {"recent": recent, "varied": self.varied, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.recent.extend({prompt: Counter(dict(counts)) for prompt, counts in step} for step in state["recent"])
        self.varied, self.warned = state["varied"], state["warned"]

    def update(self, texts: Sequence[str], correct: Sequence[bool], chats: Sequence[Chat], task: Task) -> str | None:
        """Add a step with G consecutive texts for each of P chats; returns the warning if it is due."""
        if self.warned:
            return None
        answers = answers_by_prompt(texts, correct, chats, task)
        self.recent.append(_add_counts({}, zip(map(_last_turn, chats), answers, strict=True)))
        window: dict[str, Counter[str]] = {}
        for step in self.recent:
            _add_counts(window, step.items())
        counts = [count for count in window.values() if count]
        self.varied = self.varied or any(len(count) > 1 for count in counts)
        total = sum(count.total() for count in counts)
        if len(self.recent) < WINDOW or not self.varied or not total:
            return None
        share = sum(max(count.values()) for count in counts) / total
        if share <= COLLAPSED_SHARE:
            return None
        self.warned = True
        modes = sum(count.total() * math.exp(answer_entropy(list(count.elements()))) for count in counts) / total
        answer = f"the answer {counts[0].most_common(1)[0][0]!r}" if len(counts) == 1 else "their prompt's top answer"
        advice = (
            "a larger objective.beta makes MARA pull harder" if self.mara else "transform=mara preserves all answers"
        )
        return (
            f"collapse: {share:.0%} of the correct completions in the last {WINDOW} steps give {answer} "
            f"({modes:.2f} effective answers per prompt); {advice}"
        )


def _last_turn(chat: Chat) -> str:
    return chat[-1]["content"] if chat else ""


def _add_counts(
    counts: dict[str, Counter[str]], more: Iterable[tuple[str, Iterable[str] | Counter[str]]]
) -> dict[str, Counter[str]]:
    """Add further answers of some prompts to the counts, in place."""
    for prompt, answers in more:
        counts.setdefault(prompt, Counter()).update(answers)
    return counts
