"""A member's record of a run: a JSON file that is there from the start of the process, and says how the run ended, also when it failed.

It is replaced when the process starts, so that the record of an earlier run is never taken for this one's, and written anew at every
stage: whole or not at all, mode 0600. A process that is killed leaves the last stage, with the state "joining" or "running".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hansa.consortium.identity import fingerprint
from hansa.errors import HansaError, OutputError
from hansa.files import read_whole, write_whole
from hansa.node import logs
from hansa.node.config import MemberFile
from hansa.version import __version__

STATES = ("joining", "running", "finished", "failed", "interrupted")


REWRITE_S = 10.0
"""Seconds at least between two writings of a record while trees grow."""


Counts = Callable[[], Mapping[str, int]]
"""What left so far: `bytes_up`, `bytes_down`, and how many bytes of it masked, sealed or in the clear."""


class RunRecord:
    """One member's record, while its process runs. Made by `keeping`.

    Attributes:
        content: what stands in it.
    """

    def __init__(self, path: Path | None, content: dict[str, Any]) -> None:
        self.content = content
        self._path = path
        self._counts: Counts = dict
        self._written_at = 0.0
        self.write()

    def count(self, counts: Counts) -> None:
        """From now on the record says what left so far, as `counts` gives it."""
        self._counts = counts

    def stage(self, stage: str, trees: int, run: bytes) -> None:
        """Note how far the run is. Where the file cannot be written now, the run goes on, and the log says so."""
        news = stage != self.content.get("stage")
        self.content |= {"state": "running", "stage": stage, "run": run.hex() or None, "trees": trees}
        if news or time.monotonic() - self._written_at > REWRITE_S:
            self._try_to_write()

    def end(self, state: str, **more: Any) -> dict[str, Any]:
        """Write the record for the last time; the record."""
        self.content |= {**more, "state": state, "ended": logs.moment(time.time())}
        if state == "finished":
            self.write()
        else:
            self._try_to_write()
        return self.content

    def write(self) -> None:
        """Write the file, where there is to be one. Raises OutputError."""
        self.content |= self._counts()
        self._written_at = time.monotonic()
        if self._path is not None:
            write_whole(self._path, (json.dumps(self.content, indent=2) + "\n").encode())

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OutputError as error:
            logs.note(logging.WARNING, f"the record is not up to date: {error}")


@contextlib.contextmanager
def keeping(path: Path | None, about: Mapping[str, Any]) -> Iterator[RunRecord]:
    """A record from now on; an error that passes is noted in it.

    Args:
        path: of the file, or None for none. about: what is known before the run: member, roles, plan.

    Raises OutputError where the record cannot be written at the start, or at the end of a run that succeeded.
    """
    start = {
        "hansa": __version__,
        **about,
        "state": "joining",
        "stage": None,
        "run": None,
        "trees": 0,
        "started": logs.moment(time.time()),
        "ended": None,
        "error": None,
    }
    record = RunRecord(path, start)
    try:
        yield record
    except HansaError as error:
        record.end("failed", error={"kind": type(error).__name__, "text": str(error), "retry": error.retry})
        raise
    except KeyboardInterrupt as interrupt:
        text = f"this process was stopped ({interrupt or 'SIGINT'})"
        record.end("interrupted", error={"kind": "Interrupted", "text": text, "retry": True})
        raise
    except BaseException as fault:
        record.end("failed", error={"kind": type(fault).__name__, "text": str(fault), "retry": False})
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(read_whole(path)).hexdigest()


FRAMING = "names and positions of sums, lengths, keys with their signatures and confirmations, the model's hash"


CLEAR = {
    "federated": f"numbers of rows, every sum; {FRAMING}",
    "secure-aggregation": f"numbers of rows; {FRAMING}",
}
"""What a party sends without a mask, by mode."""


def about(member: MemberFile) -> dict[str, Any]:
    """What a record says before the run: who this is, and the digests that other members compare."""
    return {
        "member": member.identity.name,
        "plan": member.plan.digest().hex(),
        "plan_file": file_sha256(member.plan_path),
        "mode": member.plan.mode,
        "identity": fingerprint(member.identity.public),
        "members": member.members.digest().hex(),
    }
