"""Count the operations for which the host waits on a GPU, in code that runs on the CPU."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result, or the size of it, the host needs before it can go on.
WAITING = {"nonzero", "masked_select", "equal"}
WAITING |= {"_unique2", "unique_dim", "unique_consecutive", "_unique", "unique_dim_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# Methods that read memory; on the CPU without an operation that a dispatch mode would see.
READING = {"item", "tolist", "numpy", "cpu", "__int__", "__float__", "__bool__", "__index__", "__contains__"}
CREATING = {"tensor", "as_tensor", "from_numpy"}  # copies from memory that is not pinned


class DeviceWaits(TorchDispatchMode):
    """Counts the waits by name of the operation while it is active.

    Data that is moved from the host is not told from data that stays there; `torch.tensor` and the like are counted
    as `from_host`, which do not wait for what the device is doing where they are given pinned memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._reads = _HostReads(self.count)

    def __enter__(self) -> "DeviceWaits":
        self._reads.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._reads.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name in INDEXING and has_mask(args[1])):
            self.count[name] += 1
        if name == "repeat_interleave" and func._overloadname == "Tensor" and kwargs.get("output_size") is None:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All waits, without `from_host`."""
        return sum(count for name, count in self.count.items() if name != "from_host")


class _HostReads(TorchFunctionMode):
    def __init__(self, count: Counter[str]) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READING:
            self.count[name] += 1
        elif name in CREATING:
            self.count["from_host"] += 1
        return func(*args, **(kwargs or {}))


def has_mask(indices: Any) -> bool:
    """Whether one of the indices is a mask, of which the device must count the True entries."""
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
