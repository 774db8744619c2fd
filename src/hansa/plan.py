"""The training plan: one TOML file that every member holds, word for word the same to the digest.

    name = "dropped-calls"
    mode = "federated"

    [members]
    aggregator = "hub"
    parties = ["aurora", "borealis", "cirrus"]
    receivers = ["aurora", "borealis"]        # default: all parties
    minimum_parties = 3                       # default: all parties

    [schema]
    features = ["traffic", "temperature"]
    label = "fault"
    weight = "importance"                     # optional
    decimal = ","                             # optional: the decimal sign of numbers that are texts, as in CSV files; default "."

    [privacy]
    min_cell_rows = 10                        # cuts stop at cells of so many pooled rows
    min_party_rows = 20                       # protected modes: rows that each of at least three parties must have
    min_child_rows = 1                        # no split makes a node of fewer pooled rows
    dominance = false                         # federated: cells and nodes hold their minimum without the largest party
    verify_counts = "tree"                    # secure-aggregation: parties check pooled rows of cells and nodes

    [evaluation]
    fraction = 0.2                            # of each party's rows, held out for metrics and early stopping

    [parameters]                              # XGBoost's names
    objective = "binary:logistic"
    rounds = 100
    eta = 0.1

In coopetitive mode nobody sums; three servers compute on shares, and the hub only relays what members seal for each other:

    mode = "coopetitive"

    [members]
    hub = "post"                              # in place of an aggregator; one of the servers, or any other member, may be it
    servers = ["aurora", "borealis", "cirrus"]   # any three members, with rows or without; the order is S_0, S_1, S_2
    server_links = "direct"                   # default "hub"; direct: servers connect to each other
    parties = ["aurora", "borealis", "cirrus", "dune"]
    receivers = ["aurora", "dune"]

    [labels]
    range = [0.0, 100.0]                      # reg:squarederror: labels outside are refused at their owner

    [cuts]                                    # optional: cuts by feature; then none are searched
    traffic = [1.0, 10.0, 100.0]
    temperature = [0.0, 20.0]

    [categories]                              # optional: levels of categorical features; the order is the code
    employer = ["private", "public", "none"]

    [monotone]                                # optional: 1 for increasing, -1 for decreasing
    traffic = 1

    [release]                                 # in every mode
    statistics = false                        # gain and cover of every node; default: false in coopetitive mode, else true
    least_choices = 1000                      # numbers of rows that fit a first tree's leaves; default: 1000 in coopetitive mode
    leaf_bits = 10                            # in place of it: fraction bits of leaf values

Signed plans and approvals come later; they will sign `digest`. So do conditions of a release: they will stand in [release].
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import struct
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from hansa.data.schema import Level, Schema
from hansa.errors import PlanError
from hansa.files import read_text
from hansa.trees.parameters import Parameters, parse_parameters

COOPETITIVE = "coopetitive"

MASKED = "secure-aggregation"

MODES = ("federated", MASKED, COOPETITIVE)
"""The modes that this release runs. Another is refused, never run as one of these."""

SERVERS = 3
"""Compute servers of a coopetitive run."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

DEFAULT_MIN_CELL_ROWS = 10
"""Argued for in SECURITY.md, "Cuts"."""

LEAST_MIN_CELL_ROWS = 2

DEFAULT_MIN_PARTY_ROWS = 20
"""Rows that each of at least three parties must have in a batch that protected sums are taken over (SECURITY.md, "Batches")."""

VERIFY_COUNTS = ("off", "tree", "after", "before")
"""When parties learn and check the pooled rows of named cells and nodes: never, of a whole tree at its end (and of cells after their
sums have left), after a level's sums have left, or before."""

DEFAULT_VERIFY_COUNTS = "tree"
"""Of secure-aggregation plans with at least three parties."""
DEFAULT_LEAST_CHOICES = 1000
"""`release.least_choices` of a coopetitive plan of binary:logistic that releases no statistics."""

LEAF_BITS_RANGE = (4, 24)
"""What `release.leaf_bits` may be."""


DEFAULT_BINS_ON_SHARES = 32
"""`max_bin` of a coopetitive plan that names none: every cut is a column of shares, 4 bytes a row and part."""

MOST_BINS_ON_SHARES = 256
DEEPEST_ON_SHARES = 8

MOST_LEVELS = 1024
"""Levels of a categorical feature: each is a column of shares, of 4 bytes a row and part."""

NOT_ON_SHARES: dict[str, Any] = {
    "alpha": 0.0,
    "max_delta_step": 0.0,
}
"""Parameters that coopetitive mode takes at this value only."""

RANGES_ON_SHARES: dict[str, tuple[float, float]] = {
    "max_depth": (1, DEEPEST_ON_SHARES),
    "max_bin": (2, MOST_BINS_ON_SHARES),
    "eta": (2**-12, 1),
    "lambda_": (0, 2**26),
}
"""What fixed-point numbers on shares can hold of a parameter: a narrower range than that of the other modes."""

