"""`hansa simulate`: a table split into parties, trained together, and compared with training alone and pooled."""

from __future__ import annotations

import hashlib
import math
import re
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hansa.consortium.policy import Policy
from hansa.data.holdout import held_out
from hansa.data.schema import Level, Schema
from hansa.errors import DataError, HansaError, PlanError
from hansa.files import temporary
from hansa.node.cores import cores, useful_threads
from hansa.node.events import OnEvent, Stage
from hansa.node.files import hub_end
from hansa.node.in_process import policy_of_holder, share_in_process, train_in_process
from hansa.node.record import bytes_of
from hansa.node.warm_up import warm_up, warm_up_shares
from hansa.plan import (
    COOPETITIVE,
    DEFAULT_MIN_CELL_ROWS,
    NUMBERS_ON_SHARES,
    SERVERS,
    Collectors,
    Coopetitive,
    CustomMetric,
    Plan,
    Release,
    default_verify_counts,
)
from hansa.printable import size
from hansa.roles.batches import check_roster, claim, hold_out, repeated_rows
from hansa.roles.run import Progress
from hansa.roles.summed.custom import NO_FUNCTIONS, Functions, MetricFunction
from hansa.simulation.comparison import PairedLoss, advice, paired_loss
from hansa.simulation.evaluation import model_views, training_views
from hansa.simulation.pooled_xgboost import ONE_HOT, is_installed, train_pooled_xgboost
from hansa.simulation.processes import preload, train_in_processes
from hansa.simulation.scores import METRICS_OF_CLASSES, metrics_of, score_table, without_value
from hansa.simulation.summary import (
    Compared,
    ComparedReasons,
    HeldOut,
    History,
    Metrics,
    PartySummary,
    Pooled,
    PooledResult,
    PooledSeconds,
    Reasons,
    Summary,
    Timing,
    Together,
    values_alone,
)
from hansa.simulation.tables import Table
from hansa.transport.channel import Hub
from hansa.transport.recording import RecordingHub
from hansa.trees.ensemble import Ensemble
from hansa.trees.leaf_choices import enough_rows
from hansa.trees.losses import HIGHER_IS_BETTER, LEAST_PROBABILITY, SOFTPROB, is_binary, is_softmax
from hansa.trees.parameters import Parameters, with_labels
from hansa.trees.xgboost_json import from_json
from hansa.views.chart import View, number
from hansa.views.training import phases_view

AGGREGATOR = "aggregator"
HUB = "hub"
SPARE_SERVERS = ("server-a", "server-b")
"""Compute servers without rows, where there are fewer than three parties."""

COLLECTOR = "collector"
"""How the names of collectors begin that nobody named."""


@dataclass(frozen=True)
class OwnMetric:
    """A metric of held-out rows by a function of the members' own.

    Attributes:
        agreed: what a plan says of it. function: see `roles.summed.custom`. file: where it stands, for members' processes.
    """

    agreed: CustomMetric
    function: MetricFunction
    file: Path | None = None

    @classmethod
    def of(
        cls, function: MetricFunction, sha256: str, bound: float, maximize: bool, file: Path | None = None
    ) -> OwnMetric:
        """A function under its own name, or as "custom" where a plan could not have that name. Raises PlanError."""
        name = getattr(function, "__name__", "").strip("_").lower()
        known = re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name) is not None
        return cls(CustomMetric(sha256, name if known else "custom", float(bound), bool(maximize)), function, file)


