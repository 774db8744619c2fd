"""Several labels: a tree for each and round, the law, both modes of sums, and what goes with one label only."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import xgboost
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from hansa.consortium.policy import batches_of, enough_of
from hansa.data.holdout import HoldOut, held_out
from hansa.data.schema import Schema
from hansa.data.source import Rows, read_rows
from hansa.errors import DataError, HansaError, PlanError
from hansa.node.in_process import train_in_process
from hansa.plan import parse_plan, write_plan
from hansa.roles.batches import label_counts
from hansa.trees.xgboost_json import from_json, to_json
from made_tables import NAMES, OPEN, coded, plan, spread, table, with_labels

LABELS = ("y0", "y1", "y2")
OBJECTIVES = (
    *("binary:logistic", "binary:logitraw", "binary:hinge", "reg:squarederror", "reg:pseudohubererror"),
    *("reg:squaredlogerror", "reg:absoluteerror", "count:poisson", "reg:gamma", "reg:tweedie"),
)
FORMS = st.fixed_dictionaries(
    {
        "objective": st.sampled_from(OBJECTIVES),
        "grow_policy": st.sampled_from(["depthwise", "lossguide"]),
        "num_parallel_tree": st.sampled_from([1, 2]),
        "subsample": st.sampled_from([0.7, 1.0]),
        "colsample_bynode": st.sampled_from([0.6, 1.0]),
        "categories": st.booleans(),
        "weighted": st.booleans(),
        "evaluation": st.sampled_from([0.0, 0.25]),
        "histogram_bits": st.sampled_from(["auto", 32, 64]),
    }
)


def rows_of(objective, n_labels=2, n_rows=300, **given_):
    return with_labels(table(n_rows, objective, **given_), n_labels, objective)


def trained(rows, parties=3, n_labels=2, mode="federated", **given_):
    tables = spread(rows, np.arange(rows.n_rows) % parties)
    chosen = plan(tuple(tables), label=LABELS[:n_labels], mode=mode, **given_)
    return train_in_process(chosen, tables, policy=OPEN)


@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(given_=FORMS, n_labels=st.integers(2, 3), seed=st.integers(0, 2**32))
def test_the_law_holds_for_several_labels_in_both_modes(given_, n_labels, seed):
    rng = np.random.default_rng(seed)
    rows = rows_of(given_["objective"], n_labels, 160, weighted=given_["weighted"], seed=seed % 97)
    rows = replace(coded(rows), label=rows.label) if given_["categories"] else rows
    owners = rng.choice(3, 160, p=rng.dirichlet(np.full(3, 0.7)))
    owners[rng.permutation(160)[:9]] = np.arange(9) % 3
    given_ = given_ | {"rounds": 2, "max_bin": 16, "label": LABELS[:n_labels]}
    tables = spread(rows, owners)
    try:
        whole = train_in_process(plan(NAMES[:1], **given_), {NAMES[0]: rows})
    except (
        HansaError
    ) as refusal:  # where rows are drawn: for all alike, since it follows from sums and from what is public
        with pytest.raises(HansaError, match=re.escape(str(refusal))):
            train_in_process(plan(tuple(tables), **given_), tables, policy=OPEN)
        assume("too coarse where rows are drawn" not in str(refusal))
        raise
    model = whole.outcome.ensemble
    assert from_json(whole.outcome.model) == model
    assert model.reading.labels == LABELS[:n_labels]
    assert len(model.trees) == 2 * n_labels * given_["num_parallel_tree"]
    for mode in ("federated", "secure-aggregation"):
        apart = train_in_process(plan(tuple(tables), mode=mode, **given_), tables, policy=OPEN)
        assert apart.outcome.model == whole.outcome.model
        assert apart.outcome.history == whole.outcome.history
        assert {party.model for party in apart.parties.values()} == {whole.outcome.model}


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "count:poisson", "reg:absoluteerror"])
def test_each_label_is_learnt_as_if_it_were_alone(objective):
    """Nothing of one label goes into another's trees: the same as a training of one label, but for the draws."""
    rows = rows_of(objective)
    together = trained(rows, objective=objective, rounds=4, histogram_bits=64).outcome.ensemble
    margins = together.predict_margin(rows.features)
    for number in range(2):
        own = replace(rows, label=rows.label[number])
        alone = train_in_process(
            plan(NAMES[:1], objective=objective, rounds=4, histogram_bits=64), {NAMES[0]: own}
        ).outcome.ensemble
        found = alone.predict_margin(rows.features)
        size = max(1.0, float(np.abs(found).max()))
        assert np.abs(margins[:, number] - found).max() <= 1e-5 * size


