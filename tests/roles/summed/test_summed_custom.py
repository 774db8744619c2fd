"""Custom objectives and metrics: XGBoost with the same function, the law, and functions that break a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from conversation import Conversation
from hansa.consortium.policy import Policy
from hansa.data.holdout import HoldOut, held_out
from hansa.data.source import Rows
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.plan import CustomMetric, CustomObjective, Plan, parse_plan, write_plan
from hansa.protocol.messages import UseCuts
from hansa.roles.summed.custom import Functions
from hansa.trees.xgboost_json import from_json
from made_tables import plan, spread

N_ROWS = 400
SHA256 = "ab" * 32


def asymmetric(margins, labels, weights):
    errors = margins - labels
    return np.where(errors < 0, 2 * errors, errors) * weights, np.where(errors < 0, 2.0, 1.0) * weights


def made(seed: int = 3, *, weighted: bool = False) -> Rows:
    """Rows whose features have few values, so that cuts are XGBoost's."""
    draw = np.random.default_rng(seed)
    features = draw.integers(0, 9, (5, N_ROWS)).astype(np.float32)
    label = (features[0] - features[1] * 0.5 + draw.normal(size=N_ROWS)).astype(np.float32)
    return Rows(features, label, draw.integers(1, 4, N_ROWS).astype(np.float32) if weighted else None)


def custom(parties: tuple[str, ...], *, bounds: tuple[float, float] = (128.0, 8.0), **more: object) -> Plan:
    given = {"objective": "reg:squarederror", "base_score": 0.5, "rounds": 4, "max_bin": 32} | more
    return replace(plan(parties, **given), custom_objective=CustomObjective(SHA256, *bounds), min_cell_rows=2)


def train(tables: dict[str, Rows], function=asymmetric, **more: object) -> bytes:
    one = custom(tuple(tables), **more)
    return train_in_process(one, tables, policy=policy_of_holder(one), functions=Functions(function)).outcome.model


@pytest.mark.parametrize("weighted", [False, True])
def test_the_model_is_that_of_xgboost_with_the_same_function(weighted):
    rows = made(weighted=weighted)
    model = train({"aurora": rows}, weighted=weighted)
    matrix = xgboost.DMatrix(rows.features.T, rows.label, weight=rows.weight)
    ones = np.ones(N_ROWS, np.float32)
    booster = xgboost.train(
        {"max_depth": 3, "eta": 0.3, "base_score": 0.5, "tree_method": "hist"},
        matrix,
        4,
        obj=lambda margins, data: asymmetric(margins, data.get_label(), rows.weight if weighted else ones),
    )
    ensemble = from_json(model)
    np.testing.assert_allclose(ensemble.predict(rows.features), booster.predict(matrix), atol=1e-5)
    theirs = from_json(booster.save_raw("json"))
    assert (ensemble.objective, ensemble.base_score) == (theirs.objective, theirs.base_score)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), parties=st.integers(1, 5), mode=st.sampled_from(["federated", "secure-aggregation"]))
def test_the_model_does_not_depend_on_who_holds_the_rows(seed, parties, mode):
    rows = made()
    draw = np.random.default_rng(seed)
    parties = max(parties, 3) if mode == "secure-aggregation" else parties
    owners = np.concatenate([np.arange(parties), draw.integers(0, parties, N_ROWS - parties)])
    given_ = {"evaluation": 0.2, "subsample": 0.7}
    tables = spread(rows, owners)
    one = replace(custom(tuple(tables), mode=mode, **given_), min_party_rows=0)
    policy = policy_of_holder(one)
    assert train_in_process(one, tables, policy=policy, functions=Functions(asymmetric)).outcome.model == train(
        {"aurora": rows}, **given_
    )