SERVER_LINKS = ("hub", "direct")


@dataclass(frozen=True)
class Coopetitive:
    """What a plan says more in coopetitive mode. Public to all members.

    Attributes:
        hub: the member whose process listens and relays; as such it holds no keys of the run. It may have other roles too.
        servers: S_0, S_1 and S_2, in this order.
        server_links: one of `SERVER_LINKS`: which way the servers' sealed messages to each other take.
        statistics: whether gain and cover are released with the splits.
        label_range: lowest and highest label of reg:squarederror; None for binary:logistic.
        cuts: of every feature, in the schema's order, or None where they are searched. A categorical feature has none.
        weight_limit: no row's weight exceeds it; None where rows have no weights.
        monotone: by feature, in the schema's order, 1 for increasing, -1 for decreasing, 0 for neither; empty for no constraint.
        steps: numbers of rounds after which the metrics of held-out rows are opened; empty for the last round only.
        missing: names of the features that may lack values; with cuts, none where it is not given; without, None lets the
            servers open one bit a feature: whether any row lacks it.
    """

    hub: str
    servers: tuple[str, ...]
    statistics: bool = False
    label_range: tuple[float, float] | None = None
    cuts: tuple[tuple[float, ...], ...] | None = None
    missing: tuple[str, ...] | None = None
    weight_limit: float | None = None
    steps: tuple[int, ...] = ()
    monotone: tuple[int, ...] = ()
    server_links: str = "hub"


@dataclass(frozen=True)
class Release:
    """What the model tells of its leaves. Public to all members.

    Attributes:
        statistics: whether the file holds covers, gains and inner nodes' weights. In coopetitive mode that is `Coopetitive.statistics`.
        least_choices: leaf values are so coarse that so many choices of rows fit a first tree (`trees.leaf_choices`); 0 for leaves as
            they are; None for the mode's default.
        leaf_bits: in place of that, fraction bits of leaf values; None where it is not given.
    """

    statistics: bool = True
    least_choices: int | None = None
    leaf_bits: int | None = None


