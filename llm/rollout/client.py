"""The requests to a server of vLLM, and what is checked of its answers.

vLLM 0.32 or newer, started with --enable-scale-out and VLLM_SERVER_DEV_MODE=1 (docs/rollouts.md). Only the standard
library is used, so that vLLM's requirements never meet those of training.
"""

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

GENERATE = "/inference/v1/generate"
UNCHANGED = "default"  # the version of the weights that a server was started with
API_KEY = "VLLM_API_KEY"  # environment variable of vLLM's own, for servers that ask for a key
ABOVE_ZERO = 1e-3  # rounding of a log-probability


class ServerFault(Exception):
    """A server did not answer, or not in full. The request can be repeated."""


class NoAnswer(ServerFault):
    """A server did not answer in time. It may have stopped working although it says that it is well."""


class WrongWeights(ServerFault):
    """A server sampled with other weights than it was given."""


class ServerRefusal(Exception):
    """A server rejects a request. Repeating it is of no use."""


class Job(NamedTuple):
    """Completions of one prompt that are sampled with one request.

    seed: completion i of the `number` is sampled with seed + i.
    """

    prompt: list[int]
    number: int
    seed: int


class Ends(NamedTuple):
    """What ends a completion, and the number of token ids that there are.

    limit: longest completion, tokens.
    """

    ids: list[int]
    strings: tuple[str, ...]
    limit: int
    vocabulary: int


class Completion(NamedTuple):
    """Token ids, their log-probabilities under the server in nats, and whether it ended before the limit."""

    tokens: list[int]
    logp: list[float]
    complete: bool