def test_squared_error_as_a_function_is_squared_error():
    rows = {"aurora": made()}
    own = train_in_process(replace(custom(("aurora",)), custom_objective=None), rows, policy=Policy(least_party_rows=0))
    found = from_json(train(rows, lambda m, y, w: (m - y, w), bounds=(64.0, 1.0)))
    np.testing.assert_allclose(found.predict(made().features), own.outcome.ensemble.predict(made().features), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda m, y, w: (m - y, -w), r"the hessian of row 1 \(and of 399 more\) is no number from 0 to 8"),
        (
            lambda m, y, w: (1000 * (m - y), w),
            "the gradient of row .* is no number from -128 to 128; .*gradient_bound",
        ),
        (lambda m, y, w: (m - y, 9 * w), "is no number from 0 to 8; .*custom_objective.hessian_bound"),
        (lambda m, y, w: (np.full_like(m, np.nan), w), "the gradient of row 1"),
        (lambda m, y, w: (m - y, w / 0), "the hessian of row 1"),
        (
            lambda m, y, w: (m[:1], w[:1]),
            r"expected gradients as numbers of shape \(400,\), found float32 of shape \(1,\)",
        ),
        (lambda m, y, w: (m.astype(str), w), "expected gradients as numbers"),
        (lambda m, y, w: m, r"expected \(gradients, hessians\), found ndarray"),
        (lambda m, y, w: None, "found NoneType"),
        (lambda m, y: (m, y), "the function raised TypeError"),
        (lambda m, y, w: (m - y.mean(), w), "depends on the rows beside it or on the row's place"),
        (lambda m, y, w: (m - y, w + np.arange(len(m)) % 2), "depends on the rows beside it or on the row's place"),
    ],
)
def test_functions_that_break_a_rule_are_refused_by_name(function, fault):
    with pytest.raises(DataError, match=fault):
        train({"aurora": made()}, function)


def test_what_a_function_raises_stays_at_its_party():
    def telling(margins, labels, weights):
        raise ValueError(f"cell {labels[0]}")

    with pytest.raises(DataError) as caught:
        train({"aurora": made()}, telling)
    assert str(made().label[0]) not in str(caught.value)


def test_a_function_cannot_change_the_rows():
    def spoiling(margins, labels, weights):
        found = asymmetric(margins, labels, weights)
        margins[:], labels[:], weights[:] = 0, 0, 0
        return found

    assert train({"aurora": made()}, spoiling) == train({"aurora": made()})


def test_plan_and_function_go_together():
    rows = {"aurora": made()}
    one = custom(("aurora",))
    with pytest.raises(PlanError, match="this party gives no function"):
        train_in_process(one, rows, policy=policy_of_holder(one))
    with pytest.raises(PlanError, match="the plan has no custom_objective"):
        train_in_process(replace(one, custom_objective=None), rows, functions=Functions(asymmetric))
    with pytest.raises(PlanError, match=r"this party's policy does not allow it \(functions\)"):
        train_in_process(one, rows, functions=Functions(asymmetric))