@pytest.mark.parametrize(
    ("objective", "metrics"),
    [
        ("binary:logistic", ["error", "error@0.3", "rmse", "mae", "logloss"]),
        ("reg:squarederror", ["rmse", "mae", "mphe", "mape"]),
        ("count:poisson", ["rmse", "mae", "rmsle", "tweedie-nloglik@1.4", "poisson-nloglik"]),
        ("reg:gamma", ["gamma-deviance", "gamma-nloglik"]),
    ],
)
def test_metrics_are_over_rows_and_labels_as_xgboosts(objective, metrics):
    rows = rows_of(objective, n_rows=600, weighted=True)
    run = trained(rows, objective=objective, evaluation=0.3, weighted=True, eval_metric=metrics, rounds=2)
    held = held_out(rows.features, rows.label, HoldOut(0.3, 0))
    booster = xgboost.Booster(model_file=bytearray(run.outcome.model))
    names = run.outcome.ensemble.feature_names
    matrix = xgboost.DMatrix(
        rows.features[:, held].T, rows.label[:, held].T, weight=rows.weight[held], feature_names=list(names)
    )
    booster.set_param([("eval_metric", name) for name in metrics])
    said = booster.eval(matrix).split("\t")[1:]
    theirs = {name.partition("-")[2]: float(value) for name, _, value in (text.rpartition(":") for text in said)}
    for name in metrics:
        assert run.outcome.history[name][-1] == pytest.approx(theirs[name], rel=2e-5), name


def test_training_stops_early_by_the_mean_over_labels():
    rows = rows_of("reg:squarederror", n_rows=500)
    run = trained(
        rows, objective="reg:squarederror", evaluation=0.3, early_stopping_rounds=2, rounds=60, eta=1.0, max_depth=6
    )
    history = run.outcome.history["rmse"]
    assert len(history) < 60
    assert run.outcome.ensemble.rounds == int(np.argmin(history)) + 1
    assert len(run.outcome.ensemble.trees) == 2 * run.outcome.ensemble.rounds


@pytest.mark.parametrize("weighted", [False, True])
def test_base_scores_are_each_labels_own(weighted):
    rows = rows_of("reg:squarederror", 3, weighted=weighted)
    run = trained(rows, n_labels=3, objective="reg:squarederror", rounds=1, max_depth=1, eta=1e-6, weighted=weighted)
    expected = np.average(rows.label, axis=1, weights=rows.weight)
    found = run.outcome.ensemble.predict(rows.features).mean(axis=0)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert set(run.outcome.ensemble.base_scores) == {0.0}  # XGBoost before 3.1 reads no others


