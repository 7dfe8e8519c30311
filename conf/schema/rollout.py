"""Where the completions of a training step are sampled: by the policy itself, or by vLLM."""

import math
import re
from dataclasses import dataclass
from typing import Any

from conf.schema.base import ConfigError, Section, key, option, yaml_text
from core.rules import CORRECTIONS


@dataclass
class RolloutConfig(Section):
    """Where the completions of a step are sampled."""

    name: str = key("set by rollout=NAME")

    def check(self, prefix: str) -> None:
        """Check that the name is that of the option."""
        expected = type(self).name
        if self.name != expected:
            raise ConfigError(f"{prefix}name: must be {expected} here, got {self.name}; choose it with rollout=NAME")

    @property
    def correction_choice(self) -> str | None:
        """How completions that another program sampled are weighted; None: the policy samples them."""
        return None

    @property
    def bound_choice(self) -> float | None:
        """The largest of those weights; None: there is no bound."""
        return None

    @property
    def behind(self) -> int:
        """Steps by which the weights that sample are older than the policy."""
        return 0

    @property
    def gap_limit(self) -> float:
        """Nats per token by which policy and sampler may differ on average."""
        return math.inf


@option("rollout", "local")
@dataclass
class LocalRolloutConfig(RolloutConfig):
    """The policy samples, in the process that trains, from exactly the distribution that is trained."""

    name: str = "local"


@dataclass
class VllmConfig(RolloutConfig):
    """vLLM samples, and gets the policy's weights after each update (docs/rollouts.md)."""

    folder: str = key(
        "folder for the weights on their way to vLLM, in memory if possible; servers must see it at the same path"
    )
    correction: str = key(
        "weights of completions by the policy's probability over vLLM's, of the whole completion. truncate: at most "
        "bound; mask: 0 above bound; none: 1",
        choices=CORRECTIONS,
    )
    bound: float | None = key("largest weight of a completion, at least 1; null: no bound")
    max_gap: float = key(
        "nats by which a token's log-probabilities may differ on average between vLLM and policy before the run "
        "stops, because vLLM then has other weights",
        above=0,
    )

    @property
    def correction_choice(self) -> str | None:
        """The correction."""
        return self.correction

    @property
    def bound_choice(self) -> float | None:
        """The bound."""
        return self.bound

    @property
    def gap_limit(self) -> float:
        """The limit."""
        return self.max_gap


@option("rollout", "vllm")
@dataclass
class ServersConfig(VllmConfig):
    """Servers of vLLM sample, in an environment of their own."""

    name: str = "vllm"
    addresses: list[str] = key(
        "running servers, such as http://127.0.0.1:8000; []: the run starts its own and stops them at its end"
    )
    servers: int = key("servers that the run starts, if addresses is empty", low=1, high=1024)
    python: str | None = key(
        "Python of the environment with vLLM, for servers that the run starts; null: the environment variable "
        "MARA_VLLM_PYTHON, this environment if it has vLLM, or .venv-vllm, which make services makes"
    )
    arguments: list[str] = key(
        "further arguments of vllm serve, for servers that the run starts, such as "
        "[--gpu-memory-utilization,'0.4'] or [--tensor-parallel-size,'2']"
    )
    environment: dict[str, Any] = key(
        "environment variables of the servers that the run starts, such as {CUDA_VISIBLE_DEVICES: '1'}"
    )
    asynchronous: bool = key(
        "sample the next step's completions while the policy learns, with weights that are one step older"
    )
    start_seconds: float = key("longest time that a server may take to start", above=0, high=10**6)
    timeout_seconds: float = key("longest time for an answer of a server", above=0, high=10**6)
    retries: int = key("how often a request is repeated when a server fails, before the run stops", low=0, high=1000)

    def check(self, prefix: str) -> None:
        """Check the addresses and the environment variables."""
        super().check(prefix)
        for address in self.addresses:
            if not re.fullmatch(r"https?://[^/\s]+/?", address):
                raise ConfigError(
                    f"{prefix}addresses: must be like http://HOST:PORT, without a path, got {yaml_text(address)}"
                )
        if len({address.rstrip("/") for address in self.addresses}) < len(self.addresses):
            raise ConfigError(f"{prefix}addresses: must not repeat one, got {', '.join(self.addresses)}")
        if self.addresses and (self.arguments or self.environment or self.python):
            raise ConfigError(
                f"{prefix}addresses: cannot be combined with python, arguments or environment, which are for servers "
                f"that the run starts, got {', '.join(self.addresses)}"
            )
        check_environment(self.environment, prefix)

    @property
    def behind(self) -> int:
        """1 if asynchronous."""
        return int(self.asynchronous)


@option("rollout", "vllm_in_process")
@dataclass
class InProcessConfig(VllmConfig):
    """Each rank has an engine of vLLM on its own device, from its own environment."""

    name: str = "vllm_in_process"
    arguments: dict[str, Any] = key(
        "further arguments of vllm.LLM, such as {gpu_memory_utilization: 0.4, max_num_seqs: 64}"
    )
    environment: dict[str, Any] = key("environment variables of the engine, such as {VLLM_CPU_KVCACHE_SPACE: '4'}")

    def check(self, prefix: str) -> None:
        """Check the environment variables."""
        super().check(prefix)
        check_environment(self.environment, prefix)


def check_environment(environment: dict[str, Any], prefix: str) -> None:
    """Check environment variables: text or numbers."""
    for name, value in environment.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{prefix}environment.{name}: must be text or a number, got {yaml_text(value)}")


PLACES = ("addresses", "servers", "python", "arguments", "environment", "folder")
PATIENCE = ("start_seconds", "timeout_seconds", "retries", "max_gap")
VOLATILE = tuple(f"rollout.{name}" for name in PLACES + PATIENCE)  # a run may resume with others
