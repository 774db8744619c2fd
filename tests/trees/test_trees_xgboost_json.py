"""Real XGBoost loads what is written and predicts the same; what it saves is the same ensemble again."""

from __future__ import annotations

import base64
import json
import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.errors import DataError, HansaError
from hansa.trees.ensemble import ROOT_PARENT, TREE_DTYPES, Ensemble, Tree
from hansa.trees.xgboost_json import (
    DATES_ATTRIBUTE,
    LEVELS_ATTRIBUTE,
    OTHER_ATTRIBUTE,
    _nearest_float32,
    _shortest,
    from_json,
    from_model_file,
    to_json,
)

VECTOR_FOLDER = Path(__file__).parents[1] / "vectors"
sys.path.append(str(VECTOR_FOLDER))
from xgboost_models import scored  # noqa: E402

NAMES = ["age", "näme", 'quo"te', "d"]


def table(n_rows=1500, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, 4)).astype(np.float32)
    target = rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.normal(size=n_rows)
    rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows, target


def booster_of(objective="binary:logistic", rounds=10, names=NAMES, **parameters):
    rows, target = table()
    labels = target > 0.5 if objective == "binary:logistic" else 3 * target
    parameters = {"objective": objective, "max_depth": 4, "nthread": 1, **parameters}
    return xgboost.train(parameters, xgboost.DMatrix(rows, labels, feature_names=names), rounds)


def loaded(document):
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(document))
    return booster


def saved(booster, kind="json"):
    return bytes(booster.save_raw(kind))


def document(**parameters):
    """A model file of real XGBoost, parsed."""
    return json.loads(saved(booster_of(rounds=2, **parameters)))


def encoded(document):
    return json.dumps(document).encode()


def leaf(value):
    return Tree([-1], [-1], [ROOT_PARENT], [0], [value], [0], [value], [0.0], [1.0])


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("base_score", [None, 0.3])
def test_through_xgboost_and_back(objective, base_score):
    parameters = {} if base_score is None else {"base_score": base_score}
    original = booster_of(objective, **parameters)
    ensemble = from_json(saved(original))
    assert ensemble.feature_names == tuple(NAMES)
    document = to_json(ensemble)
    again = loaded(document)

    rows, _ = table(seed=1)
    matrix = xgboost.DMatrix(rows, feature_names=NAMES)
    features = np.ascontiguousarray(rows.T)
    np.testing.assert_allclose(again.predict(matrix), ensemble.predict(features), rtol=0, atol=1e-6)
    expected = original.predict(matrix, output_margin=True)
    assert again.predict(matrix, output_margin=True).tobytes() == expected.tobytes()
    assert ensemble.predict_margin(features).tobytes() == expected.tobytes()
    for kind in ("weight", "total_gain", "total_cover"):
        assert again.get_score(importance_type=kind) == original.get_score(importance_type=kind)

    assert from_json(saved(again)) == ensemble
    assert from_json(document) == ensemble
    assert to_json(from_json(saved(again))) == document


def test_model_files_ubj_and_the_scikit_learn_wrapper(tmp_path):
    ensemble = from_json(saved(booster_of()))
    (tmp_path / "model.json").write_bytes(to_json(ensemble))
    booster = xgboost.Booster(model_file=str(tmp_path / "model.json"))
    booster.save_model(tmp_path / "model.ubj")
    from_ubj = xgboost.Booster(model_file=str(tmp_path / "model.ubj"))
    assert from_json(saved(from_ubj)) == ensemble
    rows, _ = table()
    classifier = xgboost.XGBClassifier()
    classifier.load_model(tmp_path / "model.json")
    np.testing.assert_allclose(classifier.predict_proba(rows)[:, 1], ensemble.predict(rows.T.copy()), atol=1e-6)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_shap_values_sum_to_the_margin(objective):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shap = pytest.importorskip("shap")
    ensemble = from_json(saved(booster_of(objective, base_score=0.4)))
    booster = loaded(to_json(ensemble))
    rows, _ = table(50)
    margins = ensemble.predict_margin(rows.T.copy())
    values = booster.predict(xgboost.DMatrix(rows, feature_names=NAMES), pred_contribs=True)
    np.testing.assert_allclose(values.sum(axis=1), margins, atol=1e-4)
    explanation = shap.TreeExplainer(booster)(rows)
    np.testing.assert_allclose(explanation.values.sum(axis=1) + explanation.base_values, margins, atol=1e-4)
    assert np.abs(explanation.values).max() > 0.1


def test_training_goes_on_from_a_written_model():
    rows, target = table()
    matrix = xgboost.DMatrix(rows, target > 0.5, feature_names=NAMES)
    parameters = {"objective": "binary:logistic", "base_score": 0.3, "nthread": 1, "max_depth": 4}
    straight = xgboost.train(parameters, matrix, 6)
    half = to_json(from_json(saved(straight)).truncate(3))
    resumed = from_json(saved(xgboost.train(parameters, matrix, 3, xgb_model=loaded(half))))
    assert len(resumed.trees) == 6
    assert resumed.trees[:3] == from_json(half).trees
    assert resumed.base_score == from_json(half).base_score


def test_models_without_trees_and_of_single_leaves():
    for trees in ((), (leaf(0.25), leaf(-1.0))):
        ensemble = Ensemble("reg:squarederror", 2.0, tuple(NAMES), trees)
        booster = loaded(to_json(ensemble))
        rows, _ = table(3)
        expected = booster.predict(xgboost.DMatrix(rows, feature_names=NAMES))
        assert ensemble.predict(rows.T.copy()).tobytes() == expected.tobytes()
        assert from_json(saved(booster)) == ensemble


