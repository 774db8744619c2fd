"""`hansa check`: a party's table held to the plan's schema, and what the party would send."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hansa.cli.member import label_kind
from hansa.cli.output import size
from hansa.data.quantiles import FIRST_BITS, REFINEMENTS, STEP_BITS
from hansa.data.source import CheckReport, check_rows
from hansa.mpc.quantile_search import MOST_REQUESTS, PROBES
from hansa.mpc.ring import words_for
from hansa.plan import COOPETITIVE, Plan, read_plan
from hansa.roles.sharing import n_label_sums, plan_cuts, widest_candidates
from hansa.roles.statistics import EXPONENTS, LABEL_SUMS
from hansa.trees.metrics import sums_length

WORD = 8
"""Bytes of one number of a contribution."""


@dataclass(frozen=True)
class Sent:
    """One kind of thing that a party sends: what it is, at most how many bytes, and how often."""

    what: str
    bytes_at_most: int
    often: str


@dataclass(frozen=True)
class TableCheck:
    """The table's report, and what would be sent under the plan."""

    plan: Plan
    table: CheckReport
    sent: tuple[Sent, ...]

    @property
    def ok(self) -> bool:
        """Whether a party could join with this table."""
        return self.table.ok

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.ok,
            "file": self.table.file,
            "rows": self.table.n_rows,
            "departures": [asdict(departure) for departure in self.table.departures],
            "warnings": list(self.table.warnings),
            "features": [asdict(feature) for feature in self.table.features],
            "mode": self.plan.mode,
            "plan": self.plan.digest().hex(),
            "sent": [asdict(sent) for sent in self.sent],
        }

    def text(self) -> str:
        """For people."""
        lines = [
            self.table.text(),
            "",
            f"Under this plan (mode {self.plan.mode}) the party would send, and nothing else:",
        ]
        lines += [f"  {sent.what}: at most {size(sent.bytes_at_most)} {sent.often}" for sent in self.sent]
        if self.plan.mode == COOPETITIVE:
            servers = ", ".join(self.plan.servers)
            lines.append(
                f"All but the numbers of rows are shares: no one of the servers {servers} can read them, any two of them together "
                "could. They travel sealed; the hub sees sizes and times."
            )
        else:
            readers = f"the aggregator {self.plan.aggregator!r} can read them; no other party gets them"
            lines.append(f"In mode {self.plan.mode} {readers}. Rows and feature values stay here.")
        return "\n".join(lines)


def sent_under(plan: Plan) -> tuple[Sent, ...]:
    """What a party sends under `plan`, from the plan alone."""
    if plan.mode == COOPETITIVE:
        return _shared_under(plan)
    parameters = plan.parameters
    features = len(plan.schema.features)
    planes = 2 if parameters.histogram_bits == 64 else 1
    nodes = 2 ** (parameters.max_depth - 1)
    sent = [
        Sent("number of rows, and of held-out rows", 2 * WORD, "once"),
        Sent("rows by binary exponent of label and weight", 2 * EXPONENTS * WORD, "once"),
        Sent("sums of labels and weights, rows with label 1", LABEL_SUMS * WORD, "once"),
        Sent("rows in the coarse cells of each feature", features * 2**FIRST_BITS * WORD, "once"),
        Sent(
            "rows in the parts of cells",
            features * 4 * parameters.max_bin * 2**STEP_BITS * WORD,
            f"in each of at most {REFINEMENTS} rounds",
        ),
        Sent("sums of |gradient| and hessian", 2 * WORD, "per tree"),
        Sent(
            "histograms of gradients and hessians",
            nodes * features * (parameters.max_bin + 1) * WORD * planes,
            "per tree, twice as many where weights or labels need 64 bits"
            if parameters.histogram_bits == "auto"
            else "per tree",
        ),
    ]
    if plan.schema.weight is not None:
        most = features * max(2**FIRST_BITS, 4 * parameters.max_bin * 2**STEP_BITS) * WORD
        sent.insert(5, Sent("sums of weights in these cells", most, f"in each of at most {REFINEMENTS + 1} rounds"))
    if plan.evaluation_fraction > 0:
        sent += [
            Sent(f"sums for {name} on held-out rows", sums_length(name) * WORD, "per tree")
            for name in parameters.metrics
        ]
    return tuple(sent)


def _shared_under(plan: Plan) -> tuple[Sent, ...]:
    """What an owner sends in coopetitive mode: two of three parts are keys of 32 bytes, so the third travels to two servers."""
    columns = widest_candidates(plan).n_columns
    weights = 2 * 4 if plan.schema.weight is not None else 0
    sent = [Sent("number of rows, and of held-out rows", 2 * WORD, "once")]
    if plan.parameters.base_score is None:
        sums = n_label_sums(plan)
        sent.append(Sent("shares of the sums of labels and weights", 2 * sums * WORD + 4 * 32, "once"))
    if plan_cuts(plan) is None:
        features = len(plan.schema.features)
        most = features * 4 * PROBES * 2 * WORD
        sent.append(
            Sent(
                "shares of counts of rows at points that the servers ask for",
                most,
                f"in each of at most {MOST_REQUESTS} requests",
            )
        )
    row = 2 * (4 * columns + WORD * words_for(columns) + plan.parameters.outputs * (4 + weights))
    label = "of the label" if not plan.parameters.num_class else "of whether it is of each class"
    sent.append(Sent(f"shares of which bin each value is in, {label} and of the weight", row, "per row"))
    return tuple(sent)


def check_table(plan_path: Path, table_path: Path) -> TableCheck:
    """Check a party's table. Raises PlanError for a bad plan, DataError where the table cannot be read at all."""
    plan = read_plan(plan_path)
    report = check_rows(table_path, plan.schema, label_kind=label_kind(plan))
    return TableCheck(plan, report, sent_under(plan))
