"""What samples for a run with vLLM: what it is started with, and errors on all ranks."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from conf.schema.base import ConfigError
from llm.rollout import starting
from llm.rollout.base import RolloutFailed
from llm.rollout.starting import (
    Parts,
    device_settings,
    lora_rank,
    make_folder,
    on_all_ranks,
    on_first_rank,
    server_options,
)

from .test_vllm import SMALL, draw_all, end_of_ranks, seeded_prompts


def test_what_a_started_server_is_told(models, odd_length, make_config):
    config = make_config(*SMALL, "rollout=vllm", "rollout.arguments=[--x,'1']", "rollout.environment.A=2")
    arguments, environment = server_options(Parts(config, models, None, odd_length, None))
    longest = max(len(ids) for ids, _ in seeded_prompts(*draw_all(models, odd_length, make_config)))
    assert arguments[:4] == ["--dtype", "float32", "--max-model-len", str(longest + 4)]
    assert arguments[-2:] == ["--x", "1"]
    assert "--enforce-eager" in arguments
    assert environment == {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", "A": 2}
    lora = make_config(*SMALL, "rollout=vllm", "model.lora.rank=12")
    arguments, environment = server_options(Parts(lora, models, None, odd_length, None))
    assert arguments[arguments.index("--max-lora-rank") + 1] == "16"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert [lora_rank(rank) for rank in (1, 2, 8, 9, 512, 600)] == [1, 8, 8, 16, 512, 600]


def test_what_a_gpu_needs_is_left_to_vllm():
    assert device_settings(torch.device("cuda", 1)) == {}
    assert device_settings(torch.device("cpu")) == {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}


def test_a_folder_that_cannot_be_written(make_config):
    config = make_config(*SMALL, "rollout=vllm", "rollout.folder=/missing/folder")
    with pytest.raises(
        ConfigError, match=r"rollout\.folder: must be a folder that can be written, got /missing/folder"
    ):
        make_folder(config.rollout)


def test_an_error_of_one_rank_is_one_of_all(monkeypatch):
    def fails():
        raise ConfigError("rank 0 has no room")

    assert on_all_ranks(lambda: 3) == 3
    with pytest.raises(RolloutFailed, match="rank 0 has no room"):
        on_all_ranks(fails)
    monkeypatch.setattr(starting.distributed, "gather_objects", lambda failure: [failure, "rank 1 has no room"])
    with pytest.raises(RolloutFailed, match="rank 1 has no room"):
        on_all_ranks(lambda: 3)
    with pytest.raises(RolloutFailed, match="rank 1 has no room"):
        on_first_rank(lambda: "text")


def test_only_the_first_rank_is_asked(monkeypatch):
    def must_not_be_called():
        raise AssertionError

    assert on_first_rank(lambda: "text") == "text"
    monkeypatch.setattr(starting.distributed, "current_ranks", lambda: SimpleNamespace(rank=1))
    monkeypatch.setattr(starting.distributed, "broadcast", lambda value: value or "of rank 0")
    assert on_first_rank(must_not_be_called) == "of rank 0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ("rollout=vllm rollout.folder=/missing/folder", "rollout.folder: must be a folder that can be written, got"),
        pytest.param(
            "rollout=vllm rollout.python=/missing/python",
            "rollout.python: /missing/python cannot be started (No such",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "rollout=vllm_in_process",
            "rollout: vllm_in_process needs vLLM in the environment",
            marks=[
                pytest.mark.long,
                pytest.mark.skipif(find_spec("vllm") is not None, reason="this environment has vLLM"),
            ],
        ),
    ],
)
def test_a_mistake_is_named_on_every_rank(tmp_path, model_folder, rollout, message):
    """Rank 0 alone finds most of them, before sampling starts; the other ranks wait for it."""
    arguments = (word for word in (*SMALL, *rollout.split()) if word != "threads=null")
    options = (f"model.name_or_path={model_folder}", "model.device=cpu", "evaluation_completions=4", "threads=1")
    statuses, outputs = end_of_ranks(2, tmp_path / "run", [*arguments, *options])
    assert statuses == [1, 1]
    for output in outputs:
        assert output.splitlines()[-1].startswith(f"llm: {message}")
        assert "Traceback" not in output
