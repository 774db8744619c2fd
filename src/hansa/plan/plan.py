"""The training plan: one TOML file that every member holds, word for word the same to the digest.

    name = "dropped-calls"
    mode = "federated"

    [members]
    aggregator = "hub"
    parties = ["aurora", "borealis", "cirrus"]
    receivers = ["aurora", "borealis"]        # default: all parties
    minimum_parties = 3                       # default: all parties
    collectors = { dune = ["aurora", "borealis"] }   # optional, federated: members that add up the sums of some parties
    on_dropout = "wait"                       # or "abort", "continue": what happens when a member's process ends; default: wait

    [schema]
    features = ["traffic", "temperature"]
    label = "fault"
    weight = "importance"                     # optional
    base_margin = "tariff"                    # optional: each row's margin before the first tree; a list for several outputs
    base_margin_limit = 10.0                  # no row's base margin exceeds it in size
    decimal = ","                             # optional: the decimal sign of numbers that are texts, as in CSV files; default "."
    ignore = ["site"]                         # optional: columns that a table may have and that are not read
    classes = ["no", "yes"]                   # optional: what a label of texts says; the place in the list is the class
    unseen = "error"                          # optional: predictions refuse levels that no list has; default "missing"
    dates = { opened = "days" }               # optional: by feature, the rule that makes its number of a date
    id = "patient"                            # optional: whom a row is of: all rows of one are held out together, or in one fold
    rare_levels = { employer = 20 }           # optional: levels that fewer pooled rows have become one, "other"

    [privacy]
    min_cell_rows = 10                        # cuts stop at cells of so many pooled rows
    min_party_rows = 20                       # protected modes: rows that each of at least three parties must have
    min_child_rows = 1                        # no split makes a node of fewer pooled rows
    dominance = false                         # federated: cells and nodes hold their minimum without the largest party
    verify_counts = "tree"                    # secure-aggregation: parties check pooled rows of cells and nodes

    [evaluation]
    fraction = 0.2                            # of each party's rows, held out for metrics and early stopping
    folds = 5                                 # or in place of it: cross-validation, which trains so many models and releases none

    [parameters]                              # XGBoost's names
    objective = "binary:logistic"
    rounds = 100
    eta = 0.1

    [search]                                  # optional: a search for parameters: so many trials, whose models nobody receives
    trials = 20

    [search.space]                            # what is tried, in place of what [parameters] says
    eta = { low = 0.03, high = 0.3, log = true }
    max_depth = { low = 2, high = 8 }
    max_delta_step = [0, 1]

In coopetitive mode nobody sums; three servers compute on shares, and the hub only relays what members seal for each other:

    mode = "coopetitive"

    [members]
    hub = "post"                              # in place of an aggregator; one of the servers, or any other member, may be it
    servers = ["aurora", "borealis", "cirrus"]   # any three members, with rows or without; the order is S_0, S_1, S_2
    server_links = "direct"                   # default "hub"; direct: servers connect to each other
    parties = ["aurora", "borealis", "cirrus", "dune"]
    receivers = ["aurora", "dune"]

    [labels]
    range = [0.0, 100.0]                      # reg:squarederror, count:poisson: labels outside are refused at their owner

    [cuts]                                    # optional: cuts by feature; then none are searched
    traffic = [1.0, 10.0, 100.0]
    temperature = [0.0, 20.0]

    [categories]                              # optional: levels of categorical features; the order is the code
    employer = ["private", "public", "none"]

    [monotone]                                # optional: 1 for increasing, -1 for decreasing
    traffic = 1

    [custom_objective]                        # optional: gradients by a function that every party has as a file
    sha256 = "1f0c..."                        # of its bytes
    gradient_bound = 1.0                      # no row's gradient exceeds it in size, and no hessian the other
    hessian_bound = 0.25

    [custom_metric]                           # optional: a metric of held-out rows, the last one, by a function of the same kind
    sha256 = "a77e..."
    name = "cost"
    bound = 10.0                              # no row's value, which is at least 0, exceeds it
    maximize = false                          # whether a greater mean is better; default false

    [release]                                 # in every mode
    statistics = false                        # gain and cover of every node; default: false in coopetitive mode, else true
    least_choices = 1000                      # numbers of rows that fit a first tree's leaves; default: 1000 in coopetitive mode
    leaf_bits = 10                            # in place of it: fraction bits of leaf values
    metric = "auc"                            # optional: nobody gets the model unless this metric of the held-out rows
    at_least = 0.8                            # is at least so much; or at_most
    deadline_s = 7200                         # coopetitive: training stops so many seconds after it began; finished trees are released

Approvals sign `digest` (`consortium.approvals`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec

from hansa.data.schema import Schema
from hansa.declared import fault_of_fields
from hansa.errors import PlanError
from hansa.plan.rules import broken_rule
from hansa.plan.search import Interval, Search, Value, given_of
from hansa.plan.values import (
    DEFAULT_LEAST_CHOICES,
    DEFAULT_MIN_CELL_ROWS,
    DEFAULT_MIN_PARTY_ROWS,
    Collectors,
    CustomMetricName,
    Cuts,
    DeadlineS,
    Digest,
    Folds,
    Fraction,
    FunctionDigest,
    LeafBits,
    LeastChoices,
    MemberName,
    MetricBound,
    MetricName,
    MinCellRows,
    MinChildRows,
    MinPartyRows,
    Mode,
    Names,
    OnDropout,
    Range,
    RowBound,
    ServerLinks,
    ShapRows,
    Sign,
    Steps,
    VerifyCounts,
    WeightLimit,
)
from hansa.trees.losses import HIGHER_IS_BETTER
from hansa.trees.parameters import Parameters, parse_parameters, with_labels

KEYS_OF_COOPETITIVE = {
    "hub": "members.hub",
    "servers": "members.servers",
    "server_links": "members.server_links",
    "label_range": "labels.range",
    "cuts": "cuts",
    "missing": "schema.missing",
    "weight_limit": "schema.weight_limit",
    "steps": "evaluation.steps",
    "monotone": "monotone",
    "statistics": "release.statistics",
    "deadline_s": "release.deadline_s",
}
"""Attribute of `Coopetitive` -> its key in a plan file."""

KEYS_OF_RELEASE = {
    name: f"release.{name}" for name in ("statistics", "least_choices", "leaf_bits", "metric", "at_least", "at_most")
}
"""Attribute of `Release` -> its key in a plan file."""

KEYS_OF_CUSTOM = {name: f"custom_objective.{name}" for name in ("sha256", "gradient_bound", "hessian_bound")}
"""Attribute of `CustomObjective` -> its key in a plan file."""

KEYS_OF_METRIC = {name: f"custom_metric.{name}" for name in ("sha256", "name", "bound", "maximize")}
"""Attribute of `CustomMetric` -> its key in a plan file."""

KEYS_OF_PLAN = {
    "name": "name",
    "mode": "mode",
    "start_model": "start_model",
    "aggregator": "members.aggregator",
    "parties": "members.parties",
    "receivers": "members.receivers",
    "minimum_parties": "members.minimum_parties",
    "on_dropout": "members.on_dropout",
    "continue_after_s": "members.continue_after_s",
    "collectors": "members.collectors",
    "min_cell_rows": "privacy.min_cell_rows",
    "min_party_rows": "privacy.min_party_rows",
    "min_child_rows": "privacy.min_child_rows",
    "dominance": "privacy.dominance",
    "verify_counts": "privacy.verify_counts",
    "evaluation_fraction": "evaluation.fraction",
    "folds": "evaluation.folds",
    "shap": "evaluation.shap",
}
"""Attribute of `Plan` -> its key in a plan file, of those that hold one value or a list."""


def _hold(made: object, keys: Mapping[str, str]) -> None:
    """Refuse an attribute that is not of the type that its class declares: plans are made in Python too, not only read."""
    fault = fault_of_fields(made, keys)
    if fault is not None:
        raise PlanError(fault)


@dataclass(frozen=True)
class Coopetitive:
    """What a plan says more in coopetitive mode. Public to all members.

    Attributes:
        hub: the member whose process listens and relays; as such it holds no keys of the run. It may have other roles too.
        servers: S_0, S_1 and S_2, in this order.
        server_links: one of `SERVER_LINKS`: which way the servers' sealed messages to each other take.
        statistics: whether gain and cover are released with the splits.
        label_range: lowest and highest label of reg:squarederror or count:poisson; None for binary:logistic.
        cuts: of every feature, in the schema's order, or None where they are searched. A categorical feature has none.
        weight_limit: no row's weight exceeds it; None where rows have no weights.
        monotone: by feature, in the schema's order, 1 for increasing, -1 for decreasing, 0 for neither; empty for no constraint.
        steps: numbers of rounds after which the metrics of held-out rows are opened; empty for the last round only.
        deadline_s: seconds after its start when training stops, with the round that is under way; None for never.
        missing: names of the features that may lack values; with cuts, none where it is not given; without, None lets the
            servers open one bit a feature: whether any row lacks it.
    """

    hub: MemberName
    servers: Names
    statistics: bool = False
    label_range: Range | None = None
    cuts: tuple[Cuts, ...] | None = None
    missing: Names | None = None
    weight_limit: WeightLimit | None = None
    steps: Steps = ()
    monotone: tuple[Sign, ...] = ()
    server_links: ServerLinks = "hub"
    deadline_s: DeadlineS | None = None

    def __post_init__(self) -> None:
        _hold(self, KEYS_OF_COOPETITIVE)


LATER_PARAMETERS: dict[str, Any] = {
    field.name: field.default
    for field in fields(Parameters)
    if field.name
    in (
        *("max_leaves", "grow_policy", "colsample_bylevel", "colsample_bynode", "num_parallel_tree"),
        *(
            "monotone_constraints",
            "interaction_constraints",
            "max_cat_to_onehot",
            "max_cat_threshold",
            "huber_slope",
            "tweedie_variance_power",
            "quantile_alpha",
            "balance",
            "num_target",
            "multi_strategy",
        ),
    )
}
"""Parameters that plans had not at first, and what says nothing new."""


@dataclass(frozen=True)
class Release:
    """What the model tells of its leaves. Public to all members.

    Attributes:
        statistics: whether the file holds covers, gains and inner nodes' weights. In coopetitive mode that is `Coopetitive.statistics`.
        least_choices: leaf values are so coarse that so many choices of rows fit a first tree (`trees.leaf_choices`); 0 for leaves as
            they are; None for the mode's default.
        leaf_bits: in place of that, fraction bits of leaf values; None where it is not given.
        metric, at_least, at_most: nobody gets the model unless this metric of the pooled held-out rows, at the model's last round, is
            at least the one or at most the other; "" and None for no condition.
    """

    statistics: bool = True
    least_choices: LeastChoices | None = None
    leaf_bits: LeafBits | None = None
    metric: MetricName = ""
    at_least: MetricBound | None = None
    at_most: MetricBound | None = None

    def __post_init__(self) -> None:
        _hold(self, KEYS_OF_RELEASE)

    @property
    def condition(self) -> str:
        """The condition in words; "" where there is none."""
        if not self.metric:
            return ""
        return f"{self.metric} {'at least' if self.at_most is None else 'at most'} {self.bound:g}"

    @property
    def bound(self) -> float:
        """What the metric must reach."""
        return (self.at_least if self.at_most is None else self.at_most) or 0.0

    def is_reached(self, value: float | None) -> bool:
        """Whether a model whose metric has this value may be had; one without a value may not, where there is a condition."""
        if not self.metric:
            return True
        return value is not None and (value >= self.bound if self.at_most is None else value <= self.bound)


@dataclass(frozen=True)
class CustomObjective:
    """A function of the members' own in place of the objective's gradients. Public to all members.

    Attributes:
        sha256: of the bytes of the Python file that every party has, in hexadecimal digits.
        gradient_bound, hessian_bound: no row's gradient exceeds the one in size, no row's hessian, which is at least 0, the other.
    """

    sha256: FunctionDigest
    gradient_bound: RowBound
    hessian_bound: RowBound

    def __post_init__(self) -> None:
        _hold(self, KEYS_OF_CUSTOM)


@dataclass(frozen=True)
class CustomMetric:
    """A metric by a function of the members' own: the mean of its rows' values, by weight. Public to all members.

    Attributes:
        sha256: of the bytes of the Python file that every party has, in hexadecimal digits.
        name: under which it is told.
        bound: no row's value, which is at least 0, exceeds it.
        maximize: whether a greater mean is better.
    """

    sha256: FunctionDigest
    name: CustomMetricName
    bound: RowBound
    maximize: bool = False

    def __post_init__(self) -> None:
        _hold(self, KEYS_OF_METRIC)


@dataclass(frozen=True)
class Plan:
    """What the members agreed on. Public to all of them.

    Attributes
    ----------
    name : str
        Of the run, for people.
    mode : {"federated", "secure-aggregation", "coopetitive"}
        How the parties' sums or rows are kept from others.
    aggregator : str
        The member that sums and finds splits; empty in coopetitive mode.
    parties, receivers : tuple of str
        The members that hold rows, and those that get the model file; sorted.
    minimum_parties : int
        The run does not start with fewer parties.
    schema : Schema
        The columns of every party's table.
    parameters : Parameters
        How to grow the trees.
    min_cell_rows : int
        A cell of so many pooled rows or fewer is not split further when cuts are searched.
    evaluation_fraction : float
        Share of each party's rows that is held out; 0 for none; of folds, that of one of them.
    shap : {"", "all", "held-out"}
        Whose rows the mean size of SHAP values by feature is of, as pooled sums: nobody's, all parties', or those held out.
    folds : int
        Of a cross-validation: the members train a model for each fold, on the rows of the others, and nobody receives one; else 0.
    fold : int or None
        Whose rows are held out in the run at hand, 0 to folds - 1; a plan file has none.
    min_child_rows : int
        No split makes a node of fewer pooled rows.
    dominance : bool
        Whether a cell or child must hold its minimum without its largest contributor.
    verify_counts : {"off", "tree", "after", "before"}
        When every party opens and checks the row counts of cells and nodes.
    coopetitive : Coopetitive or None
        What only a coopetitive plan says.
    min_party_rows : int
        In the masked and the coopetitive mode: rows that each of at least three parties (two where every party's policy allows it) must
        have in training, among held-out rows and of each class where sums tell classes apart.
    release : Release
        What the model tells of its leaves.
    start_model : str
        The SHA-256, in hexadecimal digits, of the model file that training goes on from (XGBoost's xgb_model); "" for none.
    on_dropout : {"wait", "abort", "continue"}
        Whether members wait for one whose process or line is gone, and go on with it, or end the run; or wait, and then go on without
        it.
    continue_after_s : float or None
        With "continue": seconds after which a party that is away is left out.
    custom_objective : CustomObjective or None
        Whose function gives gradients and hessians in place of `parameters.objective`.
    custom_metric : CustomMetric or None
        A metric of held-out rows by a function, after those of `parameters.metrics`.
    search : Search or None
        Of a search for parameters: the members train a model for each trial, and nobody receives one.
    trial : int or None
        Which of them the run at hand is, from 0; a plan file has none.
    collectors : tuple of (str, tuple of str)
        In federated mode: members without rows, each with the parties whose sums it adds up for the aggregator; sorted.
    part_of : str
        Of a fold or trial: the digest of the plan that the members agreed on, in hexadecimal digits; "" of that plan itself.

    Raises
    ------
    PlanError
        Two keys do not go together, or a value is out of range.

    Examples
    --------
    >>> from hansa import Plan, Schema, parse_parameters
    >>> plan = Plan(
    ...     name="cells", mode="federated", aggregator="hub", parties=("borealis", "aurora"), receivers=("aurora",),
    ...     minimum_parties=2, schema=Schema(("rsrp", "load"), "sleeping"), parameters=parse_parameters({"rounds": 10}),
    ... )
    >>> plan.parties, plan.members
    (('aurora', 'borealis'), ('aurora', 'borealis', 'hub'))
    """

    name: str
    mode: Mode
    aggregator: MemberName
    parties: Names
    receivers: Names
    minimum_parties: int
    schema: Schema
    parameters: Parameters
    min_cell_rows: MinCellRows = DEFAULT_MIN_CELL_ROWS
    evaluation_fraction: Fraction = 0.0
    min_child_rows: MinChildRows = 1
    dominance: bool = False
    verify_counts: VerifyCounts = "off"
    coopetitive: Coopetitive | None = None
    min_party_rows: MinPartyRows = DEFAULT_MIN_PARTY_ROWS
    release: Release = Release()
    start_model: Digest = ""
    on_dropout: OnDropout = "wait"
    continue_after_s: DeadlineS | None = None
    custom_objective: CustomObjective | None = None
    custom_metric: CustomMetric | None = None
    folds: Folds = 0
    fold: int | None = None
    search: Search | None = None
    trial: int | None = None
    part_of: Digest = ""
    shap: ShapRows = ""
    collectors: Collectors = ()

    def __post_init__(self) -> None:
        _hold(self, KEYS_OF_PLAN)
        object.__setattr__(self, "parties", tuple(sorted(self.parties)))
        collectors = tuple(sorted((name, tuple(sorted(own))) for name, own in self.collectors))
        object.__setattr__(self, "collectors", collectors)
        object.__setattr__(self, "receivers", () if self.only_measures else tuple(sorted(self.receivers)))
        if self.folds:
            object.__setattr__(self, "evaluation_fraction", 1 / self.folds)
        parameters = with_labels(self.parameters, len(self.schema.labels))
        object.__setattr__(self, "parameters", parameters.for_features(self.schema.features))
        if self.coopetitive is not None and self.parameters.monotone_constraints and not self.coopetitive.monotone:
            signs = dict(self.parameters.monotone_constraints)
            monotone = tuple(signs.get(name, 0) for name in self.schema.features)
            object.__setattr__(self, "coopetitive", replace(self.coopetitive, monotone=monotone))
            object.__setattr__(self, "parameters", replace(self.parameters, monotone_constraints=()))
        if self.coopetitive is not None:  # it says so itself
            object.__setattr__(self, "release", replace(self.release, statistics=True))
        if not self.can_wait:
            object.__setattr__(self, "on_dropout", "abort")
        fault = broken_rule(self)
        if fault is not None:
            raise PlanError(fault)

    @property
    def members(self) -> tuple[str, ...]:
        """All members, sorted."""
        return tuple(sorted({self.hub, *dict(self.collectors), *self.servers, *self.parties, *self.receivers}))

    @property
    def branches(self) -> tuple[str, ...]:
        """In the modes with an aggregator: whose sums it receives, sorted. The collectors, and the parties that have none."""
        collected = {party for _, own in self.collectors for party in own}
        return tuple(sorted({*dict(self.collectors), *self.parties} - collected))

    def above(self, member: str) -> str:
        """Whom a member dials: a party its collector, where it has one; everybody else the hub."""
        return next((name for name, own in self.collectors if member in own), self.hub)

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

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of held-out rows; the last one says when training stops early."""
        own = () if self.custom_metric is None else (self.custom_metric.name,)
        return (*self.parameters.metrics, *own)

    @property
    def opened_steps(self) -> tuple[int, ...]:
        """Rounds after which a coopetitive plan has the metrics of held-out rows opened: all, of one that only measures; () in the
        other modes, where all are told."""
        if self.coopetitive is None or not self.evaluation_fraction:
            return ()
        if self.only_measures:
            return tuple(range(1, self.parameters.rounds + 1))
        last = () if self.release.metric else (self.parameters.rounds,)
        return self.coopetitive.steps or last

    @property
    def maximizes(self) -> bool:
        """Whether a greater value of the last metric is better."""
        own = self.custom_metric
        return own.maximize if own is not None else self.parameters.metrics[-1] in HIGHER_IS_BETTER

    @property
    def functions(self) -> tuple[tuple[str, str], ...]:
        """The functions of the members' own: what each is, in words, and its hash."""
        named = (("custom objective", self.custom_objective), ("custom metric", self.custom_metric))
        return tuple((what, own.sha256) for what, own in named if own is not None)

    @property
    def weighted(self) -> bool:
        """Whether rows have weights: of a column, or those that make parties count alike."""
        return self.schema.weight is not None or self.parameters.balance == "parties"

    @property
    def is_one_of_many(self) -> bool:
        """Whether the run at hand is one of a plan's folds or trials."""
        return self.fold is not None or self.trial is not None

    @property
    def can_wait(self) -> bool:
        """Whether a run can go on after a process ended: not in folds and trials, nor where it finds levels, sums SHAP values or has
        collectors."""
        return not (self.only_measures or self.schema.union or self.schema.rare_levels or self.shap or self.collectors)

    @property
    def only_measures(self) -> bool:
        """Whether nobody receives a model: those of folds and trials are measured, and let go."""
        return bool(self.folds) or self.search is not None

    def of_folds(self) -> tuple[Plan, ...]:
        """The plan of each fold's run; of rounds that all folds have: when training would have stopped follows from all of them."""
        parameters = replace(self.parameters, early_stopping_rounds=None)
        agreed = self.digest().hex()
        return tuple(replace(self, fold=fold, parameters=parameters, part_of=agreed) for fold in range(self.folds))

    def of_trials(self) -> tuple[Plan, ...]:
        """The plan of each trial's run. Raises PlanError where a trial's parameters do not go together."""
        if self.search is None:
            return ()
        found, agreed = [], self.digest().hex()
        for trial, drawn in enumerate(self.search.drawn(self.parameters.seed)):
            try:
                parameters = parse_parameters({**given_of(self.parameters), **drawn})
                found.append(replace(self, trial=trial, parameters=parameters, part_of=agreed))
            except PlanError as error:
                raise PlanError(f"search.space: trial {trial + 1} of {self.search.trials}: {error}") from error
        return tuple(found)

    def canonical(self) -> bytes:
        """The plan as bytes that depend on its meaning only: JSON with sorted keys, every default written out
        but those of `schema.decimal`, `schema.ignore`, `schema.classes`, `schema.base_margin`, `schema.unseen`, `schema.dates`,
        `schema.rare_levels`, `schema.id` and unions of levels, which came later.
        """
        content = {"format": 1, **asdict(self)}
        for name in ("coopetitive", "custom_objective", "custom_metric", "fold", "search", "trial"):
            if content[name] is None:
                del content[name]
        if self.coopetitive is not None and self.coopetitive.deadline_s is None:
            del content["coopetitive"]["deadline_s"]
        if self.schema.decimal == ".":
            del content["schema"]["decimal"]
        if not self.schema.ignore:
            del content["schema"]["ignore"]
        if not self.schema.classes:
            del content["schema"]["classes"]
        if not self.schema.base_margin:
            del content["schema"]["base_margin"], content["schema"]["base_margin_limit"]
        if self.schema.unseen == "missing":
            del content["schema"]["unseen"]
        if self.schema.id is None:
            del content["schema"]["id"]
        for name in ("dates", "rare_levels", "union"):
            if not content["schema"][name]:
                del content["schema"][name]
        # Settings that came later are left out where they change nothing: older plans keep their digests.
        for name, default in LATER_PARAMETERS.items():
            if content["parameters"][name] == default:
                del content["parameters"][name]
        release = content.pop("release") | {"least_choices": self.least_choices}
        content |= {key: release[key] for key in ("statistics", "least_choices", "leaf_bits")}
        if self.release.metric:
            content["release_condition"] = {key: release[key] for key in ("metric", "at_least", "at_most")}
        unchanged = {"verify_counts": "off", "min_child_rows": 1, "dominance": False}
        unchanged |= {"on_dropout": "wait" if self.can_wait else "abort"}
        unchanged |= {"folds": 0, "continue_after_s": None, "part_of": "", "shap": "", "collectors": ()}
        unchanged |= {"statistics": True, "least_choices": 0, "leaf_bits": None, "start_model": ""}
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
            "start_model": self.start_model,
            ("members.hub" if self.coopetitive is not None else "members.aggregator"): self.hub,
            "members.parties": self.parties,
            "members.receivers": self.receivers,
            "members.minimum_parties": self.minimum_parties,
            "members.on_dropout": self.on_dropout,
            "members.continue_after_s": self.continue_after_s,
            "schema.features": schema["features"],
            "schema.union": schema["union"],
            "schema.label": schema["label"],
            "schema.weight": schema["weight"],
            "schema.id": schema["id"],
            "schema.decimal": schema["decimal"],
            "schema.ignore": schema["ignore"],
            "schema.classes": schema["classes"],
            "schema.base_margin": schema["base_margin"],
            "schema.base_margin_limit": schema["base_margin_limit"],
            "schema.unseen": schema["unseen"],
            "schema.dates": tuple(f"{name}: {rule}" for name, rule in self.schema.dates),
            "schema.rare_levels": tuple(f"{name}: {least}" for name, least in self.schema.rare_levels),
            "privacy.min_cell_rows": self.min_cell_rows,
            "privacy.min_party_rows": self.min_party_rows,
            "privacy.min_child_rows": self.min_child_rows,
            "privacy.dominance": self.dominance,
            "privacy.verify_counts": self.verify_counts,
            "evaluation.fraction": self.evaluation_fraction,
            "evaluation.folds": self.folds,
            "evaluation.shap": self.shap,
            "release.statistics": self.statistics,
            "release.least_choices": self.least_choices,
            "release.leaf_bits": self.release.leaf_bits,
            "release.metric": self.release.metric,
            "release.at_least": self.release.at_least,
            "release.at_most": self.release.at_most,
        }
        if self.collectors:
            values["members.collectors"] = tuple(f"{name}: {', '.join(own)}" for name, own in self.collectors)
        if self.search is not None:
            values["search.trials"] = self.search.trials
            values["search.space"] = tuple(f"{name}: {_tried(own)}" for name, own in self.search.space)
        if self.custom_objective is not None:
            values |= {key: getattr(self.custom_objective, name) for name, key in KEYS_OF_CUSTOM.items()}
        if self.custom_metric is not None:
            values |= {key: getattr(self.custom_metric, name) for name, key in KEYS_OF_METRIC.items()}
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
                "release.deadline_s": more.deadline_s,
            }
        return values | {f"parameters.{name.rstrip('_')}": value for name, value in parameters.items()}

    def digest(self) -> bytes:
        """SHA-256 of `canonical`, 32 bytes."""
        return hashlib.sha256(b"hansa plan\x00" + self.canonical()).digest()


def _tried(values: Interval | tuple[Value, ...]) -> str:
    """What a search tries of a parameter, in words."""
    if isinstance(values, Interval):
        return f"{values.low:g} to {values.high:g}{', evenly in the logarithm' if values.log else ''}"
    return ", ".join(map(str, values))
