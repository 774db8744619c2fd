"""`hansa plan`: write and show a plan, propose it, review, approve, reject or withdraw, join approvals, list, compare two plans."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hansa.cli.identity import with_identity
from hansa.cli.option_types import EXISTING, PATH, Names, Objective, TablePath
from hansa.data.schema import DECIMAL_SIGNS
from hansa.plan import MODES
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.consortium.approvals import Proposal
    from hansa.consortium.identity import Identity

MEMBERS = click.option(
    "--members",
    "members_file",
    type=EXISTING,
    required=True,
    help="The consortium's file, or a members file whose identities you compared.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
TO_SERVICE = click.option(
    "--service",
    "service_file",
    type=EXISTING,
    help="This member's service's file: the service keeps it too, and brings it to the others where the file names `exchange`.",
)


@click.group()
def plan() -> None:
    """Write, show and compare plans; propose, review, approve, reject and withdraw them."""


@plan.command()
@click.argument("name")
@click.argument("tables", nargs=-1, type=TablePath())
@MEMBERS
@click.option(
    "--member", "own_files", type=EXISTING, multiple=True, help="A party's own file, with table or source; repeatable."
)
@click.option(
    "--label", "labels", required=True, multiple=True, metavar="COLUMN", help="Column to predict; repeatable."
)
@click.option(
    "--mode", type=click.Choice(MODES), default="secure-aggregation", show_default=True, help="How rows are protected."
)
@click.option("--hub", help="The aggregator; in coopetitive mode the hub.")
@click.option("--servers", type=Names(), help="Coopetitive: the three compute servers, such as a,b,c.")
@click.option("--parties", type=Names(), help="Who has rows, such as a,b; default: all members but the aggregator.")
@click.option("--receivers", type=Names(), help="Who gets the model file; default: all parties.")
@click.option("--objective", type=Objective(), help="What is predicted; default: what the label looks like.")
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True, help="Rounds of boosting.")
@click.option(
    "--decimal",
    type=click.Choice(DECIMAL_SIGNS),
    default=".",
    show_default=True,
    help="Decimal sign of numbers that are texts.",
)
@click.option(
    "--union", is_flag=True, help="Federated: texts may be what any party's table holds, in place of what TABLES hold."
)
@click.option("--save", type=PATH, required=True, help="Where to write the plan.")
def new(
    name: str,
    tables: tuple[Path, ...],
    members_file: Path,
    own_files: tuple[Path, ...],
    labels: tuple[str, ...],
    mode: str,
    hub: str | None,
    servers: tuple[str, ...] | None,
    parties: tuple[str, ...] | None,
    receivers: tuple[str, ...] | None,
    objective: str | None,
    rounds: int,
    decimal: str,
    union: bool,
    save: Path,
) -> None:
    """Write a plan NAME, of the consortium's members and of the columns that TABLES have."""
    from hansa.consortium.versions import read_pinned
    from hansa.errors import PlanError
    from hansa.files import check_outputs, write_whole
    from hansa.node.plan_draft import Roles, draft
    from hansa.node.schema_proposal import propose_schema

    check_outputs({"--save": save}, {"--members": members_file})
    if save.exists():
        raise PlanError(f"{save}: is there already; name another file for a new plan")
    schema = propose_schema(tables, own_files, labels=labels, decimal=decimal, ranges=False)
    roles = Roles(hub, servers, parties, receivers)
    made = draft(name, mode, read_pinned(members_file), roles, schema, objective, rounds, union)
    write_whole(save, made.text.encode("utf-8"), private=False)
    for note in made.notes:
        click.echo(printable(note))
    click.echo(printable(f"{save}: read it, change it, and look at it with `hansa plan show`"))


@plan.command()
@click.argument("plan", type=EXISTING)
@AS_JSON
def show(plan: Path, as_json: bool) -> None:
    """Check PLAN; print its digest, which all members must share, what it says, and who can read what under it."""
    from hansa.node import plan_report
    from hansa.node.config import read_agreed
    from hansa.node.events import line_of
    from hansa.node.record import file_sha256 as sha256

    read, _ = read_agreed(plan)
    if as_json:
        click.echo(line_of(plan_report.report(read, sha256(plan))))
    else:
        click.echo(plan_report.text(read, str(plan), sha256(plan)))


