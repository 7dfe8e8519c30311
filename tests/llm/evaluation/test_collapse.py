"""Answer shares and the collapse warning, by counting; the ratio of two modes by equation 7."""

import json
import math

import pytest
import torch

from core.objective import make_objective
from llm.evaluation.collapse import CollapseWatch, answer_shares, mode_ratio
from llm.tasks.one_two import OneTwo

from ..helpers import user_chat

CHATS = [user_chat("first"), user_chat("second")]


def test_mode_ratio_is_equation_seven_and_zero_under_mara():
    reward = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    ref, policy = torch.tensor([[-0.4, -2.3, -3.0, -0.4]]), torch.tensor([[-0.2, -2.0, -5.0, -0.2]])
    texts, correct = ["a", "b", "c", "a"], [True, True, False, True]
    complete = torch.ones(1, 4, dtype=torch.bool)
    common = {"advantage": "leave_one_out", "threshold": {"kind": "constant", "value": 1.0}}
    for direction in ("reverse", "forward"):
        vanilla = make_objective(transform="identity", direction=direction, **common)
        mara = make_objective(transform="mara", direction=direction, **common)
        ratios = [mode_ratio(o, 0.05, reward, policy, ref, complete, texts, correct) for o in (vanilla, mara)]
        assert [r["collapse/observed_log_ratio"] for r in ratios] == pytest.approx([1.8, 1.8])
        assert [r["collapse/predicted_log_ratio"] for r in ratios] == pytest.approx([1.9, 0.0], abs=1e-6)
    unequal = torch.tensor([[1.0, 0.9, 0.0, 1.0]])
    reverse, forward = (make_objective(transform="identity", direction=d, **common) for d in ("reverse", "forward"))
    arguments = (0.05, unequal, policy, ref, complete, texts, correct)
    assert mode_ratio(reverse, *arguments)["collapse/predicted_log_ratio"] == pytest.approx(1.9 + 0.1 / 0.05)
    assert mode_ratio(forward, *arguments)["collapse/predicted_log_ratio"] is None
    single = mode_ratio(reverse, 0.05, reward, policy, ref, complete, texts, [True, False, False, True])
    assert set(single.values()) == {None}


@pytest.mark.parametrize(
    ("options", "predicted"),
    [
        ({}, 1.9),
        ({"gamma": 0.9}, 1.9),  # at placement=reward the optimum stays a fixed point
        ({"length_normalised": True}, 1.9),
        ({"advantage": "group_normalised"}, 1.9),
        ({"placement": "loss"}, 1.9),
        ({"level": "token"}, None),
        ({"placement": "loss", "gamma": 0.9}, None),
        ({"placement": "loss", "length_normalised": True}, None),
        ({"placement": "loss", "advantage": "group_normalised"}, None),
        ({"placement": "loss", "skip_tied_groups": True}, None),
        ({"advantage": "no_baseline", "gamma": 0.9}, None),
        ({"advantage": "max_at_k"}, None),
    ],
)
def test_a_ratio_is_predicted_where_equation_seven_holds(options, predicted):
    """`Objective.has_target` is enumerated in tests/core/test_objective.py."""
    reward = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    ref, policy = torch.tensor([[-0.4, -2.3, -3.0, -0.4]]), torch.tensor([[-0.2, -2.0, -5.0, -0.2]])
    objective = make_objective(**{"direction": "reverse", "transform": "identity", **options})
    complete = torch.ones(1, 4, dtype=torch.bool)
    ratios = mode_ratio(objective, 0.05, reward, policy, ref, complete, list("abca"), [True, True, False, True])
    assert ratios["collapse/observed_log_ratio"] == pytest.approx(1.8)
    assert ratios["collapse/predicted_log_ratio"] == (None if predicted is None else pytest.approx(predicted))


def test_answer_shares_count_all_completions():
    task = OneTwo()
    texts = ["<answer>1</answer>"] * 6 + ["<answer>2</answer>"] * 2 + ["1", "<answer>3</answer>"]
    correct = [task.reward([], text) >= 1 for text in texts]
    shares = answer_shares(texts, correct, CHATS[:1], task)
    assert (shares["correct"], shares["share/1"], shares["share/2"]) == (0.8, 0.6, 0.2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert shares["answers/entropy_nats"] == pytest.approx(entropy)
    assert (shares["coverage"], shares["answers/distinct"], shares["answers/top_share"]) == (1.0, 2, 0.75)
    without_answer = answer_shares(["1"], [False], CHATS[:1], task)
    assert without_answer["answers/entropy_nats"] is None
    assert without_answer["coverage"] == 0.0


def test_answers_are_counted_prompt_by_prompt():
    """Two prompts with one answer each: no diversity, although there are two answers in total."""

    class Named(OneTwo):
        def prompt_name(self, prompt):
            return prompt[-1]["content"]

    texts = ["<answer>1</answer>"] * 3 + ["x"] + ["<answer>2</answer>"] * 4
    shares = answer_shares(texts, [text != "x" for text in texts], CHATS, Named())
    assert (shares["answers/entropy_nats"], shares["answers/top_share"], shares["coverage"]) == (0.0, 1.0, 0.5)
    assert (shares["correct"], shares["share/2"], shares["coverage/first"]) == (7 / 8, 0.5, 0.5)
    mixed = answer_shares(
        [texts[0], texts[-1]] * 4, [True] * 8, CHATS, Named()
    )  # control: both answers to both prompts
    assert (mixed["answers/distinct"], mixed["coverage"]) == (2, 1.0)

    class Free(OneTwo):
        correct_reward = None

    free = answer_shares(texts, Free().correct([0.0, -1.0, math.nan, *[0.5] * 5]), CHATS, Free())
    assert "correct" not in free
    assert free["answers/distinct"] == 1.5


def test_collapse_is_reported_once():
    def warnings(*counts, mara=False):
        watch, task = CollapseWatch(mara), OneTwo()
        texts = [f"<answer>{i + 1}</answer>" for prompt in counts for i, n in enumerate(prompt) for _ in range(n)]
        return [watch.update(texts, [True] * len(texts), CHATS[: len(counts)], task) for _ in range(40)]

    (warning,) = [w for w in warnings((19, 1)) if w]
    start = (
        "collapse: 95% of the correct completions in the last 20 steps give the answer '1' (1.22 effective answers"
    )
    assert warning.startswith(start)
    assert warning.endswith("; transform=mara preserves all answers")
    (warning,) = [w for w in warnings((19, 1), mara=True) if w]
    assert warning.endswith("; a larger objective.beta makes MARA pull harder")
    assert not any(warnings((12, 8)))  # both answers remain
    assert not any(warnings((20, 0)))  # there never was a second answer to lose
    (warning,) = [w for w in warnings((19, 1), (0, 20)) if w]  # each prompt has one answer left, not the same one
    assert "98% of the correct completions in the last 20 steps give their prompt's top answer" in warning
    assert not any(warnings((10, 10), (0, 20)))


def test_the_watch_resumes_from_a_checkpoint():
    watch, resumed = CollapseWatch(), CollapseWatch()
    texts = ["<answer>1</answer>"] * 19 + ["<answer>2</answer>"]
    for _ in range(19):
        watch.update(texts, [True] * 20, CHATS[:1], OneTwo())
    resumed.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert resumed.update(texts, [True] * 20, CHATS[:1], OneTwo())
    assert not CollapseWatch().update(texts, [True] * 20, CHATS[:1], OneTwo())
