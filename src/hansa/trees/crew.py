"""Threads that share out a kernel's work.

Kernels are compiled without the interpreter lock, so plain threads run them side by side. numba's own parallel loops were
slower here (a region costs more than a small level's work), compile for seconds, and their barriers spin where other
processes want the cores.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Crew:
    """So many threads, the calling one included.

    Attributes:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="crew") if threads > 1 else None

    def share(self, work: Callable[[int, int, int], object], count: int) -> None:
        """Call work(thread, first, last) for consecutive ranges that make up 0 to count, at the same time.

        Returns when all are done; an error in any is raised here.
        """
        parts = min(self.threads, count)
        if self._pool is None or parts <= 1:
            if count:
                work(0, 0, count)
            return
        edges = [count * part // parts for part in range(parts + 1)]
        others = [self._pool.submit(work, part, edges[part], edges[part + 1]) for part in range(1, parts)]
        try:
            work(0, edges[0], edges[1])
        finally:
            for other in others:
                other.result()
