"""Progress bars of `hansa.fit`: tqdm in a notebook, rich on a terminal, nothing elsewhere.

The first run on a machine compiles kernels for most of a minute. A bar says so, and how many are ready.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

COMPILING = "compiling kernels (once)"


class Bar(Protocol):
    """What shows how far something is."""

    def show(self, text: str, done: int, most: int, more: str = "") -> None:
        """Show `text` and `done` of at most `most`; `more` stands behind it until there is other. Each text has its bar."""
        ...

    def close(self) -> None:
        """Nothing more will be shown."""
        ...


class NoBar:
    """Shows nothing."""

    def show(self, text: str, done: int, most: int, more: str = "") -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TerminalBar:
    """rich's bar, on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[more]}", markup=False),
            console=Console(stderr=True, markup=False, emoji=False),
        )
        self._tasks: dict[str, Any] = {}

    def show(self, text: str, done: int, most: int, more: str = "") -> None:
        """See `Bar.show`."""
        if text not in self._tasks:
            self._settle()
            self._tasks[text] = self._bar.add_task(text, total=most, more=more)
            self._bar.start()
        self._bar.update(self._tasks[text], completed=done, total=most)
        if more:
            self._bar.update(self._tasks[text], more=more)

    def _settle(self) -> None:
        """What was shown so far got no further than this: there is no more of it to wait for."""
        for task in self._bar.tasks:
            self._bar.update(task.id, total=task.completed)

    def close(self) -> None:
        """See `Bar.close`."""
        self._settle()
        self._bar.stop()


class NotebookBar:
    """tqdm's bar: a widget where the notebook has ipywidgets, a line of text elsewhere."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm warns where ipywidgets is missing; its text bar does
            from tqdm.auto import tqdm  # type: ignore[import-untyped]

        self._kind = tqdm
        self._bars: dict[str, Any] = {}

    def show(self, text: str, done: int, most: int, more: str = "") -> None:
        """See `Bar.show`."""
        if text not in self._bars:
            self._settle()
            self._bars[text] = self._kind(total=most, desc=text, leave=True)
        shown = self._bars[text]
        shown.total = most
        shown.update(done - shown.n)
        if more:
            shown.set_postfix_str(more)

    def _settle(self) -> None:
        """What was shown so far got no further than this: there is no more of it to wait for."""
        for shown in self._bars.values():
            shown.total = shown.n
            shown.refresh()

    def close(self) -> None:
        """See `Bar.close`."""
        self._settle()
        for shown in self._bars.values():
            shown.close()


@contextlib.contextmanager
def bar(shown: bool | None) -> Iterator[Bar]:
    """A bar for as long as this lasts.

    Args:
        shown: True shows one wherever this runs, False none, None one in a notebook or on a terminal only.
    """
    chosen = _bar(shown)
    try:
        yield chosen
    finally:
        chosen.close()


def _bar(shown: bool | None) -> Bar:
    if shown is False:
        return NoBar()
    if in_notebook():
        return NotebookBar()
    if sys.stderr.isatty():
        return TerminalBar()
    return NotebookBar() if shown else NoBar()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def metrics_text(metrics: Mapping[str, float | None]) -> str:
    """Metrics for people, such as `auc 0.9532`."""
    return ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in metrics.items())
