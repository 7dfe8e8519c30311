"""Threads that share the rows of a batch."""

import threading

import pytest
import torch

from chem.parallel.threads import MIN_ROWS, RowThreads


@pytest.mark.parametrize(
    ("rows", "threads", "count"), [(10, 4, 1), (MIN_ROWS, 4, 1), (2 * MIN_ROWS, 4, 2), (1000, 4, 4), (1000, 1, 1)]
)
def test_each_thread_has_enough_rows(rows, threads, count):
    with RowThreads(rows, threads) as row_threads:
        assert row_threads.count == count
        parts = row_threads.split(torch.arange(rows))
        assert len(parts) == count
        assert torch.cat(parts).tolist() == list(range(rows))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_order_whichever_thread_is_first(threads):
    weight = torch.ones(1, requires_grad=True)
    later_parts_done = threading.Event()

    def function(part, factor):
        if threads > 1 and part[0] == 0:
            assert later_parts_done.wait(10)  # the first part ends last
        if part[-1] == 99:
            later_parts_done.set()
        return part * factor * weight, threading.current_thread().name, torch.get_num_threads()

    with RowThreads(100, threads) as row_threads:
        parts = row_threads.split(torch.arange(100))
        results = row_threads.map(function, parts, [10] * threads)
    assert torch.cat([values for values, _, _ in results]).tolist() == [10 * i for i in range(100)]
    assert not any(values.requires_grad for values, _, _ in results)
    assert (parts[0] * weight).requires_grad  # control: outside the threads there is a gradient
    if threads > 1:
        assert all(name.startswith("core") for _, name, _ in results)
        assert {count for _, _, count in results} == {1}


def test_an_error_in_a_part_is_raised():
    with RowThreads(100, 3) as row_threads, pytest.raises(ZeroDivisionError):
        row_threads.map(lambda part: 1 // int(part[0]), row_threads.split(torch.arange(100)))
