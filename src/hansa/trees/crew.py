"""Threads that share out a kernel's work.

Kernels are compiled without the interpreter lock, so plain threads run them side by side. numba's own parallel loops were
slower here (a region costs more than a small level's work), compile for seconds, and their barriers spin where other
processes want the cores. Two locks hand work over faster than a pool's queue and future do.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
from numba import njit, types

Work = Callable[[int, int, int], object]


LOOKS = 300
"""Looks at a flag before a thread goes to sleep: waking up costs more, above all on a virtual machine, than the gap between
two kernels of a level."""

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@njit(cache=True, nogil=True, error_model="numpy")
def _await(flag, value, looks):  # type: ignore[no-untyped-def]
    """Look at flag[0] until it is `value`, at most so many times. The call between two looks makes each read memory anew."""
    for _ in range(looks):
        if flag[0] == value:
            return
        _sched_yield()


class _Hand:
    """One more thread: runs what it is given, one thing at a time."""

    def __init__(self) -> None:
        self._given = np.zeros(1, np.int64)
        self._finished = np.zeros(1, np.int64)
        self._go = threading.Lock()
        self._done = threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._work: Work | None = None
        self._part = (0, 0, 0)
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="crew", daemon=True).start()

    def _run(self) -> None:
        count = 0
        while True:
            count += 1
            _await(self._given, count, LOOKS)
            self._go.acquire()
            if self._work is None:
                return
            try:
                self._work(*self._part)
            except BaseException as error:  # raised again by `wait`, in the thread that shares out
                self._error = error
            self._finished[0] = count
            self._done.release()

    def start(self, work: Work, part: tuple[int, int, int]) -> None:
        self._work, self._part, self._error = work, part, None
        self._given[0] += 1
        self._go.release()

    def wait(self) -> BaseException | None:
        _await(self._finished, self._given[0], LOOKS)
        self._done.acquire()
        return self._error

    def dismiss(self) -> None:
        self._work = None
        self._go.release()


def _dismiss(hands: list[_Hand]) -> None:
    for hand in hands:
        hand.dismiss()


class Crew:
    """So many threads, the calling one included. Only one thread may share out at a time.

    Attributes:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._hands = [_Hand() for _ in range(threads - 1)]
        weakref.finalize(self, _dismiss, self._hands)

    def share(self, work: Work, count: int) -> None:
        """Call work(thread, first, last) for consecutive ranges that make up 0 to count, at the same time.

        Returns when all are done; an error in any is raised here.
        """
        parts = min(self.threads, count)
        if parts <= 1:
            if count:
                work(0, 0, count)
            return
        edges = [count * part // parts for part in range(parts + 1)]
        hands = self._hands[: parts - 1]
        for part, hand in enumerate(hands, 1):
            hand.start(work, (part, edges[part], edges[part + 1]))
        try:
            work(0, edges[0], edges[1])
        finally:
            errors = [error for hand in hands if (error := hand.wait()) is not None]
        if errors:
            raise errors[0]
