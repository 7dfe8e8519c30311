"""The matrix products of a step, and the time that they take alone, below which no step with these products gets."""

import math
import statistics
import time
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"}  # of aten; attention kernels are not among them
RUNS = 5  # of each product, whose median counts


class Layout(NamedTuple):
    """Shape and strides of a matrix, or of a batch of them."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def make(self) -> Tensor:
        """A tensor with random entries."""
        tensor = torch.empty_strided(self.shape, self.strides)
        return tensor.copy_(torch.randn(self.shape))


class Product(NamedTuple):
    """The two factors of a product."""

    left: Layout
    right: Layout

    def flops(self) -> int:
        """Floating-point operations, two for a multiplication and its addition."""
        return 2 * math.prod(self.left.shape) * self.right.shape[-1]


class CountProducts(TorchDispatchMode):
    """Counts the matrix products that run while the mode is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in PRODUCTS:
            left, right = args[-2:]
            self.counts[Product(layout(left), layout(right))] += 1
        elif torch.is_inference_mode_enabled():  # where linear and matmul arrive whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


def layout(tensor: Tensor) -> Layout:
    """Shape and strides of a tensor."""
    return Layout(tuple(tensor.shape), tuple(tensor.stride()))


def total_flops(counts: Counter[Product]) -> int:
    """Floating-point operations of all products."""
    return sum(product.flops() * count for product, count in counts.items())


def seconds_alone(counts: Counter[Product]) -> float:
    """Seconds that the products take one after another, without anything else of the step, on random matrices."""
    with torch.no_grad():
        return sum(_seconds(product) * count for product, count in counts.items())


def _seconds(product: Product) -> float:
    left, right = product.left.make(), product.right.make()
    multiply = torch.mm if left.dim() == 2 else torch.bmm
    out = multiply(left, right)  # also a warm-up
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        multiply(left, right, out=out)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