@dataclass(frozen=True)
class Plan:
    """What the members agreed on. Public to all of them.

    Attributes:
        name: of the run, for people.
        mode: one of `MODES`.
        aggregator: the member that sums and finds splits; empty in coopetitive mode.
        parties: the members that hold rows, sorted.
        receivers: the members that get the model file, sorted.
        minimum_parties: the run does not start with fewer parties.
        schema: the columns of every party's table.
        parameters: how to grow the trees.
        min_cell_rows: a cell of so many pooled rows or fewer is not split further when cuts are searched.
        min_child_rows: no split makes a node of fewer pooled rows.
        dominance: whether a cell or child must hold its minimum without its largest contributor.
        verify_counts: one of `VERIFY_COUNTS`.
        evaluation_fraction: share of each party's rows that is held out; 0 for none.
        coopetitive: in that mode, else None.
        min_party_rows: in the protected modes, rows that each of at least three parties (two where every party's policy allows
            it) must have in training, among held-out rows and of each class where sums tell classes apart.
        release: what the model tells of its leaves.
    """

    name: str
    mode: str
    aggregator: str
    parties: tuple[str, ...]
    receivers: tuple[str, ...]
    minimum_parties: int
    schema: Schema
    parameters: Parameters
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS
    evaluation_fraction: float = 0.0
    min_child_rows: int = 1
    dominance: bool = False
    verify_counts: str = "off"
    coopetitive: Coopetitive | None = None
    min_party_rows: int = DEFAULT_MIN_PARTY_ROWS
    release: Release = Release()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parties", tuple(sorted(self.parties)))
        object.__setattr__(self, "receivers", tuple(sorted(self.receivers)))
        if self.coopetitive is not None:  # it says so itself
            object.__setattr__(self, "release", replace(self.release, statistics=True))
        _check_plan(self)

    @property
    def members(self) -> tuple[str, ...]:
        """All members, sorted."""
        return tuple(sorted({self.hub, *self.servers, *self.parties, *self.receivers}))

    @property
    def participants(self) -> tuple[str, ...]:
        """All members with a role of their own, sorted: in coopetitive mode everybody but a hub that does nothing but relay."""
        return tuple(sorted({*self.servers, *self.parties, *self.receivers}))

    @property
    def hub(self) -> str:
        """The member whose process listens: all others dial it."""
        return self.aggregator if self.coopetitive is None else self.coopetitive.hub

    @property
    def servers(self) -> tuple[str, ...]:
        """The compute servers S_0, S_1, S_2; none but in coopetitive mode."""
        return () if self.coopetitive is None else self.coopetitive.servers

    @property
    def statistics(self) -> bool:
        """Whether the model holds covers and gains."""
        return self.release.statistics if self.coopetitive is None else self.coopetitive.statistics

    @property
    def least_choices(self) -> int:
        """How many choices of rows are to fit a first tree's leaves; 0 where leaves are as they are, or have given bits."""
        given = self.release.least_choices
        if given is not None or self.release.leaf_bits is not None:
            return given or 0
        rounded = self.coopetitive is not None and not self.statistics
        return DEFAULT_LEAST_CHOICES if rounded and self.parameters.objective == "binary:logistic" else 0

    def canonical(self) -> bytes:
        """The plan as bytes that depend on its meaning only: JSON with sorted keys, every default written out
        but that of `schema.decimal`, which came later.
        """
        content = {"format": 1, **asdict(self)}
        if self.coopetitive is None:
            del content["coopetitive"]
        if self.schema.decimal == ".":
            del content["schema"]["decimal"]
        if self.parameters.max_cat_to_onehot is None:
            del content["parameters"]["max_cat_to_onehot"]
        # Settings that came later are left out where they change nothing: older plans keep their digests.
        release = content.pop("release") | {"least_choices": self.least_choices}
        content |= {key: release[key] for key in ("statistics", "least_choices", "leaf_bits")}
        unchanged = {"verify_counts": "off", "min_child_rows": 1, "dominance": False}
        unchanged |= {"statistics": True, "least_choices": 0, "leaf_bits": None}
        for key, value in unchanged.items():
            if content[key] == value:
                del content[key]
        return msgspec.json.encode(content, order="sorted")

    def by_key(self) -> dict[str, Any]:
        """Every value of the plan under its key in a plan file, defaults written out; of a list of names, sorted."""
        schema, parameters, more = asdict(self.schema), asdict(self.parameters), self.coopetitive
        values: dict[str, Any] = {
            "name": self.name,
            "mode": self.mode,
            ("members.hub" if self.coopetitive is not None else "members.aggregator"): self.hub,
            "members.parties": self.parties,
            "members.receivers": self.receivers,
            "members.minimum_parties": self.minimum_parties,
            "schema.features": schema["features"],
            "schema.label": schema["label"],
            "schema.weight": schema["weight"],
            "schema.decimal": schema["decimal"],
            "privacy.min_cell_rows": self.min_cell_rows,
            "privacy.min_party_rows": self.min_party_rows,
            "privacy.min_child_rows": self.min_child_rows,
            "privacy.dominance": self.dominance,
            "privacy.verify_counts": self.verify_counts,
            "evaluation.fraction": self.evaluation_fraction,
            "release.statistics": self.statistics,
            "release.least_choices": self.least_choices,
            "release.leaf_bits": self.release.leaf_bits,
        }
        if more is not None:
            values |= {
                "members.servers": more.servers,
                "members.server_links": more.server_links,
                "schema.weight_limit": more.weight_limit,
                "schema.missing": more.missing,
                "categories": schema["categories"],
                "evaluation.steps": more.steps,
                "labels.range": more.label_range,
                "cuts": more.cuts,
                "monotone": more.monotone,
            }
        return values | {f"parameters.{name.rstrip('_')}": value for name, value in parameters.items()}

    def digest(self) -> bytes:
        """SHA-256 of `canonical`, 32 bytes."""
        return hashlib.sha256(b"hansa plan\x00" + self.canonical()).digest()


