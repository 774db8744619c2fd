"""Training from Python: the models that the commands give, and errors that name the party, the row and the cure."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xgboost

import hansa
from hansa.errors import DataError, PlanError
from hansa.plan import MODES
from hansa.roles.run import Progress

N = 450

ROUNDED_ON_SHARES = 0.02
"""How far predictions of two runs on shares may be apart: products of shares are rounded at random, and then leaves to few bits."""


def cells() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "operator": np.array(["aurora", "borealis", "Cirrus AG"])[np.arange(N) % 3],
            "load": rng.normal(size=N).astype(np.float32),
            "alarms": rng.integers(0, 6, N),
            "rsrp": np.where(rng.random(N) < 0.1, np.nan, rng.normal(-95, 8, N).round(1)),
        }
    )
    frame["fault"] = (frame["load"] + frame["alarms"] / 4 + rng.logistic(size=N) > 1).astype(int)
    return frame


@pytest.fixture(autouse=True)
def loud():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("mode", MODES)
def test_the_lines_of_the_notebook(mode):
    parties = hansa.split(cells(), by="operator")
    seen: list[Progress] = []
    run = hansa.fit(
        parties, label="fault", mode=mode, rounds=4, max_depth=3, evaluation_fraction=0.3, on_event=seen.append
    )
    assert list(run.members) == ["Cirrus AG", "aurora", "borealis"]
    assert [event.trees for event in seen if event.stage == "trained"] == [4]
    assert run.metrics.keys() == {"logloss"}
    for member in run.members.values():
        assert member.rows == 150
        assert member.bytes_up > 0
        assert member.together.keys() == member.alone.keys() >= {"auc", "logloss"}
    shown = repr(run)
    assert f"{mode}: 3 parties, 4 rounds" in shown
    assert all(sentence in shown for sentence in run.exposure)
    page = run._repr_html_()
    assert "Cirrus AG" in page
    views = {view.name: view for view in run.views()}
    assert page.count("<svg") == sum(view.chart is not None for view in views.values()) >= 3
    assert [dot.alone for dot in views["members"].chart.dots] == [own.alone["auc"] for own in run.members.values()]
    assert views["curves-1"].chart.series[0].y == tuple(run.history["logloss"])
    assert views["curves-1"].chart.series[0].x == ((4,) if mode == "coopetitive" else (1, 2, 3, 4))
    assert views["importance"].alt.startswith("Importance, the largest first: ")
    assert bool(run.openings) == (mode == "coopetitive")
    frame = cells()
    probabilities = run.model.predict_proba(frame)
    assert probabilities.shape == (N, 2)
    booster = run.model.to_xgboost()
    import xgboost

    theirs = booster.predict(xgboost.DMatrix(frame[["load", "alarms", "rsrp"]]))
    assert np.abs(theirs - probabilities[:, 1]).max() < 1e-6


def test_frames_of_every_library_and_arrays_give_the_same_model_to_the_byte():
    frame = cells()
    models = [
        hansa.fit(hansa.split(kind(frame), by="operator"), label="fault", rounds=3, alone=False).model.to_json()
        for kind in (lambda f: f, pl.from_pandas, lambda f: pa.Table.from_pandas(f, preserve_index=False))
    ]
    names = ["load", "alarms", "rsrp"]
    arrays = {
        name: (part[names].to_numpy(), part["fault"].to_numpy())
        for name, part in hansa.split(frame, by="operator").items()
    }
    models.append(hansa.fit(arrays, rounds=3, alone=False).model.to_json())
    for number, name in enumerate(names):
        models[-1] = models[-1].replace(f'"f{number}"'.encode(), f'"{name}"'.encode())
    assert len(set(models)) == 1


def test_the_model_is_the_one_of_the_command(tmp_path):
    from click.testing import CliRunner

    from hansa.cli.main import main

    frame = cells()
    frame.to_csv(tmp_path / "cells.csv", index=False)
    done = CliRunner().invoke(
        main,
        ["simulate", str(tmp_path / "cells.csv"), "--label", "fault", "--party-column", "operator", "--rounds", "3", "--in-process",
         "--test", str(tmp_path / "cells.csv"), "--save", str(tmp_path / "model.json")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    run = hansa.fit(hansa.split(pd.read_csv(tmp_path / "cells.csv"), by="operator"), label="fault", rounds=3, seed=42)
    assert run.model.to_json() == (tmp_path / "model.json").read_bytes()


def test_base_margins_are_taken_from_a_column_or_from_an_array():
    rng = np.random.default_rng(8)
    frame = pd.DataFrame(
        {
            "load": rng.normal(size=90),
            "start": rng.normal(size=90),
            "fault": np.arange(90) % 2,
            "operator": list("abc") * 30,
        }
    )
    parties = hansa.split(frame, by="operator")
    by_name = hansa.fit(parties, label="fault", base_margin="start", rounds=2)
    arrays = {
        name: (own[["load"]], own["fault"], None, own["start"].to_numpy()) for name, own in frame.groupby("operator")
    }
    assert hansa.fit(arrays, rounds=2).model == by_name.model
    assert by_name.plan.schema.base_margin == ("start",)
    assert by_name.plan.schema.base_margin_limit == 4
    assert (
        by_name.model
        != hansa.fit(hansa.split(frame.drop(columns="start"), by="operator"), label="fault", rounds=2).model
    )
    with pytest.raises(hansa.PlanError, match="goes with the modes that have an aggregator"):
        hansa.fit(parties, label="fault", base_margin="start", rounds=2, mode="coopetitive")
    frame.loc[4, "start"] = np.nan
    with pytest.raises(hansa.DataError, match="row 2, column 'start': expected a base margin in every row"):
        hansa.fit(hansa.split(frame, by="operator"), label="fault", base_margin="start", rounds=2)


@pytest.mark.parametrize("name", ["weight", "base_margin"])
def test_a_feature_may_have_the_name_of_what_tuples_can_hold(name):
    frame = pd.DataFrame({name: np.arange(90.0), "load": np.arange(90.0) % 7})
    labels = np.arange(90) % 2
    parties = {party: (frame[at::3], labels[at::3]) for at, party in enumerate("abc")}
    run = hansa.fit(parties, rounds=1)
    assert run.model.feature_names == (name, "load")
    assert (run.plan.schema.weight, run.plan.schema.base_margin) == (None, ())
    parties["a"] = (
        frame[["load"]][0::3],
        labels[0::3],
        np.ones(30),
        *([np.zeros(30)] if name == "base_margin" else []),
    )
    with pytest.raises(DataError, match="party 'a' gives a weight, and party 'b' none"):
        hansa.fit(parties, rounds=1)


def test_weights_are_taken_from_a_column_or_from_an_array():
    frame = cells()
    frame["importance"] = np.arange(N) % 4 + 1.0
    by_name = hansa.fit(hansa.split(frame, by="operator"), label="fault", weight="importance", rounds=2)
    names = ["load", "alarms", "rsrp"]
    by_array = hansa.fit(
        {
            name: (part[names], part["fault"], part["importance"])
            for name, part in hansa.split(frame, by="operator").items()
        },
        rounds=2,
    )
    assert by_array.model == by_name.model
    assert (
        by_name.model
        != hansa.fit(hansa.split(frame.drop(columns="importance"), by="operator"), label="fault", rounds=2).model
    )


def test_texts_are_categories_in_every_mode():
    frame = cells()
    frame["vendor"] = np.array(["ericsson", "nokia", None, "huawei"])[np.arange(N) % 4]
    parties = hansa.split(frame, by="operator")
    shared = hansa.fit(parties, label="fault", mode="coopetitive", rounds=2, max_depth=2)
    assert shared.plan.schema.levels == {"vendor": ("ericsson", "huawei", "nokia")}
    summed = hansa.fit(parties, label="fault", rounds=2)
    assert summed.plan.schema.levels == shared.plan.schema.levels
    again = hansa.Model(summed.model.to_json())
    assert np.array_equal(again.predict(frame), summed.model.predict(frame))


@pytest.mark.parametrize("form", ["model", "booster", "bytes", "path"])
def test_training_goes_on_from_a_model(form, tmp_path):
    first = hansa.fit(PARTIES, label="fault", rounds=2).model
    first.save(tmp_path / "first.json")
    forms = {"model": first, "booster": first.to_xgboost(), "bytes": first.to_json(), "path": tmp_path / "first.json"}
    run = hansa.fit(PARTIES, label="fault", rounds=3, xgb_model=forms[form])
    assert run.model.rounds == 5
    assert run.model.ensemble.trees[:2] == first.ensemble.trees
    with pytest.raises(PlanError, match="start_model goes with the modes that have an aggregator"):
        hansa.fit(PARTIES, label="fault", rounds=1, xgb_model=forms[form], mode="coopetitive")
    with pytest.raises(DataError, match="xgb_model: expected"):
        hansa.fit(PARTIES, label="fault", rounds=1, xgb_model=3)


def test_a_frame_with_categories_in_another_order_scores_the_same():
    frame = cells()
    names = ["ericsson", "nokia", "huawei", "zte", "samsung"]
    chosen = np.arange(N) % 5
    frame["vendor"] = pd.Categorical.from_codes(chosen, names)
    frame["fault"] = ((frame["load"] > 0) ^ np.isin(chosen, [1, 3])).astype(int)
    model = hansa.fit(hansa.split(frame, by="operator"), label="fault", rounds=3, max_cat_to_onehot=1).model
    assert any(len(own) > 1 for tree in model.ensemble.trees for own in tree.categories.values())
    other = frame.assign(vendor=frame["vendor"].cat.reorder_categories(names[::-1]))
    assert np.array_equal(model.predict_proba(other), model.predict_proba(frame))
    names_of_model = list(model.feature_names)
    for given in (frame, other):
        given = given[names_of_model]
        matrix = xgboost.DMatrix(given, enable_categorical=True)
        assert np.allclose(model.to_xgboost().predict(matrix), model.predict_proba(given)[:, 1], atol=1e-6)


PARTIES = hansa.split(cells(), by="operator")


def changed(column: str, value: object, row: int = 4) -> dict[str, pd.DataFrame]:
    part = PARTIES["borealis"].reset_index(drop=True).astype({column: object})
    part.loc[row, column] = value
    return PARTIES | {"borealis": part}


@pytest.mark.parametrize(
    ("parties", "options", "said"),
    [
        (changed("load", "1,234.5"), {}, r"party 'borealis', row 5, column 'load': .*thousands separators"),
        (changed("fault", 2), {}, r"party 'borealis', row 5, column 'fault'"),
        (changed("fault", None), {}, r"party 'borealis', row 5, column 'fault'"),
        (changed("load", float("inf")), {}, r"party 'borealis', row 5, column 'load'"),
        (PARTIES | {"cirrus": PARTIES["aurora"].drop(columns="rsrp")}, {}, "column 'rsrp': party 'Cirrus AG' has it and party"),
        (PARTIES, {"label": "nothing"}, r"no column 'nothing'"),
        (PARTIES, {"label": None}, r"party 'Cirrus AG': expected a label: say label=COLUMN"),
        (cells(), {}, r"parties: expected a mapping of names to rows, found DataFrame; hansa.split"),
        ({}, {}, "parties: expected a mapping"),
        ({"a": np.zeros((3, 2))}, {"label": None}, "party 'a': expected a label"),
        ({"a": (np.zeros((3, 2)), np.zeros(2))}, {"label": None}, "party 'a': X has 3 rows, and the label 2"),
        ({"a": (np.zeros((3, 2)),)}, {"label": None}, "party 'a': expected \\(X, y\\)"),
        ({"a": (np.zeros(3), np.zeros(3))}, {"label": None}, r"party 'a': expected an array of shape \(rows, features\)"),
        ({"a": PARTIES["aurora"].iloc[:0]}, {}, "no rows"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_by_party_row_and_column(parties, options, said):
    with pytest.raises(DataError, match=said):
        hansa.fit(parties, **({"label": "fault", "rounds": 1} | options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "plain"}, "mode is 'plain'; expected one of federated"),
        ({"max_dept": 3}, "max_dept"),
        ({"label_range": (0, 1)}, "label_range goes with mode='coopetitive' only"),
        ({"leaf_bits": 99}, "leaf_bits"),
        ({"objective": "survival:cox"}, "survival:cox"),
        ({"early_stopping_rounds": 3}, "evaluation"),
    ],
)
def test_settings_that_hansa_does_not_have_are_refused_by_name(options, said):
    with pytest.raises(PlanError, match=said):
        hansa.fit(PARTIES, label="fault", **({"rounds": 1} | options))


@pytest.mark.parametrize(
    ("objective", "wrong", "said"),
    [
        ("reg:gamma", 0, "expected a label above 0, found '0'"),
        ("reg:tweedie", -1, "expected a label of 0 or more, found '-1'"),
        ("reg:squaredlogerror", -1, "expected a label above -1, found '-1'"),
        ("reg:pseudohubererror", None, ""),
        ("binary:hinge", 2, "expected label 0 or 1, found '2'"),
    ],
)
def test_other_losses_are_trained_in_the_first_two_modes_and_refused_by_name_in_the_third(objective, wrong, said):
    draw = np.random.Generator(np.random.PCG64(4))
    parts = {
        name: part.assign(
            fault=draw.integers(0, 2, len(part)) if objective == "binary:hinge" else draw.gamma(2, 1, len(part))
        )
        for name, part in PARTIES.items()
    }
    given = {"label": "fault", "objective": objective, "rounds": 2}
    models = [hansa.fit(parts, mode=mode, **given).model.to_json() for mode in ("federated", "secure-aggregation")]
    assert models[0] == models[1]
    with pytest.raises(PlanError, match=f"'{objective}' cannot be had in coopetitive mode, where gradients"):
        hansa.fit(parts, mode="coopetitive", **given)
    if said:
        name = next(iter(parts))
        parts[name] = parts[name].assign(fault=wrong)
        with pytest.raises(DataError, match=rf"{name}.*row 1, column 'fault': {said}"):
            hansa.fit(parts, **given)


@pytest.mark.parametrize("more", [{}, {"quantile_alpha": 0.8}, {"quantile_alpha": [0.2, 0.8]}], ids=str)
def test_quantiles_are_trained_in_the_first_two_modes_and_refused_by_name_in_the_third(more):
    draw = np.random.Generator(np.random.PCG64(4))
    parts = {name: part.assign(fault=draw.gamma(2, 1, len(part))) for name, part in PARTIES.items()}
    given = {"label": "fault", "objective": "reg:quantileerror" if more else "reg:absoluteerror", "rounds": 2, **more}
    runs = [
        hansa.fit(parts, mode=mode, evaluation_fraction=0.3, **given) for mode in ("federated", "secure-aggregation")
    ]
    assert runs[0].model.to_json() == runs[1].model.to_json()
    metric = "quantile" if more else "mae"
    assert list(runs[0].history) == [metric]
    for member in runs[0].members.values():
        assert 0 < member.together[metric] < 2
        assert member.paired.loss == ("quantile" if more else "absolute error")
    assert "Leaves are quantiles of residuals" in " ".join(runs[0].exposure)
    predicted = runs[0].model.predict(parts[next(iter(parts))].drop(columns="fault"))
    assert predicted.ndim == (2 if len(np.atleast_1d(more.get("quantile_alpha", 1))) > 1 else 1)
    with pytest.raises(PlanError, match="each leaf is refitted to a quantile of its rows' residuals"):
        hansa.fit(parts, mode="coopetitive", **given)
    folds = hansa.cv(parts, folds=2, **given)
    assert list(folds.history) == [metric]
    assert all(0 < value < 2 for value in folds.history[metric].mean)


def test_counts_are_trained_in_every_mode():
    draw = np.random.Generator(np.random.PCG64(4))
    parts = {name: part.assign(fault=draw.poisson(2.0, len(part))) for name, part in PARTIES.items()}
    given = {"label": "fault", "objective": "count:poisson", "rounds": 2}
    models = [hansa.fit(parts, mode=mode, **given).model.to_json() for mode in ("federated", "secure-aggregation")]
    assert models[0] == models[1]
    shared = hansa.fit(parts, mode="coopetitive", max_bin=16, **given)
    assert shared.model.objective == "count:poisson"
    name = next(iter(parts))
    parts[name] = parts[name].assign(fault=-1)
    with pytest.raises(DataError, match=rf"{name}.*row 1, column 'fault': expected a label of 0 or more, found '-1'"):
        hansa.fit(parts, **given)


def test_rows_that_real_members_would_refuse_to_bring_are_told():
    small = {name: part.iloc[:15] for name, part in PARTIES.items()}
    with pytest.warns(UserWarning, match="real members with the default policy would refuse this run"):
        hansa.fit(small, label="fault", mode="secure-aggregation", rounds=1)


def test_a_frame_is_split_by_its_column_and_stays_what_it_was():
    parts = hansa.split(pl.from_pandas(cells()), by="operator")
    assert all(isinstance(part, pl.DataFrame) and "operator" not in part.columns for part in parts.values())
    assert sum(len(part) for part in parts.values()) == N
    with pytest.raises(DataError, match=r"row 1, column 'operator': says no party"):
        hansa.split(cells().assign(operator=None), by="operator")
    with pytest.raises(DataError, match="no column 'bank'"):
        hansa.split(cells(), by="bank")


@pytest.mark.parametrize("mode", MODES)
def test_a_label_of_texts_or_of_truth_values_gives_the_model_of_its_codes(mode):
    frame = cells()
    texts = frame.assign(fault=np.array(["no", "yes"])[frame["fault"]])
    truths = frame.assign(fault=frame["fault"] == 1)
    settings = {"label": "fault", "mode": mode, "rounds": 1, "max_depth": 2, "evaluation_fraction": 0.3, "alone": False}
    kinds = [(frame, ()), (texts, ("no", "yes")), (truths, ("no", "yes")), (truths, ())]
    given = [
        hansa.fit(hansa.split(rows, by="operator"), classes=classes, **settings)
        for rows, classes in kinds[: 2 if mode == "coopetitive" else None]
    ]
    first = given[0].model.predict_proba(frame)
    assert np.ptp(first) > 0.1
    for run in given[1:]:
        np.testing.assert_allclose(run.model.predict_proba(frame), first, atol=ROUNDED_ON_SHARES)
        assert run.metrics["logloss"] == pytest.approx(given[0].metrics["logloss"], abs=ROUNDED_ON_SHARES)
        assert mode == "coopetitive" or run.model.predict_proba(frame).tobytes() == first.tobytes()


def test_several_classes_of_texts_in_coopetitive_mode():
    frame = cells()
    levels = np.digitize(frame["load"] + frame["alarms"] / 4, (0.2, 1.2))
    named = frame.assign(fault=np.array(["low", "mid", "high"])[levels])
    settings = {"label": "fault", "mode": "coopetitive", "rounds": 1, "max_depth": 2, "num_class": 3, "alone": False}
    run = hansa.fit(hansa.split(named, by="operator"), classes=("low", "mid", "high"), **settings)
    codes = hansa.fit(hansa.split(frame.assign(fault=levels), by="operator"), max_bin=32, **settings)
    assert run.plan.parameters == codes.plan.parameters
    np.testing.assert_allclose(run.model.predict_proba(frame), codes.model.predict_proba(frame), atol=ROUNDED_ON_SHARES)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": ("no", "yes", "perhaps")}, "names 3 classes, where the parameters have 2"),
        ({"classes": ("no", "yes"), "objective": "reg:squarederror"}, "objective reg:squarederror takes numbers"),
        ({"classes": "no"}, "expected a list of texts, found 'no'"),
    ],
)
def test_classes_that_do_not_go_with_the_objective_are_refused(settings, said):
    with pytest.raises(PlanError, match=said):
        hansa.fit(hansa.split(cells(), by="operator"), label="fault", **settings)


def cost(predictions, labels, weights):
    return abs(predictions - labels)


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_a_metric_of_ones_own_is_told_last_and_stops_training(mode):
    parts = hansa.split(cells(), by="operator")
    given = {
        "label": "fault",
        "mode": mode,
        "evaluation_fraction": 0.3,
        "rounds": 30,
        "eta": 0.9,
        "early_stopping_rounds": 2,
    }
    run = hansa.fit(parts, custom_metric=cost, metric_bound=1.0, **given)
    assert list(run.metrics) == ["logloss", "cost"]
    assert len(run.history["cost"]) - 2 == np.argmin(run.history["cost"]) + 1 == run.model.rounds
    other = hansa.fit(parts, custom_metric=lambda p, y, w: 1 - cost(p, y, w), metric_bound=1.0, maximize=True, **given)
    assert other.plan.custom_metric.name == "custom"
    assert other.model.rounds == run.model.rounds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"custom_metric": cost, "evaluation_fraction": 0.2}, "custom_metric needs metric_bound"),
        ({"metric_bound": 1.0}, "metric_bound and maximize go with custom_metric"),
        ({"custom_metric": "auc", "metric_bound": 1.0}, "expected a function .*found str"),
        ({"custom_metric": cost, "metric_bound": 1.0}, r"set evaluation\.fraction"),
        (
            {"custom_metric": cost, "metric_bound": 1.0, "evaluation_fraction": 0.2, "mode": "coopetitive"},
            "custom_metric goes with the modes that have an aggregator",
        ),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused_in_words(given, said):
    with pytest.raises(PlanError, match=said):
        hansa.fit(hansa.split(cells(), by="operator"), label="fault", **given)


def test_collectors_give_the_same_model_and_are_told_of():
    parties = hansa.split(cells(), by="operator")
    given = {"label": "fault", "rounds": 3, "evaluation_fraction": 0.3, "alone": False}
    without = hansa.fit(parties, **given)
    for collectors, named in (
        (2, (("collector-1", ("aurora", "cirrus-ag")), ("collector-2", ("borealis",)))),
        ({"west": ["Cirrus AG", "aurora"]}, (("west", ("aurora", "cirrus-ag")),)),
    ):
        run = hansa.fit(parties, collectors=collectors, **given)
        assert run.plan.collectors == named
        assert run.model.to_json() == without.model.to_json()
        assert run.history == without.history
        assert {name: own.bytes_up for name, own in run.members.items()}.keys() == {"Cirrus AG", "aurora", "borealis"}
        assert any(sentence.startswith("A collector can read every sum") for sentence in run.exposure)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"collectors": 4}, "collectors is 4; expected 0 to 3"),
        ({"collectors": -1}, "collectors is -1; expected 0 to 3"),
        ({"collectors": True}, "expected a number, or a mapping .*found bool"),
        ({"collectors": {"west": ["dune"]}}, "'dune' is none of the parties"),
        ({"collectors": 2, "mode": "secure-aggregation"}, "members.collectors goes with mode 'federated' only"),
        ({"collectors": 2, "mode": "coopetitive"}, "members.collectors goes with mode 'federated' only"),
    ],
)
def test_collectors_that_cannot_be_had_are_refused(given, words):
    with pytest.raises(PlanError, match=words):
        hansa.fit(hansa.split(cells(), by="operator"), label="fault", rounds=1, **given)


def test_rows_that_repeat_and_are_held_out_by_their_contents_are_told():
    frame = pd.DataFrame({"alarm": np.arange(300) % 2, "fault": np.arange(300) // 2 % 2, "operator": list("abc") * 100})
    given = {"label": "fault", "mode": "federated", "rounds": 2}
    with pytest.warns(UserWarning, match="many rows are equal") as told:
        run = hansa.fit(hansa.split(frame, by="operator"), **given, evaluation_fraction=0.3)
    assert any(str(own.message) in run.warnings for own in told)
    assert not any("equal" in text for text in hansa.fit(hansa.split(frame, by="operator"), **given).warnings)


def test_folds_of_rows_that_repeat_are_told_and_what_tells_them_apart_is_named():
    draw = np.random.default_rng(4)
    frame = pd.DataFrame({"alarm": draw.integers(0, 30, 600), "operator": list("abc") * 200, "who": np.arange(600)})
    frame["fault"] = frame.alarm > 14
    given = {"label": "fault", "mode": "federated", "rounds": 2, "folds": 3}
    parties = hansa.split(frame, by="operator")
    alike = hansa.split(frame.drop(columns="who"), by="operator")
    with pytest.warns(UserWarning, match="equal rows are in one fold"):
        hansa.cv(alike, **given)
    assert not any("equal rows" in text for text in hansa.cv(parties, **given, id="who").warnings)


@pytest.mark.parametrize("place", [1, 2, 3], ids=["label", "weight", "base_margin"])
def test_a_masked_label_weight_or_base_margin_is_refused_with_party_and_row(place):
    X, y = np.arange(60.0).reshape(-1, 1), np.arange(60) % 2
    whole = [X, y, np.ones(60), np.zeros(60)]
    masked = [*whole]
    masked[place] = np.ma.masked_array(whole[place], mask=np.arange(60) == 4)
    with pytest.raises(
        DataError, match=r"party 'borealis', row 5, column '\w+': expected a .* in every row, found a missing"
    ):
        hansa.fit({"aurora": tuple(whole), "borealis": tuple(masked)}, rounds=1, alone=False)


@pytest.mark.parametrize("mode", MODES)
def test_a_party_whose_weights_are_too_far_apart_is_named(mode):
    X, y = np.random.default_rng(2).normal(size=(60, 2)), np.arange(60) % 2
    weights = np.ones(60)
    weights[:3] = 1e-30, 1e30, 1e30
    parties = {"aurora": (X, y, np.ones(60)), "borealis": (X, y, weights), "cirrus": (X, y, np.ones(60))}
    with pytest.raises(DataError, match=r"^party '\w+': .*weight"):
        hansa.fit(parties, rounds=1, alone=False, mode=mode)
