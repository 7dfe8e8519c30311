"""Device, dtype, threads, learning rate and micro-batch are those of the model, however it is named."""

import pytest

from conf.schema.model_values import MODELS, OTHERS, for_model
from launch.cli.compose import compose
from llm.testbed.tiny_models import POLICIES


def values(*overrides):
    config = compose("llm", overrides)
    model = config["model"]
    return model["device"], model["dtype"], config["threads"], config["optimizer"]["lr"], config["micro_batch"]


SMALL = ("cpu", "float32", 1)
REAL = ("auto", "auto", None, 1e-6, 16)


def test_every_test_model_has_its_values_and_no_other_model_has():
    assert set(MODELS) == {*POLICIES, "smollm2"}
    assert {frozenset(row) for row in MODELS.values()} == {frozenset(OTHERS)}
    assert for_model("tiny_many", "optimizer.lr") == 1e-3
    assert for_model("some/model", "optimizer.lr") == for_model(None, "optimizer.lr") == 1e-6


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), (*SMALL, 3e-4, 64)),
        (("experiment=one_of_many",), (*SMALL, 1e-3, 128)),
        (("experiment=spellings",), (*SMALL, 3e-4, 192)),
        (("model.name_or_path=a/folder",), REAL),  # control: these were cpu, float32, 1, 3e-4, 64
        (("experiment=one_of_many", "model.name_or_path=a/folder"), REAL),
        (("model=tiny_maths", "model.name_or_path=a/folder"), REAL),
        (("model=qwen2.5-3b",), REAL),
        (("experiment=open_questions",), ("auto", "auto", None, 1e-5, 64)),
        (("experiment=creative", "model.name_or_path=tiny_creative"), (*SMALL, 1e-3, 128)),
        (("experiment=maths_tiny", "model=qwen3-1.7b"), REAL),
        (
            ("model.name_or_path=a/folder", "model.device=cpu", "threads=2", "optimizer.lr=1e-5", "micro_batch=3"),
            ("cpu", "auto", 2, 1e-5, 3),
        ),
        (("model.device=auto", "threads=null"), ("auto", "float32", None, 3e-4, 64)),
    ],
)
def test_values_follow_the_model_that_is_loaded(overrides, expected):
    assert values(*overrides) == expected
