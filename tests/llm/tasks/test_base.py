"""Tasks are found by name or import path, and must have prompts."""

import math

import pytest
import torch

from conf.schema.base import ConfigError
from core.mara import select_anchor
from llm.tasks.base import Task, load_task
from llm.tasks.one_two import OneTwo

from ..helpers import user_chat


def test_tasks_are_found_by_name_or_import_path(make_config):
    config = make_config()
    assert isinstance(load_task("one_two", config), OneTwo)
    assert isinstance(load_task("llm.tasks.one_two:OneTwo", config), OneTwo)
    for name in ("no_such", "llm.tasks.one_two:Nothing", "json:JSONDecoder"):
        with pytest.raises(ConfigError, match=rf"^task\.name: .*{name}"):
            load_task(name, config)
    with pytest.raises(ConfigError, match=r"must be a module of llm\.tasks or package\.module:Class, got no_such \("):
        load_task("no_such", config)


class Minimal(Task):
    def prompts(self):
        return [user_chat("x")]


def test_a_task_must_have_prompts():
    class WithoutPrompts(Task):
        def reward(self, prompt, completion):
            return 0.0

    with pytest.raises(TypeError, match="prompts"):
        WithoutPrompts()  # type: ignore[abstract]
    assert Minimal().evaluation_prompts() == {"": [user_chat("x")]}


def test_a_task_has_a_reward_if_it_defines_one_of_two_methods():
    class PerCompletion(Minimal):
        def reward(self, prompt, completion):
            return float(len(prompt[0]["content"]) + len(completion))

    class PerBatch(Minimal):
        def rewards(self, prompts, completions):
            return [0.0] * len(completions)

    assert not Minimal().has_reward()
    assert PerCompletion().has_reward()
    assert PerBatch().has_reward()
    prompts = [user_chat("x"), user_chat("xy")]
    assert PerCompletion().rewards(prompts, ["", "abc"]) == [1.0, 5.0]
    with pytest.raises(NotImplementedError):
        Minimal().rewards(prompts, ["", "abc"])


def test_correct_completions_reach_the_tasks_reward():
    task = Minimal()
    assert task.correct([1.0, 0.99, 2.0, math.nan]) == [True, False, True, False]
    for threshold in (0.7, 0.9, 0.95):  # .7 in a float32 tensor is .69999999, and good
        task.correct_reward = threshold
        held = torch.tensor([threshold, threshold - 1e-6])
        assert task.correct(held.tolist()) == select_anchor(held, torch.zeros(2), threshold)[1].tolist()
        assert task.correct(held.tolist()) == [True, False]
        assert held.tolist()[0] < threshold  # control: a plain comparison
    task.correct_reward = None
    assert task.correct([1.0, -9.0, math.nan]) == [True, True, False]
