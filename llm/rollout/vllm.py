"""Completions from servers of vLLM, which get the policy's weights after each update."""

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from conf.schema.rollout import VllmRolloutConfig
from launch.engines import distributed
from launch.engines.base import Engine
from launch.runs.progress import working
from launch.runs.run import Run
from llm.batch import Batch, BatchSettings, draw_batch
from llm.inference.prompts import Prompts, pad_completions, prompt_lengths
from llm.inference.sampling import Rollout
from llm.models import Models
from llm.rollout.base import LocalSampler, RolloutFailed, Sampled, Sampler
from llm.rollout.client import UNCHANGED, Client, Completion, Ends, ServerFault, ServerRefusal
from llm.rollout.pool import Servers, Weights
from llm.rollout.server import ServerProcess, vllm_python
from llm.rollout.weights import WeightFolder
from llm.tasks.base import Task

ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}  # GiB; nothing is compiled
SEED_BITS = 62


class Pending(NamedTuple):
    """Completions of a step that are being sampled."""

    step: int
    completions: "Future[list[Completion]]"


class VllmSampler:
    """Samples on servers of vLLM.

    Args:
        config: of the run; its rollout is that of vLLM.
        models: policy, tokenizer and ends.
        engine: holds the policy.
        task: its prompts are sampled for.

    Attributes:
        servers: while `running`. Rank 0 gives them the weights.
        folder: likewise, where the weights are written.
    """

    servers: Servers
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
        """Start the servers, or find those that are running; what the run has started ends with the context."""
        rollout = self.config.rollout
        assert isinstance(rollout, VllmRolloutConfig)
        folder = Path(distributed.broadcast(make_folder(rollout) if run.is_main else None))
        try:
            self.folder = WeightFolder(folder, self.config.model, self.models)
            self.servers = make_servers(self, rollout, run)
            try:
                start(self, rollout, run)
                yield
            finally:
                self._ahead.shutdown(wait=False, cancel_futures=True)
                self.servers.close()
        finally:
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
        """Give the servers the present policy."""
        previous = f"{self._tag}-{self._count}" if self._count else None
        self._count += 1
        version, failure = f"{self._tag}-{self._count}", None
        with self.engine.gather() as policy:
            if distributed.current_ranks().rank == 0:
                try:
                    weights = Weights(version, self.folder.write(policy, version), self.folder.is_adapter, previous)
                    self.servers.load(weights)
                    self.folder.drop(previous)
                except ConfigError as error:
                    failure = str(error)
        failure = distributed.broadcast(failure)
        if failure is not None:
            raise RolloutFailed(failure)
        self.servers.use(Weights(version, self.folder.path_of(version), self.folder.is_adapter, previous))

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
        failure, result = None, []
        try:
            result = completions()
        except RolloutFailed as error:
            failure = str(error)
        failures = [text for text in distributed.gather_objects(failure) if text is not None]
        if failures:
            raise RolloutFailed(failures[0])
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


# --- the servers of a run --------------------------------------------------------------------------------------


def make_folder(rollout: VllmRolloutConfig) -> str:
    """A new folder for the weights."""
    try:
        return tempfile.mkdtemp(prefix="mara-rollout-", dir=rollout.folder)
    except OSError as error:
        raise ConfigError(
            f"rollout.folder: must be a folder that can be written, got {rollout.folder} ({error.strerror})"
        ) from None


def make_sampler(config: LlmConfig, task: Task, models: Models, engine: Engine) -> Sampler:
    """What samples the completions of a run; nothing is started yet."""
    if isinstance(config.rollout, VllmRolloutConfig):
        return VllmSampler(config, models, engine, task)
    return LocalSampler(models, engine)


def make_servers(sampler: VllmSampler, rollout: VllmRolloutConfig, run: Run) -> Servers:
    """The servers of a run: those of `rollout.addresses` or, on rank 0, those that the run will start.

    Raises:
        ConfigError: no vLLM is found, or the base of the adapter is none that it can load.
    """
    processes: list[ServerProcess] = []
    with sampler.engine.gather() as policy:
        if run.is_main and not rollout.addresses:
            python, model = vllm_python(rollout.python), sampler.folder.write_base(policy)
            options, settings = server_options(sampler)
            processes = [
                ServerProcess(python, model, options, settings, run.folder / f"vllm_{index}.log")
                for index in range(rollout.servers)
            ]
    return Servers(
        rollout.addresses,
        processes,
        timeout=rollout.timeout_seconds,
        start_seconds=rollout.start_seconds,
        retries=rollout.retries,
        warn=run.warn,
    )


def start(sampler: VllmSampler, rollout: VllmRolloutConfig, run: Run) -> None:
    """Start the servers on rank 0, and tell the other ranks their addresses.

    Raises:
        RolloutFailed: on all ranks, if one does not start.
    """
    failure, servers = None, sampler.servers
    with working("starting the servers of vLLM"):
        try:
            servers.start()
            if sampler.folder.is_adapter:
                check_bases(rollout)
        except ConfigError as error:
            failure = str(error)
    failure, addresses = distributed.broadcast([failure, servers.addresses])
    if failure is not None:
        raise RolloutFailed(failure)
    servers.find(addresses)
    run.note(rollout={"addresses": addresses, "vllm": Client(addresses[0], rollout.timeout_seconds).program()})


def check_bases(rollout: VllmRolloutConfig) -> None:
    """Check that running servers still have the weights that adapters are trained on.

    Raises:
        RolloutFailed: a run without an adapter has replaced them, or a server does not answer.
    """
    for address in rollout.addresses:
        try:
            version = Client(address.rstrip("/"), rollout.timeout_seconds).version()
        except (ServerFault, ServerRefusal) as error:
            raise RolloutFailed(f"rollout: the server {address} {error}") from None
        if version != UNCHANGED:
            raise RolloutFailed(
                f"rollout: the server {address} has the weights {version} of another run in place of the model that "
                "it was started with, to which the adapter belongs; start it again"
            )


def server_options(sampler: VllmSampler) -> tuple[list[str], dict[str, object]]:
    """Arguments and environment variables of a server that the run starts; the configuration's come last."""
    config, models, rollout = sampler.config, sampler.models, sampler.config.rollout
    assert isinstance(rollout, VllmRolloutConfig)
    longest = max(prompt_lengths(models.tokenizer, sampler.task.prompts(), config.model.chat_template))
    options = ["--dtype", str(models.policy.dtype).removeprefix("torch.")]
    options += ["--max-model-len", str(longest + config.max_new_tokens), "--seed", "0"]
    settings: dict[str, object] = {}
    if models.eos_ids.device.type == "cpu":
        options.append("--enforce-eager")
        settings |= ON_A_CPU
    if config.model.lora.rank is not None:
        options += ["--enable-lora", "--max-lora-rank", str(lora_rank(config.model.lora.rank)), "--max-loras", "2"]
        settings["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return [*options, *rollout.arguments], {**settings, **rollout.environment}


def lora_rank(rank: int) -> int:
    """The smallest rank that vLLM allows as a largest one and that is at least `rank`."""
    return next((allowed for allowed in (1, 8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)
