"""Custom objectives: XGBoost with the same function, the law, and functions that break a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from conversation import Conversation
from hansa.consortium.policy import Policy
from hansa.data.source import Rows
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.plan import CustomObjective, Plan, parse_plan, write_plan
from hansa.protocol.messages import UseCuts
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
    return train_in_process(one, tables, policy=policy_of_holder(one), function=function).outcome.model


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
    assert train_in_process(one, tables, policy=policy, function=asymmetric).outcome.model == train(
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
        train_in_process(replace(one, custom_objective=None), rows, function=asymmetric)
    with pytest.raises(PlanError, match=r"this party's policy does not allow it \(functions\)"):
        train_in_process(one, rows, function=asymmetric)


@pytest.mark.parametrize("key", ["gradient_bound", "hessian_bound"])
def test_a_party_refuses_other_bounds_than_the_plans(key):
    one = custom(("aurora", "borealis"))
    tables = spread(made(), np.arange(N_ROWS) % 2)
    talk = Conversation(one, tables, policy=policy_of_holder(one), function=asymmetric)
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
