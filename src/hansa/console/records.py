"""Records: this member's audit log, what people did at this console, and one run out of the log: checked, compared, reported."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hansa.console.actions import Done, Form, Offered
from hansa.console.book import Action
from hansa.console.member import PAGE_ROWS, Asked, Member, NotThere, Paging, first_row, shown_run
from hansa.console.runs import run_of
from hansa.console.signing import asks_passphrase, signer
from hansa.consortium.audit_checks import (
    CheckedLog,
    Comparison,
    LogReport,
    checked,
    compare_logs,
    entries_of,
    find_run,
    report_of,
)
from hansa.consortium.audit_page import STYLE, check_page, compare_page, export_run, is_page
from hansa.consortium.audit_table import told
from hansa.errors import HansaError, PlanError
from hansa.files import make_folder, read_whole, write_whole
from hansa.service.config import Consortium
from hansa.service.store import ServiceRun

RECENT = 20
"""Actions that stand on Records itself; their own page has all."""

_FILE = "the file"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
REPORT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of a report: its own style, by its hash, and nothing else."""


class LogShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log of one consortium's runs.

    Attributes:
        consortium: whose. file: its name. bytes: how long it is; 0 where no run began yet.
        verified: what was found when somebody had it checked last, as long as the log has the same length; None before.
    """

    consortium: str
    file: str
    bytes: int
    verified: LogReport | None


class RecordsView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Records shows: the logs, runs that stand in them (the newest first), and what people did here of late."""

    logs: tuple[LogShown, ...]
    runs: tuple[ServiceRun, ...]
    paging: Paging
    actions: tuple[Action, ...]


class ActionsView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What people did at this console, the newest first. broken: the number of the first action that was altered; 0 where none was."""

    actions: tuple[Action, ...]
    paging: Paging
    broken: int


class EntryShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the log: its place from 1, when it was written, and in words what happened and of what."""

    place: int
    at: str
    what: str
    text: str


class RunRecordView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run as the log has it, which was checked for this page (`checked_logs` says how far).

    Attributes:
        run: as the service keeps it. entries: of the log. report: whether a signed report was made.
        comparisons: with other members' logs and exports. passphrase: whether one is asked for to sign a report.
    """

    run: ServiceRun
    entries: tuple[EntryShown, ...]
    report: bool
    comparisons: tuple[Comparison, ...]
    passphrase: bool


def records(member: Member, asked: Asked) -> RecordsView:
    """What Records shows."""
    paging = asked.paging(member.store.count())
    found = member.store.page(first_row(paging), PAGE_ROWS)
    return RecordsView(
        logs=tuple(_log(member, consortium) for consortium in member.service.consortia),
        runs=tuple(shown_run(run) for run in found if run.id),
        paging=paging,
        actions=member.book.actions(0, RECENT),
    )


def actions(member: Member, asked: Asked) -> ActionsView:
    """A page of what people did."""
    paging = asked.paging(member.book.count_actions())
    return ActionsView(
        actions=member.book.actions(first_row(paging), PAGE_ROWS), paging=paging, broken=member.book.broken_at()
    )


def record(member: Member, asked: Asked) -> RunRecordView:
    """One run out of the log. Raises NotThere; StateError, IdentityError where the log does not hold."""
    run, consortium = _run(member, asked.get("run"))
    log = _checked_log(member, consortium, whole=False)
    return RunRecordView(
        run=run,
        entries=tuple(_shown(place, *told(entry), entry.at) for place, entry in entries_of(log, find_run(log, run.id))),
        report=_report(member, run).is_file(),
        comparisons=tuple(_comparisons(member, run)),
        passphrase=asks_passphrase(consortium),
    )


# Actions


def verify(member: Member, form: Form) -> Done:
    """Recompute a log."""
    consortium = member.service.consortium(form.get("consortium"))
    log = _checked_log(member, consortium)
    report = report_of(log, pinned=True)
    size = member.service.audit_of(consortium).stat().st_size
    member.verified[consortium.name] = (size, report)
    return Done(text=f"the log holds: {report.entries} entries, none altered", to="/records", about=report.log)


def compare(member: Member, form: Form) -> Done:
    """Hold this member's log to another member's log, or to the page of this run that the other exported."""
    run, consortium = _run(member, form.get("run"))
    if not form.file:
        raise PlanError("no file came; choose another member's log, or its report of this run")
    log, members = _checked_log(member, consortium), consortium.members
    if is_page(form.file):
        found = compare_page(log, form.file, _FILE, members)
        if found.run != run.id:
            raise PlanError(f"the file is of another run, {found.run[:16]}; choose the report of {run.id[:16]}")
    else:
        found = compare_logs(log, checked(form.file, Path(_FILE), members), run.id)
    folder = member.reports()
    make_folder(folder)
    write_whole(folder / f"{run.run}-{found.second}.json", msgspec.json.encode(found))
    agreed = f"disagree in {len(found.disagreements)}" if found.disagreements else "agree"
    text = f"{found.first} and {found.second} {agreed}: {found.compared} facts compared"
    return Done(text=text, to=f"/records/{run.run}", about=run.run)


def make_report(member: Member, form: Form) -> Done:
    """Write one run of the log as one signed page."""
    run, consortium = _run(member, form.get("run"))
    log = _checked_log(member, consortium)
    moment = datetime.now(UTC).replace(microsecond=0)
    content = export_run(log, find_run(log, run.id), signer(consortium, form.get("passphrase")), moment)
    make_folder(member.reports())
    write_whole(_report(member, run), content)
    return Done(
        text="the signed report is there; open it to print it, or save it", to=f"/records/{run.run}", about=run.run
    )


# Files


def report(member: Member, asked: Asked) -> Offered:
    """A run's signed report, as a page of its own."""
    return _offered(member, asked, REPORT_POLICY)


