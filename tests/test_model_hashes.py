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
