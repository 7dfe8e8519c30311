"""What samples for a run with vLLM, from its start to its end: servers, or an engine beside each rank."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from transformers import PreTrainedModel

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from conf.schema.rollout import InProcessConfig, ServersConfig, VllmConfig
from launch.engines import distributed
from launch.engines.base import Engine
from launch.runs.progress import working
from launch.runs.run import Run
from llm.inference.prompts import prompt_lengths
from llm.models import Models
from llm.rollout.base import RolloutFailed
from llm.rollout.client import UNCHANGED, Client, ServerFault, ServerRefusal
from llm.rollout.in_process import InProcessEngine, vllm_version
from llm.rollout.pool import Servers
from llm.rollout.server import ServerProcess, vllm_python
from llm.rollout.weights import WeightFolder
from llm.tasks.base import Task

ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}  # GiB; nothing is compiled

Value = TypeVar("Value")


class Parts(NamedTuple):
    """What is known when sampling starts.

    config: of the run.
    models: policy, tokenizer and ends.
    engine: holds the policy.
    task: its prompts are sampled for.
    folder: where the weights are written.
    """

    config: LlmConfig
    models: Models
    engine: Engine
    task: Task
    folder: WeightFolder


def make_folder(rollout: VllmConfig) -> str:
    """A new folder for the weights."""
    try:
        return tempfile.mkdtemp(prefix="mara-rollout-", dir=rollout.folder)
    except OSError as error:
        raise ConfigError(
            f"rollout.folder: must be a folder that can be written, got {rollout.folder} ({error.strerror})"
        ) from None


def running(parts: Parts, run: Run) -> AbstractContextManager[Servers | InProcessEngine]:
    """A context in which the servers or engines of a run are running."""
    rollout = parts.config.rollout
    if isinstance(rollout, ServersConfig):
        return running_servers(parts, rollout, run)
    assert isinstance(rollout, InProcessConfig)
    return running_engine(parts, rollout, run)


@contextmanager
def running_servers(parts: Parts, rollout: ServersConfig, run: Run) -> Iterator[Servers]:
    """The servers of a run: those of `rollout.addresses`, or those that rank 0 starts and stops.

    Raises:
        RolloutFailed: on all ranks, if no vLLM is found, it cannot load the base of the adapter, or a server does not
            start.
    """

    def prepare(policy: PreTrainedModel) -> list[ServerProcess]:
        if rollout.addresses or not run.is_main:
            return []
        python, model = vllm_python(rollout.python), parts.folder.write_base(policy)
        options, settings = server_options(parts)
        logs = [run.folder / f"vllm_{index}.log" for index in range(rollout.servers)]
        return [ServerProcess(python, model, options, settings, log) for log in logs]

    with parts.engine.gather() as policy:
        processes = on_all_ranks(partial(prepare, policy))
    servers = Servers(
        rollout.addresses,
        processes,
        timeout=rollout.timeout_seconds,
        start_seconds=rollout.start_seconds,
        retries=rollout.retries,
        warn=run.warn,
    )
    try:
        start_servers(servers, parts, rollout, run)
        yield servers
    finally:
        servers.close()


def start_servers(servers: Servers, parts: Parts, rollout: ServersConfig, run: Run) -> None:
    """Start the servers on rank 0, and tell the other ranks their addresses.

    Raises:
        RolloutFailed: on all ranks, if one does not start.
    """

    def start() -> None:
        servers.start()
        if parts.folder.is_adapter:
            check_bases(rollout)

    with working("starting the servers of vLLM"):
        on_all_ranks(start)
    servers.find(addresses := distributed.broadcast(servers.addresses))
    run.note(rollout={"addresses": addresses, "vllm": Client(addresses[0], rollout.timeout_seconds).program()})


@contextmanager
def running_engine(parts: Parts, rollout: InProcessConfig, run: Run) -> Iterator[InProcessEngine]:
    """An engine on the device of each rank.

    Raises:
        RolloutFailed: on all ranks, if an environment has no vLLM, the base of the adapter cannot be loaded, or an
            engine does not start.
    """
    program = on_all_ranks(vllm_version)
    with parts.engine.gather() as policy:
        model = on_first_rank(lambda: str(parts.folder.write_base(policy)))
    device, log = parts.models.eos_ids.device, run.folder / f"vllm_{distributed.current_ranks().rank}.log"
    arguments = {**engine_arguments(parts), **rollout.arguments}
    engine = InProcessEngine(Path(model), arguments, {**device_settings(device), **rollout.environment}, device, log)
    try:
        run.info(f"starting vLLM, whose output is in {log}")
        on_all_ranks(engine.start)
        run.note(rollout={"vllm": program})
        yield engine
    finally:
        engine.close()


def check_bases(rollout: ServersConfig) -> None:
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


def engine_arguments(parts: Parts) -> dict[str, Any]:
    """The arguments of vLLM that follow from the configuration and the model."""
    config, models = parts.config, parts.models
    longest = max(prompt_lengths(models.tokenizer, parts.task.prompts(), config.model.chat_template))
    arguments: dict[str, Any] = {
        "dtype": str(models.policy.dtype).removeprefix("torch."),
        "max_model_len": longest + config.max_new_tokens,
        "seed": 0,
    }
    if models.eos_ids.device.type == "cpu":
        arguments["enforce_eager"] = True
    if config.model.lora.rank is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": lora_rank(config.model.lora.rank), "max_loras": 2}
    return arguments


def device_settings(device: torch.device) -> dict[str, object]:
    """The environment variables of vLLM that follow from the device."""
    return dict(ON_A_CPU) if device.type == "cpu" else {}


def server_options(parts: Parts) -> tuple[list[str], dict[str, object]]:
    """Arguments and environment variables of a server that the run starts; the configuration's come last."""
    rollout = parts.config.rollout
    assert isinstance(rollout, ServersConfig)
    options: list[str] = []
    for name, value in engine_arguments(parts).items():
        option = f"--{name.replace('_', '-')}"
        options += [option] if value is True else [option, str(value)]
    settings = device_settings(parts.models.eos_ids.device)
    if parts.config.model.lora.rank is not None:
        settings["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return [*options, *rollout.arguments], {**settings, **rollout.environment}


def lora_rank(rank: int) -> int:
    """The smallest rank that vLLM allows as a largest one and that is at least `rank`."""
    return next((allowed for allowed in (1, 8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)


def on_all_ranks(call: Callable[[], Value]) -> Value:
    """The result of a call on this rank. All ranks make one together.

    Raises:
        RolloutFailed: on all ranks, if the call raises ConfigError on one.
    """
    failure, result = None, None
    try:
        result = call()
    except ConfigError as error:
        failure = str(error)
    failures = [text for text in distributed.gather_objects(failure) if text is not None]
    if failures:
        raise RolloutFailed(failures[0])
    return cast(Value, result)


def on_first_rank(call: Callable[[], str]) -> str:
    """The text that a call on rank 0 returns, on all ranks.

    Raises:
        RolloutFailed: on all ranks, if the call raises ConfigError.
    """
    is_first = distributed.current_ranks().rank == 0
    return cast(str, distributed.broadcast(on_all_ranks(call if is_first else lambda: "")))