@plan.command()
@click.argument("before", type=EXISTING)
@click.argument("after", type=EXISTING)
@AS_JSON
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Print the keys in which the plans BEFORE and AFTER differ; exit status 1 where there are some."""
    from hansa.node.config import read_agreed
    from hansa.node.consent import Changes, changes_of, changes_text
    from hansa.node.events import line_of

    found = changes_of(read_agreed(before)[0], read_agreed(after)[0])
    if as_json:
        click.echo(line_of(Changes(found)))
    elif found:
        click.echo(changes_text(found))
    if found:
        sys.exit(1)


@plan.command()
@click.argument("plan", type=EXISTING)
@MEMBERS
@with_identity
@click.option(
    "--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long it may be approved and run."
)
@click.option("--save", type=PATH, required=True, help="Where to write the proposal.")
@TO_SERVICE
def propose(
    plan: Path, members_file: Path, identity: Identity, days: int, save: Path, service_file: Path | None
) -> None:
    """Make a proposal of PLAN, which every member with a role approves; the proposer's own approval is in it."""
    from hansa.consortium.approvals import propose
    from hansa.consortium.versions import read_pinned
    from hansa.files import check_outputs
    from hansa.plan import read_plan
    from hansa.service.proposals import save_proposal

    check_outputs({"--save": save}, {"PLAN": plan, "--members": members_file})
    made = propose(read_plan(plan), read_pinned(members_file), identity, days)
    save_proposal(save, made)
    _hand_over(made, str(save), service_file)
    click.echo(printable(f"{save}: proposal {made.digest.hex()}; send it to {', '.join(made.missing) or 'nobody'}"))


@plan.command()
@click.argument("proposal", type=EXISTING)
@MEMBERS
@click.option(
    "--member", "member_file", type=EXISTING, help="This member's own file: its conditions are held to the plan."
)
@click.option(
    "--rejection", "rejections", type=EXISTING, multiple=True, help="A rejection that came from another member."
)
@click.option("--last", type=EXISTING, help="The plan, or proposal, that was approved last: what differs is printed.")
@AS_JSON
def review(
    proposal: Path,
    members_file: Path,
    member_file: Path | None,
    rejections: tuple[Path, ...],
    last: Path | None,
    as_json: bool,
) -> None:
    """Check PROPOSAL and its signatures; print who has approved, who would learn what, and which of your conditions it meets."""
    from hansa.consortium.approvals import read_proposal, read_rejection
    from hansa.consortium.versions import read_pinned
    from hansa.node import consent
    from hansa.node.check import conditions_of
    from hansa.node.config import read_agreed
    from hansa.node.events import line_of

    read = read_proposal(proposal, read_pinned(members_file))
    rules = None if member_file is None else conditions_of(member_file, read.plan)
    refusals = [read_rejection(path, read) for path in rejections]
    found = consent.review(read, refusals, rules, None if last is None else read_agreed(last)[0])
    click.echo(line_of(found) if as_json else consent.text(found, read.plan))


@plan.command()
@click.argument("proposal", type=EXISTING)
@MEMBERS
@with_identity
@click.option(
    "--member",
    "member_file",
    type=EXISTING,
    help="This member's own file: a plan that its conditions refuse is not signed.",
)
@click.option("--save", type=PATH, help="Where to write the proposal with the approval; default: PROPOSAL itself.")
@TO_SERVICE
def approve(
    proposal: Path,
    members_file: Path,
    identity: Identity,
    member_file: Path | None,
    save: Path | None,
    service_file: Path | None,
) -> None:
    """Sign PROPOSAL for this member. Read `hansa plan review` first."""
    from hansa.consortium.approvals import approve, read_proposal
    from hansa.consortium.versions import read_pinned
    from hansa.errors import PlanError
    from hansa.node.check import conditions_of
    from hansa.service.proposals import save_proposal

    read = read_proposal(proposal, read_pinned(members_file))
    if member_file is not None:
        broken = [rule for rule in conditions_of(member_file, read.plan) if not rule.met]
        if broken:
            raise PlanError(
                f"{proposal}: {member_file} does not allow this plan: {broken[0].text} ({broken[0].key}); reject it, or change the "
                "policy",
                rule=broken[0].key,
            )
    signed = save_proposal(save or proposal, approve(read, identity))
    _hand_over(signed, str(save or proposal), service_file)
    left = f"still to approve: {', '.join(signed.missing)}" if signed.missing else "all have approved: it may run"
    click.echo(printable(f"{save or proposal}: approved; {left}"))


@plan.command()
@click.argument("proposal", type=EXISTING)
@MEMBERS
@with_identity
@click.option("--reason", required=True, help="Why, for the others to read.")
@click.option("--save", type=PATH, required=True, help="Where to write the signed rejection, which goes to the others.")
@TO_SERVICE
def reject(
    proposal: Path, members_file: Path, identity: Identity, reason: str, save: Path, service_file: Path | None
) -> None:
    """Write a signed statement that this member does not approve PROPOSAL."""
    from hansa.consortium.approvals import read_proposal, reject
    from hansa.consortium.versions import read_pinned
    from hansa.files import check_outputs, write_whole

    check_outputs({"--save": save}, {"PROPOSAL": proposal})
    read = read_proposal(proposal, read_pinned(members_file))
    write_whole(save, reject(read, identity, reason), private=False)
    _hand_over(read, str(proposal), service_file, save)
    click.echo(printable(f"{save}: rejected; send it to {', '.join(read.plan.members)}"))