def test_written_files_are_canonical_and_bare():
    ensemble = from_json(saved(booster_of()))
    text = to_json(ensemble)
    assert to_json(from_json(text)) == text
    top = json.loads(text)
    assert list(top) == ["learner", "version"]
    assert top["learner"]["attributes"] == {}
    assert top["learner"]["feature_types"] == ["float"] * 4
    assert top["learner"]["learner_model_param"]["base_score"][0] != "["
    assert top["learner"]["gradient_booster"]["model"]["iteration_indptr"] == list(range(11))

    def keys_sorted(value):
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return (not isinstance(value, dict) or list(value) == sorted(value)) and all(map(keys_sorted, children))

    assert keys_sorted(top)
    # Each float has a decimal point or an exponent: an integer token there is refused by XGBoost.
    for name in ("split_conditions", "base_weights", "loss_changes", "sum_hessian"):
        for array in re.findall(rf'"{name}":\[([^]]*)\]'.encode(), text):
            assert all(re.fullmatch(rb"-?\d+(\.\d+)?(e[+-]?\d+)?", token) for token in array.split(b","))
            assert all(b"." in token or b"e" in token for token in array.split(b","))


# Floats that are awkward to write: subnormal, largest, integral, halfway in decimal, minus zero.
AWKWARD = [
    1e-45,
    1.1754942e-38,
    1.1754944e-38,
    3.4028235e38,
    1.0,
    -1.0,
    16777216.0,
    1e16,
    1e22,
    -0.0,
    0.1,
    8.5e-5,
]


def test_xgboost_reads_each_awkward_float_to_the_bit():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([np.array(AWKWARD, np.float32), patterns[np.isfinite(patterns)]])
    ensemble = Ensemble("reg:squarederror", 0.5, ("a",), tuple(leaf(value) for value in values))
    back = from_json(saved(loaded(to_json(ensemble))))
    assert back == ensemble
    assert from_json(to_json(ensemble)) == ensemble


@settings(max_examples=500)
@given(st.integers(0, 2**32 - 1))
def test_shortest_text_reads_back_and_no_shorter_text_does(bits):
    value = np.uint32(bits).view(np.float32)
    if not np.isfinite(value):
        return
    text = _shortest(float(value))
    assert np.float32(float(text)).tobytes() == value.tobytes()
    assert np.float32(_nearest_float32(text)).tobytes() == value.tobytes()
    digits = len(text.lower().split("e")[0].replace(".", "").replace("-", "").strip("0"))
    if digits > 1:
        assert np.float32(f"{value:.{digits - 2}e}") != value


