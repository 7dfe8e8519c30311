"""A function that is recorded once and replayed on the same memory."""

import pytest
import torch

from llm.inference.replay import Replay, record_cuda_graph


def call_again(call):
    result = call()
    return (lambda: result.copy_(call())), result


def test_a_replay_has_the_result_for_the_arguments_of_each_call():
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([10.0])
    replay = Replay(lambda a, b: a * b, (first, second), call_again)
    assert replay(first, second).tolist() == [10, 20]
    result = replay(torch.tensor([3.0, 4.0]), torch.tensor([2.0]))
    assert result.tolist() == [6, 8]
    assert replay(first, first[:1]) is result  # the same memory
    assert first.tolist() == [1, 2]  # the caller's tensors are not changed
    with pytest.raises(ValueError, match="shorter"):
        replay(first)


@pytest.mark.gpu
def test_a_cuda_graph_repeats_a_function():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    numbers = torch.arange(4.0, device="cuda")
    replay = Replay(lambda a: (a * 2).cumsum(0), (numbers,), record_cuda_graph)
    for tensor in (numbers, numbers + 5):
        assert torch.equal(replay(tensor), (tensor * 2).cumsum(0))