def test_rows_start_at_base_margins_of_each_label():
    rows = rows_of("reg:squarederror")
    starts = np.stack([rows.label[0] * 0.5, np.zeros(rows.n_rows)]).astype(np.float32)
    tables = spread(replace(rows, base_margin=starts), np.arange(rows.n_rows) % 2)
    chosen = plan(tuple(tables), label=LABELS[:2], objective="reg:squarederror", rounds=3)
    limit = 2.0 ** np.ceil(np.log2(np.abs(starts).max()))
    schema = replace(chosen.schema, base_margin=("m0", "m1"), base_margin_limit=float(limit))
    ensemble = train_in_process(replace(chosen, schema=schema), tables).outcome.ensemble
    matrix = xgboost.DMatrix(rows.features.T, rows.label.T, base_margin=starts.T, feature_names=list("abcde"))
    loaded = xgboost.Booster(model_file=bytearray(to_json(ensemble)))
    mine = ensemble.predict(rows.features, base_margin=starts)
    np.testing.assert_allclose(loaded.predict(matrix), mine, rtol=1e-5, atol=1e-4)
    assert np.abs(mine.T - rows.label).mean() < np.abs(starts - rows.label).mean()
    with pytest.raises(PlanError, match="names 1 columns; expected one for each of the 2 outputs"):
        replace(chosen, schema=replace(schema, base_margin=("m0",)))


@pytest.mark.parametrize("theirs", [False, True])
def test_training_goes_on_from_a_model_of_several_labels(theirs):
    rows = rows_of("reg:squarederror")
    first = trained(rows, objective="reg:squarederror", rounds=2).outcome.model
    if theirs:  # with a base score for each label
        matrix = xgboost.DMatrix(rows.features.T, rows.label.T, feature_names=list("abcde"))
        first = bytes(xgboost.train({"objective": "reg:squarederror", "max_depth": 3}, matrix, 2).save_raw("json"))
        assert len(set(from_json(first).base_scores)) == 2
    tables = spread(rows, np.arange(rows.n_rows) % 3)
    chosen = plan(tuple(tables), label=LABELS[:2], objective="reg:squarederror", rounds=2)
    more = replace(chosen, start_model=hashlib.sha256(first).hexdigest())
    ensemble = train_in_process(more, tables, start=first).outcome.ensemble
    assert ensemble.rounds == 4
    before = from_json(first)
    margins = np.ascontiguousarray(before.predict_margin(rows.features).T)
    errors = [np.abs(own - rows.label).mean() for own in (margins, ensemble.predict(rows.features).T)]
    assert errors[1] < errors[0]
    whole = trained(rows, objective="reg:squarederror", rounds=4).outcome.ensemble
    if not theirs:
        np.testing.assert_allclose(ensemble.predict(rows.features), whole.predict(rows.features), rtol=1e-4, atol=1e-2)


def test_a_batch_is_of_each_class_of_each_label():
    chosen = replace(plan(NAMES[:3], label=("p", "q"), mode="secure-aggregation"), min_party_rows=3)
    assert [str(own) for own in batches_of(chosen)] == [
        "training rows",
        *("training rows of class 0 of 'p'", "training rows of class 1 of 'p'"),
        *("training rows of class 0 of 'q'", "training rows of class 1 of 'q'"),
    ]
    labels = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]], np.float32)
    assert enough_of(chosen, *label_counts(labels, np.zeros(6, np.bool_))) == 0b01110


# --- plans and tables -------------------------------------------------------------------------------------------------


def test_a_plan_of_several_labels_is_written_and_read():
    chosen = plan(NAMES[:2], label=LABELS[:2])
    text = write_plan(chosen)
    assert text.replace("\n    ", "").count('label = ["y0","y1",') == 1
    assert parse_plan(text) == chosen
    assert chosen.parameters.outputs == 2
    one = plan(NAMES[:2])
    assert parse_plan(write_plan(one).replace('label = "y"', 'label = ["y"]')) == one
    assert b"num_target" not in one.canonical()
    assert b"multi_strategy" not in one.canonical()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "reg:quantileerror", "quantile_alpha": 0.5}, "objective = 'reg:quantileerror': expected one of a single output"),
        ({"objective": "multi:softprob", "num_class": 3}, "expected one of a single output for each of 2 labels, as XGBoost does"),
        ({"eval_metric": ["auc"]}, "eval_metric = 'auc': expected logloss or error with several labels"),
        ({"scale_pos_weight": "auto"}, "scale_pos_weight = 'auto': expected a number with several labels"),
        ({"multi_strategy": "multi_output_tree"}, "multi_strategy = 'multi_output_tree' is not supported for 2 outputs.*leave it out"),
        ({"num_target": 3}, "num_target = 3: expected 2, the number of labels"),
    ],
)  # fmt: skip
def test_what_several_labels_cannot_have_is_refused_by_name(change, words):
    with pytest.raises(PlanError, match=words):
        plan(NAMES[:2], label=LABELS[:2], **change)


