"""What a long-running command says on standard error: lines for people, or JSON objects for programs, each with its time.

The lines come from the standard library's `logging` under the name "hansa". They pass rich's console, so that a progress bar moves
out of their way, and `printable`, so that nobody else's text does anything to the terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from hansa.printable import printable

LOG = logging.getLogger("hansa.run")

EVENT = "hansa_event"
"""Name of a log record's attribute with the event that only the JSON form shows."""


def moment(seconds: float) -> str:
    """A time, in seconds since 1970, as ISO 8601 in UTC to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def note(level: int, text: str, event: msgspec.Struct | None = None) -> None:
    """Log one line; the fields of `event` are shown in the JSON form only."""
    LOG.log(level, "%s", text, extra={EVENT: event})


class TextLines(logging.Formatter):
    """`2026-11-30T12:00:00.000Z INFO text`; of a service's run, its name stands before the text."""

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = f"[{run}] " if run else ""

    def format(self, record: logging.LogRecord) -> str:
        """One line; of an unexpected exception, its kind and text."""
        return printable(f"{moment(record.created)} {record.levelname} {self._run}{_text(record)}")


class JsonLines(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "text": ..., and the fields of this line}`; of a service's run, "run" is its name."""

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = {"run": run} if run else {}

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII: JSON escapes what a terminal would take for a command."""
        event = getattr(record, EVENT, None)
        fields = {} if event is None else msgspec.to_builtins(event)
        own = {
            "time": moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": _text(record),
        }
        return json.dumps({**fields, **self._run, **own}, default=str)


def _text(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[1] is not None:
        return (
            f"{record.getMessage()}: {record.exc_info[0].__name__ if record.exc_info[0] else ''}: {record.exc_info[1]}"
        )
    return record.getMessage()


class _OnConsole(logging.Handler):
    def __init__(self, console: Console, formatter: logging.Formatter) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.out(self.format(record), highlight=False)
        except Exception:  # a log line must not end a run
            self.handleError(record)


@contextlib.contextmanager
def logging_to(console: Console, log_format: str, log_level: str, run: str = "") -> Iterator[None]:
    """Send everything that Hansa logs to a console, as "text" or "json", from this level upwards; `run`: of a service."""
    logger = logging.getLogger("hansa")
    handler = _OnConsole(console, JsonLines(run) if log_format == "json" else TextLines(run))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(log_level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