@dataclass(frozen=True)
class Client:
    """A server of vLLM.

    Attributes:
        address: such as http://127.0.0.1:8000.
        timeout: seconds without an answer after which a request has failed.
    """

    address: str
    timeout: float

    def generate(self, job: Job, ends: Ends, version: str, adapter: str | None = None) -> list[Completion]:
        """Sample completions at temperature 1 from the whole distribution.

        Args:
            job: the prompt, and how many completions.
            ends: what ends them.
            version: the weights that the server must sample with, unless an adapter is named.
            adapter: the adapter to use.

        Raises:
            ServerFault, ServerRefusal.
        """
        body: dict[str, Any] = {"token_ids": job.prompt, "sampling_params": sampling_params(job, ends)}
        if adapter is not None:
            body["model"] = adapter
        answer = self.post(GENERATE, body)
        try:
            completions = [read_choice(choice, ends) for choice in in_order(answer["choices"], job.number)]
            if adapter is None:
                check_version(answer["choices"], version)
            elif answer["model"] != adapter:
                raise WrongWeights(f"answered with {answer['model']} instead of the adapter {adapter}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServerFault(f"gave an answer of another form ({type(error).__name__}: {error})") from None
        return completions

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether the server answers and says that it is well."""
        try:
            self.request("GET", "/health", timeout=timeout)
        except (ServerFault, ServerRefusal):
            return False
        return True

    def program(self) -> str | None:
        """The version of vLLM; None if the server does not say."""
        try:
            return str(self.request("GET", "/version")["version"])
        except (ServerFault, ServerRefusal, KeyError, TypeError):
            return None

    def version(self) -> str:
        """The version of the server's weights; vLLM's own default until one is set."""
        return str(self.request("GET", "/weight_info")["weight_version"])

    def load_weights(self, folder: str, version: str) -> None:
        """Load a model's weights in place of the present ones, drop what was cached with these, and name the version.

        Requests in flight are completed before.
        """
        self.post("/pause?mode=wait&clear_cache=true", {})
        try:
            self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
            if not self.post("/reset_prefix_cache", {})["success"]:
                raise ServerFault("did not clear its prefix cache")
            self.post("/update_weight_version", {"new_version": version})
        finally:
            self.post("/resume", {})
        if self.version() != version:
            raise WrongWeights(f"has weights {self.version()} after those of {version} were loaded")

    def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter under a new name."""
        self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter. An unknown one, as after a restart of the server, is none."""
        with suppress(ServerRefusal):
            self.post("/v1/unload_lora_adapter", {"lora_name": name})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST a JSON body and return the answer."""
        return self.request("POST", path, body)

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """Send a request and return its answer, read as JSON where it is; no proxy is used.

        Raises:
            ServerFault: no answer in time, or an error of the server's own.
            WrongWeights: the server does not have the model or adapter that the body names.
            ServerRefusal: an error of the request.
        """
        headers = {"Content-Type": "application/json"}
        if os.environ.get(API_KEY):
            headers["Authorization"] = f"Bearer {os.environ[API_KEY]}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.address}{quote(path, safe='/?=&')}", data, headers, method=method)
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=timeout or self.timeout) as response:
                content = response.read()
        except HTTPError as error:
            raise self._refusal(error, path, body) from None
        except TimeoutError:
            raise NoAnswer(f"did not answer within {timeout or self.timeout:g} s") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise NoAnswer(f"did not answer within {timeout or self.timeout:g} s") from None
            raise ServerFault(f"cannot be reached ({getattr(reason, 'strerror', None) or reason})") from None
        try:
            return json.loads(content) if content[:1] in (b"{", b"[") else content.decode()
        except ValueError:
            raise ServerFault("broke off its answer") from None

    def _refusal(self, error: HTTPError, path: str, body: dict[str, Any] | None) -> Exception:
        """What an HTTP error means: a fault of the server, other weights, or a request that it rejects."""
        try:
            text = error.read().decode(errors="replace")
        except (OSError, HTTPException):
            text = ""
        message = first_message(text) or error.reason
        if error.code >= 500 or error.code in (408, 429):
            return ServerFault(f"failed with status {error.code} ({message})")
        if error.code == 404 and path == GENERATE and "model" in (body or {}):
            return WrongWeights(f"does not have the adapter ({message})")
        if error.code in (404, 405) and "lora_adapter" in path:
            return ServerRefusal(
                f"takes no adapters ({message}); start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
        if error.code in (404, 405):
            return ServerRefusal(
                f"has no {path.partition('?')[0]}; start vLLM 0.32 or newer with --enable-scale-out and "
                "VLLM_SERVER_DEV_MODE=1 (docs/rollouts.md)"
            )
        return ServerRefusal(f"rejected {path.partition('?')[0]}: {message}")


def sampling_params(job: Job, ends: Ends) -> dict[str, Any]:
    """vLLM's parameters of sampling from the whole distribution, with the log-probability of each sampled token.

    Only the ends of training end a completion: `ignore_eos` turns off the model's own, which are among them.
    """
    params: dict[str, Any] = {
        "n": job.number,
        "seed": job.seed,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": ends.limit,
        "min_tokens": 0,
        "logprobs": 0,
        "stop_token_ids": ends.ids,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "detokenize": bool(ends.strings),
    }
    if ends.strings:
        params |= {"stop": list(ends.strings), "include_stop_str_in_output": True}
    return params


def in_order(choices: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The choices of an answer in the order of their index. Raises ServerFault unless there are `count`."""
    ordered = sorted(choices, key=lambda choice: int(choice["index"]))
    if [choice["index"] for choice in ordered] != list(range(count)):
        raise ServerFault(f"gave {len(ordered)} completions instead of {count}")
    return ordered


def read_choice(choice: dict[str, Any], ends: Ends) -> Completion:
    """A completion of an answer. Raises ServerFault if it is cut short, or lacks a log-probability."""
    tokens, entries = choice["token_ids"] or [], (choice["logprobs"] or {}).get("content") or []
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise ServerFault(f"ended a completion by {reason!r} after {len(tokens)} tokens")
    if not 1 <= len(tokens) <= ends.limit or (reason == "length" and len(tokens) < ends.limit):
        raise ServerFault(
            f"gave a completion of {len(tokens)} tokens, ended by {reason!r}, at a limit of {ends.limit}"
        )
    if reason == "stop" and not ends.strings and tokens[-1] not in ends.ids:
        raise ServerFault(f"ended a completion at the token {tokens[-1]}, which ends none")
    if [entry["token_id"] for entry in entries] != tokens:
        raise ServerFault(f"gave {len(entries)} log-probabilities for {len(tokens)} tokens, or those of others")
    logp = [float(entry["logprob"]) for entry in entries]
    if not all(isinstance(token, int) and 0 <= token < ends.vocabulary for token in tokens):
        raise ServerFault(f"gave a token outside of the vocabulary of {ends.vocabulary}")
    if not all(math.isfinite(value) and value <= ABOVE_ZERO for value in logp):
        raise ServerFault("gave a log-probability that is above 0 or not finite")
    return Completion(tokens, [min(value, 0.0) for value in logp], reason == "stop")


def check_version(choices: Sequence[dict[str, Any]], version: str) -> None:
    """Raise WrongWeights unless every token of the choices was sampled with this version of the weights."""
    for choice in choices:
        spans = choice["weight_versions"] or []
        covered = sum(span["end"] - span["start"] for span in spans)
        others = sorted({span["version"] for span in spans} - {version})
        if others:
            raise WrongWeights(f"sampled with the weights {', '.join(others)} instead of {version}")
        if covered != len(choice["token_ids"]):
            raise ServerFault("does not say with which weights it sampled; use vLLM 0.32 or newer")


def first_message(text: str) -> str:
    """The message in the body of an error, as one line."""
    try:
        content = json.loads(text)
        content = content.get("error", content) if isinstance(content, dict) else content
        text = content.get("message", text) if isinstance(content, dict) else str(content)
    except ValueError:
        pass
    return " ".join(str(text).split())[:300]
