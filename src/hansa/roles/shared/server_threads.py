"""A compute server's threads: `mpc.threads.Threads` from the pool that parties compute with."""

from __future__ import annotations

from hansa.mpc.threads import ALONE, Threads, Work
from hansa.trees.worker_pool import StartSignal, WorkerPool, send_start


class PoolThreads:
    """The threads of a worker pool. Only one thread may share out at a time."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def share(self, work: Work, count: int) -> None:
        """See `mpc.threads.Threads`."""

        def part(_thread: int, first: int, last: int, start_signal: StartSignal) -> None:
            send_start(start_signal)
            work(first, last)

        self._pool.share(part, count)


def threads_of(pool: WorkerPool) -> Threads:
    """A server's threads: those of the pool, or none but its own."""
    return PoolThreads(pool) if pool.threads > 1 else ALONE
