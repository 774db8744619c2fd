"""What a console reads and writes: this member's service, the database of its runs, proposals that came, and the console's own file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hansa.console.book import Book
from hansa.console.checked_logs import CheckedLogs
from hansa.consortium.audit_checks import LogReport
from hansa.data.facts import ALIKE
from hansa.errors import HansaError
from hansa.node.proposals import Listed
from hansa.service.config import Consortium, ServiceFile, read_service_file
from hansa.service.seen_members import require_going_on
from hansa.service.store import ServiceRun, Store

PAGE_ROWS = 50
"""Rows of a list on one page."""

LEAST_ROWS = 5
"""Rows that are behind what is shown of values: a bar, a category, an end of a range, a mean; fewer are left out or joined."""

LOOK_AGAIN_S = 1.0
"""Seconds before a file that was wrong is read again, though it has not changed."""

_ROW = re.compile(r"\brow \d+")
_WORDS = re.compile(r"expected (?:a readable table|one SELECT statement [^;]*?), found: ")
"""Before what another program says of a table or of a query, in its own words."""
_AGAIN = re.compile(r"; it is started again in [\d.]+ s$")
_FEATURES = re.compile(r"(?:features?|label) '")
_PAIRS = re.compile(r"(?<=^many rows are equal, label included): two of them are in \d+% of all pairs(?=\. )")
_COARSE = "float32 cannot hold its values apart"
_ON_MACHINE = "`hansa check` says on this member's machine"


class NotThere(HansaError):
    """What a page was asked for is not at this member."""


class Paging(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of a list is shown: the page from 1, how many there are, and rows in all."""

    page: int
    pages: int
    rows: int


@dataclass(frozen=True)
class Asked:
    """What a page was asked for: values of its path and of its query, by name."""

    values: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """The value of this name; empty where there is none."""
        return self.values.get(name, "")

    def paging(self, rows: int) -> Paging:
        """The part of a list of so many rows that was asked for by `page`; the nearest that there is."""
        pages = max(1, -(-rows // PAGE_ROWS))
        text = self.get("page")
        asked = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 1
        return Paging(page=min(max(asked, 1), pages), pages=pages, rows=rows)


def without_cells(text: str) -> str:
    """What was found wrong with a table, without the cell that it quotes, and all after it: no row is shown here.

    A sentence that names a row is cut before what was found there, and so are words of another program, which may quote a cell.
    """
    words, row = _WORDS.search(text), _ROW.search(text)
    if words is None and row is None:
        return text
    again = _AGAIN.search(text)
    end = row.end() if row is not None else len(text)
    cuts = [words.end() - len(", found: ")] if words is not None else []
    if row is not None:
        found = text.find(", found ", end)
        cuts.append(end if found < 0 else found)
    return f"{text[: min(cuts)]}; what stands there {_ON_MACHINE}{again[0] if again else ''}"


def warning_without_cells(text: str) -> str:
    """What is allowed of a table but probably not meant, without its values: of a column which, and what where no value tells it."""
    if _FEATURES.match(text):
        return text  # names of columns alone
    if _PAIRS.search(text):
        return _PAIRS.sub("", text)
    name, found, _ = text.partition("': ")
    column = f"{name}': " if found and name.startswith("column '") else ""
    if column and text.endswith(ALIKE):
        return f"{column}texts {ALIKE}; which, {_ON_MACHINE}"
    name, found, _ = text.partition(f": {_COARSE}")
    if found:
        return f"{without_cells(name)}: {_COARSE}; which, {_ON_MACHINE}"
    return f"{column}something that is probably not meant; what, {_ON_MACHINE}"


def shown_run(run: ServiceRun) -> ServiceRun:
    """A run as pages show it: what happened last is told without a cell of this member's table."""
    return msgspec.structs.replace(run, text=without_cells(run.text))


def first_row(paging: Paging) -> int:
    """The place of a page's first row, from 0."""
    return (paging.page - 1) * PAGE_ROWS


@dataclass
class Member:
    """One member's own state.

    Attributes:
        file: its service's file, as it was read last. store: the database of runs. book: accounts and actions of the console.
        verified: by consortium the length of its log when somebody had it checked last, and what was found. logs: as pages check them.
        fault: why the files as they are now are not taken, or empty: then `file` is what was taken before.
        listed: by consortium the proposals that were brought here, and the state of the files that they were read from.
    """

    file: ServiceFile
    store: Store
    book: Book
    verified: dict[str, tuple[int, LogReport]] = field(default_factory=dict)
    listed: dict[str, tuple[tuple[object, ...], Listed]] = field(default_factory=dict)
    logs: CheckedLogs = field(default_factory=CheckedLogs)

    fault: str = field(init=False, default="")
    _read: tuple[tuple[int, ...], ...] = field(init=False, default=())
    _looked: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._read = self.file.stamps()

    @property
    def service(self) -> ServiceFile:
        """The service's file as it is now: read anew where it, or a members file that it names, was changed since."""
        changed = self.file.stamps()
        if changed != self._read or (self.fault and time.monotonic() - self._looked >= LOOK_AGAIN_S):
            self._read, self._looked = changed, time.monotonic()
            try:
                new = read_service_file(self.file.path, open_keys=False)
                held = {own.name: own.members for own in self.file.consortia}
                for own in new.consortia:
                    if own.name in held:
                        require_going_on(own.members, held[own.name], own.members_path)
            except HansaError as error:  # half written, or wrong: the service does not take it either
                self.fault = str(error)
            else:
                self.file, self.fault = new, ""
        return self.file

    @property
    def name(self) -> str:
        """This member's name, in its first consortium."""
        return self.service.consortia[0].identity.name

    def proposals(self, consortium: Consortium) -> Path:
        """The folder of proposals of one consortium."""
        return self.service.proposals_of(consortium)

    def reports(self) -> Path:
        """The folder of signed reports that were made here."""
        return self.service.state / "reports"
