"""What a party's own security officer demands, whatever a plan says and whoever asks.

A policy only ever narrows: a plan that it refuses does not run with this party. Its words stand in the table [policy] of the
member's own file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from hansa.declared import fault_of_fields, keys_of, one_of
from hansa.errors import PlanError, ProtocolError
from hansa.plan import DEFAULT_MIN_PARTY_ROWS, Plan

STRENGTH = ("federated", "secure-aggregation", "coopetitive")
"""Modes, the weakest first."""

LEAST_PARTIES = 3
"""Parties below which a sum over parties tells each of two what the other gave."""

Counted = tuple[str, int, int]
"""A member, and how many training and held-out rows it says that it has."""


LeastMode = Annotated[str, one_of(*STRENGTH)]
Names = Annotated[tuple[str, ...], Meta(description="a list of names")]
Least = Annotated[int, Meta(ge=0, description="a whole number of at least 0, which asks for nothing")]
Most = Annotated[int, Meta(ge=1, description="a whole number of at least 1; leave it out for no limit")]
LeastWeight = Annotated[
    float,
    Meta(ge=0, le=sys.float_info.max, description="a finite number of at least 0, which asks for nothing"),
]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Digests = Annotated[
    tuple[Digest, ...],
    Meta(description="a list of digests, each 64 hex digits, as `hansa plan show` or sha256sum prints"),
]


class PolicyRule(msgspec.Struct, frozen=True):
    """One rule of a policy, held to one plan: the key of the table [policy], whether it is met, and what the plan has."""

    key: str
    met: bool
    text: str


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A party's own conditions. What is None, or at its default, restricts nothing but where it says so.

    Attributes:
        least_mode: plans of a weaker mode are refused.
        allow_two_parties: whether sums over this party and one other may be formed in the protected modes.
        allow_other_rosters: whether rows that met one set of people and counts may meet another: the difference of
            two sums is the part of whoever left, came or changed.
        least_party_rows: k. A plan of a protected mode must ask for at least three parties with so many rows each
            (`privacy.min_party_rows`), or more.
        aggregators, servers, receivers: names that may have this role. Among the aggregators are the hub of a coopetitive plan, and all
            collectors: a collector reads its parties' sums as an aggregator does.
        features, labels: columns that may be used; the weight among the features.
        least_min_cell_rows, least_min_child_weight: of the plan.
        least_rows_of_others, most_rows_of_others: training rows that all other parties together must, and that each other party
            may, say that they have: who claims very many rows, real or not, may ask for the finer cells.
        most_max_bin, most_max_depth, most_rounds: of the plan's parameters; trees without max_depth are as deep as max_leaves
            allows, and where a round grows several trees each counts as one.
        most_runs: how often the same rows may be trained on, by the ledger.
        most_trees, most_leaves: in all runs on the same rows together, by the ledger.
        plans: digests (64 hex digits) of the plans that may run; None for any.
        approved_plans_only: whether a plan runs only where every member with a role has signed it (`approvals`).
        signed_members_only: whether the members must stand in a consortium's file, which every member signed (`versions`).
        new_logs: names of audit logs (64 hex digits) that other members may show in place of the one that they showed before.
        functions: SHA-256 (64 hex digits) of the files whose functions may run on this party's rows; none by default.

    Raises:
        PlanError: a value that no plan could meet, or of the wrong kind, naming the key.
    """

    least_mode: LeastMode = "federated"
    allow_two_parties: bool = False
    allow_other_rosters: bool = False
    least_party_rows: Least = DEFAULT_MIN_PARTY_ROWS
    aggregators: Names | None = None
    servers: Names | None = None
    receivers: Names | None = None
    features: Names | None = None
    labels: Names | None = None
    least_min_cell_rows: Least = 0
    least_min_child_weight: LeastWeight = 0.0
    least_rows_of_others: Least = 0
    most_rows_of_others: Most | None = None
    most_max_bin: Most | None = None
    most_max_depth: Most | None = None
    most_rounds: Most | None = None
    most_runs: Most | None = None
    most_trees: Most | None = None
    most_leaves: Most | None = None
    plans: Digests | None = None
    approved_plans_only: bool = False
    signed_members_only: bool = False
    functions: Digests = ()
    new_logs: Digests = ()

    def __post_init__(self) -> None:
        fault = fault_of_fields(self, {key: key for key in KEYS})
        if fault is not None:
            raise PlanError(fault)

    def check_plan(self, plan: Plan, has_rows: bool = True) -> None:
        """Raise PlanError where the plan is not allowed, before anybody is dialled. `has_rows`: whether this member is a party."""
        for rule in self.rules(plan, has_rows):
            if not rule.met:
                raise PlanError(
                    f"the plan has {rule.text}, and this party's policy does not allow it ({rule.key})", rule=rule.key
                )

    def rules(self, plan: Plan, has_rows: bool = True) -> tuple[PolicyRule, ...]:
        """Each rule that the plan alone can break, and whether it does; those of batches for members with rows only."""
        return tuple(PolicyRule(key, met, text) for key, text, met in self._plan_rules(plan, has_rows))

    def _plan_rules(self, plan: Plan, has_rows: bool) -> Iterable[tuple[str, str, bool]]:
        mode = STRENGTH.index(plan.mode) >= STRENGTH.index(self.least_mode)
        yield "least_mode", f"mode {plan.mode!r} (demanded: {self.least_mode!r} or stronger)", mode
        if plan.mode != "federated" and has_rows:
            parties, least = len(plan.parties), self.least_parties
            yield "allow_two_parties", f"{parties} parties (demanded: at least {least})", parties >= least
            k = plan.min_party_rows
            text = f"privacy.min_party_rows {k} (demanded: at least {self.least_party_rows})"
            yield "least_party_rows", text, k >= self.least_party_rows
        more = (*(() if plan.schema.weight is None else (plan.schema.weight,)), *plan.schema.base_margin)
        for key, what, names, allowed in (
            (
                "aggregators",
                "hub"
                if plan.coopetitive is not None
                else "aggregator or collector"
                if plan.collectors
                else "aggregator",
                (plan.hub, *dict(plan.collectors)),
                self.aggregators,
            ),
            ("servers", "server", plan.servers, self.servers),
            ("receivers", "receiver", plan.receivers, self.receivers),
            ("features", "feature", (*plan.schema.features, *more), self.features),
            ("labels", "label", plan.schema.labels, self.labels),
        ):
            if allowed is not None:
                others = [name for name in names if name not in allowed]
                shown = ", ".join(map(repr, others or names))
                yield key, f"{what} {shown} (allowed: {', '.join(allowed)})", not others
        parameters, trials = plan.parameters, () if plan.trial is not None else plan.of_trials()
        tried = [own.parameters for own in trials] or [parameters]
        cells, weight = self.least_min_cell_rows, self.least_min_child_weight
        if cells:
            text = f"privacy.min_cell_rows {plan.min_cell_rows} (demanded: at least {cells})"
            yield "least_min_cell_rows", text, plan.min_cell_rows >= cells
        if weight:
            lowest = min(own.min_child_weight for own in tried)
            text = f"min_child_weight {lowest:g} (demanded: at least {weight:g})"
            yield "least_min_child_weight", text, lowest >= weight
        for name, most, value in (
            ("max_bin", self.most_max_bin, parameters.max_bin),
            ("max_depth", self.most_max_depth, max(own.most_depth for own in tried)),
            ("rounds", self.most_rounds, parameters.rounds * parameters.trees_per_round),
        ):
            if most is not None:
                yield f"most_{name}", f"{name} {value} (allowed: at most {most})", value <= most
        for what, function in plan.functions if has_rows else ():
            listed = ", ".join(self.functions) or "none"
            yield "functions", f"the {what} {function} (allowed: {listed})", function in self.functions
        if self.plans is not None:
            digest = plan.part_of or plan.digest().hex()
            yield "plans", f"the digest {digest} (allowed: {', '.join(self.plans)})", digest in self.plans

    @property
    def least_parties(self) -> int:
        """Parties that a protected run must have."""
        return 2 if self.allow_two_parties else LEAST_PARTIES

    def check_roster(self, plan: Plan, own: str, counted: Iterable[Counted], enough: Mapping[str, int]) -> None:
        """Refuse a roster whose sums would be those of too few rows or parties, before anything leaves.

        A batch is what a sum is taken over, or the difference of two: the training rows, apart from them the held-out rows, and of both
        what trees draw or leave out. It must hold at least three parties (two where `allow_two_parties` says so) with
        `plan.min_party_rows` rows each, and as many of each class where sums tell classes apart (`batches_of`).

        Args:
            own: this party. counted: every party with its training and held-out rows, as all received it.
            enough: party -> bits of the batches that it says it has enough rows for (`enough_of`).

        Raises:
            ProtocolError: naming the batch, who has too few rows and the policy's key.
        """
        rows = {name: (training, held) for name, training, held in counted if name in plan.parties}
        others = {name: training for name, (training, _) in rows.items() if name != own}
        if sum(others.values()) < self.least_rows_of_others:
            raise ProtocolError(
                f"the other parties have {sum(others.values())} training rows in all; this party's policy demands "
                f"{self.least_rows_of_others} (least_rows_of_others)"
            )
        if self.most_rows_of_others is not None:
            for name, training in others.items():
                if training > self.most_rows_of_others:
                    raise ProtocolError(
                        f"member {name!r} says that it has {training} training rows; this party's policy takes at most "
                        f"{self.most_rows_of_others} of another party (most_rows_of_others)",
                        member=name,
                    )
        if plan.mode == "federated":
            return
        k, least = plan.min_party_rows, self.least_parties
        any_held = any(held for _, held in rows.values())
        for place, batch in enumerate(batches_of(plan)):
            if batch.held and not any_held:
                continue
            if batch.label is None:
                few = [name for name, counts in rows.items() if counts[batch.held] * batch.share < k]
            else:
                few = [name for name in rows if not enough.get(name, 0) >> place & 1]
            if len(rows) - len(few) < least:
                raise ProtocolError(
                    f"only {len(rows) - len(few)} of {len(rows)} parties have {k} {batch} each, and sums over them would tell too "
                    f"much of one; at least {least} must (too few: {', '.join(few)}). Give more rows, or agree on a lower "
                    "privacy.min_party_rows in the plan and on least_party_rows in every party's policy",
                    suspects=tuple(few),
                    rule="a sum is over enough rows of enough parties",
                    cure="give more rows, or agree on a lower privacy.min_party_rows and least_party_rows",
                )


