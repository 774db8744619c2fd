"""A worker pool covers every item once, at the same time, and reports errors."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.trees.worker_pool import WorkerPool, send_start
from waiting import HANG_S


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 40))
def test_every_item_is_done_once_by_one_thread(threads, count):
    done = [0] * count
    parts = []

    def work(thread, first, last, start_signal):
        send_start(start_signal)
        parts.append(thread)
        for item in range(first, last):
            done[item] += 1

    WorkerPool(threads).share(work, count)
    assert done == [1] * count
    assert sorted(parts) == list(range(min(threads, count)))


def test_parts_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=HANG_S)

    def work(thread, first, last, start_signal):
        send_start(start_signal)
        meeting.wait()

    pool = WorkerPool(3)
    for _ in range(3):
        pool.share(work, 3)


def test_work_that_does_not_ring_is_done_too():
    done = []
    WorkerPool(3).share(lambda thread, first, last, start_signal: done.append(thread), 3)
    assert sorted(done) == [0, 1, 2]


def test_a_pool_is_used_again_with_less_work_than_threads_and_after_sleep():
    pool, done = WorkerPool(4), []
    for count in (1, 2, 4, 3, 0, 4):
        time.sleep(0.01)
        pool.share(lambda thread, first, last, start_signal: done.extend(range(first, last)), count)
    assert sorted(done) == sorted([*range(1), *range(2), *range(4), *range(3), *range(4)])


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_any_part_is_raised(broken):
    def work(thread, first, last, start_signal):
        if thread == broken:
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        WorkerPool(2).share(work, 2)
