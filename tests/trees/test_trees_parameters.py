"""Parameters have XGBoost's names and defaults; what Hansa cannot do is refused by name."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields

import numpy as np
import pytest
import xgboost
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hansa.errors import PlanError
from hansa.roles.summed.features import DEFAULT_CAT_THRESHOLD, DEFAULT_CAT_TO_ONEHOT
from hansa.trees.losses import is_softmax
from hansa.trees.metrics import check_metric
from hansa.trees.parameters import (
    ALIASES,
    DEFAULT_METRIC,
    METRICS,
    NAMES,
    WITHOUT_EFFECT,
    Parameters,
    parse_parameters,
)

xgboost_params = pytest.importorskip("xgboost.testing.params")

ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 1e39, 1e-46, float("nan"), float("inf"), -0.0])
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=5)
    | st.lists(st.integers() | st.text(max_size=5), max_size=40)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)
    | st.sampled_from([np.arange(3), np.arange(0), np.array(["auc", "auc"]), np.float64("nan"), object()])
)


def test_nothing_given_gives_the_defaults():
    assert parse_parameters({}) == Parameters()


def test_defaults_are_xgboosts_own():
    booster = xgboost.train({"tree_method": "hist"}, xgboost.DMatrix(np.eye(4), np.arange(4)), 1)
    learner = json.loads(booster.save_config())["learner"]
    text = json.dumps(learner)
    for name in NAMES:
        found = re.search(rf'"{name}": "([^"]*)"', text)
        if found is None or name in ("objective", "base_score", "scale_pos_weight", "seed"):
            continue
        if name in ("max_cat_to_onehot", "max_cat_threshold"):
            assert (
                float(found[1])
                == {"max_cat_to_onehot": DEFAULT_CAT_TO_ONEHOT, "max_cat_threshold": DEFAULT_CAT_THRESHOLD}[name]
            )
            continue
        if name in ("monotone_constraints", "interaction_constraints"):
            assert found[1] in ("", "()")
            continue
        default = getattr(Parameters(), "lambda_" if name == "lambda" else name)
        said = found[1] if isinstance(default, str) else float(found[1])
        assert said == (default if isinstance(default, str) else pytest.approx(default)), name
    assert {"eta", "gamma", "max_bin", "max_depth", "grow_policy", "max_leaves", "colsample_bynode"} <= set(
        re.findall(r'"(\w+)":', text)
    )


def test_aliases_are_names_that_xgboost_has():
    sklearn_names = set(inspect.signature(xgboost.XGBModel.__init__).parameters)
    own = {"num_boost_round", "eta", "lambda", "alpha", "min_split_loss"}
    assert set(ALIASES) <= sklearn_names | own
    assert set(ALIASES.values()) <= set(NAMES)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_means_its_name(alias, name):
    value = 5 if name in ("rounds", "seed") else 0.5
    assert parse_parameters({alias: value}) == parse_parameters({name: value})
    assert parse_parameters({name: value}) != Parameters()
    with pytest.raises(PlanError, match=f"{name!r} is given twice"):
        parse_parameters({alias: value, name: value})


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_what_hansa_does_anyway_may_be_said(name):
    allowed, why = WITHOUT_EFFECT[name]
    for value in (None, *((1, "any") if allowed is None else allowed or ("", "()", [], ()))):
        assert parse_parameters({name: value}) == Parameters()
    if allowed is not None:
        for value in ("other", [1], 7, True, np.arange(3)):
            with pytest.raises(PlanError, match=f"parameter {name} = .* is not supported: .*leave it out"):
                parse_parameters({name: value})
    assert (why == "") == (allowed is None)


def xgboosts_own():
    """(name, value) of everything that XGBoost says it has: its configuration, its functions' arguments, its tests' strategies."""
    booster = xgboost.train({"tree_method": "hist"}, xgboost.DMatrix(np.eye(4), np.arange(4)), 1)
    waiting = [json.loads(booster.save_config())["learner"]]
    while waiting:
        for name, value in waiting.pop().items():
            inner = value if isinstance(value, list) else [value]
            waiting += [part for part in inner if isinstance(part, dict)]
            if isinstance(value, str):
                yield name, int(value) if value.isdigit() else value
    for function in (xgboost.XGBModel.__init__, xgboost.XGBRanker.__init__, xgboost.train):
        for name, parameter in inspect.signature(function).parameters.items():
            yield name, None if parameter.default is inspect.Parameter.empty else parameter.default
    for strategy in vars(xgboost_params).values():
        if isinstance(strategy, SearchStrategy):
            yield from ((name, None) for name in strategy_keys(strategy))


def strategy_keys(strategy):
    while not (
        hasattr(strategy, "mapping") or hasattr(strategy, "keys")
    ):  # hypothesis calls it by one name or the other
        strategy = strategy.filtered_strategy if hasattr(strategy, "filtered_strategy") else strategy.wrapped_strategy
    return strategy.mapping if hasattr(strategy, "mapping") else strategy.keys


NO_PARAMETERS = {
    *("self", "kwargs", "params", "dtrain", "name", "version", "num_feature", "num_target", "num_trees", "updater_seq"),
    *("specified_updater", "boost_from_average", "metrics"),
}
"""What stands beside parameters in XGBoost's configuration and signatures."""