class Batch(msgspec.Struct, frozen=True):
    """Rows that sums, or differences of two sums, are taken over: held out or not, of one class or of all (label None).

    Attributes:
        column: the label's name, where the plan has several. share: about how many of these rows one sum, or difference, is of.
    """

    held: bool
    label: int | None
    place: int = 0
    column: str = ""
    share: float = 1.0

    def __str__(self) -> str:
        held = "held-out" if self.held else "training"
        of = f" of {self.column!r}" if self.column else ""
        drawn = (
            f" in a share of {self.share:.4g} of them (subsample: what a tree draws or leaves out)"
            if self.share < 1
            else ""
        )
        return f"{held} rows{drawn}" if self.label is None else f"{held} rows of class {self.label}{of}{drawn}"


def batches_of(plan: Plan) -> tuple[Batch, ...]:
    """The batches of a plan in a fixed order: all rows, and the rows of each class where sums count them apart.

    Training rows count classes by the sums of labels or of gradients, unless labels are numbers. Held-out rows do where a metric
    ranks one class against the other, and in a cross-validation: the sums of two folds differ by the rows that they hold out.
    Where trees draw rows (`subsample`) a sum is of the drawn ones, and those of two trees differ by rows that one of them leaves out.
    """
    classes = range(plan.parameters.outputs if plan.parameters.num_class else 2)
    labels = plan.schema.labels
    each = [(own, at, name if len(labels) > 1 else "") for at, name in enumerate(labels) for own in classes]
    labelled = plan.parameters.has_classes
    drawn, drawn_or_left = _drawn_of(plan)
    batches = [Batch(False, None, share=drawn_or_left), *(Batch(False, *own, share=drawn) for own in each if labelled)]
    if plan.evaluation_fraction > 0:
        told = bool(plan.folds) or not {"auc", "aucpr"}.isdisjoint(plan.parameters.metrics)
        share = drawn if plan.folds else 1.0
        held = [Batch(True, *own, share=share) for own in each if labelled and told]
        batches += [Batch(True, None, share=share), *held]
    return tuple(batches)


