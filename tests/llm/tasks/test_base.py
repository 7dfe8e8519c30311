"""Tasks are found by name or import path, and must have prompts."""

import pytest

from conf.schema.base import ConfigError
from llm.tasks.base import Task, load_task
from llm.tasks.one_two import OneTwo


def test_tasks_are_found_by_name_or_import_path(make_config):
    config = make_config()
    assert isinstance(load_task("one_two", config), OneTwo)
    assert isinstance(load_task("llm.tasks.one_two:OneTwo", config), OneTwo)
    for name in ("no_such", "llm.tasks.one_two:Nothing", "json:JSONDecoder"):
        with pytest.raises(ConfigError, match=r"task\.name: must be"):
            load_task(name, config)


def test_abstract_task_needs_prompts():
    class Half(Task):
        def reward(self, prompt, completion):
            return 0.0

    with pytest.raises(TypeError):
        Half()
