"""Threads that share out a kernel's work.

Kernels are compiled without the interpreter lock, so plain threads run them side by side. numba's own parallel loops were
slower here (a region costs more than a small level's work), compile for seconds, and their barriers spin where other
processes want the cores.

What a hand-over costs is waking up, and waiting for the interpreter's lock while another thread holds it. So a thread looks
for work some time before it sleeps, and the signs that it looks for are given by compiled code, which holds no lock: work has begun
when the kernel of the calling thread *sends the start signal*, its first act, and is finished when the other thread looks for
more. Roles that
work in turn in one process share a worker pool: idle threads of others would take the cores by looking.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit, types

StartSignal = npt.NDArray[np.int64]

Work = Callable[[int, int, int, StartSignal], object]
"""work(thread, first, last, start_signal): what it does first, in compiled code, is to send the start signal."""

SPIN_LIMIT = 6000
"""Reads of a sign before a thread goes to sleep: waking up costs more, above all on a virtual machine, than
the gap between two kernels of a level. Between two reads it offers its core to others."""

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def no_start_signal() -> StartSignal:
    """A start signal that nobody waits for."""
    return np.zeros(1, np.int64)


@njit(cache=True, nogil=True, error_model="numpy")
def send_start(start_signal):  # type: ignore[no-untyped-def]
    """Let the other threads begin. start_signal: int64 (1,)."""
    start_signal[0] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _await(sign, value, spin_limit):  # type: ignore[no-untyped-def]
    """Look at sign[0] until it is `value`, at most so many times. The call between two reads makes each read memory anew."""
    for _ in range(spin_limit):
        if sign[0] == value:
            return
        _sched_yield()


@njit(cache=True, nogil=True, error_model="numpy")
def _report_and_await(reported, sign, value, spin_limit):  # type: ignore[no-untyped-def]
    """reported[0] = value - 1, then as `_await`."""
    reported[0] = value - 1
    _await(sign, value, spin_limit)


class _Worker:
    """One more thread: runs what it is given, one thing at a time, once the start signal has come."""

    def __init__(self, start_signal: StartSignal) -> None:
        self._start_signal = start_signal
        self._finished = np.zeros(1, np.int64)
        self._go = threading.Lock()
        self._done = threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._work: Work | None = None
        self._part = (0, 0, 0)
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="worker pool", daemon=True).start()

    def _run(self) -> None:
        count, unused = 0, no_start_signal()
        while True:
            count += 1
            _report_and_await(self._finished, self._start_signal, count, SPIN_LIMIT)
            self._go.acquire()
            if self._work is None:
                return
            try:
                self._work(*self._part, unused)
            except BaseException as error:  # raised again by `wait`, in the thread that shares out
                self._error = error
            self._done.release()

    def start(self, work: Work | None, part: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Give it work; None ends the thread."""
        self._work, self._part, self._error = work, part, None
        self._go.release()

    def wait(self, count: int) -> BaseException | None:
        """Until it has finished the count-th thing."""
        _await(self._finished, count, SPIN_LIMIT)
        self._done.acquire()
        return self._error


def _dismiss(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.start(None)


class WorkerPool:
    """So many threads, the calling one included. Only one thread may share out at a time.

    Attributes:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start_signal = no_start_signal()
        self._count = 0
        self._workers = [_Worker(self._start_signal) for _ in range(threads - 1)]
        weakref.finalize(self, _dismiss, self._workers)

    def share(self, work: Work, count: int) -> None:
        """Call work(thread, first, last, start_signal) for consecutive ranges that make up 0 to count, at the same time.

        Returns when all are done; an error in any is raised here.
        """
        parts = min(self.threads, count)
        if parts <= 1:
            if count:
                work(0, 0, count, no_start_signal())
            return
        edges = [count * part // parts for part in range(parts + 1)]
        self._count += 1
        for part, worker in enumerate(self._workers, 1):
            # A thread that gets nothing takes part all the same: all count alike.
            worker.start(
                work if part < parts else _nothing, (part, edges[min(part, parts - 1)], edges[min(part + 1, parts)])
            )
        try:
            work(0, edges[0], edges[1], self._start_signal)
        finally:
            if self._start_signal[0] < self._count:
                send_start(self._start_signal)
            errors = [error for worker in self._workers if (error := worker.wait(self._count)) is not None]
        if errors:
            raise errors[0]


ALONE = WorkerPool(1)
"""No other thread."""


def _nothing(*_: object) -> None:
    """The work of a thread for which there is none."""