@settings(max_examples=300)
@given(st.integers(0, 0x7F7FFFFE), st.sampled_from([0, 1, -1]), st.booleans())
def test_decimals_near_a_tie_are_rounded_once(bits, side, negative):
    """A decimal just beside the middle of two float32, so close that float64 cannot tell."""
    from fractions import Fraction

    low, high = np.uint32(bits).view(np.float32), np.uint32(bits + 1).view(np.float32)
    middle = (Fraction(float(low)) + Fraction(float(high))) / 2
    exact = middle + side * (Fraction(float(high)) - middle) / 10**15
    exponent = 60 + 20
    digits = str(exact.numerator * 10**exponent * 10**100 // exact.denominator) + f"e-{exponent + 100}"
    if side == 0:
        # All digits of a float64, which the middle is, are finitely many.
        from decimal import Decimal

        digits = str(Decimal(float(middle)))
    nearest = {1: high, -1: low, 0: low if bits % 2 == 0 else high}[side]
    sign = -1 if negative else 1
    assert np.float32(_nearest_float32(("-" if negative else "") + digits)) == sign * nearest


def test_base_score_is_read_in_both_forms():
    for text in ("2.5E-1", "[2.5E-1]", "0.25"):
        parsed = document()
        parsed["learner"]["learner_model_param"]["base_score"] = text
        assert from_json(encoded(parsed)).base_score == 0.25
    assert (
        json.loads(to_json(Ensemble("reg:squarederror", 1e-7, (), ())))["learner"]["learner_model_param"]["base_score"]
        == "1E-07"
    )


def test_a_file_of_very_many_names_takes_a_moment_not_hours():
    """Each name was looked for among all: a file of 40 MB took a day."""
    count = 50_000
    names = [f"feature {number}" for number in range(2 * count)]
    parsed = json.loads(to_json(Ensemble("binary:logistic", 0.5, (), ())))
    learner = parsed["learner"]
    learner["feature_names"] = names
    learner["feature_types"] = ["c"] * count + ["float"] * count
    learner["learner_model_param"]["num_feature"] = str(2 * count)
    learner["attributes"] = {
        LEVELS_ATTRIBUTE: json.dumps({name: ["a", "other"] for name in names[:count]}),
        OTHER_ATTRIBUTE: json.dumps(names[:count]),
        DATES_ATTRIBUTE: json.dumps({name: f"days({name})" for name in names[count:]}),
    }
    reading = from_json(json.dumps(parsed).encode()).reading
    assert (len(reading.other), len(reading.dates)) == (count, count)


def test_names_are_made_up_where_there_are_none():
    ensemble = from_json(saved(booster_of(names=None)))
    assert ensemble.feature_names == ("f0", "f1", "f2", "f3")


def test_all_trees_are_kept_whatever_best_iteration_says():
    rows, target = table()
    matrix = xgboost.DMatrix(rows, target > 0.5)
    noise = xgboost.DMatrix(rows, target[::-1] > 0.5)
    parameters = {"objective": "binary:logistic", "nthread": 1}
    booster = xgboost.train(
        parameters, matrix, 30, evals=[(noise, "noise")], early_stopping_rounds=3, verbose_eval=False
    )
    ensemble = from_json(saved(booster))
    assert booster.best_iteration + 1 < len(ensemble.trees) == booster.num_boosted_rounds()
    # What leaves Hansa after early stopping holds the kept trees only, and no attribute.
    kept = loaded(to_json(ensemble.truncate(booster.best_iteration + 1)))
    assert kept.attributes() == {}
    best = booster.predict(matrix, iteration_range=(0, booster.best_iteration + 1))
    assert kept.predict(xgboost.DMatrix(rows, feature_names=["f0", "f1", "f2", "f3"])).tobytes() == best.tobytes()


def test_unsupported_xgboost_models_are_refused_by_name():
    rows, target = table()
    kinds = {
        "dart": ({"booster": "dart", "objective": "reg:squarederror"}, rows, target),
        "gblinear": ({"booster": "gblinear", "objective": "reg:squarederror"}, rows, target),
        "survival:cox": ({"objective": "survival:cox"}, rows, target),
        "multi_output_tree": (
            {"objective": "reg:squarederror", "multi_strategy": "multi_output_tree"},
            rows,
            np.stack([target, -target], 1),
        ),
    }
    for name, (parameters, data, labels) in kinds.items():
        matrix = xgboost.DMatrix(data, labels)
        booster = xgboost.train({"nthread": 1, **parameters}, matrix, 2)
        with pytest.raises(DataError, match=re.escape(name)):
            from_json(saved(booster))


CLASSES = ("multi:softprob", "multi:softmax")


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("objective", [*CLASSES, "binary:logistic", "reg:squarederror"])
def test_classes_and_forests_through_xgboost_and_back(objective, parallel):
    rows, target = table()
    classes = objective in CLASSES
    labels = np.digitize(target, [-0.7, 0.4, 1]) if classes else target > 0.5 if "binary" in objective else target
    given = {"objective": objective, "num_parallel_tree": parallel, "max_depth": 4, "subsample": 0.7, "nthread": 1}
    given |= {"num_class": 4} if classes else {}
    original = xgboost.train(given, xgboost.DMatrix(rows, labels, feature_names=NAMES), 3)
    ensemble = from_json(saved(original))
    outputs = 4 if classes else 1
    assert (ensemble.objective, ensemble.outputs, ensemble.num_parallel_tree) == (objective, outputs, parallel)
    assert (ensemble.rounds, len(ensemble.trees)) == (3, 3 * outputs * parallel)
    again = loaded(to_json(ensemble))
    ours, theirs = (json.loads(text)["learner"] for text in (to_json(ensemble), saved(again)))
    for name in ("tree_info", "iteration_indptr", "gbtree_model_param"):
        assert ours["gradient_booster"]["model"][name] == theirs["gradient_booster"]["model"][name]
    for name in ("num_class", "num_target"):
        assert ours["learner_model_param"][name] == theirs["learner_model_param"][name]
    matrix = xgboost.DMatrix(rows, feature_names=NAMES)
    features = np.ascontiguousarray(rows.T)
    expected = original.predict(matrix, output_margin=True)
    assert again.predict(matrix, output_margin=True).tobytes() == expected.tobytes()
    assert ensemble.predict_margin(features, threads=2).tobytes() == expected.tobytes()
    np.testing.assert_allclose(ensemble.predict(features), original.predict(matrix), atol=1e-6)
    assert from_json(saved(again)) == ensemble == from_json(to_json(ensemble))
    assert from_model_file(bytes(original.save_raw("ubj"))) == ensemble
    first = ensemble.truncate(outputs * parallel)
    assert (
        loaded(to_json(first)).predict(matrix).tobytes() == original.predict(matrix, iteration_range=(0, 1)).tobytes()
    )
    assert ensemble.importance("weight") == original.get_score(importance_type="weight")


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("learner_model_param", "num_class"), "0", "num_class"),
        (("learner_model_param", "num_class"), "3", "base_score"),
        (("learner_model_param", "num_target"), "2", "num_target = 2 with num_class = 4"),
        (("objective",), {"name": "binary:logistic", "reg_loss_param": {}}, "num_class = 4 with binary:logistic"),
        (("gradient_booster", "model", "gbtree_model_param", "num_parallel_tree"), "3", "num_parallel_tree = 3"),
        (("gradient_booster", "model", "tree_info"), [0, 1, 2, 3] * 2, "tree_info"),
    ],
)
def test_changed_files_of_classes_and_forests_are_refused_by_name(place, value, named):
    rows, target = table()
    given = {"objective": "multi:softprob", "num_class": 4, "num_parallel_tree": 2, "max_depth": 2, "nthread": 1}
    labels = np.digitize(target, [-0.7, 0.4, 1])
    parsed = json.loads(saved(xgboost.train(given, xgboost.DMatrix(rows, labels, feature_names=NAMES), 1)))
    edit(("learner", *place), value)(parsed)
    with pytest.raises(DataError, match=re.escape(named)):
        from_json(encoded(parsed))


# --- categorical features ------------------------------------------------------------------------------------------

COLOURS = ("red", "green", "blue", "naïve", "no", "yes", "12")
SITES = (7, 3, 10**15, -4)
TYPES = ["c", "q", "c", "q"]
UNUSUAL = (7.0, 8.0, 31.0, 32.0, 1e6, 16777215.0, 16777216.0, 3e9, -1.0, -0.5, -0.0, 2.7, 0.999)
"""No category, or one that is not there, or not a whole number."""


