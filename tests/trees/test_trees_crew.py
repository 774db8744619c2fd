"""A crew covers every item once, at the same time, and reports errors."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.trees.crew import Crew


@given(st.integers(1, 5), st.integers(0, 40))
def test_every_item_is_done_once_by_one_thread(threads, count):
    done = [0] * count
    parts = []

    def work(thread, first, last):
        parts.append(thread)
        for item in range(first, last):
            done[item] += 1

    Crew(threads).share(work, count)
    assert done == [1] * count
    assert sorted(parts) == list(range(min(threads, count)))


def test_parts_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)
    Crew(3).share(lambda *_: meeting.wait(), 3)


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_any_part_is_raised(broken):
    def work(thread, first, last):
        if thread == broken:
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        Crew(2).share(work, 2)
