"""`hansa check`: a party's table held to the plan's schema, and what the party would send."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hansa.consortium.ledger import Ledger, spent_under, split_under
from hansa.consortium.policy import PolicyRule
from hansa.data.columns import each
from hansa.data.files import is_parquet, open_by_column
from hansa.data.query import DatabaseQuery, Query, Source
from hansa.data.schema import Schema
from hansa.data.source import CheckReport, ColumnSummary, SchemaViolation, check_rows, report_of
from hansa.data.streamed import open_rows
from hansa.engines.settings import DiskSettings
from hansa.errors import PlanError
from hansa.exposure import exposure, exposure_lines, notes_on_rows, released
from hansa.node.config import MemberFile, read_member_file, read_policy
from hansa.node.files import check_files
from hansa.node.memory import Memory, memory_of
from hansa.node.plan_report import Opened, opened_under
from hansa.node.sent import BESIDE, SentKind, sent_under
from hansa.plan import COOPETITIVE, Plan, read_plan
from hansa.printable import printable, size
from hansa.roles.batches import told_of


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a feature's column holds (`data.source.ColumnSummary`); None for the least, mean and greatest value where there is none."""

    name: str
    missing: int
    distinct: int
    rarest: int
    minimum: float | None
    mean: float | None
    maximum: float | None


class TableReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa check --json` prints.

    Attributes:
        ok: whether a party could join with this table, as far as is known.
        file, rows, violations, warnings, features: of the table. mode, plan, receivers: of the plan.
        sent: what the party would send. exposure: who can read what. release: what the model tells of leaves.
        notes: what the party might change in the plan. openings: what is opened.
        rules: conditions of the party's own file, held to this plan and table; None where no file was given.
        memory: what the party's process takes of memory; None in coopetitive mode.
    """

    ok: bool
    file: str
    rows: int
    violations: tuple[SchemaViolation, ...]
    warnings: tuple[str, ...]
    features: tuple[Column, ...]
    mode: str
    plan: str
    sent: tuple[SentKind, ...]
    exposure: tuple[str, ...]
    release: tuple[str, ...]
    notes: tuple[str, ...]
    openings: tuple[Opened, ...]
    receivers: tuple[str, ...]
    rules: tuple[PolicyRule, ...] | None
    memory: Memory | None


@dataclass(frozen=True)
class TableCheck:
    """The table's report, and what would be sent under the plan."""

    plan: Plan
    table: CheckReport
    sent: tuple[SentKind, ...]
    rules: tuple[PolicyRule, ...] | None = None
    """Conditions of the party's own file, held to this plan and table; None where no file was given."""
    memory: Memory | None = None

    @property
    def ok(self) -> bool:
        """Whether a party could join with this table, as far as is known."""
        return self.table.ok and all(rule.met for rule in self.rules or ())

    @property
    def notes(self) -> tuple[str, ...]:
        """What this party might change in the plan; it can join all the same."""
        trained = self.table.n_rows - round(self.table.n_rows * self.plan.evaluation_fraction)
        return notes_on_rows(self.plan, trained)

    def report(self) -> TableReport:
        """For programs."""
        table, plan = self.table, self.plan
        return TableReport(
            ok=self.ok,
            file=table.file,
            rows=table.n_rows,
            violations=table.violations,
            warnings=table.warnings,
            features=tuple(_column(feature) for feature in table.features),
            mode=plan.mode,
            plan=plan.digest().hex(),
            sent=self.sent,
            exposure=exposure(plan),
            release=released(plan),
            notes=self.notes,
            openings=opened_under(plan),
            receivers=plan.receivers,
            rules=self.rules,
            memory=self.memory,
        )

    def text(self) -> str:
        """For people."""
        lines = [
            "",
            f"Under this plan (mode {self.plan.mode}, digest {self.plan.digest().hex()}) the party would send of its rows:",
        ]
        lines += [f"  {sent.what}: at most {size(sent.bytes_at_most)} {sent.often}" for sent in self.sent]
        lines.append(f"  {BESIDE}")
        lines += exposure_lines(self.plan)
        if self.plan.mode != COOPETITIVE:
            lines.append("  The rows themselves and their exact feature values stay here, but for the cuts.")
        lines += self.memory.lines() if self.memory is not None and self.table.n_rows else []
        lines += [f"Note: {note}" for note in self.notes]
        if self.rules is not None:
            lines.append("This party's own conditions (its file):")
            lines += [f"  {'met' if rule.met else 'NOT MET'}: {rule.text} ({rule.key})" for rule in self.rules]
        return "\n".join([_shown(self.table).text(), *map(printable, lines)])


def _column(summary: ColumnSummary) -> Column:
    least, mean, greatest = (
        None if math.isnan(value) else value for value in (summary.minimum, summary.mean, summary.maximum)
    )
    return Column(summary.name, summary.missing, summary.distinct, summary.rarest, least, mean, greatest)


def check_table(
    plan_path: Path,
    table_path: Path | None,
    member_path: Path | None = None,
    ask: Callable[[str], str] | None = None,
) -> TableCheck:
    """Check a party's table and, where it is given, its own file against the plan. Without a table it is the one of the party's file.

    Raises PlanError for a bad plan or member file, IdentityError for bad keys, DataError where the table cannot be read at all,
    OutputError where an output of the member's file cannot be written.
    """
    plan = read_plan(plan_path)
    member = None if member_path is None else read_member_file(member_path, ask)
    if member is not None and member.plan.digest() != plan.digest():
        raise PlanError(
            f"{member_path}: its plan is {member.plan_path} with digest {member.plan.digest().hex()}; {plan_path} has "
            f"{plan.digest().hex()}: name the same plan in both"
        )
    source: Source | None = table_path
    if source is None and member is not None:
        source = member.table
    if source is None:
        raise PlanError(
            f"{member_path or plan_path}: no table is named; name one behind the plan, or give --member a file with table or source"
        )
    if member is None:
        return check_own_table(plan, source, plan.schema)
    on_disk = isinstance(member.engine, DiskSettings)
    found = check_own_table(plan, source, member.schema, member.by_column, on_disk=on_disk, threads=member.threads)
    rules = (*_rules(member, source, found.table.ok), *_room(member, found.memory))
    return replace(found, rules=rules)


def check_own_table(
    plan: Plan,
    source: Source,
    schema: Schema,
    by_column: bool | None = None,
    *,
    on_disk: bool = False,
    threads: int = 1,
) -> TableCheck:
    """Check a party's table against a plan, without the party's own conditions.

    Args:
        schema: the plan's, and the party's own column beside it. by_column, on_disk, threads: as for `memory_of`.

    Raises DataError where the table cannot be read at all.
    """
    kind = plan.parameters.label_kind
    spooled = bool(by_column) and isinstance(source, Query | DatabaseQuery)
    if by_column and isinstance(source, Query | DatabaseQuery):
        report = report_of(open_by_column(source), schema, kind)
    else:
        report = check_rows(source, schema, label_kind=kind)
    memory = memory_of(
        plan,
        report.n_rows,
        lacks=any(feature.missing for feature in report.features),
        parquet=spooled or is_parquet(source),
        by_column=by_column,
        on_disk=on_disk,
        threads=threads,
    )
    if report.ok:  # of cells that are refused nothing is told beside
        report = replace(report, warnings=told_of(plan, report.facts))
    return TableCheck(plan, report, sent_under(plan), None, memory)


def _rules(member: MemberFile, source: Source, readable: bool) -> tuple[PolicyRule, ...]:
    """What this party's file demands of the plan and the table, and whether it is so."""
    plan = member.plan
    name = member.identity.name
    check_files(member)
    rules = [
        PolicyRule(
            "identity", name in plan.parties, f"{name!r} is to be one of the plan's parties {', '.join(plan.parties)}"
        )
    ]
    rules += member.policy.rules(plan)
    rules += rules_of_approvals(member)
    if plan.mode != "federated" and member.ledger is not None and member.ledger.exists() and readable:
        met, text = True, f"these rows have met no other people, and not too often ({member.ledger})"
        kind, by_column = plan.parameters.label_kind, member.by_column
        try:
            ledger = Ledger(member.ledger)
            people = {name: member.members[name].identity.hex() for name in plan.parties}
            with open_rows(source, member.schema, label_kind=kind, by_column=by_column) as rows:
                ledger.check(
                    ledger.columns(each(rows), *np.atleast_2d(rows.label), rows.weight, rows.base_margin),
                    people,
                    member.policy,
                    spent_under(plan),
                    split_under(plan),
                )
        except PlanError as error:
            met, text = False, str(error)
        rules.append(PolicyRule("ledger", met, text))
    return tuple(rules)


def _room(member: MemberFile, memory: Memory | None) -> tuple[PolicyRule, ...]:
    """Whether the folder of the engine has room for its files."""
    if not isinstance(member.engine, DiskSettings) or memory is None or memory.file is None:
        return ()
    folder = member.engine.folder
    free = shutil.disk_usage(folder).free
    text = f"the codes and gradients take {size(memory.file)} in {folder}, which has {size(free)} free"
    return (PolicyRule("engine.folder", free >= memory.file, text),)


def conditions_of(path: Path, plan: Plan) -> tuple[PolicyRule, ...]:
    """What a member's own file demands of a plan, which need not be the one that it names. Raises PlanError."""
    policy, has_rows = read_policy(path)
    return policy.rules(plan, has_rows)


def rules_of_approvals(member: MemberFile) -> tuple[PolicyRule, ...]:
    """Whether all have approved the plan; nothing where neither the plan's file nor the policy speaks of it."""
    proposal, asked = member.proposal, member.policy.approved_plans_only
    signed: tuple[PolicyRule, ...] = ()
    if member.policy.signed_members_only:
        text = f"members of {member.members_path} (demanded: a consortium's file, which every member signed)"
        signed = (PolicyRule("signed_members_only", member.members.standing is not None, text),)
    if proposal is None:
        text = f"a plan without approvals ({member.plan_path}); demanded: one that every member with a role has signed"
        return (*signed, PolicyRule("approved_plans_only", False, text)) if asked else signed
    lacking = f"; not by {', '.join(proposal.missing)}" if proposal.missing else ""
    text = f"approved by {', '.join(sorted(proposal.signatures)) or 'nobody'}{lacking}"
    return (*signed, PolicyRule("approved_plans_only", not proposal.missing, text))


def _shown(value: Any) -> Any:
    """A report with every text in it made printable: line breaks in a name would look like lines of the report."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple):
        return tuple(_shown(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _shown(getattr(value, field.name)) for field in fields(value) if field.init}
        )
    return value