def coded_table(n_rows=2000, seed=0):
    """Rows (n_rows, 4) float32, of which two features are codes of COLOURS and SITES; a tenth missing; and labels."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, 4)).astype(np.float32)
    rows[:, 0] = rng.integers(len(COLOURS), size=n_rows)
    rows[:, 2] = rng.integers(len(SITES), size=n_rows)
    labels = (rows[:, 0] == 2) | (rows[:, 2] == 1) & (rows[:, 1] > 0) | (rows[:, 3] > 1.5)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows, (labels ^ (rng.random(n_rows) < 0.1)).astype(np.float32)


def coded_matrix(rows, labels=None):
    return xgboost.DMatrix(rows, labels, feature_names=NAMES, feature_types=TYPES, enable_categorical=True)


def coded_booster(**parameters):
    parameters = {"objective": "binary:logistic", "max_cat_to_onehot": 100, "max_depth": 5, "nthread": 1, **parameters}
    return xgboost.train(parameters, coded_matrix(*coded_table()), 10)


def unusual_rows():
    """Rows of which some lack values and some hold codes that no training row had."""
    rows, _ = coded_table(300, seed=1)
    for feature in (0, 2):
        rows[: len(UNUSUAL), feature] = UNUSUAL
        rows[len(UNUSUAL) : 60, feature] = np.nan
    return rows


def assert_same_margins(booster, ensemble, rows):
    expected = booster.predict(coded_matrix(rows), output_margin=True)
    assert ensemble.predict_margin(np.ascontiguousarray(rows.T)).tobytes() == expected.tobytes()


def test_one_hot_splits_of_real_xgboost_predict_the_same_here_and_back_there():
    original = coded_booster()
    ensemble = from_json(saved(original))
    assert ensemble.categories == ((), None, (), None)
    kinds = np.concatenate([tree.split_type for tree in ensemble.trees])
    assert 10 < kinds.sum() < (np.concatenate([tree.left_children for tree in ensemble.trees]) >= 0).sum()
    again = loaded(to_json(ensemble))
    for booster in (original, again):
        assert_same_margins(booster, ensemble, unusual_rows())
    assert from_json(saved(again)) == ensemble == from_json(to_json(ensemble))
    for kind in ("weight", "gain", "cover"):
        assert ensemble.importance(kind) == pytest.approx(original.get_score(importance_type=kind), rel=1e-5)
    assert again.feature_types == ["c", "float", "c", "float"]


def with_levels():
    ensemble = from_json(saved(coded_booster()))
    return Ensemble(ensemble.objective, ensemble.base_score, tuple(NAMES), ensemble.trees, (COLOURS, None, SITES, None))


def test_levels_travel_through_xgboost(tmp_path):
    ensemble = with_levels()
    booster = loaded(to_json(ensemble))
    assert_same_margins(booster, ensemble, unusual_rows())
    assert json.loads(booster.attr("hansa.categories")) == {NAMES[0]: list(COLOURS), NAMES[2]: list(SITES)}
    booster.save_model(tmp_path / "model.ubj")
    for other in (booster, xgboost.Booster(model_file=str(tmp_path / "model.ubj"))):
        assert from_json(saved(other)) == ensemble
    assert from_json(to_json(ensemble)) == ensemble
    rows = unusual_rows()
    values = booster.predict(coded_matrix(rows), pred_contribs=True)
    np.testing.assert_allclose(values.sum(axis=1), ensemble.predict_margin(rows.T.copy()), atol=1e-4)


def test_xgboost_finds_a_data_frames_categories_whatever_their_order():
    """Without `cats` it would take a frame's own codes for ours."""
    pandas = pytest.importorskip("pandas")
    names = tuple(
        name if name.isascii() else "naive" for name in COLOURS
    )  # XGBoost 3.2 cuts other sealed messages short
    ensemble = with_levels()
    ensemble = Ensemble(
        "binary:logistic", ensemble.base_score, tuple(NAMES), ensemble.trees, (names, None, SITES, None)
    )
    booster = loaded(to_json(ensemble))
    rows, _ = coded_table(500, seed=2)
    rows = rows[~np.isnan(rows[:, [0, 2]]).any(axis=1)]
    codes = rows[:, [0, 2]].astype(int)
    frame = pandas.DataFrame(rows, columns=NAMES)
    frame[NAMES[0]] = pandas.Categorical(np.array(names)[codes[:, 0]], categories=sorted(names))
    frame[NAMES[2]] = pandas.Categorical(np.array(SITES)[codes[:, 1]], categories=sorted(SITES))
    found = booster.predict(xgboost.DMatrix(frame, enable_categorical=True), output_margin=True)
    assert found.tobytes() == ensemble.predict_margin(np.ascontiguousarray(rows.T)).tobytes()
    assert from_json(saved(booster)) == ensemble


@pytest.mark.parametrize(
    "given", [{}, {"max_cat_threshold": 2}, {"grow_policy": "lossguide", "max_leaves": 9}], ids=str
)
def test_splits_on_sets_of_categories_predict_the_same_here_and_back_there(given):
    original = coded_booster(max_cat_to_onehot=1, **given)
    ensemble = from_json(saved(original))
    assert max(len(own) for tree in ensemble.trees for own in tree.categories.values()) > 1
    again = loaded(to_json(ensemble))
    for booster in (original, again):
        assert_same_margins(booster, ensemble, unusual_rows())
    assert from_json(saved(again)) == ensemble == from_json(to_json(ensemble))
    # The same where the feature types say nothing.
    parsed = json.loads(saved(original))
    parsed["learner"]["feature_types"] = []
    parsed["learner"]["gradient_booster"]["model"]["cats"] = {}
    assert from_json(encoded(parsed)).trees == ensemble.trees


