"""A function that is recorded once and replayed on the same memory: CUDA graphs.

A replay starts all kernels of the function at once, without Python. The tensors that change from call to call are
copied into buffers whose addresses the recording holds.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


class Replay:
    """A recorded function of tensors whose shapes do not change.

    Args:
        function: called while it is recorded, once before that, and never afterwards. What it writes into other
            tensors must be the same when it is called twice.
        arguments: of the first call.
        record: records a call, and returns a function that repeats it and the tensor that holds the result.
    """

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Tensor, ...], record: Recorder) -> None:
        self.arguments = tuple(argument.clone() for argument in arguments)
        self.replay, self.result = record(lambda: function(*self.arguments))

    def __call__(self, *arguments: Tensor) -> Tensor:
        """The result for arguments of the same shapes. The next call overwrites it."""
        for own, argument in zip(self.arguments, arguments, strict=True):
            own.copy_(argument)
        self.replay()
        return self.result


def record_cuda_graph(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A recorder for GPUs. Before the recording a call on a stream of its own loads and chooses kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result
