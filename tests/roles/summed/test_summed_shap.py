"""A summary of SHAP values, pooled by sums: XGBoost's own values, the law, both modes, and an aggregator that lies."""

from __future__ import annotations

import hashlib
import importlib.util
import zlib
from dataclasses import replace

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from conversation import Conversation
from hansa.data.holdout import HoldOut, held_out
from hansa.errors import DataError, ModelWithheld, PlanError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import Release, parse_plan, write_plan
from hansa.protocol.messages import Explain, Finish, SplitNodes, encode
from hansa.trees.contributions import most_contribution
from made_tables import FEATURES, NAMES, OPEN, coded, plan, spread, table, with_labels

GIVEN: dict[str, dict[str, object]] = {
    "logistic": {},
    "squared error, many bins": {"objective": "reg:squarederror", "max_bin": 400},
    "categories": {"categories": True, "max_depth": 4},
    "classes": {"objective": "multi:softprob"},
    "labels": {"label": ("y0", "y1"), "objective": "reg:squarederror"},
    "stops early": {"rounds": 12, "eta": 1.0, "early_stopping_rounds": 1},
}


def rows_of(name, n_rows=300):
    chosen = GIVEN[name]
    rows = table(n_rows, str(chosen.get("objective", "binary:logistic")))
    if "label" in chosen:
        rows = with_labels(rows, 2, "reg:squarederror")
    return coded(rows) if chosen.get("categories") else rows


def trained(name, rows, owners, which="all", mode="federated", **more):
    tables = spread(rows, owners)
    chosen = replace(plan(tuple(tables), mode=mode, evaluation=0.3, **GIVEN[name] | more), shap=which)
    return train_in_process(chosen, tables, policy=OPEN)


def xgboosts(model, rows, which):
    """Means of the sizes of XGBoost's own values, from the values of the table."""
    booster = xgboost.Booster(model_file=bytearray(model))
    kinds = booster.feature_types
    matrix = xgboost.DMatrix(
        rows.features[:, which].T, feature_names=list(FEATURES), feature_types=kinds, enable_categorical=True
    )
    values = np.abs(booster.predict(matrix, pred_contribs=True))
    return values.reshape(int(which.sum()), -1, len(FEATURES) + 1).mean(axis=(0, 1))[:-1]


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("name", GIVEN)
def test_the_summary_is_that_of_xgboosts_values(name, mode):
    rows = rows_of(name)
    held = held_out(rows.features, rows.label, HoldOut(0.3, 0))
    for which, chosen in (("all", np.ones(rows.n_rows, np.bool_)), ("held-out", held)):
        run = trained(name, rows, np.arange(rows.n_rows) % 3, which, mode)
        found = run.outcome.shap
        assert tuple(found) == FEATURES
        assert max(found.values()) > 0
        assert list(found.values()) == pytest.approx(xgboosts(run.outcome.model, rows, chosen), rel=1e-4, abs=1e-5)
        assert all(party.shap == found for party in run.parties.values())
        assert {party.model for party in run.parties.values()} == {run.outcome.model}


@settings(max_examples=8, deadline=None)
@given(name=st.sampled_from(list(GIVEN)), seed=st.integers(0, 2**32), which=st.sampled_from(["all", "held-out"]))
def test_summary_and_model_do_not_depend_on_who_holds_the_rows(name, seed, which):
    rows = rows_of(name, 160)
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, 3, 160)
    owners[rng.permutation(160)[:9]] = np.arange(9) % 3
    whole = trained(name, rows, np.zeros(160, np.int64), which)
    for mode in ("federated", "secure-aggregation"):
        apart = trained(name, rows, owners, which, mode)
        assert apart.outcome.model == whole.outcome.model
        assert apart.outcome.shap == whole.outcome.shap
    plain = train_in_process(plan(NAMES[:1], evaluation=0.3, **GIVEN[name]), {NAMES[0]: rows})
    assert plain.outcome.model == whole.outcome.model
    assert plain.outcome.shap == {}


@pytest.mark.parametrize("name", GIVEN)
def test_no_row_exceeds_the_public_bound(name):
    rows = rows_of(name)
    run = trained(name, rows, np.arange(300) % 2)
    booster = xgboost.Booster(model_file=bytearray(run.outcome.model))
    matrix = xgboost.DMatrix(
        rows.features.T, feature_names=list(FEATURES), feature_types=booster.feature_types, enable_categorical=True
    )
    values = np.abs(booster.predict(matrix, pred_contribs=True))[..., :-1]
    assert 0 < values.max() <= most_contribution(run.outcome.ensemble)


@pytest.mark.parametrize("verify", ["off", "tree", "after", "before"])
def test_the_summary_comes_behind_the_last_row_counts(verify):
    rows = rows_of("logistic")
    tables = spread(rows, np.arange(300) % 3)
    chosen = plan(tuple(tables), mode="secure-aggregation", evaluation=0.3)
    run = train_in_process(replace(chosen, shap="all", verify_counts=verify), tables, policy=OPEN)
    assert max(run.outcome.shap.values()) > 0


