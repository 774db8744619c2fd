"""`hansa audit`: check a member's log, compare two, show what stands in one, export a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hansa.cli.identity import with_identity
from hansa.cli.option_types import EXISTING, PATH
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.consortium.audit_checks import LogReport
    from hansa.consortium.identity import Identity
    from hansa.consortium.members import Members

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
MEMBERS = click.option(
    "--members",
    "members_file",
    type=EXISTING,
    help="The members file: whose identities signatures are held to; without it a log's own.",
)


@click.group()
def audit() -> None:
    """Check the log that a member keeps of its runs, compare the logs of two members, and show what stands in one."""


def _members(path: Path | None) -> Members | None:
    from hansa.consortium.versions import read_pinned

    return None if path is None else read_pinned(path)


@audit.command()
@click.argument("log", type=EXISTING)
@MEMBERS
@AS_JSON
def verify(log: Path, members_file: Path | None, as_json: bool) -> None:
    """Recompute LOG, a member's audit log: nothing in it was altered, removed, inserted or moved, and every signature verifies.

    LOG may also be the page of a run that `hansa audit export` wrote.
    """
    from hansa.consortium.audit_checks import checked, report_of
    from hansa.consortium.audit_log import read_log
    from hansa.consortium.audit_page import ExportReport, check_page, is_page
    from hansa.node.events import line_of

    content, members = read_log(log), _members(members_file)
    report: LogReport | ExportReport
    if is_page(content):
        report = check_page(content, str(log), members)
    else:
        report = report_of(checked(content, log, members), members is not None)
    click.echo(line_of(report) if as_json else "\n".join(map(printable, report.lines())))


@audit.command()
@click.argument("first", type=EXISTING)
@click.argument("second", type=EXISTING)
@click.option("--run", required=True, help="The run's id, or its first digits.")
@MEMBERS
@AS_JSON
def compare(first: Path, second: Path, run: str, members_file: Path | None, as_json: bool) -> None:
    """Hold what the logs FIRST and SECOND of two members say of one run to each other; exit status 1 where they disagree.

    SECOND may also be the page of the run that the other member wrote by `hansa audit export`; that asks for --members.
    """
    from hansa.consortium.audit_checks import check_log, checked, compare_logs
    from hansa.consortium.audit_log import read_log
    from hansa.consortium.audit_page import compare_page, is_page
    from hansa.errors import PlanError
    from hansa.node.events import line_of

    members, content = _members(members_file), read_log(second)
    if is_page(content):
        if members is None:
            raise PlanError(f"{second}: an exported page is held to the members file; give --members")
        found = compare_page(check_log(first, members), content, str(second), members)
    else:
        found = compare_logs(check_log(first, members), checked(content, second, members), run)
    click.echo(line_of(found) if as_json else "\n".join(map(printable, found.lines())))
    if found.disagreements:
        sys.exit(1)


@audit.command()
@click.argument("log", type=EXISTING)
@click.option("--run", help="Only this run: its id, or its first digits.")
@MEMBERS
@AS_JSON
def show(log: Path, run: str | None, members_file: Path | None, as_json: bool) -> None:
    """Print the entries of LOG, once it is checked."""
    from hansa.cli import output
    from hansa.consortium.audit_checks import check_log, entries_of, find_run, report_of
    from hansa.consortium.audit_table import told
    from hansa.node.events import line_of

    checked = check_log(log, _members(members_file))
    entries = enumerate(checked.entries, 1) if run is None else entries_of(checked, find_run(checked, run))
    if as_json:
        for _, entry in entries:
            click.echo(line_of(entry))
        return
    report = report_of(checked, members_file is not None)
    rows = [(str(place), entry.at, *told(entry)) for place, entry in entries]
    output.print_tables("\n".join(report.lines()), [[("entry", "time (UTC)", "what", "of it"), *rows]])


@audit.command()
@click.argument("log", type=EXISTING)
@click.option("--run", required=True, help="The run's id, or its first digits.")
@click.option("--out", type=PATH, required=True, help="Where to write the page.")
@with_identity
def export(log: Path, run: str, identity: Identity, out: Path) -> None:
    """Write one run of LOG as one signed file that opens as a page, for an auditor; `hansa audit verify` checks it."""
    from datetime import UTC, datetime

    from hansa.consortium.audit_checks import check_log, find_run
    from hansa.consortium.audit_page import export_run
    from hansa.files import check_outputs, write_whole

    check_outputs({"--out": out}, {"LOG": log})
    checked = check_log(log)
    whole = find_run(checked, run)
    write_whole(out, export_run(checked, whole, identity, datetime.now(UTC).replace(microsecond=0)), private=False)
    click.echo(printable(f"{out}: run {whole}"))