def test_one_label_may_name_the_strategy_that_makes_no_difference_then():
    rows = table(200)
    tables = {NAMES[0]: rows}
    first, second = (
        train_in_process(plan(NAMES[:1], multi_strategy=own), tables).outcome.model
        for own in ("one_output_per_tree", "multi_output_tree")
    )
    assert first == second
    with pytest.raises(PlanError, match=r"multi_output_tree' is not supported for 3 outputs"):
        plan(NAMES[:1], objective="multi:softprob", multi_strategy="multi_output_tree")


def test_in_coopetitive_mode_several_labels_are_refused_with_the_cure():
    text = (
        'mode = "coopetitive"\n[members]\nhub = "h"\nservers = ["s", "t", "u"]\nparties = ["a", "b"]\n'
        '[schema]\nfeatures = ["load"]\nlabel = ["p", "q"]\n'
    )
    with pytest.raises(
        PlanError, match=r"names 2 columns, and the mode is 'coopetitive'.*train a model for each label"
    ):
        parse_plan(text)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (("y", "y"), "column 'y' is named more than once"),
        (("y", "a"), "column 'a' is named more than once; a column is one feature, the label"),
        ((), "no column is named"),
        (("y", ""), "'' is no column name"),
    ],
)
def test_a_schema_names_each_label_once(label, words):
    with pytest.raises(PlanError, match=words):
        Schema(("a", "b"), label)


TWO = Schema(("a",), ("y", "z"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,y,z\n1,0,1\n2,1,\n", "t.csv, row 2, column 'z': expected a label in every row, found a missing value; drop the rows"),
        ("a,y,z\n1,0,1\n2,yes,0\n", "t.csv, row 2, column 'y': expected a number in every row, found 'yes'; .*schema.classes"),
        ("a,y,z\n1,0,1\n2,1,3\n", "t.csv, row 2, column 'z': expected label 0 or 1, found '3'"),
        ("a,y\n1,0\n2,1\n", "t.csv, column 'z': expected a column of this name"),
    ],
)  # fmt: skip
def test_a_table_with_a_bad_label_is_refused_with_its_file_row_column_and_cure(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_rows(path, TWO, label_kind="binary")


def test_texts_of_all_labels_are_the_same_classes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,y,z\n1,no,yes\n2,yes,yes\n")
    rows = read_rows(path, replace(TWO, classes=("no", "yes")), label_kind="binary")
    assert rows.label.tolist() == [[0, 1], [1, 1]]


def test_arrays_of_another_number_of_labels_are_refused():
    rows = table(50)
    with pytest.raises(DataError, match=r"party 'aurora', column 'y0': expected float32 of shape \(2, n_rows\), found"):
        train_in_process(plan(NAMES[:1], label=LABELS[:2]), {NAMES[0]: rows})
    several = rows_of("binary:logistic", n_rows=50)
    with pytest.raises(DataError, match=r"column 'y': expected float32 of shape \(n_rows,\), found float32\(2, 50\)"):
        train_in_process(plan(NAMES[:1]), {NAMES[0]: several})


def test_a_label_of_one_class_is_named():
    rows = rows_of("binary:logistic")
    label = rows.label.copy()
    label[1] = 1
    with pytest.raises(HansaError, match="all have the same label of 'y1' 1; binary:logistic needs rows of both"):
        trained(Rows(rows.features, label, None))
