"""How many kernels were compiled: the first run on a machine compiles them for most of a minute, later runs load them.

A kernel is a function of this package that numba compiles. Only kernels that are compiled are counted, not those that
come from numba's cache on disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from numba.core import event

MOST: Mapping[bool, int] = MappingProxyType({False: 72, True: 48})
"""Whether a run is on secret shares -> the most kernels that it compiles, metrics of held-out rows included."""


class _Counter(event.Listener):  # type: ignore[misc]
    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._compiled: set[str] = set()

    def on_start(self, event: event.Event) -> None:
        """A kernel is not in the cache: say so before the first is ready."""
        if _is_kernel(event):
            self._report(len(self._compiled))

    def on_end(self, event: event.Event) -> None:
        if _is_kernel(event):
            kernel = event.data["dispatcher"].py_func
            self._compiled.add(f"{kernel.__module__}.{kernel.__qualname__}")
            self._report(len(self._compiled))


def _is_kernel(event: event.Event) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).partition(".")[0] == "hansa"


@contextlib.contextmanager
def counted(report: Callable[[int], None]) -> Iterator[None]:
    """Call `report` with the number of kernels compiled so far, each time numba begins or ends one."""
    counter = _Counter(report)
    event.register("numba:compile", counter)
    try:
        yield
    finally:
        event.unregister("numba:compile", counter)