def report_file(member: Member, asked: Asked) -> Offered:
    """A run's signed report, to be saved."""
    return _offered(member, asked, "")


def _offered(member: Member, asked: Asked, policy: str) -> Offered:
    run, consortium = _run(member, asked.get("run"))
    try:
        content = read_whole(_report(member, run))
    except OSError as error:
        raise NotThere("no report of this run was made yet") from error
    check_page(content, _FILE, consortium.members)
    return Offered(
        name=f"{consortium.identity.name}-{run.run}.html",
        kind="text/html; charset=utf-8",
        content=content,
        policy=policy,
    )


# What is kept


def _run(member: Member, name: str) -> tuple[ServiceRun, Consortium]:
    run = run_of(member, name)
    if not run.id:
        raise NotThere(f"run {run.run} did not begin, so nothing of it stands in the log")
    return run, member.service.consortium(run.consortium)


def _checked_log(member: Member, consortium: Consortium, *, whole: bool = True) -> CheckedLog:
    path = member.service.audit_of(consortium)
    if not path.is_file():
        raise NotThere("this member has no log yet; its first run begins it")
    return member.logs.look(path, consortium.members, whole=whole)


def _log(member: Member, consortium: Consortium) -> LogShown:
    path = member.service.audit_of(consortium)
    size = path.stat().st_size if path.is_file() else 0
    known = member.verified.get(consortium.name)
    verified = known[1] if known is not None and known[0] == size else None
    return LogShown(consortium=consortium.name, file=path.name, bytes=size, verified=verified)


def _report(member: Member, run: ServiceRun) -> Path:
    return member.reports() / f"{run.run}.html"


def _comparisons(member: Member, run: ServiceRun) -> Iterator[Comparison]:
    for path in sorted(member.reports().glob(f"{run.run}-*.json")):
        if _NAME.fullmatch(path.stem.partition("-")[2]):
            with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, HansaError):
                yield msgspec.json.decode(read_whole(path), type=Comparison)


def _shown(place: int, what: str, text: str, at: str) -> EntryShown:
    return EntryShown(place=place, at=at, what=what, text=text)
