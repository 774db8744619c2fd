"""Audit logs that pages show: what was checked is kept, and what was added since is checked.

A log that was changed below the place up to which it was checked is found by a check of the whole. There is one

* at the first look of this process, and when the members file names other keys;
* when the file is another one (device and inode), is shorter, or was written to without becoming longer (times of its content and of
  its inode);
* when what stood last in the part that was checked, its signed head, stands there no more;
* when the last one is `FULL_S` ago;
* always before somebody is told that the log holds, and before it is compared or signed.

So somebody who adds to a log and alters it below in one write is found within `FULL_S`, and before anything is signed of it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hansa.consortium.audit_checks import CheckedLog, LogCheck
from hansa.consortium.audit_log import MOST_LOG_BYTES
from hansa.consortium.members import Members
from hansa.errors import OutputError

FULL_S = 3600.0
"""Seconds after which a log is checked as a whole again, at the next look."""

TIP_BYTES = 4096
"""Of the end of the part that was checked, held to what stands there now; a signed head has fewer."""


@dataclass
class _Kept:
    """What is known of one log.

    Attributes:
        check: of the first `size` bytes. digest: of the members that it was checked under. file: device and inode. times: of the last
            change of content and inode, in nanoseconds. tip: the last bytes of the part. at: when it was checked as a whole.
    """

    check: LogCheck
    digest: bytes
    file: tuple[int, int]
    times: tuple[int, int]
    size: int
    tip: bytes
    at: float


@dataclass
class CheckedLogs:
    """The logs of one console's pages.

    Args:
        clock: seconds that only grow. Attributes: full, added: how often a whole log, and what was added to one, was checked.
    """

    clock: Callable[[], float] = time.monotonic
    full: int = 0
    added: int = 0
    _kept: dict[Path, _Kept] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, path: Path, members: Members, *, whole: bool = False) -> CheckedLog:
        """The log as it is now, checked: all of it, or what was added since.

        Args:
            whole: whether all of it is checked whatever is known.

        Raises:
            OutputError, StateError, IdentityError: as `audit_checks.check_log`; then nothing is kept of it.
        """
        with self._lock:
            kept = self._kept.pop(path, None)
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH)  # who writes has ended a signed head then
                    stat = os.fstat(file.fileno())
                    goes_on = kept is not None and not whole and self._goes_on(kept, file.fileno(), stat, members)
                    start = kept.size if kept is not None and goes_on else 0
                    content = os.pread(file.fileno(), min(stat.st_size, MOST_LOG_BYTES) - start, start)
            except OSError as error:
                raise OutputError(f"{path}: cannot be read ({error.strerror}); name a member's log") from error
            if kept is None or not goes_on:
                kept = _Kept(LogCheck(path, members), members.digest(), (0, 0), (0, 0), 0, b"", self.clock())
                self.full += 1
                kept.check.take(content)
            elif content:
                self.added += 1
                kept.check.take(content)
            kept.file, kept.times = (stat.st_dev, stat.st_ino), (stat.st_mtime_ns, stat.st_ctime_ns)
            kept.size += len(content)
            kept.tip = (kept.tip + content)[-TIP_BYTES:]
            self._kept[path] = kept
            return kept.check.log()

    def _goes_on(self, kept: _Kept, file: int, stat: os.stat_result, members: Members) -> bool:
        """Whether what is kept is of the beginning of this file, as far as that can be told without reading all of it."""
        same_file = kept.file == (stat.st_dev, stat.st_ino) and kept.digest == members.digest()
        untouched = kept.times == (stat.st_mtime_ns, stat.st_ctime_ns) and kept.size == stat.st_size
        grown = stat.st_size > kept.size
        if not same_file or not (untouched or grown) or self.clock() - kept.at > FULL_S:
            return False
        return os.pread(file, len(kept.tip), kept.size - len(kept.tip)) == kept.tip
