"""Answer shares and the collapse warning, by counting; the ratio of two modes by equation 7."""

import json
import math

import pytest
import torch

from core.objective import make_objective
from llm.evaluation.collapse import CollapseWatch, answer_shares, mode_ratio
from llm.tasks.one_two import OneTwo


def test_mode_ratio_is_equation_seven_and_zero_under_mara():
    reward = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    ref, policy = torch.tensor([[-0.4, -2.3, -3.0, -0.4]]), torch.tensor([[-0.2, -2.0, -5.0, -0.2]])
    texts, good = ["a", "b", "c", "a"], [True, True, False, True]
    complete = torch.ones(1, 4, dtype=torch.bool)
    common = {"advantage": "leave_one_out", "threshold": {"kind": "constant", "value": 1.0}}
    for direction in ("reverse", "forward"):
        vanilla = make_objective(transform="identity", direction=direction, **common)
        mara = make_objective(transform="mara", direction=direction, **common)
        ratios = [mode_ratio(o, 0.05, reward, policy, ref, complete, texts, good) for o in (vanilla, mara)]
        assert [r["collapse/observed_log_ratio"] for r in ratios] == pytest.approx([1.8, 1.8])
        assert [r["collapse/predicted_log_ratio"] for r in ratios] == pytest.approx([1.9, 0.0], abs=1e-6)
    unequal = torch.tensor([[1.0, 0.9, 0.0, 1.0]])
    reverse, forward = (make_objective(transform="identity", direction=d, **common) for d in ("reverse", "forward"))
    arguments = (0.05, unequal, policy, ref, complete, texts, good)
    assert mode_ratio(reverse, *arguments)["collapse/predicted_log_ratio"] == pytest.approx(1.9 + 0.1 / 0.05)
    assert mode_ratio(forward, *arguments)["collapse/predicted_log_ratio"] is None
    alone = mode_ratio(reverse, 0.05, reward, policy, ref, complete, texts, [True, False, False, True])
    assert set(alone.values()) == {None}


CHATS = [[{"role": "user", "content": text}] for text in ("first", "second")]


def test_answer_shares_count_all_completions():
    task = OneTwo()
    texts = ["<answer>1</answer>"] * 6 + ["<answer>2</answer>"] * 2 + ["1", "<answer>3</answer>"]
    good = [task.reward([], text) >= 1 for text in texts]
    shares = answer_shares(texts, good, CHATS[:1], task)
    assert (shares["correct"], shares["share/1"], shares["share/2"]) == (0.8, 0.6, 0.2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert shares["answers/entropy_nats"] == pytest.approx(entropy)
    assert (shares["coverage"], shares["answers/distinct"], shares["answers/top_share"]) == (1.0, 2, 0.75)
    nothing = answer_shares(["1"], [False], CHATS[:1], task)
    assert nothing["answers/entropy_nats"] is None
    assert nothing["coverage"] == 0.0


def test_answers_are_counted_prompt_by_prompt():
    """Two prompts, each with one answer of its own: no diversity, though two answers were given in all."""

    class Named(OneTwo):
        def prompt_name(self, prompt):
            return prompt[-1]["content"]

    texts = ["<answer>1</answer>"] * 3 + ["x"] + ["<answer>2</answer>"] * 4
    shares = answer_shares(texts, [text != "x" for text in texts], CHATS, Named())
    assert (shares["answers/entropy_nats"], shares["answers/top_share"], shares["coverage"]) == (0.0, 1.0, 0.5)
    assert (shares["correct"], shares["share/2"], shares["coverage/first"]) == (7 / 8, 0.5, 0.5)
    mixed = answer_shares([texts[0], texts[-1]] * 4, [True] * 8, CHATS, Named())  # control: both from both
    assert (mixed["answers/distinct"], mixed["coverage"]) == (2, 1.0)

    class Free(OneTwo):
        correct_reward = None

    free = answer_shares(texts, Free().correct([0.0, -1.0, math.nan, *[0.5] * 5]), CHATS, Free())
    assert "correct" not in free
    assert free["answers/distinct"] == 1.5


def test_collapse_is_said_once_and_only_then():
    def warnings(*counts):
        watch, task = CollapseWatch(), OneTwo()
        texts = [f"<answer>{i + 1}</answer>" for some in counts for i, n in enumerate(some) for _ in range(n)]
        return [watch.update(texts, [True] * len(texts), CHATS[: len(counts)], task) for _ in range(40)]

    collapsed = [w for w in warnings((19, 1)) if w]
    assert len(collapsed) == 1
    assert "95%" in collapsed[0]
    assert "'1'" in collapsed[0]
    assert not any(warnings((12, 8)))  # both kept
    assert not any(warnings((20, 0)))  # only one answer was ever seen: nothing to lose
    assert len([w for w in warnings((19, 1), (0, 20)) if w]) == 1  # each prompt has one left, though not the same
    assert not any(warnings((10, 10), (0, 20)))


def test_the_watch_goes_on_from_a_checkpoint():
    watch, again = CollapseWatch(), CollapseWatch()
    texts = ["<answer>1</answer>"] * 19 + ["<answer>2</answer>"]
    for _ in range(19):
        watch.update(texts, [True] * 20, CHATS[:1], OneTwo())
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert again.update(texts, [True] * 20, CHATS[:1], OneTwo())
    assert not CollapseWatch().update(texts, [True] * 20, CHATS[:1], OneTwo())
