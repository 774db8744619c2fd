"""`hansa check`: a party's table held to the plan's schema, and what the party would send."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from hansa.cli.output import size
from hansa.consortium.ledger import Ledger
from hansa.consortium.policy import PolicyRule
from hansa.data.quantiles import FIRST_BITS, REFINEMENTS, STEP_BITS
from hansa.data.source import CheckReport, check_rows, read_rows
from hansa.errors import PlanError
from hansa.exposure import exposure, exposure_lines, notes_on_rows, openings_under, released
from hansa.mpc.ring import words_for
from hansa.node.config import MemberFile, read_member_file
from hansa.node.files import check_files
from hansa.oblivious.quantile_search import MOST_REQUESTS, PROBES
from hansa.plan import COOPETITIVE, Plan, read_plan
from hansa.printable import printable
from hansa.roles.shared.sharing import n_label_sums, plain_scale, plan_cuts, widest_candidates
from hansa.roles.summed.statistics import EXPONENTS, LABEL_SUMS
from hansa.trees.metrics import sums_length

WORD = 8
"""Bytes of one number of a contribution."""


@dataclass(frozen=True)
class SentKind:
    """One kind of thing that a party sends: what it is, at most how many bytes, and how often."""

    what: str
    bytes_at_most: int
    often: str


@dataclass(frozen=True)
class TableCheck:
    """The table's report, and what would be sent under the plan."""

    plan: Plan
    table: CheckReport
    sent: tuple[SentKind, ...]
    rules: tuple[PolicyRule, ...] | None = None
    """Conditions of the party's own file, held to this plan and table; None where no file was given."""

    @property
    def ok(self) -> bool:
        """Whether a party could join with this table, as far as is known."""
        return self.table.ok and all(rule.met for rule in self.rules or ())

    @property
    def notes(self) -> tuple[str, ...]:
        """What this party might change in the plan; it can join all the same."""
        trained = self.table.n_rows - round(self.table.n_rows * self.plan.evaluation_fraction)
        return notes_on_rows(self.plan, trained)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.ok,
            "file": self.table.file,
            "rows": self.table.n_rows,
            "violations": [asdict(violation) for violation in self.table.violations],
            "warnings": list(self.table.warnings),
            "features": [_without_nan(asdict(feature)) for feature in self.table.features],
            "mode": self.plan.mode,
            "plan": self.plan.digest().hex(),
            "sent": [asdict(sent) for sent in self.sent],
            "exposure": list(exposure(self.plan)),
            "release": list(released(self.plan)),
            "notes": list(self.notes),
            "openings": [{"to": opening.to, "what": opening.what} for opening in openings_under(self.plan)],
            "receivers": list(self.plan.receivers),
            "rules": None if self.rules is None else [msgspec.structs.asdict(rule) for rule in self.rules],
        }

    def text(self) -> str:
        """For people."""
        lines = [
            "",
            f"Under this plan (mode {self.plan.mode}, digest {self.plan.digest().hex()}) the party would send, and nothing else:",
        ]
        lines += [f"  {sent.what}: at most {size(sent.bytes_at_most)} {sent.often}" for sent in self.sent]
        lines += exposure_lines(self.plan)
        if self.plan.mode != COOPETITIVE:
            lines.append("  The rows themselves and their exact feature values stay here, but for the cuts.")
        lines += [f"Note: {note}" for note in self.notes]
        if self.rules is not None:
            lines.append("This party's own conditions (its file):")
            lines += [f"  {'met' if rule.met else 'NOT MET'}: {rule.text} ({rule.key})" for rule in self.rules]
        return "\n".join([_shown(self.table).text(), *map(printable, lines)])


