"""What is taken once for each prompt from completions of the reference, and MARA's classes of completions."""

import math

import pytest
import torch

from core.answer_counts import AnswerCounts
from core.classes import ClassMemory, make_class_memory
from core.mara import quantile_threshold
from llm.prompt_statistics import (
    ReferenceCompletions,
    ReferenceStatistics,
    class_labels,
    make_statistics,
    prompt_key,
    statistics_seed,
    step_counts,
    step_masses,
)
from llm.rewards import Scores

CHATS = [[{"role": "user", "content": text}] for text in ("first", "second")]
PROMPTS = [prompt_key(chat) for chat in CHATS]


def completions(rewards: list[float], complete: list[bool] | None = None) -> ReferenceCompletions:
    texts = [f"text {i % 4}" for i in range(len(rewards))]
    flags = torch.tensor(complete or [True] * len(rewards)).view(len(CHATS), -1)
    return ReferenceCompletions(texts, Scores(torch.tensor(rewards), {}, None), flags)


def test_a_prompt_has_the_quantile_of_its_own_completions():
    rewards = [0.1, 0.9, 0.5, 0.7, 3.0, 1.0, 2.0, 0.0]
    statistics = ReferenceStatistics(4, 0.5, None, None, None)
    assert statistics.missing(PROMPTS)
    statistics.add(CHATS, completions(rewards), None)
    assert not statistics.missing(PROMPTS)
    expected = quantile_threshold(torch.tensor(rewards).view(2, 4), 0.5)
    assert torch.equal(statistics.of(PROMPTS), expected)
    assert torch.equal(statistics.of(PROMPTS[::-1]), expected.flip(0))
    statistics.add(CHATS, completions([9.0] * 8), None)  # once only
    assert torch.equal(statistics.of(PROMPTS), expected)


def test_truncated_and_unscored_completions_are_left_out():
    rewards = [0.1, 0.9, math.nan, 0.7, 3.0, 1.0, 2.0, 0.0]
    statistics = ReferenceStatistics(4, 1.0, None, None, None)
    statistics.add(CHATS, completions(rewards, [True, False, True, True] * 2), None)
    assert statistics.of(PROMPTS).flatten().tolist() == pytest.approx([0.7, 3.0])


def test_equal_rewards_leave_the_prompt_unchanged_unless_a_floor_is_given():
    for floor, threshold in ((None, math.inf), (0.5, math.inf), (0.6, 0.6)):
        statistics = ReferenceStatistics(4, 0.9, floor, None, None)
        statistics.add(CHATS, completions([0.5] * 8), None)
        assert statistics.of(PROMPTS).flatten().tolist() == pytest.approx([threshold] * 2)


def test_the_good_completions_are_counted_by_class():
    memory = ClassMemory("answer", "reference", "remembered")
    statistics = ReferenceStatistics(4, None, None, memory, fixed_threshold=0.7)
    assert statistics.of(PROMPTS) is None
    rewards = [0.1, 0.9, 0.5, 0.7, 3.0, 1.0, 2.0, 0.0]
    statistics.add(CHATS, completions(rewards), lambda prompt, known, texts: [text[-1] for text in texts])
    first, second = (memory.prompts[prompt] for prompt in PROMPTS)
    assert {label: math.exp(first.log_mass(label)) for label in memory.known(PROMPTS[0])} == pytest.approx(
        {"1": 0.25, "3": 0.25}
    )
    assert memory.known(PROMPTS[1]) == ["0", "1", "2"]
    assert second.rewards == {"0": 3.0, "1": 1.0, "2": 2.0}


def test_the_state_of_the_statistics():
    statistics, restored = (ReferenceStatistics(4, 0.5, None, None, None) for _ in range(2))
    statistics.add(CHATS, completions([0.1, 0.9, 0.5, 0.7, 3.0, 1.0, 2.0, 0.0]), None)
    restored.load_state_dict(statistics.state_dict())
    assert torch.equal(restored.of(PROMPTS), statistics.of(PROMPTS))


def test_prompts_have_names_that_last():
    assert prompt_key(CHATS[0]) == prompt_key([dict(reversed(CHATS[0][0].items()))])
    assert prompt_key(CHATS[0]) != prompt_key(CHATS[1])
    assert statistics_seed(0) != statistics_seed(1)


@pytest.mark.parametrize(
    ("overrides", "memory"),
    [
        ("transform=mara", None),
        ("transform=identity", None),
        ("transform=mara objective.direction=forward", ("sequence", "remembered", "remembered")),
        ("transform=mara advantage=no_baseline", ("sequence", "remembered", "remembered")),
        ("transform=mara transform.level=answer", ("answer", "remembered", "remembered")),
        (
            "transform=mara transform.level=answer transform.mass=group transform.anchor=group",
            ("answer", "group", "group"),
        ),
    ],
)
def test_the_memory_that_a_configuration_needs(make_config, overrides, memory):
    made = make_class_memory(make_config(*overrides.split()).choices())
    assert (None if made is None else (made.level, made.mass, made.anchor)) == memory


def test_the_statistics_that_a_configuration_needs(make_config):
    def statistics(*overrides):
        config = make_config("transform=mara", *overrides)
        return make_statistics(config.transform, make_class_memory(config.choices()))

    assert statistics() is None
    quantile = statistics("transform.threshold.kind=reference_quantile", "transform.threshold.value=.9")
    assert (quantile.samples, quantile.quantile, quantile.memory) == (64, 0.9, None)
    counted = statistics("transform.level=answer", "transform.mass=reference", "transform.reference_samples=8")
    assert (counted.samples, counted.quantile, counted.fixed_threshold) == (8, None, 0.8)
    assert counted.memory is not None


def upper_case(seen):
    """Labels that are the text in capitals; `seen` gets the classes that were known."""

    def labels(prompt, known, texts):
        seen.append(list(known))
        return [text.upper() for text in texts]

    return labels


def test_classes_are_named_with_those_of_earlier_steps():
    memory = ClassMemory("answer", "remembered", "remembered")
    memory.count_reference(PROMPTS[0], ["known"], [1.0], 2)
    seen: list[list[str]] = []

    labels = upper_case(seen)
    assert class_labels(memory, labels, CHATS, ["a", "b", "c", "d"]) == [["A", "B"], ["C", "D"]]
    assert seen == [["known"], []]
    assert class_labels(memory, None, CHATS, ["a", "b", "c", "d"]) == [["a", "b"], ["c", "d"]]
    assert step_masses(None, None, CHATS, ["a", "b"], PROMPTS) is None
    assert step_masses(memory, labels, CHATS, ["a", "b"], PROMPTS) is not None


def test_answers_are_counted_by_the_names_of_earlier_steps():
    counts = AnswerCounts()
    seen: list[list[str]] = []

    labels = upper_case(seen)
    first, second = (step_counts(counts, labels, CHATS, ["a", "A", "b", "c"], PROMPTS, None) for _ in range(2))
    assert first.tolist() == [[0, 0], [0, 0]]
    assert second.tolist() == [[2, 2], [1, 1]]
    assert seen == [[], [], ["A"], ["B", "C"]]
    assert step_counts(None, labels, CHATS, ["a", "b"], PROMPTS, None) is None
