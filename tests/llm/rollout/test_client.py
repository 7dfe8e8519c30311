"""Requests to a server of vLLM, beside a stand-in that speaks its protocol."""

import time

import pytest

from llm.rollout.client import Client, Completion, Ends, Job, ServerFault, ServerRefusal, WrongWeights, first_message

from .stand_in import EOS, StandIn

ENDS = Ends([EOS], (), 4, 300)
JOB = Job([1, 2, 3], 3, 11)
FAULTS = {
    "closed": "cannot be reached",
    "hangs": r"did not answer within 0\.3 s",
    "broken off": "broke off|cannot be reached",
    "status 500": r"failed with status 500 \(EngineCore encountered an issue\.\)",
    "fewer completions": "gave 2 completions instead of 3",
    "fewer log-probabilities": "gave 1 log-probabilities for 2 tokens",
    "no log-probabilities": "gave 0 log-probabilities for 2 tokens",
    "aborted": "ended a completion by 'abort' after 2 tokens",
    "cut": "gave a completion of 1 tokens, ended by 'length', at a limit of 4",
    "no end": "ended a completion at the token 7, which ends none",
    "not finite": "gave a log-probability that is above 0",
    "no versions": "does not say with which weights it sampled",
    "no choices": r"gave an answer of another form \(KeyError",
}


@pytest.fixture
def server():
    with StandIn() as stand_in:
        stand_in.version = "w-1"
        yield stand_in


def test_a_request_asks_for_the_whole_distribution_and_keeps_the_log_probabilities(server):
    assert Client(server.address, 5).generate(JOB, ENDS, "w-1") == [Completion([65, EOS], [-1.5, -0.25], True)] * 3
    ((path, body),) = server.calls
    assert path == "/inference/v1/generate"
    assert body["token_ids"] == [1, 2, 3]
    asked = body["sampling_params"]
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    neutral |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}
    assert {name: asked[name] for name in neutral} == neutral
    assert (asked["n"], asked["seed"], asked["max_tokens"], asked["logprobs"]) == (3, 11, 4, 0)
    assert (asked["stop_token_ids"], asked["ignore_eos"]) == ([EOS], True)
    assert "stop" not in asked
    Client(server.address, 5).generate(JOB, ENDS._replace(strings=("!",)), "w-1")
    asked = server.calls[-1][1]["sampling_params"]
    assert (asked["stop"], asked["include_stop_str_in_output"], asked["detokenize"]) == (["!"], True, True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(server, fault):
    server.faults = [fault]
    client = Client(server.address, 0.3)
    with pytest.raises(ServerFault, match=FAULTS[fault]):
        client.generate(JOB, ENDS, "w-1")
    assert len(client.generate(JOB, ENDS, "w-1")) == 3  # control: the next request is in order


def test_a_server_that_is_not_there(server):
    with pytest.raises(ServerFault, match=r"cannot be reached \(Connection refused\)"):
        Client("http://127.0.0.1:1", 5).version()
    assert not Client("http://127.0.0.1:1", 5).healthy()
    assert Client(server.address, 5).healthy()


def test_other_weights_are_no_ordinary_fault(server):
    server.faults = ["other weights"]
    client = Client(server.address, 5)
    with pytest.raises(WrongWeights, match="sampled with the weights other instead of w-1"):
        client.generate(JOB, ENDS, "w-1")
    server.restart()
    with pytest.raises(WrongWeights, match="sampled with the weights default instead of w-1"):
        client.generate(JOB, ENDS, "w-1")


def test_a_request_that_is_rejected(server):
    client = Client(server.address, 5)
    server.faults = ["status 400"]
    with pytest.raises(ServerRefusal, match="rejected /inference/v1/generate: The prompt is too long"):
        client.generate(JOB, ENDS, "w-1")
    with pytest.raises(ServerRefusal, match=r"has no /unknown; start vLLM 0\.32 or newer with --enable-scale-out"):
        client.post("/unknown?a=b", {})


def test_weights_are_loaded_while_nothing_is_sampled_and_caches_are_cleared(server):
    client = Client(server.address, 5)
    client.load_weights("/dev/shm/w", "w-2")
    assert server.paths() == [
        *("/pause", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume", "/weight_info"),
    ]
    assert (server.weights, server.version, server.paused) == ("/dev/shm/w", "w-2", False)
    assert client.version() == "w-2"
    assert client.program() == "0.32.0"
    assert Client("http://127.0.0.1:1", 5).program() is None
    client.generate(JOB, ENDS, "w-2")


def test_adapters_are_loaded_by_name(server):
    client = Client(server.address, 5)
    with pytest.raises(WrongWeights, match="does not have the adapter"):
        client.generate(JOB, ENDS, "a-1", "a-1")
    client.load_adapter("a-1", "/dev/shm/a")
    assert len(client.generate(JOB, ENDS, "a-1", "a-1")) == 3
    client.unload_adapter("a-1")
    client.unload_adapter("a-1")  # unknown by now
    assert server.adapters == {}
    server.answer = lambda path, body: (404, {"detail": "Not Found"})
    with pytest.raises(
        ServerRefusal, match=r"takes no adapters .*start it with --enable-lora and VLLM_ALLOW_RUNTIME"
    ):
        client.load_adapter("a-2", "/dev/shm/a")


def test_a_key_of_vllm_is_sent(server, monkeypatch):
    server.answer = lambda path, body: (401, {"error": "Unauthorized"})
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with pytest.raises(ServerRefusal, match="rejected /weight_info: Unauthorized") as error:
        Client(server.address, 5).version()
    assert "secret" not in str(error.value)


def test_messages_of_servers_become_one_line():
    for body, expected in (
        ('{"error": {"message": "a\\nb"}}', "a b"),
        ('{"message": "a"}', "a"),
        ('{"detail": "x"}', '{"detail": "x"}'),
        ("<html>\n no", "<html> no"),
        ("", ""),
    ):
        assert first_message(body) == expected


def test_a_slow_answer_within_the_time_is_no_fault(server):
    server.delay, start = 0.2, time.monotonic()
    Client(server.address, 5).generate(JOB, ENDS, "w-1")
    assert time.monotonic() - start > 0.2