@dataclass(frozen=True)
class SimulationSettings:
    """What to simulate.

    Attributes:
        parameters: of the trees. mode: of the plan.
        label, weight, base_margin: column names; several labels are a tuple.
        min_cell_rows, evaluation_fraction: of the plan.
        alone, pooled: whether to train each party alone, and the pooled rows (Hansa, and XGBoost where it is installed).
        in_process: without processes and sockets. threads: compute threads of a party (of the run, in one process).
        transcript: folder for every frame that passed, or None.
        server_links, hub, servers, receivers, label_range, cuts, steps: of a coopetitive plan; empty or None for the defaults of
            `make_plan`. Categorical features are a table's (`Table.categories`).
        statistics, least_choices, leaf_bits: of the plan's release; None for the mode's defaults.
        dates, unseen, rare_levels: of the plan's schema.
        own_metric: the plan's custom metric, or None.
        collectors: of a federated plan: how many, or by name the member names of their parties; 0 for none.
    """

    parameters: Parameters
    label: str | tuple[str, ...]
    mode: str = "federated"
    weight: str | None = None
    base_margin: tuple[str, ...] = ()
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS
    evaluation_fraction: float = 0.0
    alone: bool = False
    pooled: bool = False
    in_process: bool = False
    threads: int | None = None
    transcript: Path | None = None
    hub: str = ""
    servers: tuple[str, ...] = ()
    server_links: str = "direct"
    receivers: tuple[str, ...] = ()
    label_range: tuple[float, float] | None = None
    cuts: tuple[tuple[float, ...], ...] | None = None
    steps: tuple[int, ...] = ()
    statistics: bool | None = None
    least_choices: int | None = None
    leaf_bits: int | None = None
    dates: tuple[tuple[str, str], ...] = ()
    unseen: str = "missing"
    rare_levels: tuple[tuple[str, int], ...] = ()
    own_metric: OwnMetric | None = None
    collectors: int | Mapping[str, Sequence[str]] = 0

    def __post_init__(self) -> None:
        parameters = with_labels(self.parameters, 1 if isinstance(self.label, str) else len(self.label))
        object.__setattr__(self, "parameters", parameters)

    @property
    def functions(self) -> Functions:
        """What every party brings beside its rows."""
        return NO_FUNCTIONS if self.own_metric is None else Functions(metric=self.own_metric.function)

    @property
    def last_metric(self) -> str:
        """The metric that chooses the best round."""
        return self.parameters.metrics[-1] if self.own_metric is None else self.own_metric.agreed.name

    @property
    def maximizes(self) -> bool:
        """Whether a greater value of it is better."""
        own = self.own_metric
        return self.parameters.metrics[-1] in HIGHER_IS_BETTER if own is None else own.agreed.maximize


@dataclass(frozen=True)
class Simulation:
    """What came out: `summary` is what --json prints; `model` the XGBoost JSON; `steps` the rounds of `history`, () for every one."""

    summary: Summary
    model: bytes
    history: History = field(default_factory=dict)
    steps: tuple[int, ...] = ()


SHOWN_MEMBERS = 30
"""Members whose names a sentence explains."""


def member_names(values: list[str]) -> dict[str, str]:
    """Values of the party column -> member names: lower case, no accents, others than letters and digits made hyphens, distinct."""
    names: dict[str, str] = {}
    for value in values:
        slug = _slug(value)[:50] or "party"
        name, number = slug, 2
        while name in names.values() or name in (AGGREGATOR, HUB, *SPARE_SERVERS) or name.startswith(f"{COLLECTOR}-"):
            name, number = f"{slug}-{number}", number + 1
        names[value] = name
    return names


def _slug(value: str) -> str:
    """What a member's name keeps of a text: a to z, 0 to 9 and hyphens."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", value) if not unicodedata.combining(sign))
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def told_of_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence where members' names do not say which value of the party column is whose; `names` as `member_names` gives them."""
    unlike = {value: name for value, name in names.items() if name != _slug(value) or _loses_signs(value)}
    if not unlike:
        return ()
    shown = ", ".join(f"{value!r:.60} is {name}" for value, name in islice(unlike.items(), SHOWN_MEMBERS))
    more = f", and so on ({len(unlike)} in all)" if len(unlike) > SHOWN_MEMBERS else ""
    return (
        f"names of members are made of a to z, 0 to 9 and hyphens, and these differ from whom they mean: {shown}{more}",
    )