@pytest.mark.parametrize("key", ["gradient_bound", "hessian_bound"])
def test_a_party_refuses_other_bounds_than_the_plans(key):
    one = custom(("aurora", "borealis"))
    tables = spread(made(), np.arange(N_ROWS) % 2)
    talk = Conversation(one, tables, policy=policy_of_holder(one), functions=Functions(asymmetric))
    told = talk.until(UseCuts, "aurora")
    with pytest.raises(ProtocolError, match=f"the {key} is 1.0; the plan says"):
        talk.tell("aurora", UseCuts(**{name: getattr(told, name) for name in told.__struct_fields__} | {key: 1.0}))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"objective": "binary:logistic"}, "custom_objective takes the place of an objective"),
        ({"base_score": None}, r"custom_objective needs parameters\.base_score"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(changes, fault):
    with pytest.raises(PlanError, match=fault):
        custom(("aurora",), **changes)


def test_a_plan_is_written_and_read_and_its_digest_binds_the_function():
    one = custom(("aurora", "borealis"))
    assert parse_plan(write_plan(one)) == one
    others = [
        replace(one, custom_objective=other)
        for other in (None, CustomObjective("cd" * 32, 128.0, 8.0), CustomObjective(SHA256, 64.0, 8.0))
    ]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4
    text = write_plan(one).replace(SHA256, "AB" * 32)
    with pytest.raises(PlanError, match=r"custom_objective\.sha256.*expected the SHA-256 of a Python file"):
        parse_plan(text)


def cost(predictions, labels, weights):
    """Missing a fault costs three times what a false alarm does."""
    missed = np.maximum(labels - predictions, np.float32(0))
    return np.minimum(3 * missed + np.maximum(predictions - labels, np.float32(0)), np.float32(50))


def measured(parties: tuple[str, ...], *, maximize: bool = False, bound: float = 50.0, **more: object) -> Plan:
    given = {"evaluation": 0.3, "rounds": 6, "max_bin": 32} | more
    one = replace(plan(parties, **given), custom_metric=CustomMetric(SHA256, "cost", bound, maximize))
    return replace(one, min_cell_rows=2, min_party_rows=0)


def faults() -> Rows:
    rows = made()
    return Rows(rows.features, (rows.label > 1).astype(np.float32), rows.weight)


def run(one: Plan, tables: dict[str, Rows], metric=cost, objective=None):
    return train_in_process(one, tables, policy=policy_of_holder(one), functions=Functions(objective, metric)).outcome


@pytest.mark.parametrize(
    ("objective", "rows", "outputs"),
    [("binary:logistic", faults(), 1), ("reg:squarederror", made(weighted=True), 1), ("multi:softprob", faults(), 2)],
)
def test_a_custom_metric_is_the_mean_over_all_held_out_rows_after_every_round(objective, rows, outputs):
    """XGBoost's own custom_metric of the same function, over the same trees and rows."""

    def of_class_1(predictions, labels, weights):
        return cost(predictions[:, 1] if outputs > 1 else predictions, labels, weights)

    more = {"num_class": outputs} if outputs > 1 else {}
    weighted = rows.weight is not None
    one = measured(("aurora", "borealis", "cirrus"), objective=objective, weighted=weighted, **more)
    outcome = run(one, spread(rows, np.arange(N_ROWS) % 3), of_class_1)
    held = held_out(rows.features, rows.label, HoldOut(0.3, one.parameters.seed))
    booster = xgboost.Booster(model_file=bytearray(outcome.model))
    matrix = xgboost.DMatrix(rows.features.T[held], feature_names=list(one.schema.features))
    weights = np.ones(held.sum(), np.float32) if rows.weight is None else rows.weight[held]
    assert list(outcome.history) == [*one.parameters.metrics, "cost"]
    for number, value in enumerate(outcome.history["cost"], 1):
        predictions = booster.predict(matrix, iteration_range=(0, number))
        expected = np.average(of_class_1(predictions, rows.label[held], weights), weights=weights)
        assert value == pytest.approx(expected, rel=1e-5)
    assert outcome.history["cost"][0] != outcome.history["cost"][-1]


@pytest.mark.parametrize("maximize", [False, True])
def test_it_says_when_training_stops_and_how_many_rounds_stay(maximize):
    one = measured(("aurora",), rounds=40, eta=0.9, early_stopping_rounds=3, maximize=maximize, bound=64.0)
    outcome = run(one, {"aurora": faults()}, lambda p, y, w: 10 * (p - y) * (p - y))
    values = outcome.history["cost"]
    best = int(np.argmax(values) if maximize else np.argmin(values))
    assert len(values) == best + 4 < 40
    assert len(from_json(outcome.model).trees) == best + 1


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16), parties=st.integers(1, 5), mode=st.sampled_from(["federated", "secure-aggregation"]))
def test_model_and_metric_do_not_depend_on_who_holds_the_rows(seed, parties, mode):
    draw = np.random.default_rng(seed)
    parties = max(parties, 3) if mode == "secure-aggregation" else parties
    tables = spread(faults(), np.concatenate([np.arange(parties), draw.integers(0, parties, N_ROWS - parties)]))
    found = run(measured(tuple(tables), mode=mode, early_stopping_rounds=2), tables)
    alone = run(measured(("aurora",), early_stopping_rounds=2), {"aurora": faults()})
    assert (found.model, found.history) == (alone.model, alone.history)


