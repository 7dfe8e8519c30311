"""Counts of answers over a run, against a count by hand of every step."""

import itertools

import torch

from core.answer_counts import AnswerCounts, make_answer_counts


def test_counts_are_those_of_earlier_steps() -> None:
    """Every sequence of three steps of one group of two, with answers a and b."""
    for steps in itertools.product(itertools.product("ab", repeat=2), repeat=3):
        counts = AnswerCounts()
        flat: list[str] = []
        for group in steps:
            seen = counts.count(["prompt"], [list(group)])
            assert seen.tolist() == [[flat.count(label) for label in group]]
            flat += group
        assert counts.known("prompt") == list(dict.fromkeys(flat))


def test_prompts_are_counted_apart_and_groups_of_a_prompt_together() -> None:
    counts = AnswerCounts()
    assert counts.count(["p", "q", "p"], [["a", "a"], ["a", "b"], ["a", "c"]]).tolist() == [[0, 0]] * 3
    assert counts.count(["p", "q"], [["a", "c"], ["a", "c"]]).tolist() == [[3, 1], [1, 0]]
    assert counts.known("other") == []


def test_a_sample_that_is_not_valid_is_looked_up_and_not_added() -> None:
    counts = AnswerCounts()
    counts.count(["p"], [["a", "b", "b"]], torch.tensor([[True, False, True]]))
    assert counts.count(["p"], [["a", "b", "c"]]).tolist() == [[1, 1, 0]]


def test_the_state_continues_a_run() -> None:
    counts, restored = AnswerCounts(), AnswerCounts()
    counts.count(["p"], [["b", "a", "b"]])
    state = counts.state_dict()
    restored.load_state_dict(state)
    counts.count(["p"], [["a"]])  # the state is a copy
    assert restored.known("p") == ["b", "a"]
    assert restored.count(["p"], [["a", "b"]]).tolist() == [[1, 2]]
    assert state == {"p": {"b": 2, "a": 1}}


def test_only_the_historical_exploration_counts() -> None:
    assert isinstance(make_answer_counts("historical_exploration"), AnswerCounts)
    assert make_answer_counts("batch_exploration") is None
