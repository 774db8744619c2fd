"""Speed of the learner's kernels against their naive twins, and of whole fits against others' learners.

    python benchmarks/bench_trees.py [--json] [--rows N] [--features N] [--trees N] [--repeats N]

Kernels: nanoseconds per row and feature (or what the table says) on one thread and on `--threads`, and
how many times slower are plain numpy (`np.bincount`, `np.cumsum`) and the loops in Python of
`tests/naive_trees.py` (measured on fewer rows). Fits: seconds for all (binning, training, scoring the
rows) and for training alone, in one process, beside scikit-learn's HistGradientBoosting and XGBoost
(`tree_method="hist"`) on the same rows, bins, depth and threads, interleaved. Ratios of medians of one
run are what carries over to another machine; a learner whose median exceeds 1.15 x its minimum was
disturbed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

import naive_trees as naive
from benchmarks.machine import console
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.roles.run import Progress
from hansa.trees.histogram import (
    build_histograms,
    build_histograms_parallel,
    layout_of,
    partition_rows,
)
from hansa.trees.objective import Scales, gradients, pack
from hansa.trees.parameters import Parameters, parse_parameters
from hansa.trees.row_chunks import CHUNK_ROWS, part
from hansa.trees.splitting import add_part, finish_nodes, rule_of, scratch_cells
from hansa.trees.worker_pool import WorkerPool

BINS = 256
DEPTH = 6
NAIVE_ROWS = 2000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each measurement (default 5)")
    parser.add_argument("--quick", action="store_true", help="few rows, ten trees, twice: does it work?")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.trees, options.repeats = 5_000, 10, 2
    result = {
        "rows": options.rows,
        "features": options.features,
        "bins": BINS,
        "depth": DEPTH,
        "trees": options.trees,
        "threads": options.threads,
        "kernels": measure_kernels(options.rows, options.features, options.threads, options.repeats),
        "fits": measure_fits(options.rows, options.features, options.trees, options.threads, options.repeats),
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Least and median seconds of a run, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"min": min(seconds), "median": statistics.median(seconds)}


# --- kernels ---


def measure_kernels(n_rows: int, n_features: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """One entry per kernel: nanoseconds a unit, and how many times slower numpy and the naive twin are."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, BINS, (n_rows, n_features)).astype(np.uint8)
    gradient, hessian = rng.normal(size=n_rows), rng.random(n_rows)
    entries = [
        measure_histogram(codes, gradient, hessian, n_features, planes, threads, repeats)
        for planes, threads in ((1, 0), (2, 0), (1, threads))
    ]
    return [
        *entries,
        measure_histogram(codes, gradient, hessian, n_features // 2, 1, 0, repeats),
        measure_histogram(codes.astype(np.uint16), gradient, hessian, n_features, 1, 0, repeats),
        measure_search(n_features, repeats),
        measure_partition(codes, repeats),
        measure_gradients(n_rows, repeats),
        measure_packing(gradient, hessian, repeats),
    ]


def entry(
    kernel: str,
    unit: str,
    count: int,
    ours: dict[str, float],
    numpy: dict[str, float] | None = None,
    twin: tuple[dict[str, float], int] | None = None,
) -> dict[str, Any]:
    """A row of the table; `twin` is (seconds, units) of a smaller run."""
    return {
        "kernel": kernel,
        "unit": unit,
        "ns": 1e9 * ours["median"] / count,
        "ns_best": 1e9 * ours["min"] / count,
        "times_numpy": numpy and numpy["median"] / ours["median"],
        "times_naive": twin and (twin[0]["median"] / twin[1]) / (ours["median"] / count),
    }


def packed_of(gradient: Any, hessian: Any, planes: int) -> Any:
    packed = np.empty((planes, len(gradient)), np.int64)
    pack(gradient, hessian, Scales(2.0**8, 2.0**8, planes), packed)
    return packed


def measure_histogram(
    codes: Any, gradient: Any, hessian: Any, k: int, planes: int, threads: int, repeats: int
) -> dict[str, Any]:
    """Root histogram over the first k columns."""
    n_rows, n_features = codes.shape
    layout = layout_of(np.arange(n_features + 1) * BINS, np.arange(k, dtype=np.uint32))
    packed = packed_of(gradient, hessian, planes)
    rows = part(n_rows, None, np.empty(n_rows, np.uint16))[0]
    out = np.empty((1, planes, layout.cells), np.int64)
    sums = np.empty((max(threads, 1), layout.scratch), np.int64)
    begin, end = rows.starts[None], rows.ends[None]
    pool = [WorkerPool(threads)] if threads else []
    kernel = build_histograms_parallel if threads else build_histograms

    def ours() -> None:
        kernel(codes, layout.columns, layout.offsets, layout.stride, rows.rows, begin, end, packed, sums, out, *pool)

    def with_numpy() -> None:
        for feature in range(k):
            np.bincount(codes[:, feature], gradient, BINS)
            np.bincount(codes[:, feature], hessian, BINS)

    few = range(NAIVE_ROWS)

    def with_loops() -> None:
        naive.build_histogram(codes, range(k), [BINS] * n_features, few, packed)

    name = "histogram"
    name += ", 64-bit sums" if planes == 2 else ""
    name += ", uint16 codes" if codes.dtype == np.uint16 else ""
    name += ", half of the columns" if k < n_features else ""
    name += f", {threads} threads" if threads else ""
    return entry(
        name,
        "row and feature",
        n_rows * k,
        timed(ours, repeats),
        timed(with_numpy, min(repeats, 3)),
        (timed(with_loops, 1), NAIVE_ROWS * k),
    )


def measure_search(n_features: int, repeats: int) -> dict[str, Any]:
    """Add one part, subtract nothing, search the root."""
    rng = np.random.default_rng(1)
    layout = layout_of(np.arange(n_features + 1) * BINS, np.arange(n_features, dtype=np.uint32))
    scales, parameters = Scales(2.0**8, 2.0**8, 1), Parameters()
    column_g, column_h = rng.integers(-(2**12), 2**12, BINS), rng.integers(1, 2**14, BINS)
    order = np.argsort(rng.random((n_features, BINS)), axis=1)
    cells = (column_g * 2**32 + column_h)[order].reshape(1, 1, -1)
    rule = rule_of(parameters, scales)
    numbers = np.array(
        [
            rule.lambda_,
            rule.alpha,
            rule.max_delta_step,
            rule.least_hessian,
            rule.gradient_unit,
            rule.hessian_unit,
        ]
    )
    no_missing = np.zeros(n_features, np.bool_)
    nodes, nobody = np.empty_like(cells), np.zeros(0, np.int64)
    totals, gains, found = np.zeros((1, 2), np.int64), np.zeros(1), np.zeros((1, 5), np.int64)
    scratch, root = np.empty((1, scratch_cells(layout))), np.zeros(1, np.int64)

    def ours() -> None:
        taken = np.zeros(1, np.int64)
        add_part(cells, 0, taken, 1, nodes, root, layout.offsets)
        finish_nodes(
            0, 1, nodes, root, cells[:0], nobody, layout.columns, layout.offsets, no_missing, totals, numbers,
            scratch, gains, found, pool=WorkerPool(1),
        )  # fmt: skip

    def with_numpy() -> None:
        g = np.cumsum((cells >> 32).reshape(n_features, BINS), axis=1) * rule.gradient_unit
        h = np.cumsum((cells & 0xFFFFFFFF).reshape(n_features, BINS), axis=1) * rule.hessian_unit
        other_g, other_h = g[:, -1:] - g, h[:, -1:] - h
        np.argmax(g * g / (h + 1) + other_g * other_g / (other_h + 1))

    sums = [list(zip(*naive.unpack(part), strict=True)) for part in np.split(cells[0], n_features, axis=1)]

    def with_loops() -> None:
        naive.best_split(sums, range(n_features), no_missing, parameters, rule.gradient_unit, rule.hessian_unit)

    count = n_features * BINS
    return entry(
        "add and search a node",
        "cell",
        count,
        timed(ours, 20 * repeats),
        timed(with_numpy, 20 * repeats),
        (timed(with_loops, repeats), count),
    )


def measure_partition(codes: Any, repeats: int) -> dict[str, Any]:
    column = np.ascontiguousarray(codes[:CHUNK_ROWS, 0])
    n_rows = len(column)
    rows = np.random.default_rng(2).permutation(n_rows).astype(np.uint16)
    moved, scratch = rows.copy(), np.empty_like(rows)

    def with_numpy() -> None:
        goes_left = column[rows] <= 100
        np.concatenate([rows[goes_left], rows[~goes_left]])

    few = rows[:NAIVE_ROWS].tolist()
    return entry(
        "part a node's rows",
        "row",
        n_rows,
        timed(lambda: partition_rows(column, moved, scratch, 0, n_rows, 100, -1, False), repeats),
        timed(with_numpy, repeats),
        (timed(lambda: naive.partition(column[None], few, 0, 100, -1, False), repeats), NAIVE_ROWS),
    )


def measure_gradients(n_rows: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    margins = rng.normal(size=n_rows).astype(np.float32)
    labels = (rng.random(n_rows) < 0.3).astype(np.float32)
    g, h = np.empty((2, n_rows))
    return entry(
        "gradients, binary:logistic",
        "row",
        n_rows,
        timed(lambda: gradients("binary:logistic", margins, labels, None, 1.0, g, h), repeats),
        timed(lambda: naive.gradients("binary:logistic", margins, labels, None, 1.0), repeats),
    )


def measure_packing(gradient: Any, hessian: Any, repeats: int) -> dict[str, Any]:
    packed = packed_of(gradient, hessian, 1)
    scales = Scales(2.0**8, 2.0**8, 1)

    def with_numpy() -> None:
        g = np.floor(gradient * scales.gradient + 0.5).astype(np.int64)
        h = np.floor(hessian * scales.hessian + 0.5).astype(np.int64)
        g * 2**32 + np.maximum(h, hessian > 0)

    few = slice(0, NAIVE_ROWS)
    return entry(
        "gradients to integers",
        "row",
        len(gradient),
        timed(lambda: pack(gradient, hessian, scales, packed), repeats),
        timed(with_numpy, repeats),
        (timed(lambda: naive.pack(gradient[few], hessian[few], scales), repeats), NAIVE_ROWS),
    )


# --- whole fits ---


GIVEN = {"eta": 0.1, "max_depth": DEPTH, "max_bin": BINS}
Fit = tuple[Any, float | None]
"""Scores of the training rows, and seconds of training alone where the learner lets them be told apart."""


def fit_hansa(features: Any, labels: Any, trees: int, threads: int) -> Fit:
    names = tuple(f"f{i}" for i in range(features.shape[1]))
    plan = Plan(
        name="bench",
        mode="federated",
        aggregator="hub",
        parties=("all",),
        receivers=("all",),
        minimum_parties=1,
        schema=Schema(names, "y"),
        parameters=parse_parameters({**GIVEN, "rounds": trees}),
    )
    rows = Rows(np.ascontiguousarray(features.T), labels, None)
    stages: dict[str, float] = {}

    def note(progress: Progress) -> None:
        stages[progress.stage] = time.perf_counter()

    run = train_in_process(plan, {"all": rows}, threads=threads, report=note)
    return run.outcome.ensemble.predict(rows.features, threads), stages["trained"] - stages["binned"]


def fit_xgboost(features: Any, labels: Any, trees: int, threads: int) -> Fit:
    import xgboost

    matrix = xgboost.QuantileDMatrix(features, labels, max_bin=BINS, nthread=threads)
    given = {"objective": "binary:logistic", "tree_method": "hist", "nthread": threads, **GIVEN}
    start = time.perf_counter()
    booster = xgboost.train(given, matrix, trees)
    seconds = time.perf_counter() - start
    return booster.predict(matrix), seconds


def fit_sklearn(features: Any, labels: Any, trees: int, threads: int) -> Fit:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        learning_rate=0.1,
        max_iter=trees,
        max_depth=DEPTH,
        max_leaf_nodes=None,
        max_bins=BINS - 1,
        min_samples_leaf=1,
        l2_regularization=1.0,
        early_stopping=False,
    )
    with threadpool_limits(threads):
        return model.fit(features, labels).predict_proba(features)[:, 1], None


LEARNERS = {"hansa": fit_hansa, "xgboost": fit_xgboost, "scikit-learn": fit_sklearn}


def measure_fits(n_rows: int, n_features: int, trees: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of whole fits, interleaved, and the AUC on the training rows (are the models alike?)."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(4)
    features = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    signal = 0.5 * features @ rng.normal(size=n_features) + features[:, 0] * features[:, 1]
    labels = (signal + rng.logistic(size=n_rows) > 0).astype(np.float32)
    whole: dict[str, list[float]] = {name: [] for name in LEARNERS}
    training: dict[str, list[float]] = {name: [] for name in LEARNERS}
    scores = {name: fit(features, labels, trees, threads)[0] for name, fit in LEARNERS.items()}
    for _ in range(repeats):
        for name, fit in LEARNERS.items():
            start = time.perf_counter()
            _, alone = fit(features, labels, trees, threads)
            whole[name].append(time.perf_counter() - start)
            if alone is not None:
                training[name].append(alone)
    return [
        {
            "learner": name,
            "auc_on_training_rows": float(roc_auc_score(labels, scores[name])),
            **{f"all_{key}": value for key, value in spread(whole, name).items()},
            **{f"training_{key}": value for key, value in spread(training, name).items()},
        }
        for name in LEARNERS
    ]


def spread(seconds: dict[str, list[float]], name: str) -> dict[str, Any]:
    """Median, minimum, median as a multiple of Hansa's, and whether the run was left undisturbed."""
    if not seconds[name]:
        return dict.fromkeys(("median", "best", "times_hansa", "steady"))
    median, best = statistics.median(seconds[name]), min(seconds[name])
    times = median / statistics.median(seconds["hansa"])
    return {"median": median, "best": best, "times_hansa": times, "steady": median <= 1.15 * best}


def show(result: dict[str, Any]) -> None:
    """Print two tables."""
    out = console()
    kernels = Table("kernel", "ns", "best", "a", "numpy / ours", "Python loops / ours")
    for row in result["kernels"]:
        ratios = ("-" if row[key] is None else f"{row[key]:.1f}" for key in ("times_numpy", "times_naive"))
        kernels.add_row(row["kernel"], f"{row['ns']:.2f}", f"{row['ns_best']:.2f}", row["unit"], *ratios)
    kernels.title = f"{result['rows']} x {result['features']}, {result['bins']} bins"
    out.print(kernels)
    fits = Table("learner", "all, s", "best", "times Hansa", "training, s", "best", "times Hansa", "AUC", "steady")
    for row in result["fits"]:
        figures = (
            "-" if row[f"{part}_{key}"] is None else f"{row[f'{part}_{key}']:.2f}"
            for part in ("all", "training")
            for key in ("median", "best", "times_hansa")
        )
        steady = row["all_steady"] and row["training_steady"] is not False
        fits.add_row(row["learner"], *figures, f"{row['auc_on_training_rows']:.5f}", "yes" if steady else "no: void")
    fits.title = f"{result['trees']} trees of depth {result['depth']}, {result['threads']} threads"
    out.print(fits)


if __name__ == "__main__":
    main()
