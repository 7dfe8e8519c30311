"""Tasks are found by name or import path, and must have prompts."""

import math

import pytest
import torch

from conf.schema.base import ConfigError
from core.mara import select_anchor
from llm.inference.prompts import encode_chats
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


# --- tasks of the user's own ---------------------------------------------------------------------------------

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "y"}]


class Own(Task):
    """A task that returns whatever a test puts into its attributes."""

    returned: object = [user_chat("x")]
    sets: object = None
    value: object = "an answer"
    right: object = ("1",)
    reads = 0

    def prompts(self):
        type(self).reads += 1
        return self.returned

    def evaluation_prompts(self):
        return super().evaluation_prompts() if self.sets is None else self.sets

    def answer(self, completion):
        return self.value

    def right_answers(self, prompt):
        return self.right


def load_own(make_config, monkeypatch, **attributes):
    for name, value in attributes.items():
        monkeypatch.setattr(Own, name, value)
    monkeypatch.setattr(Own, "reads", 0)
    return load_task(f"{__name__}:Own", make_config())


@pytest.mark.parametrize(
    ("returned", "chats"),
    [
        ([user_chat("x"), TURNS], [user_chat("x"), TURNS]),
        (["x", TURNS], [user_chat("x"), TURNS]),
        ("x y", [user_chat("x y")]),
        ({"role": "user", "content": "x"}, [user_chat("x")]),
        ([{"role": "user", "content": "x"}, "y"], [user_chat("x"), user_chat("y")]),
        ((text for text in "xy"), [user_chat("x"), user_chat("y")]),
        ((tuple(TURNS), (turn for turn in TURNS)), [TURNS, TURNS]),
    ],
    ids=["lists", "texts", "one text", "one turn", "turns", "generator", "tuples and generators"],
)
def test_prompts_of_a_clear_form_are_read_once(returned, chats, make_config, monkeypatch, tokenizer):
    control = Own()
    assert load_own(make_config, monkeypatch).prompts() == [user_chat("x")]
    task = load_own(make_config, monkeypatch, returned=returned)
    for _ in range(3):
        assert task.prompts() == chats
        assert task.evaluation_prompts() == {"": chats}
    assert Own.reads == 1
    assert encode_chats(tokenizer, task.prompts()).ids.shape[0] == len(chats)
    if returned != chats:  # control: what the rest of the program got before
        assert control.prompts() != chats


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["x"], {"": [user_chat("x")]}),
        ((text for text in "x"), {"": [user_chat("x")]}),
        ({"": [user_chat("x")], "other/": ("y",)}, {"": [user_chat("x")], "other/": [user_chat("y")]}),
        ({"other/": ["y"], "": ["x"]}, {"": [user_chat("x")], "other/": [user_chat("y")]}),
    ],
    ids=["list", "generator", "sets", "order"],
)
def test_evaluation_prompts_may_be_a_list(sets, expected, make_config, monkeypatch):
    task = load_own(make_config, monkeypatch, sets=sets)
    assert task.evaluation_prompts() == expected
    assert next(iter(task.evaluation_prompts())) == ""


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"returned": None}, r"prompts\(\): must return a list of prompts, got None"),
        ({"returned": 3}, r"prompts\(\): must return a list of prompts, got 3"),
        ({"returned": {"a": "b"}}, r"prompts\(\): must return a list of prompts, got \{'a': 'b'\}"),
        ({"returned": []}, r"prompts\(\): must return at least one prompt, got none"),
        ({"returned": iter(())}, r"prompts\(\): must return at least one prompt, got none"),
        ({"returned": ["x", None]}, r"prompts\(\): prompt 1: must be a text or a list of turns .*, got None"),
        ({"returned": [[]]}, r"prompts\(\): prompt 0: must be a text or a list of turns .*, got \[\]"),
        ({"returned": [["x"]]}, r"prompts\(\): prompt 0: must be .*, got \['x'\]"),
        (
            {"returned": [[{"content": "x"}]]},
            r"prompts\(\): prompt 0: must be .* with role and content, both texts, got",
        ),
        (
            {"returned": [[{"role": "user", "content": 3}]]},
            r"prompts\(\): prompt 0: must be .* with role and content, both texts",
        ),
        (
            {"returned": TURNS},
            r"prompts\(\): prompt 0: a single turn must be the user's; a prompt of several is a list, got",
        ),
        ({"sets": {}}, r"evaluation_prompts\(\): must have a set with the prefix \"\", got the prefixes \[\]"),
        ({"sets": {"a/": ["x"]}}, r"evaluation_prompts\(\): must have a set with the prefix"),
        ({"sets": {"": ["x"], "a/": []}}, r"evaluation_prompts\(\)\['a/'\]: must return at least one prompt"),
        ({"answers": "yes"}, r"answers: must be a tuple of texts, got 'yes'"),
        ({"answers": (1, 2)}, r"answers: must be a tuple of texts, got \(1, 2\)"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(attributes, message, make_config, monkeypatch):
    with pytest.raises(ConfigError, match=rf"^task\.name: {__name__}:Own\.{message}") as caught:
        load_own(make_config, monkeypatch, **attributes)
    assert "\n" not in str(caught.value)


def test_answers_are_texts(make_config, monkeypatch):
    task = load_own(make_config, monkeypatch)
    assert task.answer_to(user_chat("x"), "y") == "an answer"
    assert task.right_answers(user_chat("x")) == ("1",)
    task = load_own(make_config, monkeypatch, value=3)
    with pytest.raises(ConfigError, match=r"Own\.answer\(\) must return a text, got 3 for the completion 'y'$"):
        task.answer_to(user_chat("x"), "y")
    with pytest.raises(ConfigError, match=r"Own\.right_answers\(\): must return a tuple of texts, got '12'$"):
        load_own(make_config, monkeypatch, right="12")


class Abstract(Task):
    pass


class LoadsNothing(Minimal):
    @classmethod
    def load(cls, config):
        return None


def test_a_class_that_makes_no_task_is_refused(make_config):
    for name, message in (
        ("Abstract", "abstract method '?prompts"),
        ("LoadsNothing", "must return the task, got None"),
    ):
        with pytest.raises(ConfigError, match=rf"^task\.name: .*{message}"):
            load_task(f"{__name__}:{name}", make_config())