def test_every_parameter_of_xgboosts_is_known_and_its_default_is_taken():
    own = list(xgboosts_own())
    names = {name for name, _ in own}
    assert len(names) > 70
    assert names - NO_PARAMETERS <= {*NAMES, *ALIASES, *WITHOUT_EFFECT}
    for name, default in own:
        if name in WITHOUT_EFFECT:
            parse_parameters({name: default})


def test_a_hint_is_given_for_a_typo_only():
    for typo, name in {
        "maxDepth": "max_depth",
        "max-depth": "max_depth",
        "MAX_DEPTH": "max_depth",
        "max_bins": "max_bin",
        "subsampel": "subsample",
        "lamda": "lambda",
        "colsample_bylvl": "colsample_bylevel",
        "max_leafs": "max_leaves",
        "colsample_by_tree": "colsample_bytree",
    }.items():
        with pytest.raises(PlanError, match=f"^parameter '{typo}' is unknown; did you mean '{name}'"):
            parse_parameters({typo: 1})
    for other in ("num_leaves", "feature_fraction", "min_samples_leaf", "max_features", "xyz", "", 7, "x" * 9999):
        with pytest.raises(PlanError, match="is unknown and not supported") as caught:
            parse_parameters({other: 1})
        assert "did you mean" not in str(caught.value)
        assert len(str(caught.value)) < 700


FLOATS = (
    "eta",
    "subsample",
    "colsample_bytree",
    "lambda",
    "alpha",
    "gamma",
    "min_child_weight",
    "max_delta_step",
    "scale_pos_weight",
)


@pytest.mark.parametrize("value", [1e-320, 1e-46, 1e-45, 1e-39, 1.17e-38, 1.18e-38, 1e-37])
@pytest.mark.parametrize("name", FLOATS)
def test_a_number_too_near_0_for_float32_is_refused_where_xgboost_refuses_it(name, value):
    matrix = xgboost.DMatrix(np.eye(4), np.arange(4) % 2)
    booster = xgboost.Booster({name: value, "objective": "binary:logistic"}, [matrix])
    try:
        booster.update(matrix, 0)
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    if "Out of range value" in refusal:
        with pytest.raises(PlanError, match=f"parameter {name} = .*float32"):
            parse_parameters({name: value})
    else:
        assert getattr(parse_parameters({name: value}), "lambda_" if name == "lambda" else name) == value


def test_numpys_numbers_are_numbers():
    given = {"max_depth": np.int64(3), "eta": np.float32(0.5), "seed": np.uint8(7), "histogram_bits": np.int32(64)}
    parameters = parse_parameters(given)
    assert parameters == parse_parameters({"max_depth": 3, "eta": 0.5, "seed": 7, "histogram_bits": 64})
    for name in given:
        assert type(getattr(parameters, name)) in (int, float)