def test_a_thousand_categories_predict_as_in_xgboost():
    """Sets with gaps, known and unknown codes, and missing values on both sides."""
    rng, levels = np.random.default_rng(7), 1000
    codes = rng.integers(0, levels, 8000)
    rows = np.stack([codes, rng.normal(size=8000)], 1).astype(np.float32)
    labels = rng.normal(size=levels)[codes] + rows[:, 1] + 0.1 * rng.normal(size=8000)
    rows[rng.random(8000) < 0.1, 0] = np.nan
    labels[np.isnan(rows[:, 0])] += rng.choice([-3, 3])
    given = {"objective": "reg:squarederror", "max_depth": 5, "max_cat_threshold": 700, "nthread": 1}
    matrix = xgboost.DMatrix(rows, labels, feature_names=["a", "b"], feature_types=["c", "q"], enable_categorical=True)
    original = xgboost.train(given, matrix, 8)
    ensemble = from_json(saved(original))
    sizes = [len(own) for tree in ensemble.trees for own in tree.categories.values()]
    assert max(sizes) > 100
    of_sets = [tree.default_left[node] for tree in ensemble.trees for node in tree.categories]
    assert set(of_sets) == {0, 1}
    asked = np.concatenate([np.arange(levels + 30), UNUSUAL, [np.nan] * 5]).astype(np.float32)
    asked = np.stack([np.repeat(asked, 3), np.tile([-1, 0, 1], len(asked))], 1).astype(np.float32)
    again = loaded(to_json(ensemble))
    for booster in (original, again):
        names = {"feature_names": ["a", "b"], "feature_types": ["c", "q"]}
        expected = booster.predict(xgboost.DMatrix(asked, **names, enable_categorical=True), output_margin=True)
        assert ensemble.predict_margin(np.ascontiguousarray(asked.T)).tobytes() == expected.tobytes()
    assert from_json(saved(again)) == ensemble


