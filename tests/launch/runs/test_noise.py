"""What libraries print is silenced message by message."""

import os

import torch

from launch.runs.noise import silence_libraries


def test_an_accelerator_is_named_only_where_there_is_none(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    silence_libraries()
    assert os.environ["DS_ACCELERATOR"] == "cuda"  # the user's choice stays
    for available, expected in ((True, None), (False, "cpu")):
        monkeypatch.delenv("DS_ACCELERATOR", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        silence_libraries()
        assert os.environ.get("DS_ACCELERATOR") == expected
    monkeypatch.undo()
