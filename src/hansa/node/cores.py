"""How many threads are worth while on this machine."""

from __future__ import annotations

import os
import time
from functools import cache

import numpy as np

from hansa.trees.histogram import STRIDE, build_histograms_parallel, layout_of
from hansa.trees.worker_pool import WorkerPool

TRIAL_ROWS, TRIAL_COLUMNS, TRIAL_REPEATS = 20_000, 30, 7
GAIN = 0.9
"""More threads are taken where they need at most this share of the time."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def useful_threads() -> int:
    """The number of threads, up to `cores`, with which a histogram is built fastest here; tried out once, in some milliseconds.

    Virtual cores may be halves of one: two threads that sum then take longer than one. The model does not depend on it.
    """
    codes = (np.arange(TRIAL_ROWS * TRIAL_COLUMNS, dtype=np.uint32) * 2_654_435_761 >> 24).astype(np.uint8)
    codes = codes.reshape(TRIAL_ROWS, TRIAL_COLUMNS)
    layout = layout_of(np.arange(TRIAL_COLUMNS + 1) * STRIDE, np.arange(TRIAL_COLUMNS, dtype=np.uint32))
    rows, packed = np.arange(TRIAL_ROWS, dtype=np.uint16), np.ones((1, TRIAL_ROWS), np.int64)
    start, end = np.zeros((1, 1), np.int64), np.full((1, 1), TRIAL_ROWS)
    best, chosen, threads = np.inf, 1, 1
    while threads <= cores():
        pool = WorkerPool(threads)
        sums = np.empty((threads, layout.scratch), np.int64)
        out = np.empty((1, 1, layout.cells), np.int64)
        seconds = np.inf
        for _ in range(TRIAL_REPEATS):
            began = time.perf_counter()
            build_histograms_parallel(
                codes, layout.columns, layout.offsets, layout.stride, rows, start, end, packed, sums, out, pool
            )
            seconds = min(seconds, time.perf_counter() - began)
        if seconds <= GAIN * best:
            best, chosen = seconds, threads
        threads *= 2
    return chosen
