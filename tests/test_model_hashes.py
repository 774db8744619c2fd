"""The models of real tables stay the same to the byte, in every mode: what a change of structure must not touch."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import hansa
from hansa.consortium import identity

DATA = Path(__file__).parents[1] / "../shared/data"

TABLES = {
    "heart_disease": ("hospital", "disease", "binary:logistic"),
    "higgs": ("party", "signal", "binary:logistic"),
    "credit_default": ("lender", "default", "binary:logistic"),
    "cell_anomaly_4g": ("site", "unusual", "binary:logistic"),
    "lte_drop_rate": ("year", "drop_rate", "reg:squarederror"),
    "telstra_faults": ("region", "fault_severity", "multi:softprob"),
}
"""Table -> party column, label, objective."""

SUMMED = {
    "heart_disease": "14e0f393d6c4b4a7",
    "higgs": "0eaeed4533ae0377",
    "credit_default": "715d39fcd0f35108",
    "cell_anomaly_4g": "48656413eb2c0f8f",
    "lte_drop_rate": "1a77046c096cd77c",
}
"""Table -> the first digits of the model's SHA-256, in federated mode and in secure aggregation: both give one model."""

SEVERAL: dict[str, tuple[str, dict[str, object]]] = {
    "a5f9340516cdaa06": ("telstra_faults", {}),
    "aad4f06266400e2d": (
        "telstra_faults",
        {"subsample": 0.7, "colsample_bytree": 0.5, "colsample_bylevel": 0.7, "colsample_bynode": 0.8},
    ),
    "337a20402e24d31a": ("telstra_faults", {"num_parallel_tree": 2, "subsample": 0.6, "eta": 0.4}),
    "7d3f05cd77b69913": ("telstra_faults", {"grow_policy": "lossguide", "max_leaves": 9}),
    "11bf75d3b7dca9a1": (
        "telstra_faults",
        {"rounds": 12, "early_stopping_rounds": 2, "eta": 1.0, "num_parallel_tree": 2, "subsample": 0.5},
    ),
    "85c2ae94cb6f23fd": (
        "heart_disease",
        {"num_parallel_tree": 5, "subsample": 0.6, "colsample_bynode": 0.6, "eta": 0.5},
    ),
}
"""Of rounds of several trees: the first digits of the model's SHA-256 when trees grew one by one -> table, parameters."""

SHARED = {"heart_disease": "c16dbc2cfd8136ac", "higgs": "0c065ead7e077374"}
"""The same in coopetitive mode, under keys that are fixed here: leaf values are rounded by draws of the keys."""


def parties(table):
    pandas = pytest.importorskip("pandas")
    path = DATA / f"{table}.csv.gz"
    if not path.exists():
        pytest.skip("the shared tables are not on this machine")
    by, label, objective = TABLES[table]
    return hansa.split(pandas.read_csv(path), by=by), {"label": label, "objective": objective}


def digest(run):
    return hashlib.sha256(run.model.to_json()).hexdigest()[:16]


LARGE = ("credit_default", "cell_anomaly_4g", "lte_drop_rate")


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize(
    "table", [pytest.param(table, marks=[pytest.mark.slow] if table in LARGE else []) for table in SUMMED]
)
def test_the_model_of_sums_is_what_it_was(table, mode):
    frames, given = parties(table)
    run = hansa.fit(frames, mode=mode, rounds=8, max_depth=5, max_bin=64, seed=3, evaluation_fraction=0.1, **given)
    assert digest(run) == SUMMED[table]


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("known", SEVERAL)
def test_the_model_of_several_trees_a_round_is_what_it_was_when_they_grew_one_by_one(known, mode):
    table, given = SEVERAL[known]
    frames, more = parties(table)
    if table == "telstra_faults":  # its first features
        label = more["label"]
        frames = {name: rows[[*rows.columns.drop(label)[:60], label]] for name, rows in frames.items()}
        more["num_class"] = 3
    same = {"rounds": 4, "max_depth": 5, "max_bin": 64, "seed": 3, "evaluation_fraction": 0.1}
    assert digest(hansa.fit(frames, mode=mode, **{**same, **more, **given})) == known


class FixedKey:
    """Identities that are the same in every run of this test."""

    drawn = itertools.count(1)

    @classmethod
    def generate(cls):
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"identity %d" % next(cls.drawn)).digest())


def fix_keys(monkeypatch):
    """Everything that is drawn from the system comes from a counter."""
    count = itertools.count()

    def draw(size=32):
        return hashlib.shake_256(b"draw %d" % next(count)).digest(size)

    monkeypatch.setattr(os, "urandom", draw)
    monkeypatch.setattr(secrets, "token_bytes", draw)
    monkeypatch.setattr(FixedKey, "drawn", itertools.count(1))
    monkeypatch.setattr(identity, "Ed25519PrivateKey", FixedKey)


@pytest.mark.parametrize("table", SHARED)
def test_the_model_on_shares_is_what_it_was(table, monkeypatch):
    frames, given = parties(table)
    given |= {"mode": "coopetitive", "rounds": 2, "max_depth": 3, "max_bin": 16, "seed": 3}
    hansa.fit(frames, **given)  # the first run of a process compiles kernels by a run of its own, which draws keys too
    fix_keys(monkeypatch)
    assert digest(hansa.fit(frames, **given)) == SHARED[table]
