"""What a run says about collapse while it trains."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from core.objective import Objective
from core.targets import reverse_log_ratio
from llm.evaluation.metrics import answer_entropy
from llm.inference.prompts import Chat
from llm.tasks.base import Task

WINDOW = 20  # steps
COLLAPSED_SHARE = 0.9  # of the correct completions, by one answer


def answer_shares(
    texts: Sequence[str], good: Sequence[bool], chats: Sequence[Chat], task: Task
) -> dict[str, float | None]:
    """What a step's completions answer, G consecutive ones for each of P chats.

    Returns:
        correct, where the task knows right and wrong, and share/ANSWER of the answers it lists: of all completions.
        answers/entropy_nats, answers/top_share, answers/distinct: of a prompt's correct answers, mean over those
        prompts that have any. coverage: share of a prompt's right answers that were given, mean over the prompts
        whose right answers are known; coverage/NAME for the prompts that have a name. None where there is nothing to
        count.
    """
    counts = [Counter(answers) for answers in answers_by_prompt(texts, good, chats, task)]
    pooled = sum(counts, Counter())
    shares: dict[str, float | None] = {}
    if task.correct_reward is not None:
        shares["correct"] = pooled.total() / len(texts)
    shares |= {f"share/{answer}": pooled[answer] / len(texts) for answer in task.answers}
    some = [count for count in counts if count]
    shares["answers/entropy_nats"] = _mean([answer_entropy(list(count.elements())) for count in some])
    shares["answers/top_share"] = _mean([max(count.values()) / count.total() for count in some])
    shares["answers/distinct"] = _mean([len(count) for count in some])
    found = [coverage(count, task.right_answers(chat)) for count, chat in zip(counts, chats, strict=True)]
    known = [share for share in found if share is not None]
    if known:
        shares["coverage"] = _mean(known)
    for chat, share in zip(chats, found, strict=True):
        if share is not None and task.prompt_name(chat):
            shares[f"coverage/{task.prompt_name(chat)}"] = share
    return shares


def answers_by_prompt(
    texts: Sequence[str], good: Sequence[bool], chats: Sequence[Chat], task: Task
) -> list[list[str]]:
    """The correct answers to each of P chats, in order: G consecutive texts a chat."""
    G = len(texts) // len(chats)
    answers = [task.answer(text) if ok else None for text, ok in zip(texts, good, strict=True)]
    return [
        [answer for answer in answers[first : first + G] if answer is not None] for first in range(0, len(texts), G)
    ]


def coverage(answers: Iterable[str], right: Sequence[str]) -> float | None:
    """Share of the right answers that were given; None where they are not known."""
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
    """Says once when the commonest answer of each prompt has taken over the correct completions of the last steps."""

    def __init__(self) -> None:
        self.recent: deque[dict[str, Counter[str]]] = deque(
            maxlen=WINDOW
        )  # prompt -> its correct answers, a step each
        self.varied = False  # a prompt has had two answers: there was something to lose
        self.warned = False

    def state_dict(self) -> dict[str, Any]:
        recent = [[[prompt, list(counts.items())] for prompt, counts in step.items()] for step in self.recent]
        return {"recent": recent, "varied": self.varied, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent.extend({prompt: Counter(dict(counts)) for prompt, counts in step} for step in state["recent"])
        self.varied, self.warned = state["varied"], state["warned"]

    def update(self, texts: Sequence[str], good: Sequence[bool], chats: Sequence[Chat], task: Task) -> str | None:
        """Take in one step, G consecutive texts for each of P chats; the warning, or None."""
        if self.warned:
            return None
        self.recent.append(
            _add({}, zip(map(_asked, chats), answers_by_prompt(texts, good, chats, task), strict=True))
        )
        window: dict[str, Counter[str]] = {}
        for step in self.recent:
            _add(window, step.items())
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
        what = (
            repr(counts[0].most_common(1)[0][0]) if len(counts) == 1 else "what their prompt is most often answered"
        )
        return (
            f"collapse: {share:.0%} of the correct completions of the last {WINDOW} steps answer {what} "
            f"({modes:.2f} effective answers a prompt); transform=mara keeps them all"
        )


def _asked(chat: Chat) -> str:
    return chat[-1]["content"] if chat else ""


def _add(
    counts: dict[str, Counter[str]], more: Iterable[tuple[str, Iterable[str] | Counter[str]]]
) -> dict[str, Counter[str]]:
    for prompt, answers in more:
        counts.setdefault(prompt, Counter()).update(answers)
    return counts