def framed(colours=COLOURS[:3]):
    """A data frame and the model that XGBoost trained on it."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(3)
    frame = pandas.DataFrame(
        {
            "a": pandas.Categorical(rng.choice(colours, 400), categories=colours[::-1]),
            "b": rng.normal(size=400).astype(np.float32),
            "c": pandas.Categorical(rng.choice(SITES, 400), categories=list(SITES)),
        }
    )
    labels = (frame["a"] == colours[0]) | (frame["c"] == SITES[1]) & (frame["b"] > 0)
    parameters = {"objective": "binary:logistic", "max_cat_to_onehot": 9, "max_depth": 3, "nthread": 1}
    return frame, xgboost.train(parameters, xgboost.DMatrix(frame, labels, enable_categorical=True), 3)


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_a_data_frames_levels_are_read(kind):
    frame, booster = framed()
    ensemble = from_model_file(saved(booster, kind))
    assert ensemble.categories == (COLOURS[:3][::-1], None, SITES)
    codes = np.stack([frame["a"].cat.codes, frame["b"], frame["c"].cat.codes]).astype(np.float32)
    expected = booster.predict(xgboost.DMatrix(frame, enable_categorical=True), output_margin=True)
    assert ensemble.predict_margin(codes).tobytes() == expected.tobytes()
    again = loaded(to_json(ensemble))
    assert (
        again.predict(xgboost.DMatrix(frame, enable_categorical=True), output_margin=True).tobytes()
        == expected.tobytes()
    )


def test_a_data_frames_levels_that_xgboost_cut_short_are_refused():
    _, booster = framed(("aé", "b", "c"))
    with pytest.raises(DataError, match=r"cats\.enc\[0\] with levels that are not ASCII"):
        from_model_file(saved(booster))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda enc: enc.pop(), "cats.enc"),
        (lambda enc: enc.__setitem__(0, [1]), "cats.enc[0]"),
        (lambda enc: enc[0].update(offsets=[0, 9, 2, 3]), "cats.enc[0].offsets"),
        (lambda enc: enc[0].update(offsets=[1, 2, 3, 4]), "cats.enc[0].offsets"),
        (lambda enc: enc[0].update(offsets=[0.5]), "cats.enc[0].offsets"),
        (lambda enc: enc[0].update(values=[300]), "cats.enc[0].values"),
        (lambda enc: enc[0].update(more=1), "'more'"),
        (lambda enc: enc[2].update(type=3), "cats.enc"),
        (lambda enc: enc[2].update(values=[0.5]), "cats.enc[2].values"),
        (lambda enc: enc[2].update(values=[7, 7, 7, 7]), "cats.enc"),
    ],
)
def test_a_data_frames_changed_levels_are_refused(change, named):
    parsed = json.loads(saved(framed()[1]))
    change(parsed["learner"]["gradient_booster"]["model"]["cats"]["enc"])
    with pytest.raises(DataError, match=re.escape(named)):
        from_json(encoded(parsed))


def coded_document():
    return json.loads(to_json(with_levels()))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda learner, tree: learner["attributes"].update({"hansa.categories": "[]"}), "attributes"),
        (lambda learner, tree: learner["attributes"].update({"hansa.categories": '{"d": ["a"]}'}), "'d'"),
        (lambda learner, tree: learner["attributes"].update({"hansa.categories": '{"age": ["a", 1]}'}), "attributes"),
        (lambda learner, tree: learner["attributes"].update({"hansa.categories": '{"age": ["a", "a"]}'}), "cats.enc"),
        (lambda learner, tree: learner["attributes"].clear(), "cats.enc"),
        (lambda learner, tree: learner["gradient_booster"]["model"]["cats"]["sorted_idx"].reverse(), "cats.enc"),
        (lambda learner, tree: learner["feature_types"].reverse(), "d"),
        (lambda learner, tree: tree["categories"].__setitem__(0, 2**24), "trees[0].categories"),
        (lambda learner, tree: tree["categories"].__setitem__(0, -1), "trees[0].categories"),
        (lambda learner, tree: tree["categories"].__setitem__(0, 7), "category 7; expected less than"),
        (lambda learner, tree: tree["categories_sizes"].__setitem__(0, 2), "trees[0].categories"),
        (lambda learner, tree: tree["categories_sizes"].__setitem__(0, 0), "trees[0].categories"),
        (lambda learner, tree: tree["categories"].append(1), "trees[0].categories"),
        (lambda learner, tree: tree["categories_segments"].__setitem__(0, 1), "trees[0].categories"),
        (lambda learner, tree: tree["split_type"].__setitem__(-1, 1), "trees[0].categories_nodes"),
    ],
)  # fmt: skip
def test_changed_categories_are_refused_by_name(change, named):
    parsed = coded_document()
    change(parsed["learner"], parsed["learner"]["gradient_booster"]["model"]["trees"][0])
    with pytest.raises(DataError, match=re.escape(named)):
        from_json(encoded(parsed))


def test_feature_types_may_be_left_out():
    parsed = coded_document()
    parsed["learner"]["feature_types"] = []
    assert from_json(encoded(parsed)) == with_levels()


def edit(path, value):
    """A change of one field of a parsed file: path of keys, new value (or ... to delete)."""

    def apply(parsed):
        *way, last = path
        for key in way:
            parsed = parsed[key]
        if value is ...:
            del parsed[last]
        else:
            parsed[last] = value

    return apply


L, G = ("learner",), ("learner", "gradient_booster")
M = (*G, "model")
T = (*M, "trees", 1)
P = (*L, "learner_model_param")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (L, 3, "learner"),
        (("extra",), 3, "extra"),
        ((*L, "extra"), {}, "extra"),
        ((*L, "objective"), ..., "objective"),
        ((*L, "objective", "name"), "rank:ndcg", "rank:ndcg"),
        ((*L, "objective", "name"), ["binary:logistic"], "objective"),
        ((*L, "feature_names"), ["a"], "feature_names"),
        ((*L, "feature_names"), [1, 2, 3, 4], "feature_names"),
        ((*L, "feature_names"), ["a", "a", "b", "c"], "twice"),
        ((*L, "feature_types"), ["c", "q", "q", "q"], "categorical"),
        ((*L, "feature_types"), ["float32"], "float32"),
        ((*P, "base_score"), 0.5, "base_score"),
        ((*P, "base_score"), [0.5], "base_score"),
        ((*P, "base_score"), "[5E-1,5E-1]", "base_score"),
        ((*P, "base_score"), "half", "base_score"),
        ((*P, "base_score"), "nan", "base_score"),
        ((*P, "base_score"), "1.5", "base_score"),
        *(
            ((*P, "base_score"), text, "base_score")
            for text in ("0_1E-1", "\u0660.\u0665", " 5E-1", "5E-1\n", "[5E-1 ]", "")
        ),
        ((*P, "num_class"), "3", "num_class"),
        ((*P, "num_class"), 0, "num_class"),
        ((*P, "num_target"), "2", "2 outputs in turn"),
        ((*P, "num_feature"), "-4", "num_feature"),
        ((*P, "num_feature"), "5", "feature_names"),
        ((*P, "num_feature"), ..., "num_feature"),
        ((*G, "name"), "gblinear", "gblinear"),
        ((*M, "gbtree_model_param", "num_parallel_tree"), "4", "num_parallel_tree"),
        ((*M, "gbtree_model_param", "num_trees"), "3", "num_trees"),
        ((*M, "tree_info"), [0, 1], "tree_info"),
        ((*M, "iteration_indptr"), [0, 2], "iteration_indptr"),
        ((*M, "cats"), {"enc": [{"offsets": [0, 1], "values": [97]}]}, "cats.enc"),
        ((*M, "weight_drop"), [1.0, 1.0], "weight_drop"),
        ((*M, "trees"), {}, "trees"),
        (T, [], "trees[1]"),
        ((*T, "id"), 0, "trees[1].id"),
        ((*T, "parents"), ..., "parents"),
        ((*T, "parents"), [0], "trees[1]"),
        ((*T, "left_children", 0), 2.0, "trees[1].left_children"),
        ((*T, "left_children", 0), True, "trees[1].left_children"),
        ((*T, "left_children", 0), 2**40, "trees[1].left_children"),
        ((*T, "left_children", 0), 999, "trees[1]: tree: left_children[0]"),
        ((*T, "split_conditions", 0), 1, "trees[1].split_conditions"),
        ((*T, "split_conditions", 0), "1.0", "trees[1].split_conditions"),
        ((*T, "split_conditions", 0), 1e39, "trees[1]: tree: split_conditions[0]"),
        ((*T, "default_left", 0), 2, "trees[1].default_left"),
        ((*T, "split_type", 0), 1, "trees[1].categories_nodes"),
        ((*T, "split_type", 0), 2, "trees[1].split_type"),
        ((*T, "split_type"), [0], "trees[1]: tree: split_type"),
        ((*T, "categories"), [1], "trees[1].categories"),
        ((*T, "categories_nodes"), [1], "trees[1].categories_nodes"),
        ((*T, "split_indices", 0), 4, "feature 4"),
        ((*T, "split_indices", 0), -1, "split_indices"),
        ((*T, "tree_param", "size_leaf_vector"), "3", "size_leaf_vector"),
        ((*T, "tree_param", "num_deleted"), "2", "num_deleted"),
        ((*T, "tree_param", "num_nodes"), "2", "num_nodes"),
        ((*T, "tree_param", "num_feature"), "3", "num_feature"),
        ((*T, "leaf_weights"), [], "leaf_weights"),
    ],
)
def test_changed_files_are_refused_by_name(path, value, named):
    parsed = document()
    edit(path, value)(parsed)
    with pytest.raises(DataError, match=re.escape(named)):
        from_json(encoded(parsed))


def several_outputs(rounds=5, objective="binary:logistic", names=NAMES, **parameters):
    """Labels with three columns: one of three classes each, or three numbers."""
    rows, target = table()
    labels = np.digitize(target, [-0.7, 0.7])[:, None] == np.arange(3)
    labels = labels if objective == "binary:logistic" else target[:, None] * [1, 2, -3]
    parameters = {"objective": objective, "max_depth": 4, "nthread": 1, **parameters}
    return xgboost.train(parameters, xgboost.DMatrix(rows, labels, feature_names=names), rounds)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("base_score", [None, 0.3])
def test_several_outputs_through_xgboost_and_back(objective, base_score):
    original = several_outputs(5, objective, **({} if base_score is None else {"base_score": base_score}))
    ensemble = from_json(saved(original))
    assert (ensemble.outputs, ensemble.rounds, len(ensemble.trees)) == (3, 5, 15)
    document = to_json(ensemble)
    again = loaded(document)
    ours, theirs = (json.loads(text)["learner"] for text in (document, saved(again)))
    for name in ("tree_info", "iteration_indptr", "gbtree_model_param"):
        assert ours["gradient_booster"]["model"][name] == theirs["gradient_booster"]["model"][name]
    scores = [np.ravel(json.loads(each["learner_model_param"]["base_score"])).tolist() for each in (ours, theirs)]
    assert len(scores[1]) == 3
    assert scores[0] == (scores[1] if base_score is None else scores[1][:1])
    assert ours["learner_model_param"]["num_target"] == theirs["learner_model_param"]["num_target"] == "3"

    rows, _ = table(seed=1)
    matrix = xgboost.DMatrix(rows, feature_names=NAMES)
    features = np.ascontiguousarray(rows.T)
    assert ensemble.predict(features, threads=2).shape == (len(rows), 3)
    np.testing.assert_allclose(again.predict(matrix), ensemble.predict(features), rtol=0, atol=1e-6)
    expected = original.predict(matrix, output_margin=True)
    assert again.predict(matrix, output_margin=True).tobytes() == expected.tobytes()
    assert ensemble.predict_margin(features).tobytes() == expected.tobytes()
    for kind in ("weight", "gain", "cover", "total_gain", "total_cover"):
        assert ensemble.importance(kind) == pytest.approx(original.get_score(importance_type=kind), rel=1e-5)

    assert from_json(saved(again)) == ensemble
    assert from_json(document) == ensemble
    first = loaded(to_json(ensemble.truncate(6)))
    assert first.predict(matrix).tobytes() == original.predict(matrix, iteration_range=(0, 2)).tobytes()


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("parallel", [1, 2])
def test_outputs_can_start_alike_and_predict_as_before(objective, parallel):
    """XGBoost before 3.1 reads one base score only: `test_trees_xgboost_releases.py` has such releases."""
    ensemble = from_json(saved(several_outputs(3, objective, num_parallel_tree=parallel)))
    alike = ensemble.with_one_base_score()
    assert len(set(ensemble.base_scores)) == 3
    assert len(set(alike.base_scores)) == 1
    text = json.loads(to_json(alike))["learner"]["learner_model_param"]["base_score"]
    assert not text.startswith("[")
    assert from_json(to_json(alike)) == alike
    assert alike.with_one_base_score() == alike
    rows, _ = table(seed=1)
    features = np.ascontiguousarray(rows.T)
    np.testing.assert_allclose(alike.predict_margin(features), ensemble.predict_margin(features), rtol=0, atol=2e-6)
    theirs = loaded(to_json(alike)).predict(xgboost.DMatrix(rows, feature_names=NAMES))
    np.testing.assert_allclose(theirs, ensemble.predict(features), rtol=0, atol=2e-6)


def test_without_trees_outputs_keep_their_base_scores():
    none = Ensemble("binary:logistic", (0.1, 0.9), ("a",), ())
    assert none.with_one_base_score() == none == from_json(to_json(none))


def test_one_base_score_stands_for_all_outputs_as_in_xgboost():
    parsed = json.loads(saved(several_outputs(2, base_score=0.3, names=list("abcd"))))
    rows, _ = table(seed=1)
    for text in ("3E-1", "[3E-1]"):
        parsed["learner"]["learner_model_param"]["base_score"] = text
        ensemble = from_json(encoded(parsed))
        assert ensemble.base_scores == (float(np.float32(0.3)),) * 3
        theirs = loaded(encoded(parsed)).predict(xgboost.DMatrix(rows, feature_names=list("abcd")), output_margin=True)
        assert ensemble.predict_margin(rows.T.copy()).tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("learner_model_param", "base_score"), "[3E-1,3E-1]", "base_score"),
        (("learner_model_param", "base_score"), "[3E-1,3E-1,1.5E0]", "base_score"),
        (("learner_model_param", "num_target"), "2", "base_score"),
        (("learner_model_param", "num_target"), "0", "num_target"),
        (("gradient_booster", "model", "tree_info"), [0, 0, 1, 1, 2, 2], "tree_info"),
        (("gradient_booster", "model", "iteration_indptr"), [0, 1, 2, 3, 4, 5, 6], "iteration_indptr"),
    ],
)
def test_changed_files_of_several_outputs_are_refused_by_name(place, value, named):
    parsed = json.loads(saved(several_outputs(2)))
    edit(("learner", *place), value)(parsed)
    with pytest.raises(DataError, match=named):
        from_json(encoded(parsed))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff", b'{"learner": {}, "learner": {}}', b"[" * 100_000, b'{"learner": ' + b"1" * 5000 + b"}"],
)
def test_what_is_not_json_is_refused(text):
    with pytest.raises(DataError, match="not a JSON document"):
        from_json(text)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused_with_its_field(token):
    """XGBoost before 3 has NaN for the condition of a categorical split, which is read, and nowhere else."""
    parsed = coded_document()
    tree = parsed["learner"]["gradient_booster"]["model"]["trees"][0]
    node = tree["categories_nodes"][0]
    other = tree["split_type"].index(0)
    tree["split_conditions"][node] = "HERE"
    assert from_json(encoded(parsed).replace(b'"HERE"', token.encode())) == with_levels()
    tree["split_conditions"][node] = 0.5
    for name in ("split_conditions", "base_weights", "loss_changes", "sum_hessian", "left_children", "categories"):
        tree, place = edited_copy(parsed), other if name != "categories" else 0
        tree["learner"]["gradient_booster"]["model"]["trees"][0][name][place] = "HERE"
        with pytest.raises(DataError, match=rf"trees\[0\].*{name}"):
            from_json(encoded(tree).replace(b'"HERE"', token.encode()))
    for name in ("learner", "version"):
        with pytest.raises(DataError, match=name):
            from_json(encoded(parsed | {name: "HERE"}).replace(b'"HERE"', token.encode()))


def edited_copy(parsed):
    return json.loads(json.dumps(parsed))


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_feature", "9999999999"), ("num_feature", str(2**20 + 1)), ("num_target", "9999999999"), ("num_target", "0")],
)
def test_a_small_file_cannot_ask_for_much_memory(name, value):
    parsed = json.loads(saved(booster_of(rounds=1, names=None)))
    parsed["learner"]["learner_model_param"][name] = value
    with pytest.raises(DataError, match=f"{name} is {int(value)}"):
        from_json(encoded(parsed))


def test_a_file_beyond_the_limit_is_refused_by_its_size(monkeypatch):
    document = saved(booster_of(rounds=1))
    monkeypatch.setattr("hansa.trees.xgboost_json.MOST_BYTES", len(document) - 1)
    for file in (document, b"{L" + bytes(len(document))):
        with pytest.raises(DataError, match=r"has \d+ bytes; expected at most"):
            from_model_file(file)


# --- files of other versions, and of other kinds -------------------------------------------------------------------

VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(VECTOR_FOLDER.glob("xgboost-*.json"))}


def vector(version, model, kind):
    return base64.b64decode(VECTORS[version][model][kind])


def test_the_vectors_are_of_the_versions_whose_files_differ():
    assert set(VECTORS) >= {"xgboost-1.7.6", "xgboost-2.1.4", "xgboost-3.0.5", "xgboost-3.2.0"}


@pytest.mark.parametrize("version", VECTORS)
@pytest.mark.parametrize("model", ["numeric", "one-hot", "sets", "two outputs"])
def test_a_file_of_another_version_scores_as_that_version_did(version, model):
    rows = np.ascontiguousarray(scored().T)
    ensemble = from_model_file(vector(version, model, "json"))
    assert from_model_file(vector(version, model, "ubj")) == ensemble
    margins = np.array(VECTORS[version][model]["margins"], np.float32)
    assert ensemble.predict_margin(rows).reshape(-1).tobytes() == margins.tobytes()
    assert ensemble.feature_names == ("a", "b", "c", "d")
    if model in ("one-hot", "sets"):
        assert sum(int(tree.split_type.sum()) for tree in ensemble.trees) >= 3
    # Today's XGBoost reads what is written of it, and gives the same.
    again = loaded(to_json(ensemble))
    types = ["c", "float", "c", "float"] if model in ("one-hot", "sets") else None
    matrix = xgboost.DMatrix(scored(), feature_names=list("abcd"), feature_types=types, enable_categorical=True)
    assert again.predict(matrix, output_margin=True).reshape(-1).tobytes() == margins.tobytes()


OLD = [(version, model) for version in VECTORS for model in VECTORS[version] if "deprecated" in VECTORS[version][model]]


@pytest.mark.parametrize("document", [*(vector(*which, "deprecated") for which in OLD), pickle.dumps({"learner": {}})])
def test_the_old_binary_format_and_pickles_are_refused_with_the_cure(document):
    with pytest.raises(DataError, match=r'neither JSON nor UBJSON.*save it anew: booster\.save_model\("model\.json"\)'):
        from_model_file(document)


FILES = [
    vector(version, model, kind)
    for version in ("xgboost-2.1.4", "xgboost-3.2.0")
    for model in ("one-hot", "sets", "two outputs")
    for kind in ("json", "ubj")
]


@given(st.sampled_from(FILES), st.data())
def test_changed_bytes_give_a_model_or_one_sentence(document, data):
    changed = bytearray(document)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["set", "cut", "put", "end"])):
            case "set":
                changed[place] = data.draw(st.integers(0, 255))
            case "cut":
                del changed[place : place + data.draw(st.integers(1, 40))]
            case "put":
                changed[place:place] = data.draw(st.binary(max_size=9) | st.just(document[place : place + 60]))
            case _:
                del changed[max(1, place) :]
        changed = changed or bytearray(b"{")
    try:
        ensemble = from_model_file(bytes(changed))
    except HansaError:
        return
    ensemble.predict_margin(np.zeros((len(ensemble.feature_names), 3), np.float32))


def test_fields_that_older_versions_lack_or_write_otherwise():
    parsed = document()
    expected = from_json(encoded(parsed))
    model = parsed["learner"]["gradient_booster"]["model"]
    del model["cats"], model["iteration_indptr"], parsed["version"], parsed["learner"]["attributes"]
    del parsed["learner"]["learner_model_param"]["num_target"]
    for tree in model["trees"]:
        tree["default_left"] = [bool(side) for side in tree["default_left"]]
        tree["tree_param"]["size_leaf_vector"] = "0"
        for name in (
            "categories",
            "categories_nodes",
            "categories_segments",
            "categories_sizes",
            "split_type",
        ):
            del tree[name]
    assert from_json(encoded(parsed)) == expected
    assert set(TREE_DTYPES) - {"split_type"} <= set(model["trees"][0])