def _check_plan(plan: Plan) -> None:
    if plan.mode not in MODES:
        raise PlanError(f"plan: mode is {plan.mode!r}; expected one of {', '.join(MODES)}")
    if (plan.mode == COOPETITIVE) != (plan.coopetitive is not None):
        raise PlanError(f"plan: mode is {plan.mode!r}; hub, servers, labels and cuts go with {COOPETITIVE!r} only")
    for name in plan.members:
        if not NAME.fullmatch(name):
            raise PlanError(
                f"plan: member name {name!r}: expected 1 to 63 lower-case letters, digits and hyphens, a hyphen not first"
            )
    if not plan.parties:
        raise PlanError("plan: members.parties is empty; name at least one member that holds rows")
    for key, names in (("parties", plan.parties), ("receivers", plan.receivers)):
        if len(set(names)) < len(names):
            raise PlanError(f"plan: members.{key} names a member twice")
    if plan.coopetitive is not None:
        _check_coopetitive(plan, plan.coopetitive)
    elif plan.schema.categories:
        raise PlanError(
            f"plan: [categories] goes with mode {COOPETITIVE!r} only, and the mode is {plan.mode!r}; leave the table out, and give "
            f"{next(iter(plan.schema.levels))!r} as codes (numbers) at every member"
        )
    elif plan.aggregator in plan.parties:
        raise PlanError(f"plan: {plan.aggregator!r} is both the aggregator and a party; the aggregator holds no rows")
    others = set(plan.receivers) - {plan.aggregator, *plan.parties}
    if others and plan.coopetitive is None:
        raise PlanError(f"plan: receiver {min(others)!r} is neither the aggregator nor a party")
    if not 1 <= plan.minimum_parties <= len(plan.parties):
        raise PlanError(
            f"plan: members.minimum_parties is {plan.minimum_parties}; expected 1 to {len(plan.parties)}, the number of parties"
        )
    if plan.mode == "secure-aggregation" and plan.minimum_parties < 2:
        raise PlanError(
            f"plan: members.minimum_parties is {plan.minimum_parties}; secure-aggregation needs at least 2 parties "
            "(and 3, unless every party's own policy allows two): the sum over one party is that party's part"
        )
    if plan.min_cell_rows < LEAST_MIN_CELL_ROWS:
        raise PlanError(
            f"plan: privacy.min_cell_rows is {plan.min_cell_rows}; expected at least {LEAST_MIN_CELL_ROWS}: "
            "a cell of one row would send that row's value"
        )
    if plan.min_party_rows < 0:
        raise PlanError(
            f"plan: privacy.min_party_rows is {plan.min_party_rows}; expected at least 0, which asks for nothing"
        )
    if plan.min_child_rows < 1:
        raise PlanError(f"plan: privacy.min_child_rows is {plan.min_child_rows}; expected at least 1")
    if plan.min_child_rows > 1 and plan.coopetitive is not None:
        raise PlanError(
            f"plan: privacy.min_child_rows is {plan.min_child_rows}; mode {COOPETITIVE!r} knows no rows of nodes: set "
            "parameters.min_child_weight instead, to the hessian of so many rows (.25 a row in logistic loss, 1 in squared error)"
        )
    if plan.dominance and plan.mode != "federated":
        raise PlanError(
            f"plan: privacy.dominance goes with mode 'federated' only, and the mode is {plan.mode!r}, where nobody sees how much of a "
            "sum is one party's: leave it out; what a party that chooses its rows learns then stands in SECURITY.md"
        )
    if plan.dominance and len(plan.parties) < 2:
        raise PlanError(
            "plan: privacy.dominance needs at least two parties: without the largest of one, nothing is left"
        )
    if plan.verify_counts not in VERIFY_COUNTS:
        raise PlanError(
            f"plan: privacy.verify_counts is {plan.verify_counts!r}; expected one of {', '.join(VERIFY_COUNTS)}"
        )
    if plan.verify_counts != "off" and plan.mode != MASKED:
        raise PlanError(
            f"plan: privacy.verify_counts is {plan.verify_counts!r}; it goes with mode {MASKED!r} only, and the mode is "
            f"{plan.mode!r}: leave it out"
        )
    _check_release(plan)
    if not 0 <= plan.evaluation_fraction < 1:
        raise PlanError(f"plan: evaluation.fraction is {plan.evaluation_fraction}; expected at least 0 and below 1")
    parameters = plan.parameters
    if parameters.num_class and plan.coopetitive is None:
        raise PlanError(
            f"plan: parameter num_class = {parameters.num_class} goes with mode {COOPETITIVE!r} only; in mode {plan.mode!r} train "
            "one binary:logistic model for each class, with labels 0 and 1"
        )
    if plan.evaluation_fraction == 0 and parameters.early_stopping_rounds is not None:
        raise PlanError(
            "plan: early_stopping_rounds needs held-out rows; set evaluation.fraction, for example to 0.2, or leave it out"
        )


def _check_release(plan: Plan) -> None:
    choices, bits = plan.release.least_choices, plan.release.leaf_bits
    least, most = LEAF_BITS_RANGE
    if bits is not None and not least <= bits <= most:
        raise PlanError(f"plan: release.leaf_bits is {bits}; expected {least} to {most}")
    if choices is not None and choices < 0:
        raise PlanError(f"plan: release.least_choices is {choices}; expected 0, which asks for nothing, or more")
    squared = plan.parameters.objective != "binary:logistic"
    if (choices or bits is not None) and squared:
        name = "least_choices" if choices else "leaf_bits"
        raise PlanError(
            f"plan: release.{name} goes with binary:logistic only, and the objective is {plan.parameters.objective}, whose "
            "leaves have the unit of the labels: leave it out"
        )
    if not choices:
        return
    asked = f"plan: release.least_choices is {choices}"
    if bits is not None:
        raise PlanError(f"{asked}, and leaf_bits {bits} is given too; give one of them")
    if plan.statistics:
        raise PlanError(
            f"{asked}, but a leaf's cover tells its number of rows: set release.statistics = false, or leave least_choices out"
        )
    if plan.verify_counts != "off":
        raise PlanError(
            f"{asked}, but privacy.verify_counts = {plan.verify_counts!r} tells every party the rows of each leaf: set "
            "privacy.verify_counts = 'off', leave least_choices out, or give leaf_bits, which says nothing of choices"
        )


