"""Threads of one core each, which share the rows of a batch."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

MIN_ROWS = 32  # per thread: with fewer rows a matrix product is not faster

T = TypeVar("T")


class RowThreads:
    """Computes parts of a batch in parallel.

    Torch's own threads within a product of a small recurrent network spend more time waiting for each other than
    working, all the more beside the oracle's processes. Here each thread works on its own rows. Results do not depend
    on which thread is faster.

    Args:
        rows: number of rows in a batch.
        threads: largest number of threads; each gets at least `MIN_ROWS` rows.
    """

    def __init__(self, rows: int, threads: int) -> None:
        self.count = max(min(rows // MIN_ROWS, threads), 1)
        self._pool = ThreadPoolExecutor(self.count, "core", torch.set_num_threads, (1,)) if self.count > 1 else None

    def __enter__(self) -> "RowThreads":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def split(self, rows: Tensor) -> list[Tensor]:
        """Split [N, ...] into `count` parts."""
        return list(rows.tensor_split(self.count))

    def map(self, function: Callable[..., T], *parts: Iterable[Any]) -> list[T]:
        """Apply a function to each part, without gradient; the results are in the order of the parts."""

        def without_gradient(*part: Any) -> T:
            with torch.no_grad():  # the gradient mode is set per thread
                return function(*part)

        if self._pool is None:
            return list(map(without_gradient, *parts))
        return list(self._pool.map(without_gradient, *parts))
