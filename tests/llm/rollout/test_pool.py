"""Jobs divided among servers, and what happens when one fails."""

from contextlib import ExitStack

import pytest

from llm.rollout.base import RolloutFailed
from llm.rollout.client import Ends, Job
from llm.rollout.pool import Servers, Weights, divide

from .stand_in import EOS, StandIn

ENDS = Ends([EOS], (), 4, 300)
FIRST = Weights("w-1", "/dev/shm/one", False, None)
FAULTS = ("closed", "hangs", "broken off", "status 500", "fewer completions", "aborted", "cut", "other weights")


@pytest.fixture
def two(monkeypatch):
    """Two servers, and the warnings about them."""
    monkeypatch.setattr("llm.rollout.pool.FIRST_PAUSE", 0.01)
    warnings: list[str] = []
    with ExitStack() as stack:
        stand_ins = [stack.enter_context(StandIn(echo)) for _ in range(2)]
        addresses = [stand_in.address for stand_in in stand_ins]
        servers = Servers(addresses, [], timeout=1.0, start_seconds=5, retries=2, warn=warnings.append)
        stack.callback(servers.close)
        servers.start()
        servers.load(FIRST)
        yield servers, stand_ins, warnings


def echo(body, weights):
    """Completions that show the prompt and the seed of each."""
    params = body["sampling_params"]
    return [([body["token_ids"][0], params["seed"] + i, EOS], [-1.0, -2.0, -3.0], "stop") for i in range(params["n"])]


def test_jobs_cover_a_batch_and_servers_have_about_as_much():
    groups = [([1], 100), ([2], 200)]
    assert divide(groups, 3, 1) == [Job([1], 3, 100), Job([2], 3, 200)]
    assert divide([([1], 100)], 5, 2) == [Job([1], 3, 100), Job([1], 2, 103)]
    assert [job.number for job in divide([([1], 0)], 200, 1)] == [64, 64, 64, 8]
    for servers in (1, 2, 3, 50):
        jobs = divide(groups, 7, servers)
        seeds = [job.seed + i for job in jobs for i in range(job.number)]
        assert seeds == [*range(100, 107), *range(200, 207)]  # whatever the number of servers


def test_both_servers_sample_in_the_order_of_the_batch(two):
    servers, stand_ins, warnings = two
    completions = servers.sample([([1], 100), ([2], 200)], 4, ENDS)
    assert [c.tokens[:2] for c in completions] == [[p, 100 * p + i] for p in (1, 2) for i in range(4)]
    assert all("/inference/v1/generate" in stand_in.paths() for stand_in in stand_ins)
    assert warnings == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_is_repeated_with_the_same_seeds(two, fault):
    """On the other server; one that had other weights, or lost its own, gets those of the policy again."""
    servers, (first, _), warnings = two
    expected = servers.sample([([1], 100)], 8, ENDS)
    first.faults = [fault]
    assert servers.sample([([1], 100)], 8, ENDS) == expected
    (warning,) = warnings
    assert warning.startswith(f"the server {first.address} ")
    assert warning.endswith("; the request is repeated")
    assert (first.paths().count("/collective_rpc") == 2) == (fault == "other weights")


def test_a_server_that_was_restarted_gets_the_weights_again(two):
    servers, (first, second), warnings = two
    first.restart()
    assert len(servers.sample([([1], 100)], 8, ENDS)) == 8
    assert (first.version, first.weights) == ("w-1", "/dev/shm/one")
    assert "sampled with the weights default instead of w-1" in warnings[0]
    assert second.paths().count("/collective_rpc") == 1


def test_adapters_have_names_and_the_previous_one_is_dropped(two):
    servers, (first, second), warnings = two
    servers.load(Weights("a-1", "/dev/shm/a1", True, None))
    servers.load(Weights("a-2", "/dev/shm/a2", True, "a-1"))
    assert first.adapters == second.adapters == {"a-2": "/dev/shm/a2"}
    servers.sample([([1], 100)], 8, ENDS)
    assert {body["model"] for path, body in first.calls + second.calls if path.endswith("generate")} == {"a-2"}
    first.restart()
    assert len(servers.sample([([1], 100)], 8, ENDS)) == 8
    assert first.adapters == {"a-2": "/dev/shm/a2"}
    assert "does not have the adapter" in warnings[0]


def test_after_all_attempts_the_failure_is_one_line(two):
    servers, stand_ins, warnings = two
    for stand_in in stand_ins:
        stand_in.faults = ["status 500"] * 9
    with pytest.raises(RolloutFailed) as error:
        servers.sample([([1], 100)], 1, ENDS)
    message = str(error.value)
    assert message.startswith("rollout: the server http://127.0.0.1:")
    assert "failed with status 500 (EngineCore encountered an issue.); " in message
    assert message.endswith("start it again and run the same command to resume")
    assert "\n" not in message
    assert len(warnings) == 2  # three attempts


def test_what_a_server_rejects_is_not_repeated(two):
    servers, (first, second), warnings = two
    first.faults = second.faults = ["status 400"]
    with pytest.raises(RolloutFailed, match="rejected /inference/v1/generate: The prompt is too long"):
        servers.sample([([1], 100)], 1, ENDS)
    assert warnings == []


def test_weights_that_a_server_does_not_take_stop_the_run(two):
    servers, (_, second), warnings = two
    answer = second.answer
    second.answer = lambda path, body: (500, "") if path == "/collective_rpc" else answer(path, body)
    with pytest.raises(RolloutFailed, match=f"rollout: the server {second.address} failed with status 500"):
        servers.load(FIRST._replace(version="w-2"))
    assert not second.paused  # it goes on with what it has
    assert len(warnings) == 2