def _check_coopetitive(plan: Plan, more: Coopetitive) -> None:
    if plan.aggregator:
        raise PlanError(
            f"plan: members.aggregator is {plan.aggregator!r}; in {COOPETITIVE} mode there is a hub instead"
        )
    if len(set(more.servers)) != SERVERS or len(more.servers) != SERVERS:
        raise PlanError(f"plan: members.servers is {list(more.servers)}; expected three different members")
    if more.server_links not in SERVER_LINKS:
        raise PlanError(f"plan: members.server_links is {more.server_links!r}; expected {' or '.join(SERVER_LINKS)}")
    if not plan.receivers:
        raise PlanError("plan: members.receivers is empty; nobody would ever see the model")
    if plan.minimum_parties != len(plan.parties):
        raise PlanError(f"plan: in {COOPETITIVE} mode every party takes part; leave members.minimum_parties out")
    if (plan.schema.weight is None) != (more.weight_limit is None):
        raise PlanError(
            f"plan: in {COOPETITIVE} mode schema.weight and schema.weight_limit go together: no row's weight may exceed the limit"
        )
    if more.weight_limit is not None and not (math.isfinite(more.weight_limit) and more.weight_limit > 0):
        raise PlanError(f"plan: schema.weight_limit is {more.weight_limit}; expected a positive number")
    if more.steps and (
        not plan.evaluation_fraction
        or any(step < 1 or step > plan.parameters.rounds for step in more.steps)
        or list(more.steps) != sorted(set(more.steps))
    ):
        raise PlanError(
            f"plan: evaluation.steps is {list(more.steps)}; expected rising numbers of rounds up to "
            f"{plan.parameters.rounds}, and an evaluation.fraction"
        )
    if plan.parameters.scale_pos_weight == "auto" and plan.parameters.base_score is not None:
        raise PlanError(
            f'plan: scale_pos_weight = "auto" follows from the pooled mean in {COOPETITIVE} mode: leave base_score out, or '
            "give a number"
        )
    if more.monotone and (
        len(more.monotone) != len(plan.schema.features) or any(sign not in (-1, 0, 1) for sign in more.monotone)
    ):
        raise PlanError(f"plan: [monotone] is {list(more.monotone)}; expected 1, -1 or 0 for a feature")
    _check_on_shares(plan.parameters)
    _check_metrics(plan)
    _check_labels(plan, more)
    _check_cuts(plan, more)
    _check_categories(plan, more)


def _check_on_shares(parameters: Parameters) -> None:
    for name, value in NOT_ON_SHARES.items():
        if getattr(parameters, name) != value:
            raise PlanError(
                f"parameter {name} = {getattr(parameters, name)!r} is not supported in {COOPETITIVE} mode, "
                f"where nobody sees the sums that it needs; leave it at {value!r}"
            )
    if parameters.histogram_bits == 64:
        raise PlanError(
            f'parameter histogram_bits = 64 is not supported in {COOPETITIVE} mode, which has no histograms; leave it at "auto"'
        )
    for field, (least, most) in RANGES_ON_SHARES.items():
        name, value = field.rstrip("_"), getattr(parameters, field)
        if not least <= value <= most:
            much, bound = ("much", f"at most {most}") if value > most else ("little", f"at least {least:g}")
            raise PlanError(f"parameter {name} = {value} is too {much} for {COOPETITIVE} mode; {bound}")


def _check_metrics(plan: Plan) -> None:
    """Metrics that cannot be had of shares; they matter where rows are held out."""
    names = plan.parameters.metrics if plan.evaluation_fraction > 0 else ()
    if "aucpr" in names:
        raise PlanError(
            f"parameter eval_metric = 'aucpr' cannot be had in {COOPETITIVE} mode: it needs a division for every score; take auc or "
            "logloss"
        )
    if "auc" in names and plan.schema.weight is not None:
        raise PlanError(
            f"parameter eval_metric = 'auc' of rows with weights cannot be had in {COOPETITIVE} mode: take logloss or error, or leave "
            "schema.weight out"
        )


def _check_labels(plan: Plan, more: Coopetitive) -> None:
    squared = plan.parameters.objective == "reg:squarederror"
    if squared != (more.label_range is not None):
        needed = "needs" if squared else "has no use for"
        raise PlanError(
            f"plan: {plan.parameters.objective} {needed} labels.range = [lowest, highest] in {COOPETITIVE} mode"
        )
    if more.label_range is not None:
        low, high = more.label_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise PlanError(f"plan: labels.range is {[low, high]}; expected two finite numbers, the lower first")
        base = plan.parameters.base_score
        if base is not None and not low <= base <= high:
            raise PlanError(f"plan: base_score {base} lies outside labels.range {[low, high]}")