@given(st.sampled_from([*NAMES, *ALIASES, *WITHOUT_EFFECT]), ODD)
@example("histogram_bits", np.arange(3))
@example("objective", np.arange(3))
@example("scale_pos_weight", np.arange(3))
def test_a_value_of_any_kind_is_taken_or_refused_by_name(name, value):
    try:
        parse_parameters({name: value})
        said = ""
    except PlanError as error:
        said = str(error)
    assert not said or f"parameter {ALIASES.get(name, name)} = " in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("objective", "reg:squared"),
        ("objective", None),
        ("num_class", 1),
        ("num_class", 2),
        ("num_class", False),
        ("num_class", 3.0),
        ("num_class", 1001),
        ("rounds", 0),
        ("rounds", 1.0),
        ("rounds", True),
        ("rounds", 100_001),
        ("eta", 0),
        ("eta", 1.01),
        ("eta", "0.3"),
        ("eta", float("nan")),
        ("eta", True),
        ("max_depth", 0),
        ("max_depth", 17),
        ("max_depth", 6.0),
        ("lambda", -1e-9),
        ("lambda", float("inf")),
        ("alpha", -1),
        ("gamma", -1),
        ("gamma", None),
        ("min_child_weight", -1),
        ("max_delta_step", -1),
        ("subsample", 0),
        ("subsample", 1.5),
        ("colsample_bytree", 0.0),
        ("colsample_bytree", 2),
        ("max_bin", 1),
        ("max_bin", 65_536),
        ("scale_pos_weight", 0),
        ("scale_pos_weight", "automatic"),
        ("scale_pos_weight", 1e7),
        ("base_score", 0),
        ("base_score", 1),
        ("base_score", "mean"),
        ("base_score", float("nan")),
        ("early_stopping_rounds", 0),
        ("early_stopping_rounds", 2.5),
        ("eval_metric", 3),
        ("eval_metric", [1]),
        ("eval_metric", "mape"),
        ("eval_metric", "error@2"),
        ("eval_metric", "tweedie-nloglik@1.5"),
        ("huber_slope", 0),
        ("huber_slope", 2),
        ("tweedie_variance_power", 1),
        ("tweedie_variance_power", 2),
        ("tweedie_variance_power", 1.3),
        ("eval_metric", ["auc", "auc"]),
        ("seed", -1),
        ("seed", 2**63),
        ("histogram_bits", 16),
        ("histogram_bits", True),
        ("histogram_bits", "32"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(PlanError, match=rf"parameter {name} = .*expected "):
        parse_parameters({name: value})


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"ete": 0.1}, "did you mean 'eta'"),
        ({"max_dept": 4}, "did you mean 'max_depth'"),
        ({"monotone_constraints": "(2)"}, "expected 1, -1 or 0 by feature name, or a list of them by position"),
        ({"monotone_constraints": {"a": True}}, "expected 1, -1 or 0 by feature name"),
        ({"monotone_constraints": {3: 1}}, "expected 1, -1 or 0 by feature name"),
        ({"monotone_constraints": "__import__('os')"}, "expected 1, -1 or 0 by feature name"),
        ({"interaction_constraints": ["a", "b"]}, "expected a list of lists of feature names, or of positions"),
        ({"interaction_constraints": "[[0.5]]"}, "expected a list of lists of feature names, or of positions"),
        ({"lambda_": 1}, "did you mean 'lambda'"),
        ({"colsample_bylevel": 0}, "colsample_bylevel = 0: expected a number above 0, at most 1"),
        ({"colsample_bynode": 1.5}, "colsample_bynode = 1.5: expected a number above 0, at most 1"),
        ({"missing": -1}, "missing = -1 is not supported: a missing value is an empty cell"),
        ({"rate_drop": 0.1}, "rate_drop = 0.1 is not supported: it belongs to booster 'dart'"),
        ({"device": "cuda"}, "device = 'cuda' is not supported"),
        ({"max_leaves": 2**16 + 1}, "max_leaves = 65537: expected a whole number from 0 to 65536"),
        ({"grow_policy": "leafwise"}, "grow_policy = 'leafwise': expected one of depthwise, lossguide"),
        ({"max_depth": 0}, "1 to 16, or max_leaves above 0: a tree needs one of the two limits"),
        ({"num_parallel_tree": 0}, "num_parallel_tree = 0: expected a whole number from 1"),
        ({"rounds": 1001, "num_parallel_tree": 1000}, "at most 1000000 trees in all, with 1000 a round"),
        (
            {"objective": "multi:softprob", "num_class": 3, "eval_metric": "auc"},
            "one of mlogloss, merror for multi:softprob",
        ),
        ({"objective": "multi:softprob", "num_class": 1}, "num_class = 1"),
        ({"objective": "multi:softmax", "num_class": 3, "scale_pos_weight": 2}, "scale_pos_weight = 2"),
        ({"objective": "multi:softprob"}, "num_class = 0: expected the number of classes for multi:softprob"),
        ({"objective": "rank:ndcg"}, "objective = 'rank:ndcg' is not supported: ranking compares rows"),
        ({"objective": "survival:cox"}, "objective = 'survival:cox' is not supported: survival:cox orders all rows"),
        ({"objective": "multi:softmax"}, "num_class = 0: expected the number of classes for multi:softmax"),
        ({"objective": "reg:squarederror", "num_class": 3}, "num_class = 3"),
        (
            {"num_class": 3, "eval_metric": ["logloss", "auc"]},
            "eval_metric = 'auc': expected one of logloss, error, rmse, mae",
        ),
        ({"num_class": 3, "eval_metric": "aucpr"}, "eval_metric = 'aucpr'"),
        ({"num_class": 3, "eval_metric": "mlogloss"}, "eval_metric = 'mlogloss'"),
        ({"num_class": 3, "scale_pos_weight": "auto"}, "scale_pos_weight = 'auto': expected a number with num_class"),
        ({"objective": "reg:squarederror", "eval_metric": "auc"}, "eval_metric = 'auc'"),
        ({"objective": "reg:squarederror", "scale_pos_weight": "auto"}, "scale_pos_weight = 'auto'"),
        ({"objective": "reg:squarederror", "scale_pos_weight": 2}, "scale_pos_weight = 2"),
        ({"objective": "binary:hinge", "scale_pos_weight": 2}, "1 for binary:hinge, whose loss has no such weight"),
        ({"objective": "reg:gamma", "base_score": 0}, "base_score = 0.0: expected a number above 0 for reg:gamma"),
        (
            {"objective": "reg:squaredlogerror", "base_score": -1},
            "expected a number of at least -0.9990234375 for reg:sq",
        ),
        (
            {"objective": "reg:squarederror", "huber_slope": 2},
            "huber_slope = 2.0: expected 1 for reg:squarederror without",
        ),
        (
            {"objective": "reg:gamma", "tweedie_variance_power": 1.2},
            "expected 1.5 for reg:gamma, which does not depend",
        ),
        (
            {"objective": "reg:tweedie", "eval_metric": "tweedie-nloglik"},
            "tweedie-nloglik@NUMBER (from 1.001 to 1.999)",
        ),
        ({"objective": "reg:quantileerror"}, "quantile_alpha = (): expected which quantile reg:quantileerror predicts"),
        ({"quantile_alpha": 0.5}, "quantile_alpha = (0.5,): expected none for binary:logistic"),
        ({"objective": "reg:absoluteerror", "quantile_alpha": 0.5}, "expected none for reg:absoluteerror"),
        *(
            ({"objective": "reg:quantileerror", "quantile_alpha": wrong}, "parameter quantile_alpha = ")
            for wrong in (1.5, -0.1, [], "a", [0.5, 2], {"a": 1}, True, [0.5] * 1001)
        ),
        (
            {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9], "eval_metric": "mae"},
            "expected quantile alone where there are several quantile_alpha",
        ),
        (
            {"objective": "reg:absoluteerror", "monotone_constraints": {"a": 1}},
            "monotone_constraints = (('a', 1),) is not supported for reg:absoluteerror: leaves are refitted",
        ),
    ],
)
def test_what_is_not_supported_says_so(given, hint):
    with pytest.raises(PlanError, match=re.escape(hint)):
        parse_parameters(given)