def test_with_a_custom_objective_the_metric_gets_margins():
    seen = []

    def noted(predictions, labels, weights):
        seen.append(np.abs(predictions).max())
        return cost(predictions, labels, weights)

    one = replace(
        measured(("aurora",), objective="reg:squarederror", base_score=0.0),
        custom_objective=CustomObjective(SHA256, 512.0, 8.0),
    )
    run(one, {"aurora": made()}, noted, asymmetric)
    assert max(seen[-6:]) > 1


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda p, y, w: -p, "held-out rows are no numbers from 0 to 50; .*custom_metric.bound"),
        (lambda p, y, w: p + 50, "the values of 112 held-out rows are no numbers"),
        (lambda p, y, w: np.full_like(p, np.nan), "held-out rows are no numbers from 0 to 50"),
        (lambda p, y, w: ("cost", 1.0), "expected a value for each row.*found tuple"),
        (lambda p, y, w: 1.0, r"expected values as numbers of shape \(400,\), found float64 of shape \(\)"),
        (lambda p, y: p, "custom_metric: the function raised TypeError"),
        (lambda p, y, w: p - p.mean(), "custom_metric: the function's result for a row depends on the rows beside it"),
    ],
)
def test_metrics_that_break_a_rule_are_refused_by_name(function, fault):
    with pytest.raises(DataError, match=fault):
        run(measured(("aurora",)), {"aurora": faults()}, function)


def test_what_a_metric_raises_stays_at_its_party():
    def telling(predictions, labels, weights):
        raise ValueError(f"cell {labels[0]} of 12345")

    with pytest.raises(DataError) as caught:
        run(measured(("aurora",)), {"aurora": faults()}, telling)
    assert "12345" not in str(caught.value)


def test_a_policy_allows_a_metric_by_its_hash():
    rows, one = {"aurora": faults()}, measured(("aurora",))
    with pytest.raises(PlanError, match=r"the custom metric abab.* \(allowed: none\).*\(functions\)"):
        train_in_process(one, rows, policy=Policy(least_party_rows=0), functions=Functions(None, cost))
    with pytest.raises(PlanError, match="the plan has a custom_metric, and this party gives no function"):
        train_in_process(one, rows, policy=policy_of_holder(one))
    with pytest.raises(PlanError, match="the plan has no custom_metric"):
        train_in_process(replace(one, custom_metric=None), rows, functions=Functions(None, cost))


def test_a_metric_stands_in_plan_and_digest():
    one = measured(("aurora", "borealis"), maximize=True)
    assert parse_plan(write_plan(one)) == one
    others = [
        None,
        CustomMetric(SHA256, "cost", 50.0),
        CustomMetric(SHA256, "costs", 50.0, True),
        CustomMetric("cd" * 32, "cost", 50.0, True),
    ]
    assert len({one.digest(), *(replace(one, custom_metric=other).digest() for other in others)}) == 5
    for name in ("auc", "rmse", "mlogloss"):
        with pytest.raises(PlanError, match=r"custom_metric\.name is '.*', a metric that there is"):
            replace(one, custom_metric=CustomMetric(SHA256, name, 1.0))
    for name in ("", "Cost", "a b", "error@1", "x" * 33):
        with pytest.raises(PlanError, match=r"custom_metric\.name"):
            CustomMetric(SHA256, name, 1.0)
    with pytest.raises(PlanError, match="custom_metric is of held-out rows"):
        replace(one, evaluation_fraction=0.0)