def _check_cuts(plan: Plan, more: Coopetitive) -> None:
    unknown = sorted(set(more.missing or ()) - set(plan.schema.features))
    if unknown:
        raise PlanError(f"plan: schema.missing names {unknown[0]!r}, which is no feature")
    if more.cuts is None:
        return
    if len(more.cuts) != len(plan.schema.features):
        raise PlanError(
            f"plan: [cuts] is of {len(more.cuts)} features; expected a list for each of {len(plan.schema.features)}"
        )
    for feature, cuts in zip(plan.schema.features, more.cuts, strict=True):
        narrow = [struct.unpack("<f", struct.pack("<f", cut))[0] if abs(cut) < 3.4e38 else math.inf for cut in cuts]
        if any(not math.isfinite(cut) for cut in narrow) or any(a >= b for a, b in itertools.pairwise(narrow)):
            raise PlanError(f"plan: cuts.{feature} is {list(cuts)}; expected finite float32 numbers that rise strictly")
        if len(cuts) >= plan.parameters.max_bin:
            raise PlanError(
                f"plan: cuts.{feature} has {len(cuts)} cuts; max_bin {plan.parameters.max_bin} allows fewer"
            )
    if not any(more.cuts) and not more.missing and not plan.schema.categories:
        raise PlanError("plan: [cuts] gives no cut at all; a tree could not split")


def _check_categories(plan: Plan, more: Coopetitive) -> None:
    for number, (name, levels) in enumerate(zip(plan.schema.features, plan.schema.categories, strict=False)):
        if not levels:
            continue
        if len(levels) > MOST_LEVELS:
            raise PlanError(
                f"plan: categories.{name} has {len(levels)} levels; at most {MOST_LEVELS} are taken: join rare ones into one"
            )
        most = plan.parameters.max_cat_to_onehot
        if most is not None and len(levels) >= most:
            raise PlanError(
                f"plan: parameter max_cat_to_onehot = {most} asks for splits on several of the {len(levels)} categories of {name!r}; "
                f"here every split tells one category from all others: leave it out, or give {len(levels) + 1} or more"
            )
        if more.cuts is not None and more.cuts[number]:
            raise PlanError(f"plan: cuts.{name} gives cuts of a categorical feature, which has none; leave them out")
        if more.monotone and more.monotone[number]:
            raise PlanError(
                f"plan: monotone.{name} constrains a categorical feature, whose levels have no order; leave it out"
            )