def test_every_parameter_can_be_given_and_is_described():
    values = {f.name.rstrip("_"): getattr(Parameters(), f.name) for f in fields(Parameters)}
    assert tuple(values) == NAMES
    assert parse_parameters(values) == Parameters()
    for name in NAMES:
        assert re.search(rf"\b{name}_?\s*[:,]", Parameters.__doc__), name


@pytest.mark.parametrize("objective", METRICS)
def test_metrics_are_those_that_can_be_computed(objective):
    given = {"objective": objective} | ({"num_class": 3} if is_softmax(objective) else {})
    given |= {"quantile_alpha": 0.3} if objective == "reg:quantileerror" else {}
    for metric in METRICS[objective]:
        check_metric(metric, objective)
        assert parse_parameters(given | {"eval_metric": metric}).metrics == (metric,)
    assert parse_parameters(given).metrics == (DEFAULT_METRIC[objective],)


def test_quantiles_are_taken_in_the_forms_that_xgboost_takes():
    for form in (0.3, [0.3], (0.3,), "0.3", "[0.3]", np.array([0.3])):
        assert parse_parameters({"objective": "reg:quantileerror", "quantile_alpha": form}).quantile_alpha == (0.3,)
    several = parse_parameters({"objective": "reg:quantileerror", "quantile_alpha": "[0, 0.5, 1]"})
    assert (several.outputs, several.quantiles) == (3, (0.0, 0.5, 1.0))
    median = parse_parameters({"objective": "reg:absoluteerror", "monotone_constraints": (0, 0)})
    assert (median.outputs, median.quantiles) == (1, (0.5,))
    assert parse_parameters({}).quantiles == ()


def test_numbers_of_losses_and_metrics_are_taken():
    tweedie = parse_parameters({"objective": "reg:tweedie", "tweedie_variance_power": 1.25})
    assert (tweedie.shape, tweedie.metrics) == (1.25, ("tweedie-nloglik@1.25",))
    huber = parse_parameters({"objective": "reg:pseudohubererror", "huber_slope": 9})
    assert (huber.shape, huber.metrics) == (9.0, ("mphe",))
    assert parse_parameters({"objective": "reg:squarederror", "eval_metric": "mphe", "huber_slope": 9}).shape == 0
    assert parse_parameters({"eval_metric": ["error@0.25", "error"]}).metrics == ("error@0.25", "error")
