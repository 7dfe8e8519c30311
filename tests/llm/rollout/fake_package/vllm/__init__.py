"""A stand-in of vLLM's engine that samples from the files that it is given, with faults on demand."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from tests.llm.rollout.sampling_server import ModelFiles
from tests.llm.rollout.stand_in import DEFAULT, FAULTY_CHOICES, as_choices


class SamplingParams:
    """Parameters by name."""

    def __init__(self, **values):
        self.values = values


class LLM:
    """An engine.

    made: the engines so far, with their arguments, the environment that they started in and the calls to them.
    faults: what happens to the next calls of generate, one after the other.
    stale: whether weights that are given later than the first ones are not used.
    """

    made: ClassVar[list["LLM"]] = []
    faults: ClassVar[list[str | None]] = []
    stale: ClassVar[bool] = False
    base: ClassVar[Any] = None

    def __init__(self, model, **arguments):
        os.write(1, b"the engine starts\n")
        os.write(2, b"a warning of the engine\n")
        if arguments.pop("fail", False):
            raise RuntimeError("Engine core initialization failed.\nSee above.")
        self.arguments, self.environment, self.calls = arguments, dict(os.environ), []
        self.files, self.folder, self.version, self.ended = ModelFiles(self.base), model, DEFAULT, False
        self.model = None
        self.llm_engine = SimpleNamespace(
            set_weight_version=self.set_version, engine_core=SimpleNamespace(shutdown=self.end)
        )
        self.made.append(self)

    def set_version(self, version):
        self.version = version

    def end(self, timeout):
        self.ended = True

    def collective_rpc(self, method, kwargs):
        self.calls.append(method)
        assert method == "reload_weights"
        if not (self.stale and self.model):
            self.folder = kwargs["weights_path"]
            self.model = self.files.model(self.folder)

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return True

    def generate(self, prompts, params, use_tqdm, lora_request):
        self.calls.append("generate")
        assert not use_tqdm
        fault = self.faults.pop(0) if self.faults else None
        if fault == "dead":
            raise RuntimeError("EngineCore encountered an issue.")
        folder = self.folder if lora_request is None else lora_request.path
        if self.stale:  # what is in the folder by now does not count
            files = sorted(Path(folder).rglob("*.safetensors"))
            self.files._read = ([(str(file), file.stat().st_mtime_ns) for file in files], self.model)
        return [
            SimpleNamespace(outputs=self.outputs({"token_ids": p["prompt_token_ids"]}, q.values, folder, fault))
            for p, q in zip(prompts, params, strict=True)
        ]

    def outputs(self, body, params, folder, fault):
        choices = as_choices(self.files(body | {"sampling_params": params}, folder), self.version)
        if fault == "fewer completions":
            choices = choices[1:]
        elif fault is not None:
            FAULTY_CHOICES[fault](choices[0])
        return [as_output(choice) for choice in choices]


def as_output(choice):
    """A completion in the form of the engine."""
    content, spans = (choice["logprobs"] or {}).get("content"), choice["weight_versions"]
    return SimpleNamespace(
        index=choice["index"],
        token_ids=tuple(choice["token_ids"]),
        finish_reason=choice["finish_reason"],
        logprobs=content and [{e["token_id"]: SimpleNamespace(logprob=e["logprob"])} for e in content],
        weight_versions=spans and [SimpleNamespace(**span) for span in spans],
    )
