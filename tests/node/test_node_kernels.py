"""Kernels are counted while they are compiled, and only then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hansa
from hansa.node import kernels

SCRIPT = """
import json, sys
import numpy as np
import hansa
from hansa.node import kernels

mode, metrics = sys.argv[1], sys.argv[2].split(",")
X = np.random.default_rng(0).normal(size=(600, 2))
X[::7, 1] = np.nan
y = (X[:, 0] > 0).astype(float)
parties = {name: (X[i::3], y[i::3]) for i, name in enumerate("abc")}
counts = []
given = {"objective": "reg:squarederror"} if "rmse" in metrics else {}
with kernels.counted(counts.append):
    hansa.fit(parties, mode=mode, rounds=2, evaluation_fraction=0.3, eval_metric=metrics, alone=False, **given)
print(json.dumps(counts))
"""


def compiled(cache: Path, mode: str, metrics: str) -> list[int]:
    """What is reported by a process of its own, with this folder as numba's cache."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, mode, metrics],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_kernel_of_this_package_is_counted_once_and_others_are_not():
    from numba import njit

    def twice(x):
        return 2 * x

    foreign, own = njit(twice), njit(lambda x: x + 1)
    own.py_func.__module__ = "hansa.made_up"
    counts: list[int] = []
    with kernels.counted(counts.append):
        foreign(1.0)
        own(1.0)
        own(np.zeros(3))
        own(2.0)
    own(1j)
    assert counts == [0, 1, 1, 1]


def test_what_was_compiled_before_is_not_counted():
    X = np.linspace(0, 1, 300).reshape(-1, 1)
    parties = {"a": (X[::2], X[::2, 0] > 0.5), "b": (X[1::2], X[1::2, 0] > 0.5)}
    hansa.fit(parties, rounds=2, alone=False)
    counts: list[int] = []
    with kernels.counted(counts.append):
        hansa.fit(parties, rounds=2, alone=False)
    assert counts == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "metrics"),
    [
        ("secure-aggregation", "auc,aucpr,logloss,error"),
        ("secure-aggregation", "rmse,mae"),
        ("coopetitive", "auc,logloss,error"),
        ("coopetitive", "rmse,mae"),
    ],
)
def test_a_first_run_compiles_at_most_as_many_as_the_bar_says_and_not_far_fewer(tmp_path, mode, metrics):
    most = kernels.MOST[mode == "coopetitive"]
    counts = compiled(tmp_path, mode, metrics)
    assert counts[0] == 0
    assert 0.5 * most <= counts[-1] <= most
    assert compiled(tmp_path, mode, metrics) == []
