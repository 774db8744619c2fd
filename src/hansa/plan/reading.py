"""A plan file: which tables and keys it has, and of which types; and how it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hansa.data.schema import Schema
from hansa.declared import decode, unknown_keys
from hansa.errors import PlanError
from hansa.plan.plan import Coopetitive, CustomMetric, CustomObjective, Plan, Release
from hansa.plan.search import Interval, Search
from hansa.plan.values import (
    COOPETITIVE,
    DEFAULT_BINS_ON_SHARES,
    DEFAULT_MIN_CELL_ROWS,
    DEFAULT_MIN_PARTY_ROWS,
    BaseMarginLimit,
    Bound,
    Choices,
    Column,
    CustomMetricName,
    Cuts,
    DateRule,
    DeadlineS,
    DecimalSign,
    Digest,
    Folds,
    Fraction,
    FunctionDigest,
    LeafBits,
    LeastChoices,
    Levels,
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
    RareRows,
    RowBound,
    ServerLinks,
    ShapRows,
    Sign,
    Steps,
    Trials,
    Unseen,
    VerifyCounts,
    WeightLimit,
    default_verify_counts,
)
from hansa.toml import parse_toml, read_toml
from hansa.trees.parameters import Parameters, parse_parameters


class MembersTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[members]"""

    aggregator: MemberName | None = None
    hub: MemberName | None = None
    servers: Names | None = None
    server_links: ServerLinks | None = None
    parties: Names
    receivers: Names | None = None
    minimum_parties: int | None = None
    on_dropout: OnDropout | None = None
    continue_after_s: DeadlineS | None = None
    collectors: dict[str, Names] = {}


class SchemaTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[schema]"""

    features: Names
    union: Names | None = None
    label: Column | Names
    weight: Column | None = None
    weight_limit: WeightLimit | None = None
    missing: Names | None = None
    id: Column | None = None
    decimal: DecimalSign = "."
    ignore: Names | None = None
    classes: Names | None = None
    base_margin: Column | Names | None = None
    base_margin_limit: BaseMarginLimit | None = None
    unseen: Unseen = "missing"
    dates: dict[str, DateRule] = {}
    rare_levels: dict[str, RareRows] = {}


class PrivacyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[privacy]"""

    min_cell_rows: MinCellRows = DEFAULT_MIN_CELL_ROWS
    min_party_rows: MinPartyRows = DEFAULT_MIN_PARTY_ROWS
    min_child_rows: MinChildRows = 1
    dominance: bool = False
    verify_counts: VerifyCounts | None = None


class EvaluationTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[evaluation]"""

    fraction: Fraction = 0.0
    folds: Folds = 0
    steps: Steps | None = None
    shap: ShapRows = ""


class LabelsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[labels]"""

    range: Range | None = None


class ReleaseTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[release]"""

    statistics: bool | None = None
    least_choices: LeastChoices | None = None
    leaf_bits: LeafBits | None = None
    metric: MetricName = ""
    at_least: MetricBound | None = None
    at_most: MetricBound | None = None
    deadline_s: DeadlineS | None = None


class CustomObjectiveTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[custom_objective]"""

    sha256: FunctionDigest
    gradient_bound: RowBound
    hessian_bound: RowBound


class CustomMetricTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[custom_metric]"""

    sha256: FunctionDigest
    name: CustomMetricName = "custom"
    bound: RowBound
    maximize: bool = False


class IntervalTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """{ low = 0.03, high = 0.3, log = true }"""

    low: Bound
    high: Bound
    log: bool = False


class SearchTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[search]"""

    trials: Trials
    space: dict[str, IntervalTable | Choices]


class PlanDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan file as it is written: every table and key, with its type. None, and an empty table: not given.

    [cuts], [categories] and [monotone] have features for keys, [parameters] those of `hansa.trees.parameters`.
    """

    name: str = "run"
    mode: Mode
    start_model: Digest = ""
    members: MembersTable
    schema: SchemaTable
    privacy: PrivacyTable = PrivacyTable()
    evaluation: EvaluationTable = EvaluationTable()
    labels: LabelsTable | None = None
    cuts: dict[str, Cuts] | None = None
    categories: dict[str, Levels] = {}
    monotone: dict[str, Sign] | None = None
    release: ReleaseTable = ReleaseTable()
    custom_objective: CustomObjectiveTable | None = None
    custom_metric: CustomMetricTable | None = None
    search: SearchTable | None = None
    parameters: dict[str, Any] = {}


def parse_plan(text: str, where: str = "plan") -> Plan:
    """Read a plan.

    Parameters
    ----------
    text : str
        TOML, as a plan file holds it.
    where : str
        What errors call it.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        Naming `where`, the key, what was found and expected, and the cure.

    Examples
    --------
    >>> from hansa import Plan, Schema, parse_parameters, write_plan
    >>> text = write_plan(Plan(
    ...     name="cells", mode="federated", aggregator="hub", parties=("aurora", "borealis"), receivers=("aurora",),
    ...     minimum_parties=2, schema=Schema(("rsrp", "load"), "sleeping"), parameters=parse_parameters({"rounds": 10}),
    ... ))
    >>> parse_plan(text).parameters.rounds
    10
    >>> parse_plan(text.replace("receivers", "recievers"))
    Traceback (most recent call last):
        ...
    hansa.errors.PlanError: plan: ...
    """
    return _plan_of(parse_toml(text, where, PlanError), where)


def read_plan(path: Path) -> Plan:
    """Read a plan file.

    Parameters
    ----------
    path : pathlib.Path
        The TOML file that all members agreed on.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        Naming file, key, what was found and expected, and the cure.

    Examples
    --------
    >>> read_plan(Path("no-such-plan.toml"))
    Traceback (most recent call last):
        ...
    hansa.errors.PlanError: no-such-plan.toml: cannot be read...
    """
    return _plan_of(read_toml(path, PlanError, "name the plan file that all members agreed on"), str(path))


def _plan_of(content: Mapping[str, Any], where: str) -> Plan:
    document = decode(content, PlanDocument, where, PlanError)
    for fault in _faults(document):
        raise PlanError(f"{where}: {fault}")
    try:
        return _plan(document)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from error


def _faults(document: PlanDocument) -> Iterator[str]:
    """What single keys do not tell: keys that go with another mode, and tables whose keys must be features."""
    members, schema = document.members, document.schema
    name, given = ("hub", members.hub) if document.mode == COOPETITIVE else ("aggregator", members.aggregator)
    if given is None:
        yield f"members.{name} is missing; add it (a member's name)"
    if document.evaluation.folds and document.evaluation.fraction:
        yield "evaluation.fraction and evaluation.folds are two ways to hold rows out; give one"
    if document.search is not None and members.receivers:
        yield "members.receivers: a search for parameters ([search]) releases no model; leave receivers out"
    if document.evaluation.folds and members.receivers:
        yield "members.receivers: a cross-validation (evaluation.folds) releases no model; leave receivers out"
    for key, value in (
        ("members.hub", members.hub),
        ("members.servers", members.servers),
        ("members.server_links", members.server_links),
        ("schema.missing", schema.missing),
        ("schema.weight_limit", schema.weight_limit),
        ("evaluation.steps", document.evaluation.steps),
        ("release.deadline_s", document.release.deadline_s),
        ("[labels]", document.labels),
        ("[cuts]", document.cuts),
    ):
        if document.mode != COOPETITIVE and value is not None:
            yield f"{key} goes with mode {COOPETITIVE!r} only, and the mode is {document.mode!r}; leave it out"
    for title in ("cuts", "categories", "monotone"):
        unknown = [name for name in getattr(document, title) or {} if name not in schema.features]
        if unknown:
            yield unknown_keys(unknown, schema.features, title)
    if document.monotone and "monotone_constraints" in document.parameters:
        yield "[monotone] and parameters.monotone_constraints say the same; leave one of them out"


def _plan(document: PlanDocument) -> Plan:
    members, schema, privacy, release = document.members, document.schema, document.privacy, document.release
    shared = document.mode == COOPETITIVE
    parties = members.parties
    union = schema.union or ()
    return Plan(
        name=document.name,
        mode=document.mode,
        aggregator=members.aggregator or "",
        parties=parties,
        receivers=parties if members.receivers is None else members.receivers,
        minimum_parties=len(parties) if members.minimum_parties is None else members.minimum_parties,
        on_dropout=_on_dropout(members.on_dropout, bool(union or schema.rare_levels), _measuring(document)),
        continue_after_s=members.continue_after_s,
        collectors=tuple(members.collectors.items()),
        schema=Schema(
            features=schema.features,
            label=schema.label,
            weight=schema.weight,
            id=schema.id,
            categories=tuple(document.categories.get(name, ()) for name in schema.features),
            union=union,
            decimal=schema.decimal,
            ignore=schema.ignore or (),
            classes=schema.classes or (),
            base_margin=(schema.base_margin,) if isinstance(schema.base_margin, str) else schema.base_margin or (),
            base_margin_limit=schema.base_margin_limit or 0.0,
            unseen=schema.unseen,
            dates=tuple(schema.dates.items()),
            rare_levels=tuple(schema.rare_levels.items()),
        ),
        parameters=_parameters(_with_monotone(document), document.mode),
        min_cell_rows=privacy.min_cell_rows,
        min_party_rows=privacy.min_party_rows,
        min_child_rows=privacy.min_child_rows,
        dominance=privacy.dominance,
        verify_counts=privacy.verify_counts or default_verify_counts(document.mode, parties),
        evaluation_fraction=document.evaluation.fraction,
        folds=document.evaluation.folds,
        shap=document.evaluation.shap,
        search=_search(document),
        coopetitive=_coopetitive(document) if shared else None,
        release=Release(
            statistics=shared or release.statistics is not False,
            least_choices=release.least_choices,
            leaf_bits=release.leaf_bits,
            metric=release.metric,
            at_least=release.at_least,
            at_most=release.at_most,
        ),
        start_model=document.start_model,
        custom_objective=None
        if (custom := document.custom_objective) is None
        else CustomObjective(custom.sha256, custom.gradient_bound, custom.hessian_bound),
        custom_metric=None
        if (metric := document.custom_metric) is None
        else CustomMetric(metric.sha256, metric.name, metric.bound, metric.maximize),
    )


def _measuring(document: PlanDocument) -> str:
    """What a plan is whose run cannot go on after a process ended, in words; "" of another."""
    if document.members.collectors:
        return "a run with collectors (members.collectors)"
    if document.evaluation.shap:
        return "a run with a SHAP summary (evaluation.shap)"
    if document.evaluation.folds:
        return "a cross-validation (evaluation.folds)"
    return "" if document.search is None else "a search for parameters ([search])"


def _search(document: PlanDocument) -> Search | None:
    own = document.search
    if own is None:
        return None
    space = {
        name: values if isinstance(values, tuple) else Interval(values.low, values.high, values.log)
        for name, values in own.space.items()
    }
    return Search(own.trials, tuple(space.items()))


def _on_dropout(given: str | None, finds_levels: bool, measuring: str) -> str:
    """What happens when a member is gone. Raises PlanError where a run that cannot go on would have to wait for it."""
    if measuring and given in ("wait", "continue"):
        raise PlanError(
            f"members.on_dropout is {given!r}; {measuring} begins anew after a process ended: write 'abort', or leave it out"
        )
    if finds_levels and given in ("wait", "continue"):
        raise PlanError(
            f"members.on_dropout is {given!r}; a run that finds levels (schema.rare_levels, or a union) cannot go on after a process "
            "ended: write 'abort', or leave it out"
        )
    return given or "wait"


def _with_monotone(document: PlanDocument) -> Mapping[str, Any]:
    """[parameters], with what [monotone] says, but in coopetitive mode, which has it elsewhere."""
    if not document.monotone or document.mode == COOPETITIVE:
        return document.parameters
    return {**document.parameters, "monotone_constraints": document.monotone}


def parameters_of(mode: str, given: Mapping[str, Any]) -> Parameters:
    """Parameters of a mode, of which coopetitive mode has a default of its own: `max_bin`. Raises PlanError."""
    return parse_parameters({"max_bin": DEFAULT_BINS_ON_SHARES, **given} if mode == COOPETITIVE else given)


def _parameters(given: Mapping[str, Any], mode: str) -> Parameters:
    try:
        return parameters_of(mode, given)
    except PlanError as error:
        raise PlanError(f"[parameters]: {error}") from error


def _coopetitive(document: PlanDocument) -> Coopetitive:
    """What the tables say that only a coopetitive plan has."""
    members, schema, features = document.members, document.schema, document.schema.features
    cuts, signs = document.cuts, document.monotone
    return Coopetitive(
        hub=members.hub or "",
        servers=members.servers or (),
        statistics=document.release.statistics is True,
        label_range=None if document.labels is None else document.labels.range,
        cuts=None if cuts is None else tuple(cuts.get(name, ()) for name in features),
        missing=schema.missing,
        weight_limit=schema.weight_limit,
        steps=document.evaluation.steps or (),
        monotone=tuple(signs.get(name, 0) for name in features) if signs else (),
        server_links=members.server_links or "hub",
        deadline_s=document.release.deadline_s,
    )
