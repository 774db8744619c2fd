"""Where a receiver puts the model: in its place, and where that cannot be written, somewhere else rather than nowhere."""

from __future__ import annotations

import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hansa.errors import OutputError
from hansa.files import write_whole
from hansa.node import logs

ENDINGS = ("", ".json")
"""What a model's file may end in. By the ending XGBoost tells in which form a file is: what it reads as UBJSON must not hold JSON."""

RETRY_S = 5.0
"""Seconds between two attempts to write a model that fits nowhere."""


def check_ending(what: str, path: Path | None) -> None:
    """Refuse a model's file whose ending says another form than JSON. `what` is the option or key that names it. Raises OutputError."""
    if path is not None and path.suffix.lower() not in ENDINGS:
        raise OutputError(
            f"{what}: {path} ends in {path.suffix!r}; a model is written as JSON: name a file that ends in .json"
        )


def save_model(
    path: Path,
    model: bytes,
    others: Iterable[Path],
    wait_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write a model that a run gave. It is in this process only, so it is not let go of easily.

    Where `path` cannot be written, the folders `others` and the system's folder for temporary files are tried; where none takes it,
    all are tried again, for `wait_s` seconds.

    Raises OutputError: the model is not at `path`; the text says where it is, or that it is lost.
    """
    left = wait_s
    while True:
        try:
            write_whole(path, model)
            return
        except OutputError as error:
            refused = error
        for folder in (*others, *_spare()):
            spare = folder / f"{path.stem}-{secrets.token_hex(4)}{path.suffix}"
            try:
                write_whole(spare, model)
            except OutputError:
                continue
            raise OutputError(
                f"{refused}. The run is over and the model is kept in {spare}: move it to its place",
                retry=refused.retry,
            )
        if left <= 0:
            raise OutputError(f"{refused}. No other folder took the model either: it is lost, run again", retry=True)
        pause = min(RETRY_S, left)
        left -= pause
        logs.note(logging.WARNING, f"{refused}. The model is kept in memory; trying again for {left + pause:.0f} s")
        sleep(pause)


def _spare() -> Iterator[Path]:
    """The system's folder for temporary files, where any takes files."""
    with contextlib.suppress(OSError):
        yield Path(tempfile.gettempdir())