def _without_nan(summary: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null is the least, mean and greatest value of a column without any."""
    return {key: None if value != value else value for key, value in summary.items()}


def sent_under(plan: Plan) -> tuple[SentKind, ...]:
    """What a party sends under `plan`, from the plan alone."""
    if plan.mode == COOPETITIVE:
        return _shared_under(plan)
    parameters = plan.parameters
    features = len(plan.schema.features)
    planes = 2 if parameters.histogram_bits == 64 else 1
    nodes = 2 ** (parameters.max_depth - 1)
    sent = [
        SentKind("number of rows, and of held-out rows", 2 * WORD, "once"),
        SentKind("rows by binary exponent of label and weight", 2 * EXPONENTS * WORD, "once"),
        SentKind("sums of labels and weights, rows with label 1", LABEL_SUMS * WORD, "once"),
        SentKind("rows in the coarse cells of each feature", features * 2**FIRST_BITS * WORD, "once"),
        SentKind(
            "rows in the parts of cells",
            features * 4 * parameters.max_bin * 2**STEP_BITS * WORD,
            f"in each of at most {REFINEMENTS} rounds",
        ),
        SentKind("sums of |gradient| and hessian", 2 * WORD, "per tree"),
        SentKind(
            "histograms of gradients and hessians",
            nodes * features * (parameters.max_bin + 1) * WORD * planes,
            "per tree, twice as many where weights or labels need 64 bits"
            if parameters.histogram_bits == "auto"
            else "per tree",
        ),
    ]
    if plan.schema.weight is not None:
        most = features * max(2**FIRST_BITS, 4 * parameters.max_bin * 2**STEP_BITS) * WORD
        sent.insert(5, SentKind("sums of weights in these cells", most, f"in each of at most {REFINEMENTS + 1} rounds"))
    if plan.evaluation_fraction > 0:
        sent += [
            SentKind(f"sums for {name} on held-out rows", sums_length(name) * WORD, "per tree")
            for name in parameters.metrics
        ]
    return tuple(sent)


def _shared_under(plan: Plan) -> tuple[SentKind, ...]:
    """What an owner sends in coopetitive mode: two of three parts are keys of 32 bytes, so the third travels to two servers."""
    columns = widest_candidates(plan).n_columns
    scale = plan.parameters.scale_pos_weight
    weighted = plan.schema.weight is not None or not isinstance(scale, float) or not plain_scale(scale)
    weights = 2 * 4 if weighted else 0
    sent = [SentKind("number of rows, and of held-out rows", 2 * WORD, "once")]
    if plan.parameters.base_score is None:
        sums = n_label_sums(plan)
        sent.append(SentKind("shares of the sums of labels and weights", 2 * sums * WORD + 4 * 32, "once"))
    if plan_cuts(plan) is None:
        features = len(plan.schema.features)
        weighted = plan.schema.weight is not None
        most = features * 4 * PROBES * 2 * WORD * (1 + weighted)
        sent.append(
            SentKind(
                f"shares of counts of rows{' and of sums of weights' if weighted else ''} at points that the servers ask for",
                most,
                f"in each of at most {MOST_REQUESTS} requests",
            )
        )
    row = 2 * (4 * columns + WORD * words_for(columns) + plan.parameters.outputs * (4 + weights))
    label = "of the label" if not plan.parameters.num_class else "of whether it is of each class"
    sent.append(SentKind(f"shares of which bin each value is in, {label} and of the weight", row, "per row"))
    return tuple(sent)


def check_table(plan_path: Path, table_path: Path, member_path: Path | None = None) -> TableCheck:
    """Check a party's table and, where it is given, its own file against the plan.

    Raises PlanError for a bad plan or member file, IdentityError for bad keys, DataError where the table cannot be read at all,
    OutputError where an output of the member's file cannot be written.
    """
    plan = read_plan(plan_path)
    member = None if member_path is None else read_member_file(member_path)
    if member is not None and member.plan.digest() != plan.digest():
        raise PlanError(
            f"{member_path}: its plan is {member.plan_path} with digest {member.plan.digest().hex()}; {plan_path} has "
            f"{plan.digest().hex()}: name the same plan in both"
        )
    report = check_rows(table_path, plan.schema, label_kind=plan.parameters.label_kind)
    rules = None if member is None else _rules(member, table_path, report.ok)
    return TableCheck(plan, report, sent_under(plan), rules)


def _rules(member: MemberFile, table_path: Path, readable: bool) -> tuple[PolicyRule, ...]:
    """What this party's file demands of the plan and the table, and whether it is so."""
    plan = member.plan
    name = member.identity.name
    check_files(member, [name])
    rules = [
        PolicyRule(
            "identity", name in plan.parties, f"{name!r} is to be one of the plan's parties {', '.join(plan.parties)}"
        )
    ]
    rules += member.policy.rules(plan)
    if plan.mode != "federated" and member.ledger is not None and member.ledger.exists() and readable:
        rows = read_rows(table_path, plan.schema, label_kind=plan.parameters.label_kind)
        met, text = True, f"these rows have met no other people, and not too often ({member.ledger})"
        try:
            ledger = Ledger(member.ledger)
            people = {name: member.members[name].identity.hex() for name in plan.parties}
            ledger.check(ledger.columns(rows.features, rows.label, rows.weight), people, member.policy)
        except PlanError as error:
            met, text = False, str(error)
        rules.append(PolicyRule("ledger", met, text))
    return tuple(rules)


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