def test_a_model_that_is_withheld_has_no_summary():
    rows = rows_of("logistic")
    tables = spread(rows, np.arange(300) % 3)
    chosen = replace(
        plan(tuple(tables), evaluation=0.3, eval_metric=["auc"]),
        shap="all",
        release=Release(metric="auc", at_least=1.1),
    )
    with pytest.raises(ModelWithheld, match="nobody has the model"):
        train_in_process(chosen, tables)
    end = Conversation(chosen, tables).until(Finish, "borealis")
    assert (end.model, end.shap) == (b"", ())


# --- an aggregator that lies ------------------------------------------------------------------------------------------


def talk_of(which="all", **more):
    rows = rows_of("logistic")
    return Conversation(replace(plan(NAMES[:2], **more), shap=which), spread(rows, np.arange(300) % 2))


def refused(talk, message, words):
    with pytest.raises(ProtocolError, match=words):
        talk.deliver("borealis", encode(message))


def test_a_party_asked_for_what_the_plan_has_not_refuses():
    rows = rows_of("logistic")
    talk = Conversation(plan(NAMES[:2]), spread(rows, np.arange(300) % 2))
    end = talk.until(Finish, "borealis")
    refused(talk, Explain(end.trees, end.model_sha256, end.model), "the plan has no evaluation.shap")


def test_a_party_explains_no_model_but_the_runs():
    talk = talk_of()
    asked = talk.until(Explain, "borealis")
    other = zlib.decompress(asked.model)[:-1] + b" }"
    refused(talk, Explain(asked.trees, hashlib.sha256(other).digest(), zlib.compress(other)), "is not the one that")


def test_a_run_does_not_end_without_the_summary():
    talk = talk_of()
    asked = talk.until(Explain, "borealis")
    refused(talk, Finish(asked.trees, asked.model_sha256, asked.model), "ends without SHAP values")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shap": (0.1,)}, "expected one for each feature"),
        ({"shap": (0.1, -0.1, 0.0, 0.0, 0.0)}, "expected one for each feature"),
        ({"shap": (1e9, 0.0, 0.0, 0.0, 0.0)}, "none too large"),
        ({"shap": (float("nan"),) * 5}, "none too large"),
        ({"trees": 1}, "another model than SHAP values were asked of"),
        ({"model_sha256": bytes(32)}, "another model than SHAP values were asked of"),
    ],
)
def test_a_summary_that_cannot_be_is_refused(change, words):
    talk = talk_of()
    end = talk.until(Finish, "borealis")
    fields = {"trees": end.trees, "model_sha256": end.model_sha256, "model": b"", "shap": end.shap} | change
    refused(talk, Finish(**fields), words)


def test_explaining_in_the_middle_of_a_tree_is_refused():
    talk = talk_of()
    talk.until(SplitNodes, "borealis")
    refused(talk, Explain(1, bytes(32), b"model"), "in the middle of a tree")


# --- plans and members ------------------------------------------------------------------------------------------------


def test_a_plan_with_a_summary_is_written_and_read_and_others_keep_their_digests():
    chosen = replace(plan(NAMES[:2], evaluation=0.2), shap="held-out")
    assert 'shap = "held-out"' in write_plan(chosen)
    assert parse_plan(write_plan(chosen)) == chosen
    assert chosen.on_dropout == "abort"
    assert b"shap" not in plan(NAMES[:2]).canonical()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"release": Release(statistics=False)}, "SHAP values follow from the covers of nodes"),
        ({"receivers": ("aurora",)}, "party 'borealis', who would compute with the model, is no receiver"),
        ({"start_model": "0" * 64}, "start_model has cuts of another run"),
        ({"folds": 3}, "releases no model; leave it out"),
        ({"shap": "held-out"}, "no rows are held out; give a fraction, or write 'all'"),
        ({"shap": "some"}, "evaluation.shap"),
    ],
)
def test_what_a_summary_does_not_go_with_is_refused_by_name(change, words):
    with pytest.raises(PlanError, match=words):
        replace(plan(NAMES[:2]), **{"shap": "all"} | change)


def test_coopetitive_mode_refuses_a_summary_with_the_cure():
    with pytest.raises(PlanError, match=r"the mode is 'coopetitive'.*hansa evaluate"):
        hansa.fit(parties_of_fit(), mode="coopetitive", rounds=1, shap="all")


def parties_of_fit():
    rows = rows_of("logistic", 120)
    return {
        name: (np.ascontiguousarray(own.features.T), own.label)
        for name, own in spread(rows, np.arange(120) % 3).items()
    }


def test_a_party_without_xgboost_is_refused_before_the_run(monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xgboost" else there(name))
    with pytest.raises(DataError, match=r"party 'aurora': evaluation.shap needs the package xgboost.*pip install"):
        trained("logistic", rows_of("logistic"), np.zeros(300, np.int64))


def test_fit_has_the_summary_and_shows_it():
    run = hansa.fit(parties_of_fit(), rounds=3, shap="all", alone=False)
    assert len(run.shap) == 5
    view = next(own for own in run.views() if own.name == "shap")
    assert [row[0] for row in view.table[1:]] == sorted(run.shap, key=lambda name: -run.shap[name])
    assert hansa.fit(parties_of_fit(), rounds=1, alone=False).shap == {}
