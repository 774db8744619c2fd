"""Compiling the kernels, or loading them from the cache, before anybody waits for this member."""

from __future__ import annotations

import atexit
import gc
from dataclasses import replace

import numpy as np

from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import share_in_process, train_in_process
from hansa.plan import COOPETITIVE, NUMBERS_ON_SHARES, Coopetitive, Plan
from hansa.trees.least_rows import add_up
from hansa.trees.losses import is_softmax
from hansa.trees.parameters import Parameters

FEW_BINS = 8
WIDE_BINS = 256 - 1
"""Bins beside which a code for missing values has room in one byte."""


def prepare(plan: Plan) -> None:
    """Load the mode's kernels before anybody waits for this member, and spare the collector what stays for good."""
    if plan.mode == COOPETITIVE:
        warm_up_shares(plan.parameters)
    else:
        warm_up(plan.parameters, bool(plan.schema.levels or plan.schema.union))
    gc.freeze()
    # What is frozen would not be freed at the end, and extension modules (DuckDB's) report that as leaks.
    atexit.register(gc.unfreeze)


def warm_up(parameters: Parameters, categorical: bool = False) -> None:
    """Compile the kernels, or load them from the cache, by a tiny run; so that no real run waits for it.

    `categorical`: whether some features are. Done first in the process that starts others, it also fills the cache that they all
    load from.
    """
    tiny = replace(
        parameters,
        num_class=2 if is_softmax(parameters.objective) else 0,
        num_target=1,
        rounds=1,
        max_depth=2,
        num_parallel_tree=1,
        max_bin=min(parameters.max_bin, FEW_BINS),
        monotone_constraints=(("a", 1),) if parameters.monotone_constraints else (),
        interaction_constraints=(("a", "b"),) if parameters.interaction_constraints else (),
        colsample_bytree=1.0,
        early_stopping_rounds=None,
        scale_pos_weight=1.0,
        base_score=None,
    )
    plan = Plan(
        name="warm-up",
        mode="federated",
        aggregator="hub",
        parties=("party",),
        receivers=("party",),
        minimum_parties=1,
        schema=Schema(("a", "b"), "label", categories=((), tuple(range(FEW_BINS))) if categorical else ()),
        parameters=tiny,
        evaluation_fraction=0.25,
        min_cell_rows=2,
    )
    train_in_process(plan, {"party": _rows(FEW_BINS, parameters)})
    if parameters.max_bin > WIDE_BINS:  # codes of two bytes each
        wide = replace(plan, parameters=replace(tiny, max_bin=parameters.max_bin), schema=Schema(("a", "b"), "label"))
        train_in_process(wide, {"party": _rows(WIDE_BINS, parameters)})
    # Row counts are verified among several parties only; what comes from a frame cannot be written to.
    words, none = np.frombuffer(bytes(32), np.int64).reshape(2, 2), np.zeros(0, np.int64)
    add_up(words, np.zeros(1, np.int64), np.zeros(1, np.int64), 1, none, none, np.empty(1, np.int64))


def _rows(bins: int, parameters: Parameters) -> Rows:
    """Rows of two features: one with values for more bins than these, one with a few categories; one value of each is missing."""
    count = 8 * bins
    label = np.array([0, 1] * (count // 2), np.float32) + (parameters.label_kind == "positive")
    numbers = np.arange(count, dtype=np.float32)
    features = np.stack([numbers // 4, numbers % FEW_BINS])
    features[:, 3] = np.nan
    return Rows(features, label, None)


def warm_up_shares(parameters: Parameters) -> None:
    """As `warm_up`, for coopetitive mode, the search for cuts included."""
    count = 24
    label = np.array([0, 1] * (count // 2), np.float32)
    features = np.tile(np.arange(count, dtype=np.float32), (2, 1))
    features[1, ::3] = np.nan
    tiny = replace(
        parameters,
        rounds=2,
        max_depth=2,
        max_bin=min(parameters.max_bin, 4),
        colsample_bytree=1.0,
        early_stopping_rounds=None,
        scale_pos_weight=1.0,
        base_score=0.5,
    )
    names = ("a", "b", "c", "d")
    plan = Plan(
        name="warm-up",
        mode=COOPETITIVE,
        aggregator="",
        parties=names,
        receivers=("d",),
        minimum_parties=len(names),
        schema=Schema(("a", "b"), "label"),
        parameters=tiny,
        coopetitive=Coopetitive(
            hub="hub",
            servers=names[:3],
            label_range=(0.0, 1.0) if parameters.objective in NUMBERS_ON_SHARES else None,
            missing=("b",),
        ),
        min_cell_rows=2,
        min_party_rows=0,
    )
    share_in_process(plan, {name: Rows(features, label, None) for name in names})
