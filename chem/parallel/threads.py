"""Threads of one core each, among which the rows of a batch are shared."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

ROWS = 32  # of a share, at least: with fewer a product is no longer faster

T = TypeVar("T")


class RowThreads:
    """Computes shares of a batch side by side.

    Within a product of a small recurrent network torch's own threads wait for each other more than they work, and the
    more so beside the oracle's processes; here each thread works through its own rows alone. Results do not depend on
    which thread is faster.

    Args:
        rows: of the batch.
        threads: of them, at most; shares are of at least `ROWS` rows.
    """

    def __init__(self, rows: int, threads: int) -> None:
        self.count = max(min(rows // ROWS, threads), 1)
        self._pool = ThreadPoolExecutor(self.count, "core", torch.set_num_threads, (1,)) if self.count > 1 else None

    def __enter__(self) -> "RowThreads":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def share(self, rows: Tensor) -> list[Tensor]:
        """[N, ...] in `count` parts."""
        return list(rows.tensor_split(self.count))

    def map(self, function: Callable[..., T], *parts: Iterable[Any]) -> list[T]:
        """function of each part, without gradient, in their order."""

        def plain(*part: Any) -> T:
            with torch.no_grad():  # the setting is each thread's own
                return function(*part)

        if self._pool is None:
            return list(map(plain, *parts))
        return list(self._pool.map(plain, *parts))
