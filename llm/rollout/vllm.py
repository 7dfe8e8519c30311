"""Completions from vLLM, which gets the policy's weights after each update."""

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conf.schema.llm import LlmConfig
from conf.schema.rollout import VllmConfig
from launch.engines import distributed
from launch.engines.base import Engine
from launch.runs.run import Run
from llm.batch import Batch, BatchSettings, draw_batch
from llm.inference.prompts import Prompts, pad_completions
from llm.inference.sampling import Rollout
from llm.models import Models
from llm.rollout.base import LocalSampler, RolloutFailed, Sampled, Sampler
from llm.rollout.client import Completion, Ends
from llm.rollout.in_process import InProcessEngine
from llm.rollout.pool import Servers, Weights
from llm.rollout.starting import Parts, make_folder, on_all_ranks, on_first_rank, running
from llm.rollout.weights import WeightFolder
from llm.tasks.base import Task

SEED_BITS = 62


class Pending(NamedTuple):
    """Completions of a step that are being sampled."""

    step: int
    completions: "Future[list[Completion]]"


class VllmSampler:
    """Samples with vLLM: on servers, or with an engine beside each rank.

    Args:
        config: of the run; its rollout is that of vLLM.
        models: policy, tokenizer and ends.
        engine: holds the policy.
        task: its prompts are sampled for.

    Attributes:
        servers: while `running`, what samples. Rank 0 gives servers the weights.
        folder: likewise, where the weights are written.
    """

    servers: Servers | InProcessEngine
    folder: WeightFolder

    def __init__(self, config: LlmConfig, models: Models, engine: Engine, task: Task) -> None:
        self.models, self.engine, self.task, self.config = models, engine, task, config
        self._asynchronous = config.rollout.behind > 0
        strings = () if models.stop_strings is None else models.stop_strings.strings
        self._ends = Ends(models.eos_ids.tolist(), strings, config.max_new_tokens, vocabulary(models))
        self._tag, self._count = distributed.broadcast(secrets.token_hex(4)), 0
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._pending: Pending | None = None
        self._restored: tuple[int, Sampled] | None = None

    @contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Start what samples, or find servers that are running; what the run has started ends with the context."""
        rollout = self.config.rollout
        assert isinstance(rollout, VllmConfig)
        folder = Path(on_first_rank(partial(make_folder, rollout)))
        try:
            self.folder = WeightFolder(folder, self.config.model, self.models)
            parts = Parts(self.config, self.models, self.engine, self.task, self.folder)
            with running(parts, run) as self.servers:
                yield
        finally:
            self._ahead.shutdown(wait=False, cancel_futures=True)
            if run.is_main:
                shutil.rmtree(folder, ignore_errors=True)

    def sample_step(self, batch: Batch) -> Sampled:
        """Sample the completions of a step with the present policy or, if asynchronous, that of the last step."""
        sampled = self._sampled_ahead(batch)
        if sampled is None:
            self.give_weights()
            sampled = self.sample(batch.prompts, batch.uniforms, batch.group_size)
        elif batch.step + 1 < self.config.steps:
            self.give_weights()
        if self._asynchronous and batch.step + 1 < self.config.steps:
            following = draw_batch(BatchSettings.from_config(self.config), self.models, self.task, batch.step + 1)
            groups = seeded_prompts(following.prompts, following.uniforms, following.group_size)
            future = self._ahead.submit(self.servers.sample, groups, following.group_size, self._ends)
            self._pending = Pending(following.step, future)
        return sampled

    def sample(self, prompts: Prompts, uniforms: Tensor, group_size: int) -> Sampled:
        """Sample completions; the seeds of vLLM are functions of the uniforms."""
        groups = seeded_prompts(prompts, uniforms, group_size)
        return self._collected(lambda: self.servers.sample(groups, group_size, self._ends))

    def give_weights(self) -> None:
        """Give what samples the present policy.

        Raises:
            RolloutFailed: on all ranks, if it is not taken on one.
        """
        previous = f"{self._tag}-{self._count}" if self._count else None
        self._count += 1
        version = f"{self._tag}-{self._count}"
        weights = Weights(version, self.folder.path_of(version), self.folder.is_adapter, previous)

        def write_and_load(policy: PreTrainedModel) -> None:
            self.folder.write(policy, version)
            self.servers.load(weights)

        is_main = distributed.current_ranks().rank == 0
        with self.engine.gather() as policy:
            on_all_ranks(partial(write_and_load, policy) if is_main else lambda: None)
        on_all_ranks(partial(self.servers.use, weights))
        if is_main:
            self.folder.drop(previous)

    def _sampled_ahead(self, batch: Batch) -> Sampled | None:
        """The completions of a step that were sampled ahead, in this process or before the run resumed."""
        restored, self._restored = self._restored, None
        if restored is not None and restored[0] == batch.step:
            rows = slice(batch.slots.start * batch.group_size, batch.slots.stop * batch.group_size)
            rollout, logp = restored[1]
            return Sampled(Rollout(*(t[rows] for t in rollout)), None if logp is None else logp[rows])
        pending, self._pending = self._pending, None
        return None if pending is None else self._collected(pending.completions.result)

    def _collected(self, completions: Callable[[], list[Completion]]) -> Sampled:
        """Completions as tensors. Raises RolloutFailed on all ranks if it is raised on one."""
        result = on_all_ranks(completions)
        return as_tensors(result, self.models.pad_id, self.models.eos_ids.device)

    def state_dict(self) -> Mapping[str, Any]:
        """The completions of the next step, of all ranks, if they are sampled ahead; nothing if that failed."""
        if self._pending is None:
            return {}
        try:
            rollout, logp = self._collected(self._pending.completions.result)
        except RolloutFailed:  # the next step raises it again
            return {}
        assert logp is not None
        names = ("tokens", "mask", "complete", "logp")
        values = {name: distributed.gather_rows(t) for name, t in zip(names, (*rollout, logp), strict=True)}
        return {"step": self._pending.step, **values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the completions of the next step."""
        if not state:
            return
        tokens, mask, complete, logp = (
            state[name].to(self.models.eos_ids.device) for name in ("tokens", "mask", "complete", "logp")
        )
        self._restored = state["step"], Sampled(Rollout(tokens, mask, complete), logp)