@plan.command()
@click.argument("proposal", type=EXISTING)
@MEMBERS
@with_identity
@click.option("--reason", required=True, help="Why, for the others to read.")
@click.option(
    "--save", type=PATH, required=True, help="Where to write the signed withdrawal, which goes to the others."
)
@TO_SERVICE
def withdraw(
    proposal: Path, members_file: Path, identity: Identity, reason: str, save: Path, service_file: Path | None
) -> None:
    """Take back this member's approval of PROPOSAL: members that have the file in their `withdrawals` folder do not run it."""
    from hansa.consortium.approvals import read_proposal, withdraw
    from hansa.consortium.versions import read_pinned
    from hansa.files import check_outputs, write_whole

    check_outputs({"--save": save}, {"PROPOSAL": proposal})
    read = read_proposal(proposal, read_pinned(members_file))
    write_whole(save, withdraw(read, identity, reason), private=False)
    _hand_over(read, str(proposal), service_file, save)
    click.echo(printable(f"{save}: withdrawn; do not start the run, and send this to {', '.join(read.plan.members)}"))


@plan.command("list")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option(
    "--members", "members_file", type=EXISTING, help="The consortium's file, or a members file: for a FOLDER."
)
@click.option(
    "--service", "service_file", type=EXISTING, help="This member's service's file: its plans, in place of a FOLDER."
)
@AS_JSON
def list_(folder: Path | None, members_file: Path | None, service_file: Path | None, as_json: bool) -> None:
    """List the proposals in FOLDER, or of a service: who approved and who rejected each, and what it became."""
    from hansa.node.events import line_of

    if (members_file is None) == (service_file is None) or (service_file is not None and folder is not None):
        raise click.UsageError(
            "give --members for the proposals of a FOLDER, or --service alone for those of a service"
        )
    if members_file is not None:
        from hansa.consortium.versions import read_pinned
        from hansa.node.proposals import list_proposals

        found = list_proposals(folder or Path(), read_pinned(members_file))
        click.echo(line_of(found) if as_json else "\n".join(found.lines()))
        return
    from hansa.cli import output
    from hansa.service.config import read_service_file
    from hansa.service.plan_list import plans_of
    from hansa.service.store import Store

    assert service_file is not None
    file = read_service_file(service_file, open_keys=False)
    with contextlib.closing(Store(file.name, file.state, file.database)) as store:
        plans = plans_of(file, store)
    if as_json:
        output.print_line(plans)
        return
    for each in plans.refused:
        click.echo(printable(f"REFUSED {each.text}"))
    output.print_tables("" if plans.plans else "no plan", [plans.table()] if plans.plans else [])


@plan.command()
@click.argument("proposals", nargs=-1, required=True, type=EXISTING)
@MEMBERS
@click.option("--save", type=PATH, required=True, help="Where to write the proposal with all approvals.")
def join(proposals: tuple[Path, ...], members_file: Path, save: Path) -> None:
    """Join the approvals in several copies of one proposal."""
    from hansa.consortium.approvals import joined, read_proposal
    from hansa.consortium.versions import read_pinned
    from hansa.service.proposals import save_proposal

    members = read_pinned(members_file)
    whole = save_proposal(save, joined(*(read_proposal(path, members) for path in proposals)))
    left = f"still to approve: {', '.join(whole.missing)}" if whole.missing else "all have approved: it may run"
    click.echo(printable(f"{save}: approved by {', '.join(sorted(whole.signatures))}; {left}"))


def _hand_over(proposal: Proposal, where: str, service_file: Path | None, rejection: Path | None = None) -> None:
    """Have this member's service keep a proposal as it was signed here, and a rejection of it; nothing where no service is named.

    where: the proposal's file, for errors; it may have changed since.
    """
    if service_file is None:
        return
    from hansa.consortium.envelopes import written
    from hansa.files import read_whole
    from hansa.service.config import read_service_file
    from hansa.service.inbox import proposal_in
    from hansa.service.proposals import keep_proposal, take

    service = read_service_file(service_file, open_keys=False)
    kept, consortium = proposal_in(written(proposal.envelope), where, service)
    folder = service.proposals_of(consortium)
    keep_proposal(folder, consortium, kept)
    if rejection is not None:
        take(folder, consortium, read_whole(rejection), str(rejection))
