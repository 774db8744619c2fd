"""What `hansa demo` trains: three simulated operators and the real breast-cancer table, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hansa.demo import telecom
from hansa.demo.report import GUARANTEE, SENT, CaseResult, ModeResult, PartyResult, PartyTraffic
from hansa.errors import HansaError
from hansa.node.events import OnEvent
from hansa.plan import COOPETITIVE, MODES
from hansa.simulation.run import Simulation, SimulationSettings, simulate
from hansa.simulation.scores import main_metric
from hansa.simulation.summary import Metrics, Summary
from hansa.simulation.tables import Table, read_table, split_table
from hansa.trees.losses import HIGHER_IS_BETTER
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json

SEED = 7
TEST_FRACTION = 0.25
EVALUATION_FRACTION = 0.2
ROUNDS = 80
COOPETITIVE_ROUNDS, COOPETITIVE_ETA, COOPETITIVE_BINS, COOPETITIVE_STEP = 30, 0.25, 32, 1.0
"""Under shares a tree takes most of a second: fewer, larger steps than the other modes take, and bounded ones (`max_delta_step`), as
label 1 is rare. A row is shared as one bit a cut."""
COOPETITIVE_RECEIVERS = 2
"""In coopetitive mode the three parties compute and so many of them get the model."""


LABELS = {"hansa": "Hansa, pooled rows", "xgboost": "XGBoost, pooled rows"}


@dataclass(frozen=True)
class Case:
    """One thing that the demo shows."""

    title: str
    description: str
    simulated: bool
    target: str
    party_column: str
    objective: str
    modes: tuple[str, ...]


TELECOM = (
    "Three invented operators' cells, one row a cell: {rows} rows, made by a documented simulator from seed "
    f"{SEED}. The operators differ in vendor, load and terrain."
)

CASES = (
    Case(
        "Sleeping cells",
        TELECOM + " About 1 % of cells are asleep: on air, without alarms, and nobody gets through. "
        f"Under shares: {COOPETITIVE_ROUNDS} trees of eta {COOPETITIVE_ETA}, not {ROUNDS} of 0.1, leaf weights within "
        f"{COOPETITIVE_STEP:g}, and {COOPETITIVE_BINS} bins; "
        "the three operators compute, two of them get the model.",
        True,
        "sleeping_cell",
        "operator",
        "binary:logistic",
        MODES,
    ),
    Case(
        "Hardware faults",
        TELECOM + " About 1 % of cells have a hardware fault.",
        True,
        "hardware_fault",
        "operator",
        "binary:logistic",
        ("secure-aggregation",),
    ),
    Case(
        "Dropped-call rate",
        TELECOM + " The target is the share of calls that drop, in per cent.",
        True,
        "dropped_call_rate",
        "operator",
        "reg:squarederror",
        ("federated",),
    ),
    Case(
        "Breast cancer",
        "The Wisconsin diagnostic table that scikit-learn ships: {rows} real patients, given to three hospitals by a "
        "seeded rule. Is the tumour malignant?",
        False,
        "malignant",
        "hospital",
        "binary:logistic",
        ("secure-aggregation",),
    ),
)


def _columns(case: Case) -> Mapping[str, Any]:
    if case.party_column == telecom.OPERATOR_COLUMN:
        return telecom.telecom_case(telecom.simulate_operators(SEED), case.target)
    return telecom.breast_cancer_table(SEED)


def case_tables(case: Case, folder: Path) -> tuple[Table, Table]:
    """A case's training and test rows; its table is put into `folder`."""
    path = folder / f"{case.target}.csv"
    telecom.write_csv(path, _columns(case))
    table = read_table(path, case.target, case.party_column)
    return split_table(table, TEST_FRACTION, SEED, case.objective == "binary:logistic")


def case_settings(case: Case, mode: str, train: Table) -> SimulationSettings:
    """What is trained of a case in one of its modes."""
    parameters = parse_parameters(
        {
            "objective": case.objective,
            "rounds": ROUNDS,
            "eta": 0.1,
            "max_depth": 5,
            "eval_metric": ["auc", "logloss"] if case.objective == "binary:logistic" else ["rmse"],
        }
    )
    settings = SimulationSettings(
        parameters=parameters, label=case.target, mode=mode, evaluation_fraction=EVALUATION_FRACTION
    )
    if mode != COOPETITIVE:
        return settings
    return replace(
        settings,
        parameters=replace(
            parameters,
            rounds=COOPETITIVE_ROUNDS,
            eta=COOPETITIVE_ETA,
            max_bin=COOPETITIVE_BINS,
            max_delta_step=COOPETITIVE_STEP,
        ),
        receivers=tuple(sorted(set(train.party)))[:COOPETITIVE_RECEIVERS],
    )


def run_case(case: Case, folder: Path, report: OnEvent) -> list[Simulation]:
    """Train one case over mutual TLS in each of its modes; alone and pooled with the first."""
    train, test = case_tables(case, folder)
    results: list[Simulation] = []
    for mode in case.modes:
        first = not results
        chosen = replace(case_settings(case, mode, train), alone=first, pooled=first)
        results.append(simulate(train, test, chosen, report))
    return results


def _value(metrics: Metrics | None, metric: str) -> float:
    value = (metrics or {}).get(metric)
    if value is None:
        raise HansaError(f"{metric} of all test rows has no value; the demo's tables have rows of every kind")
    return value


def _mode_result(summary: Summary, metric: str) -> ModeResult:
    members = summary.members
    return ModeResult(
        mode=summary.mode,
        together={name: (m.metrics.together or {}).get(metric) for name, m in members.items()},
        traffic={name: PartyTraffic(m.bytes_up, m.bytes_down) for name, m in members.items()},
        metric=_value(summary.metrics, metric),
        seconds=summary.seconds.training,
        round_trips_per_tree=summary.round_trips_per_tree,
        sent=SENT[summary.mode],
        guarantee=GUARANTEE[summary.mode],
    )


def case_result(case: Case, results: list[Simulation]) -> CaseResult:
    """What the page shows of a case."""
    result = results[0]
    summary = result.summary
    metric = main_metric(case.objective)
    members = summary.members
    parties = [
        PartyResult(
            name=name,
            rows=member.rows,
            test_rows=member.test_rows,
            positive_share=member.label_mean if case.objective == "binary:logistic" else None,
            alone=(member.metrics.alone or {}).get(metric),
        )
        for name, member in members.items()
    ]
    rows = sum(member.rows + member.test_rows for member in members.values())
    return CaseResult(
        title=case.title,
        description=case.description.format(rows=f"{rows:,}"),
        simulated=case.simulated,
        metric=metric,
        higher_is_better=metric in HIGHER_IS_BETTER,
        trees=summary.trees,
        parties=parties,
        modes=[_mode_result(each.summary, metric) for each in results],
        pooled={LABELS[key]: _value(found.metrics, metric) for key, found in summary.pooled.by_name().items()},
        curves={
            f"{name} on held-out rows": [value for value in values if value is not None]
            for name, values in result.history.items()
            if name == metric
        },
        importance=dict(sorted(from_json(result.model).importance("gain").items(), key=lambda item: -item[1])[:15]),
    )