def _drawn_of(plan: Plan) -> tuple[float, float]:
    """The smallest share of the training rows that a tree of the plan draws, and the smallest that one draws or, not drawing all,
    leaves out.

    Of a plan of trials those of all. Where rows are shares nobody opens a tree's sums.
    """
    if plan.coopetitive is not None:
        return 1.0, 1.0
    trials = () if plan.search is None else plan.search.drawn(plan.parameters.seed)
    shares = [float(own.get("subsample", plan.parameters.subsample)) for own in trials] or [plan.parameters.subsample]
    left = [round(1 - share, 9) for share in shares if share < 1]  # 1 - 0.9 is 0.1
    return min(shares), min(*shares, *left) if left else min(shares)


RowsByLabel = Mapping[tuple[int, int], int]
"""(number of the label, class) -> rows of a party."""


def enough_of(plan: Plan, training: RowsByLabel, held: RowsByLabel) -> int:
    """The bits that a party tells of its batches of classes: bit i for batch i, set where it has `plan.min_party_rows` rows.

    Of batches of all classes it tells nothing here, since the numbers of rows are public.

    Args:
        training, held: how many of this party's rows are of which class.
    """
    bits = 0
    for place, batch in enumerate(batches_of(plan)):
        if batch.label is None:
            continue
        if (held if batch.held else training).get((batch.place, batch.label), 0) * batch.share >= plan.min_party_rows:
            bits |= 1 << place
    return bits


KEYS = keys_of(Policy)