def as_tensors(completions: list[Completion], pad_id: int, device: torch.device) -> Sampled:
    """Completions as right-padded rows."""
    tokens, mask = pad_completions([completion.tokens for completion in completions], pad_id)
    logp = torch.zeros(mask.shape)
    logp[mask] = torch.tensor([value for completion in completions for value in completion.logp])
    complete = torch.tensor([completion.complete for completion in completions])
    return Sampled(Rollout(tokens.to(device), mask.to(device), complete.to(device)), logp.to(device))


def seeded_prompts(prompts: Prompts, uniforms: Tensor, group_size: int) -> list[tuple[list[int], int]]:
    """Each prompt without its padding, and a seed of vLLM that is a function of its first row of uniforms."""
    groups = []
    for ids, mask, row in zip(prompts.ids, prompts.mask, uniforms[::group_size], strict=True):
        digest = hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=8).digest()
        groups.append((ids[mask].tolist(), int.from_bytes(digest, "big") >> (64 - SEED_BITS)))
    return groups


def vocabulary(models: Models) -> int:
    """The number of token ids that the policy's output embedding has."""
    return int(models.policy.config.get_text_config(decoder=True).vocab_size)


def make_sampler(config: LlmConfig, task: Task, models: Models, engine: Engine) -> Sampler:
    """What samples the completions of a run; nothing is started yet."""
    if isinstance(config.rollout, VllmConfig):
        return VllmSampler(config, models, engine, task)
    return LocalSampler(models, engine)