def _loses_signs(value: str) -> bool:
    """Whether a text is more than spaces, signs, and what a member's name may hold."""
    kept = unicodedata.normalize("NFKD", value).lower()
    return any(sign.isalnum() and not sign.isascii() for sign in kept)


def split_parties(table: Table, names: Mapping[str, str]) -> dict[str, Table]:
    """Each party's rows, by member name; a party without rows is left out."""
    parts = {name: table.take(table.party == value) for value, name in names.items()}
    return {name: part for name, part in parts.items() if part.n_rows}


def shared_out(collectors: int | Mapping[str, Sequence[str]], parties: Sequence[str]) -> Collectors:
    """Collectors as a plan has them: so many, with about as many parties each, or those that are given.

    Raises PlanError where there would be one without parties.
    """
    if not isinstance(collectors, int):
        return tuple((name, tuple(own)) for name, own in collectors.items())
    if not 0 <= collectors <= len(parties):
        raise PlanError(
            f"collectors is {collectors}; expected 0 to {len(parties)}, the number of parties: each has one at least"
        )
    ordered, width = sorted(parties), len(str(collectors))
    return tuple(
        (f"{COLLECTOR}-{number + 1:0{width}}", tuple(ordered[number::collectors])) for number in range(collectors)
    )


def make_plan(
    settings: SimulationSettings,
    features: tuple[str, ...],
    parties: tuple[str, ...],
    labels: tuple[float, float] = (0.0, 1.0),
    heaviest: float = 1.0,
    categories: Mapping[str, tuple[Level, ...]] | None = None,
    farthest: float = 0.0,
) -> Plan:
    """The plan of a simulation: every party receives the model, and in coopetitive mode the first three compute, and a hub that does
    nothing else relays.

    Args:
        labels: the lowest and highest one, of which a coopetitive regression makes its public range.
        heaviest: the greatest weight, which a coopetitive plan with weights makes its public limit.
        categories: the levels of categorical features.
        farthest: the greatest base margin in size; the public limit is the power of two from there on.
    """
    more = None
    categories = categories or {}
    if settings.mode == COOPETITIVE:
        objective = settings.parameters.objective
        own = settings.label_range or ((0.0, max(labels[1], 1.0)) if objective == "count:poisson" else labels)
        more = Coopetitive(
            hub=settings.hub or HUB,
            servers=settings.servers or (*sorted(parties), *SPARE_SERVERS)[:SERVERS],
            server_links=settings.server_links,
            label_range=own if objective in NUMBERS_ON_SHARES else None,
            cuts=settings.cuts,
            missing=features if settings.cuts is not None else None,
            weight_limit=None if settings.weight is None else heaviest,
            steps=settings.steps,
            statistics=bool(settings.statistics),
        )
    elif settings.hub or settings.servers or settings.receivers or settings.label_range or settings.steps:
        raise PlanError(
            f"--hub, --servers, --receivers, --label-range and --evaluation-steps go with --mode {COOPETITIVE}"
        )
    return Plan(
        name="simulation",
        mode=settings.mode,
        aggregator=AGGREGATOR if more is None else "",
        parties=parties,
        receivers=settings.receivers or parties,
        minimum_parties=len(parties),
        schema=Schema(
            features,
            settings.label,
            settings.weight,
            tuple(categories.get(name, ()) for name in features),
            base_margin=settings.base_margin,
            base_margin_limit=2.0 ** math.ceil(math.log2(max(farthest, 1.0))) if settings.base_margin else 0.0,
            unseen=settings.unseen,
            dates=settings.dates,
            rare_levels=settings.rare_levels,
        ),
        parameters=settings.parameters,
        min_cell_rows=settings.min_cell_rows,
        evaluation_fraction=settings.evaluation_fraction,
        # Parties that verify counts learn the rows of leaves, so no choices of them could be promised.
        verify_counts="off" if settings.least_choices else default_verify_counts(settings.mode, parties),
        coopetitive=more,
        custom_metric=None if settings.own_metric is None else settings.own_metric.agreed,
        collectors=shared_out(settings.collectors, parties),
        release=Release(settings.statistics is not False, settings.least_choices, settings.leaf_bits),
    )