def _table(document: Mapping[str, Any], key: str, allowed: tuple[str, ...], where: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise PlanError(f"{where}: {key} is {value!r}; expected a table [{key}]")
    _refuse_unknown(value, allowed, f"{where}: [{key}]")
    return value


def _refuse_unknown(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise PlanError(f"{where}: key {unknown[0]!r} is not known; expected {', '.join(allowed)}")


def _typed(value: Any, kind: type | tuple[type, ...], key: str, expected: str, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PlanError(f"{where}: {key} is {value!r}; expected {expected}")
    return value


def _flag(value: Any, key: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{where}: {key} is {value!r}; expected true or false")
    return value


def _names(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise PlanError(f"{where}: {key} is {value!r}; expected a list of names")
    return tuple(value)


PLAN_KEYS: dict[str, tuple[str, ...]] = {
    "": (
        "name",
        "mode",
        "members",
        "schema",
        "privacy",
        "evaluation",
        "labels",
        "cuts",
        "categories",
        "monotone",
        "release",
        "parameters",
    ),
    "members": ("aggregator", "hub", "servers", "server_links", "parties", "receivers", "minimum_parties"),
    "schema": ("features", "label", "weight", "weight_limit", "missing", "decimal"),
    "privacy": ("min_cell_rows", "min_party_rows", "min_child_rows", "dominance", "verify_counts"),
    "evaluation": ("fraction", "steps"),
    "labels": ("range",),
    "release": ("statistics", "least_choices", "leaf_bits"),
}
"""Every key of a plan file but those of [parameters], which are `trees.parameters.NAMES`, and of [cuts], [categories] and
[monotone]: features."""


def default_verify_counts(mode: object, parties: Sequence[str]) -> str:
    """What a plan has that does not say; of two parties each would learn the other's rows."""
    return DEFAULT_VERIFY_COUNTS if mode == MASKED and len(parties) > 2 else "off"


def parse_plan(text: str, where: str = "plan") -> Plan:
    """Read a plan. Raises PlanError naming the key and what to write instead."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # more than TOMLDecodeError: endless digits, arrays in arrays
        raise PlanError(f"{where}: not TOML: {error}") from error
    _refuse_unknown(document, PLAN_KEYS[""], where)
    members = _table(document, "members", PLAN_KEYS["members"], where)
    schema = _table(document, "schema", PLAN_KEYS["schema"], where)
    privacy = _table(document, "privacy", PLAN_KEYS["privacy"], where)
    evaluation = _table(document, "evaluation", PLAN_KEYS["evaluation"], where)
    release = _table(document, "release", PLAN_KEYS["release"], where)
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise PlanError(f"{where}: parameters is {parameters!r}; expected a table [parameters]")
    mode = document.get("mode")
    hub = "hub" if mode == COOPETITIVE else "aggregator"
    for key, table, name in (
        (f"members.{hub}", members, hub),
        ("members.parties", members, "parties"),
        ("schema.features", schema, "features"),
        ("schema.label", schema, "label"),
        ("mode", document, "mode"),
    ):
        if name not in table:
            raise PlanError(f"{where}: {key} is missing; add it")
    parties = _names(members["parties"], "members.parties", where)
    if mode == COOPETITIVE:
        parameters = {"max_bin": DEFAULT_BINS_ON_SHARES, **parameters}
    features = _names(schema["features"], "schema.features", where)
    return Plan(
        name=_typed(document.get("name", "run"), str, "name", "text", where),
        mode=_typed(document["mode"], str, "mode", "text", where),
        aggregator=_typed(members.get("aggregator", ""), str, "members.aggregator", "a member's name", where),
        parties=parties,
        receivers=_names(members.get("receivers", list(parties)), "members.receivers", where),
        minimum_parties=_typed(
            members.get("minimum_parties", len(parties)),
            int,
            "members.minimum_parties",
            "a whole number",
            where,
        ),
        schema=Schema(
            features=features,
            label=_typed(schema["label"], str, "schema.label", "a column's name", where),
            weight=None
            if "weight" not in schema
            else _typed(schema["weight"], str, "schema.weight", "a column's name", where),
            categories=_categories(document, features, where),
            decimal=_typed(schema.get("decimal", "."), str, "schema.decimal", '"." or ","', where),
        ),
        parameters=parse_parameters(parameters),
        min_cell_rows=_typed(
            privacy.get("min_cell_rows", DEFAULT_MIN_CELL_ROWS),
            int,
            "privacy.min_cell_rows",
            "a whole number",
            where,
        ),
        min_party_rows=_typed(
            privacy.get("min_party_rows", DEFAULT_MIN_PARTY_ROWS),
            int,
            "privacy.min_party_rows",
            "a whole number",
            where,
        ),
        min_child_rows=_typed(privacy.get("min_child_rows", 1), int, "privacy.min_child_rows", "a whole number", where),
        dominance=_flag(privacy.get("dominance", False), "privacy.dominance", where),
        verify_counts=_typed(
            privacy.get("verify_counts", default_verify_counts(mode, parties)),
            str,
            "privacy.verify_counts",
            "a text",
            where,
        ),
        evaluation_fraction=float(
            _typed(evaluation.get("fraction", 0.0), (int, float), "evaluation.fraction", "a number", where)
        ),
        coopetitive=_coopetitive(document, features, where),
        release=Release(
            statistics=mode == COOPETITIVE or _flag(release.get("statistics", True), "release.statistics", where),
            least_choices=_whole_or_none(release, "least_choices", where),
            leaf_bits=_whole_or_none(release, "leaf_bits", where),
        ),
    )


def _whole_or_none(release: Mapping[str, Any], key: str, where: str) -> int | None:
    if key not in release:
        return None
    number: int = _typed(release[key], int, f"release.{key}", "a whole number", where)
    return number


def _categories(document: Mapping[str, Any], features: tuple[str, ...], where: str) -> tuple[tuple[Level, ...], ...]:
    given = _table(document, "categories", features, where)
    for name, levels in given.items():
        if not isinstance(levels, list) or not levels:
            raise PlanError(
                f"{where}: categories.{name} is {levels!r}; expected a list of levels, texts or whole numbers"
            )
    return tuple(tuple(given.get(name, ())) for name in features) if given else ()


def _coopetitive(document: Mapping[str, Any], features: tuple[str, ...], where: str) -> Coopetitive | None:
    """What the tables say that only a coopetitive plan has."""
    members, schema = document.get("members", {}), document.get("schema", {})
    if document.get("mode") != COOPETITIVE:
        given = [f"members.{key}" for key in ("hub", "servers", "server_links") if key in members]
        given += [f"schema.{key}" for key in ("missing", "weight_limit") if key in schema]
        given += ["evaluation.steps"] if "steps" in document.get("evaluation", {}) else []
        given += [f"[{key}]" for key in ("labels", "cuts", "monotone") if key in document]
        if given:
            raise PlanError(f"{where}: {given[0]} goes with mode {COOPETITIVE!r} only; leave it out")
        return None
    labels = _table(document, "labels", PLAN_KEYS["labels"], where)
    release = _table(document, "release", PLAN_KEYS["release"], where)
    statistics = _flag(release.get("statistics", False), "release.statistics", where)
    label_range = None
    if "range" in labels:
        ends = _numbers(labels["range"], "labels.range", where)
        if len(ends) != 2:
            raise PlanError(f"{where}: labels.range is {list(ends)}; expected [lowest, highest]")
        label_range = (ends[0], ends[1])
    steps = document.get("evaluation", {}).get("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, int) and not isinstance(step, bool) for step in steps):
        raise PlanError(f"{where}: evaluation.steps is {steps!r}; expected a list of whole numbers")
    signs = _table(document, "monotone", features, where)
    monotone = tuple(
        _typed(signs.get(name, 0), int, f"monotone.{name}", "1, -1 or 0", where) for name in features if signs
    )
    limit = schema.get("weight_limit")
    if limit is not None:
        limit = float(_typed(limit, (int, float), "schema.weight_limit", "a number", where))
    cuts = None
    if "cuts" in document:
        given_cuts = _table(document, "cuts", features, where)
        cuts = tuple(_numbers(given_cuts.get(name, []), f"cuts.{name}", where) for name in features)
    return Coopetitive(
        hub=_typed(members["hub"], str, "members.hub", "a member's name", where),
        servers=_names(members.get("servers", []), "members.servers", where),
        statistics=statistics,
        label_range=label_range,
        cuts=cuts,
        missing=_names(schema["missing"], "schema.missing", where) if "missing" in schema else None,
        weight_limit=limit,
        steps=tuple(steps),
        monotone=monotone,
        server_links=_typed(members.get("server_links", "hub"), str, "members.server_links", "a text", where),
    )


def _numbers(value: Any, key: str, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in value):
        raise PlanError(f"{where}: {key} is {value!r}; expected a list of numbers")
    return tuple(float(n) for n in value)


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError naming file and key."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, too large, or a NUL in the path
        raise PlanError(f"{path}: cannot be read: {error}") from error
    return parse_plan(text, str(path))


def _quoted(text: str) -> str:
    # TOML's strings are JSON's, but for the one control character that JSON leaves as it is.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def _privacy(plan: Plan) -> dict[str, Any]:
    """What [privacy] says."""
    names = ("min_cell_rows", "min_party_rows", "min_child_rows")
    given: dict[str, Any] = {name: getattr(plan, name) for name in names}
    return given | ({} if plan.coopetitive else {"dominance": plan.dominance, "verify_counts": plan.verify_counts})


def _hub_and_servers(more: Coopetitive) -> dict[str, Any]:
    return {"hub": more.hub, "servers": more.servers, "server_links": more.server_links}


def write_plan(plan: Plan) -> str:
    """The plan as TOML text that `parse_plan` reads back to an equal plan."""
    schema: dict[str, Any] = {"features": plan.schema.features, "label": plan.schema.label}
    if plan.schema.weight is not None:
        schema["weight"] = plan.schema.weight
    if plan.schema.decimal != ".":
        schema["decimal"] = plan.schema.decimal
    more = plan.coopetitive
    if more is not None and more.missing is not None:
        schema["missing"] = more.missing
    if more is not None and more.weight_limit is not None:
        schema["weight_limit"] = more.weight_limit
    parameters = {
        name.rstrip("_"): value for name, value in asdict(plan.parameters).items() if value is not None and value != ()
    }
    tables: dict[str, dict[str, Any]] = {
        "members": {
            **({"aggregator": plan.aggregator} if more is None else _hub_and_servers(more)),
            "parties": plan.parties,
            "receivers": plan.receivers,
            "minimum_parties": plan.minimum_parties,
        },
        "schema": schema,
        "privacy": _privacy(plan),
        "evaluation": {"fraction": plan.evaluation_fraction},
        "release": {"statistics": plan.statistics}
        | {key: value for key in ("least_choices", "leaf_bits") if (value := getattr(plan.release, key)) is not None},
        "parameters": parameters,
    }
    if plan.schema.categories:
        tables["categories"] = {_quoted(name): levels for name, levels in plan.schema.levels.items()}
    if more is not None:
        if more.steps:
            tables["evaluation"]["steps"] = more.steps
        if more.monotone:
            tables["monotone"] = {
                _quoted(name): sign for name, sign in zip(plan.schema.features, more.monotone, strict=True)
            }
        if more.label_range is not None:
            tables["labels"] = {"range": more.label_range}
        if more.cuts is not None:
            tables["cuts"] = {_quoted(name): cuts for name, cuts in zip(plan.schema.features, more.cuts, strict=True)}
    lines = [f"name = {_quoted(plan.name)}", f"mode = {_quoted(plan.mode)}"]
    for title, table in tables.items():
        lines += ["", f"[{title}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"