def simulate(train: Table, test: Table, settings: SimulationSettings, report: OnEvent = lambda _: None) -> Simulation:
    """Train on the parties of `train`, score on `test`; see `SimulationSettings` for what else is trained.

    Raises HansaError and its kinds with what to do.
    """
    started = time.perf_counter()
    objective = settings.parameters.objective
    check_labels(settings.parameters, train)
    names = member_names(sorted(set(train.party)))
    parts = split_parties(train, names)
    labels = float(train.label.min()), float(train.label.max())
    heaviest = 1.0 if train.weight is None else float(train.weight.max())
    categories = dict(train.categories)
    plan = make_plan(settings, train.names, tuple(parts), labels, heaviest, categories, train.farthest)
    refusal = refusal_of_members(plan, parts)
    if refusal is not None:
        plan = replace(plan, min_party_rows=0)
    if not settings.in_process:
        preload()
    warm_up(plan.parameters, bool(plan.schema.categories))
    in_process = _train_in_process
    if plan.coopetitive is not None:
        warm_up_shares(plan.parameters)
        in_process = _share_in_process
    run = in_process if settings.in_process else _train_over_tls
    report(Stage(text=f"{len(parts)} parties, {train.n_rows} rows, {len(train.names)} features"))
    together = run(plan, parts, settings, report)
    model = together.model
    ensemble = from_json(model)
    tests = split_parties(test, names)
    all_rows = _scores(ensemble, test)
    no_rows = _nothing(settings.parameters, "there are no test rows")
    members: dict[str, PartySummary] = {}
    for name, part in parts.items():
        common = _scores(ensemble, tests[name]) if name in tests else no_rows
        alone = no_rows if settings.alone else _Scores(None, {})
        if settings.alone and name in tests:
            report(Stage(text=f"{name} alone"))
            alone = _train_alone(plan, part, tests[name], settings.functions)
        members[name] = PartySummary(
            rows=part.n_rows,
            test_rows=tests[name].n_rows if name in tests else 0,
            label_mean=float(part.label.mean(dtype=np.float64)),
            class_shares=tuple(float(np.mean(part.label == k)) for k in range(settings.parameters.num_class)),
            bytes_up=together.traffic[name].bytes_up,
            bytes_down=together.traffic[name].bytes_down,
            metrics=Compared(together=common.metrics, alone=alone.metrics),
            paired=_compared(settings.parameters, tests[name], common.predictions, alone.predictions)
            if name in tests
            else None,
            without_value=ComparedReasons(together=common.without_value, alone=alone.without_value),
        )
    pooled = _train_pooled(plan, train, test, report, settings.functions) if settings.pooled else Pooled()
    seconds = together.seconds
    summary = Summary(
        mode=settings.mode,
        transport="in-process" if settings.in_process else "mutual TLS 1.3",
        objective=objective,
        num_class=settings.parameters.num_class,
        trees=len(ensemble.trees),
        members=members,
        seconds=Timing(
            total=time.perf_counter() - started,
            startup=seconds.startup,
            binning=seconds.binning,
            training=seconds.training,
        ),
        round_trips_per_tree=together.exchanges / together.trees_grown,
        metrics=all_rows.metrics or {},
        without_value=all_rows.without_value,
        held_out=HeldOut(
            metrics={name: values[-1] for name, values in together.history.items()},
            without_value=together.without_value,
        ),
        pooled=pooled,
        categories={name: len(levels) for name, levels in train.categories.items()},
        advice=tuple(text for name, member in members.items() if (text := advice(name, member.paired))),
        warnings=(
            *told_of_names(names),
            *warnings_of(train, test),
            *([refusal] if refusal else []),
            *too_few_rows(plan, train),
            *repeated_rows(plan, train.features, train.label),
        ),
        model_sha256=hashlib.sha256(model).hexdigest(),
    )
    return Simulation(summary, model, together.history, plan.opened_steps)


def refusal_of_members(plan: Plan, parts: Mapping[str, Table]) -> str | None:
    """Why members with the default policy would refuse this run, in a sentence; None where they would not.

    A simulation runs all the same: whoever holds all rows has nothing to hide from them.
    """
    roster = tuple(claim(plan, name, part.rows()) for name, part in sorted(parts.items()))
    # Members allow a function by hand: who gives it here has done so.
    policy = Policy(functions=tuple(sha256 for _, sha256 in plan.functions))
    try:
        policy.check_plan(plan)
        for name in parts:
            check_roster(policy, plan, name, roster)
    except HansaError as error:
        return f"real members with the default policy would refuse this run: {error}"
    return None


def too_few_rows(plan: Plan, train: Table) -> list[str]:
    """A sentence where the mode's default of least_choices cannot be had of so few rows; of a given one the run is refused."""
    rows = train.n_rows - round(train.n_rows * plan.evaluation_fraction)
    share = float(np.mean(train.label == 1)) if not plan.parameters.num_class else 1 / plan.parameters.num_class
    start = plan.parameters.base_score or min(max(share, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
    scale = plan.parameters.scale_pos_weight
    scale = (1 - share) / share if isinstance(scale, str) else scale
    if not plan.least_choices or enough_rows(plan.least_choices, rows, plan.parameters, start, scale):
        return []
    return [
        f"{rows:,} rows are too few for the {plan.least_choices:,} choices of rows that are to fit a first tree's leaves: "
        "fewer fit; set --leaf-bits to round more"
    ]


def warnings_of(train: Table, test: Table) -> list[str]:
    """What the tables hold that is allowed but probably not meant."""
    return list(dict.fromkeys([*train.warnings, *test.warnings]))


def check_labels(parameters: Parameters, train: Table) -> None:
    """Refuse labels that the objective does not take. Raises DataError naming the row."""
    classes = parameters.num_class
    wrong = [
        (int(rows[0]), own)
        for own in train.each_label
        if (rows := np.flatnonzero(~np.isin(own, np.arange(classes or 2)))).size
    ]
    if not parameters.has_classes or not wrong:
        return
    row, label = wrong[0]
    where = f"training table, row {row + 1}: label {label[row]:g}"
    if classes:
        raise DataError(f"{where}; num_class = {classes} expects a whole number from 0 to {classes - 1}")
    raise DataError(
        f"{where}; {parameters.objective} expects 0 or 1 (for other numbers use --objective reg:squarederror, for classes 0 to K - 1 "
        "--objective multi:softprob --set num_class=K)"
    )


def views_of(found: Simulation) -> tuple[View, ...]:
    """A simulation part by part, as a page shows it."""
    summary = found.summary
    names = tuple(summary.metrics)
    pooled = {name: own.metrics or {} for name, own in summary.pooled.by_name().items()}
    columns = {"together": summary.metrics, **{f"pooled rows, {name}": metrics for name, metrics in pooled.items()}}
    scores = View(
        name="metrics",
        title="All test rows",
        table=(
            ("model", *names),
            *((what, *(number(own.get(name)) for name in names)) for what, own in columns.items()),
        ),
        note=" ".join((*summary.advice, *summary.warnings)),
    )
    members = View(
        name="traffic",
        title="Members",
        table=(
            ("member", "rows", "test rows", "sent", "received"),
            *(
                (name, f"{own.rows:,}", f"{own.test_rows:,}", size(own.bytes_up), size(own.bytes_down))
                for name, own in summary.members.items()
            ),
        ),
    )
    metric = names[0] if any(own.test_rows for own in summary.members.values()) else ""
    alone = {name: (own.metrics.alone or {}).get(metric) for name, own in summary.members.items()}
    together = {name: (own.metrics.together or {}).get(metric) for name, own in summary.members.items()}
    times = {"start": summary.seconds.startup, "binning": summary.seconds.binning, "training": summary.seconds.training}
    return (
        scores,
        *training_views(metric, alone, {summary.mode: together}, found.history, found.steps),
        *model_views(from_json(found.model)),
        members,
        phases_view(times),
    )


@dataclass(frozen=True)
class _Scores:
    """Metrics of a model on test rows, None for one without a value, and why; no metrics at all where there is no model or no row.

    predictions: of these rows; None where there are no metrics.
    """

    metrics: Metrics | None
    without_value: Reasons
    predictions: npt.NDArray[np.float32] | None = None


def _nothing(parameters: Parameters, why: str) -> _Scores:
    several = parameters.num_class and not is_softmax(parameters.objective)
    names = METRICS_OF_CLASSES if several else metrics_of(parameters.objective, parameters.num_target)
    return _Scores(None, dict.fromkeys(names, why))


def score_model(ensemble: Ensemble, table: Table) -> Metrics:
    """Metrics of a model on a table's rows; None for one without a value."""
    return _scores(ensemble, table).metrics or {}


def _scores(ensemble: Ensemble, table: Table) -> _Scores:
    return _scores_of(ensemble.objective, ensemble.quantile_alpha, predictions_of(ensemble, table), table)


def predictions_of(ensemble: Ensemble, table: Table) -> npt.NDArray[np.float32]:
    """What is scored: of several classes their probabilities."""
    if is_softmax(ensemble.objective):
        ensemble = replace(ensemble, objective=SOFTPROB)
    return ensemble.predict(table.codes_of(ensemble), cores(), table.base_margin)


def _scores_of(
    objective: str, quantiles: tuple[float, ...], predictions: npt.NDArray[np.float32], table: Table
) -> _Scores:
    values = score_table(objective, predictions, table.label, quantiles)
    classes = predictions.shape[1] if predictions.ndim == 2 else 0
    metrics = {name: None if np.isnan(value) else value for name, value in values.items()}
    return _Scores(metrics, without_value(values, table.label, classes), predictions)


def _train_over_tls(plan: Plan, parts: Mapping[str, Table], settings: SimulationSettings, report: OnEvent) -> Together:
    with temporary() as folder:
        return train_in_processes(
            folder,
            plan,
            parts,
            threads=settings.threads or 1,
            transcript=settings.transcript,
            report=report,
            metric_file=None if settings.own_metric is None else settings.own_metric.file,
        )


def _train_in_process(
    plan: Plan, parts: Mapping[str, Table], settings: SimulationSettings, report: OnEvent
) -> Together:
    at: dict[str, float] = {"start": time.perf_counter()}

    def note(progress: Progress) -> None:
        at.setdefault(progress.stage, time.perf_counter())
        report(progress)

    def wrap(hub: Hub) -> Hub:
        return hub if settings.transcript is None else RecordingHub(hub, settings.transcript, AGGREGATOR)

    run = train_in_process(
        plan,
        {name: part.rows() for name, part in parts.items()},
        threads=settings.threads or useful_threads(),
        nodes_per_frame=0,  # the frames that would cross a network
        report=note,
        wrap=wrap,
        policy=policy_of_holder(plan),
        functions=settings.functions,
    )
    outcome = run.outcome
    return Together(
        model=outcome.model,
        exchanges=outcome.exchanges,
        trees_grown=outcome.trees_grown,
        history=outcome.history,
        without_value=outcome.without_value,
        seconds=_timing(at),
        traffic=bytes_of(run.traffic),
    )


def _share_in_process(
    plan: Plan, parts: Mapping[str, Table], settings: SimulationSettings, report: OnEvent
) -> Together:
    at: dict[str, float] = {"start": time.perf_counter()}
    steps: list[str] = []

    def note(progress: Progress) -> None:
        if progress.stage == "binned":
            steps.clear()
        at.setdefault(progress.stage, time.perf_counter())
        report(progress)

    def observe(step: str, _: int) -> None:
        steps.append(step)

    def wrap(hub: Hub) -> Hub:
        return hub if settings.transcript is None else RecordingHub(hub, settings.transcript, hub_end(plan))

    run = share_in_process(
        plan,
        {name: part.rows() for name, part in parts.items()},
        threads=settings.threads or useful_threads(),
        report=note,
        observe=observe,
        wrap=wrap,
    )
    model = run.members[plan.receivers[0]].model
    if model is None:
        raise HansaError("the run ended without a model")
    if cut := run.members[plan.servers[0]].cut:
        report(Stage(text=cut))
    first = run.members[plan.servers[0]]
    return Together(
        model=model,
        exchanges=len(steps),
        trees_grown=first.trees * plan.parameters.outputs,
        history=values_alone(first.history),
        without_value=first.without_value,
        seconds=_timing(at),
        traffic=bytes_of(run.traffic),
    )


def _timing(at: Mapping[str, float]) -> Timing:
    """From when a run started and when it reached each stage."""
    return Timing(
        startup=at["registered"] - at["start"],
        binning=at["binned"] - at["registered"],
        training=at["trained"] - at["binned"],
    )


def local_plan(plan: Plan, name: str) -> Plan:
    """The same training of one table in this process, where there is nobody to hide it from: of several classes one against the rest,
    of one of them."""
    parameters = plan.parameters
    if plan.coopetitive is not None:
        signs = {
            name: sign for name, sign in zip(plan.schema.features, plan.coopetitive.monotone, strict=False) if sign
        }
        parameters = replace(
            parameters,
            num_class=parameters.num_class if is_softmax(parameters.objective) else 0,
            max_cat_to_onehot=ONE_HOT,
            monotone_constraints=tuple(sorted(signs.items())),
        )
    return replace(
        plan,
        mode="federated",
        start_model="",
        aggregator=AGGREGATOR,
        parties=(name,),
        receivers=(name,),
        minimum_parties=1,
        parameters=parameters,
        verify_counts="off",
        coopetitive=None,
        collectors=(),
    )


def train_alone(plan: Plan, train: Table, test: Table) -> Mapping[str, float | None]:
    """Metrics on `test` of a model of one party's rows only; none where they cannot train one."""
    return _train_alone(plan, train, test).metrics or {}


def compare_alone(
    plan: Plan, ensemble: Ensemble, train: Table, test: Table, functions: Functions = NO_FUNCTIONS
) -> tuple[Mapping[str, float | None], PairedLoss | None]:
    """As `train_alone`, and that model beside the common one. `functions`: the plan's own."""
    alone = _train_alone(plan, train, test, functions)
    common = predictions_of(ensemble, test)
    return alone.metrics or {}, _compared(plan.parameters, test, common, alone.predictions)


def _compared(
    parameters: Parameters, test: Table, together: npt.NDArray[np.float32] | None, alone: npt.NDArray[np.float32] | None
) -> PairedLoss | None:
    """The two models' losses on a party's test rows, where there are both."""
    if together is None or alone is None:
        return None
    return paired_loss(parameters.objective, test.label, together, alone, parameters.quantiles)


def predict_alone(plan: Plan, train: Table, test: Table) -> npt.NDArray[np.float32] | None:
    """Predictions on `test` of a model of these rows only; None where they cannot train one."""
    return _train_alone(plan, train, test).predictions


def _train_alone(plan: Plan, train: Table, test: Table, functions: Functions = NO_FUNCTIONS) -> _Scores:
    """Metrics of a model of this party's rows only; none where they cannot train one. See `_predict_local` for several classes."""
    labels = [np.unique(own) for own in np.atleast_2d(_counted_labels(plan, train))]
    why = ""
    if not len(labels[0]):
        why = "no row of weight above 0 is left to train on"
    elif is_binary(plan.parameters.objective):
        of_one = ((name, own) for name, own in zip(plan.schema.labels, labels, strict=True) if len(own) == 1)
        for name, own in of_one:
            why = f"its training rows all have {'label' if len(labels) == 1 else name} {own[0]:g}"
    if why:
        return _nothing(plan.parameters, why)
    try:
        predictions = _predict_local(plan, "alone", train, test, functions=functions)
    except HansaError as error:
        return _nothing(plan.parameters, str(error))
    return _scores_of(plan.parameters.objective, plan.parameters.quantiles, predictions, test)


def _counted_labels(plan: Plan, train: Table) -> npt.NDArray[np.float32]:
    """Labels of the rows that training counts: not held out, and of a weight above 0."""
    counted = np.ones(train.n_rows, np.bool_) if train.weight is None else train.weight > 0
    counted &= ~held_out(train.features, train.label, hold_out(plan))
    return train.label[..., counted]


def _predict_local(
    plan: Plan,
    name: str,
    train: Table,
    test: Table,
    report: Callable[[Progress], None] = lambda _: None,
    functions: Functions = NO_FUNCTIONS,
) -> npt.NDArray[np.float32]:
    """Predictions on `test` of the plan's training of one table in this process: (rows,), or (rows, classes).

    With several classes they are those of one model a class, against the rest; 0 for a class that no training row has.
    """
    single = local_plan(plan, name)
    classes = 0 if is_softmax(plan.parameters.objective) else plan.parameters.num_class
    found = []
    for label in [train.label == k for k in range(classes)] if classes else [train.label]:
        rows = replace(train, label=label.astype(np.float32))
        if classes and len(values := np.unique(_counted_labels(plan, rows))) == 1:
            found.append(np.full(test.n_rows, values[0], np.float32))
            continue
        run = train_in_process(
            single,
            {name: rows.rows()},
            threads=useful_threads(),
            report=report,
            policy=policy_of_holder(single),
            functions=functions,
        )
        found.append(predictions_of(run.outcome.ensemble, test))
    return np.stack(found, axis=1) if classes else found[0]


def _train_pooled(
    plan: Plan, train: Table, test: Table, report: OnEvent, functions: Functions = NO_FUNCTIONS
) -> Pooled:
    report(Stage(text="pooled, Hansa"))
    at: dict[str, float] = {}
    seconds = {"binning": 0.0, "training": 0.0}

    def note(progress: Progress) -> None:
        # With several classes each is a run of its own.
        if progress.stage == "registered":
            at.clear()
        at.setdefault(progress.stage, time.perf_counter())
        if progress.stage == "trained":
            seconds["binning"] += at["binned"] - at["registered"]
            seconds["training"] += at["trained"] - at["binned"]

    predictions = _predict_local(plan, "pooled", train, test, note, functions)
    scores = _scores_of(plan.parameters.objective, plan.parameters.quantiles, predictions, test)
    ours = PooledResult(metrics=scores.metrics, without_value=scores.without_value, seconds=PooledSeconds(**seconds))
    if not is_installed():
        return Pooled(hansa=ours)
    report(Stage(text="pooled, XGBoost"))
    held = held_out(train.features, train.label, hold_out(plan))
    same = replace(local_plan(plan, "pooled").parameters, num_class=plan.parameters.num_class)
    with temporary() as folder:
        answer, theirs = train_pooled_xgboost(folder, train.take(~held), test, same)
    if theirs is None:
        raise HansaError("XGBoost gave no predictions")
    scores = _scores_of(plan.parameters.objective, plan.parameters.quantiles, theirs, test)
    return Pooled(
        hansa=ours,
        xgboost=PooledResult(
            metrics=scores.metrics,
            without_value=scores.without_value,
            seconds=PooledSeconds(binning=answer.binning[-1], training=answer.training[-1]),
            version=answer.version,
        ),
    )
