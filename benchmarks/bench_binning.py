"""Time of a party's share of the cuts and of binning; with --auc, what min_cell_rows costs in quality.

    python benchmarks/bench_binning.py [--quick] [--json]   times, 60k x 30 and (with --large) 2M x 30
    python benchmarks/bench_binning.py --auc FOLDER         AUC of XGBoost on rows binned by our cuts

With --auc, XGBoost trains on codes made by our cuts (each code is one of its bins, so the cuts alone differ)
and, for comparison, on the raw values with its own cuts. Same rows, same splits, same parameters.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import console
from hansa.data.binning import bin_rows
from hansa.data.quantiles import Cuts, CutSearch, count_cells

Array = np.ndarray[Any, Any]
TABLES = ("heart_disease", "adult", "credit_default", "cell_anomaly_4g")
MIN_CELL_ROWS = (1, 5, 10, 20, 50)


def find_cuts(features: Array, max_bin: int, min_cell_rows: int) -> tuple[Cuts, dict[str, float]]:
    """Cuts of one party's rows, and seconds: count (the party), search (the coordinator)."""
    seconds = {"count": 0.0, "search": 0.0}

    def timed(part: str, step: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        seconds[part] += time.perf_counter() - start
        return result

    search = CutSearch(len(features), features.shape[1], max_bin, min_cell_rows)
    while not search.done:
        request = timed("search", search.request)
        search = timed("search", search.answer, timed("count", count_cells, features, request))
    return timed("search", search.cuts), seconds


def time_binning(n_rows: int, n_features: int, max_bin: int, min_cell_rows: int) -> dict[str, Any]:
    """Seconds of each part of the search for cuts, and of binning with one and two threads."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_features, n_rows), dtype=np.float32)
    features[: n_features // 3] = np.round(features[: n_features // 3], 1)
    features[-1, ::10] = np.nan
    find_cuts(features[:, :1000], max_bin, min_cell_rows)  # compiles
    cuts, seconds = find_cuts(features, max_bin, min_cell_rows)
    result: dict[str, Any] = {"rows": n_rows, "features": n_features, "max_bin": max_bin, **seconds}
    bin_rows(features[:, :1000], cuts)
    for threads in (1, 2):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            bin_rows(features, cuts, threads=threads)
            times.append(time.perf_counter() - start)
        per_value = 1e9 / features.size
        result[f"bin_ns_min_{threads}"] = min(times) * per_value
        result[f"bin_ns_median_{threads}"] = float(np.median(times)) * per_value
    return result


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table of times."""
    table = Table(
        "rows x features",
        "count, s",
        "search, s",
        "bin, 1 thread: ns a value",
        "median",
        "bin, 2 threads",
        "median",
        title=f"A party's part of the cuts (count), the coordinator's (search), and binning; "
        f"{lines[0]['max_bin']} bins",
        title_justify="left",
    )
    for line in lines:
        seconds = (f"{line[part]:.3f}" for part in ("count", "search"))
        binning = (f"{line[f'bin_ns_{kind}_{n}']:.2f}" for n in (1, 2) for kind in ("min", "median"))
        table.add_row(f"{line['rows']:,} x {line['features']}", *seconds, *binning)
    console().print(table)


def compare_auc(folder: Path, tables: list[str], max_bin: int, repeats: int) -> None:
    print(f"AUC minus XGBoost's own (mean over {repeats} splits, +- 2 standard errors), {max_bin} bins")
    heads = " ".join(f"{f'min_cell_rows {m}':>20}" for m in MIN_CELL_ROWS)
    print(f"{'table':<18} {'own':>8} {heads}")
    for table in tables:
        features, label = load_table(folder / f"{table}.csv.gz")
        own, ours = [], []
        for seed in range(repeats):
            train = split_rows(label, seed)
            own.append(score(features, label, train, max_bin))
            ours.append([score(coded(features, train, max_bin, m), label, train, max_bin) for m in MIN_CELL_ROWS])
        difference = np.array(ours) - np.array(own)[:, None]
        error = 2 * difference.std(axis=0, ddof=1) / np.sqrt(repeats)
        shown = " ".join(f"{f'{d:+.4f} +- {e:.4f}':>20}" for d, e in zip(difference.mean(0), error, strict=True))
        print(f"{table:<18} {np.mean(own):>8.4f} {shown}", flush=True)


def load_table(path: Path) -> tuple[Array, Array]:
    """Features float32 (n_features, n_rows), text as sorted codes, no party column; label (n_rows,)."""
    import pandas as pd

    frame = pd.read_csv(path)
    features = []
    for name in frame.columns[1:-1]:
        column = frame[name]
        if not pd.api.types.is_numeric_dtype(column):
            codes = pd.Categorical(column).codes.astype(np.float32)
            column = pd.Series(np.where(codes < 0, np.float32(np.nan), codes))
        features.append(column.to_numpy(dtype=np.float32))
    return np.stack(features), frame.iloc[:, -1].to_numpy(dtype=np.float32)


def split_rows(label: Array, seed: int) -> Array:
    """bool (n_rows,): the 80 % to train on, the same share of each class."""
    rng = np.random.default_rng(seed)
    train = np.zeros(len(label), dtype=bool)
    for value in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == value))
        train[rows[: round(0.8 * len(rows))]] = True
    return train


def coded(features: Array, train: Array, max_bin: int, min_cell_rows: int) -> Array:
    """Codes as floats, missing stays NaN; cuts from the training rows."""
    cuts, _ = find_cuts(np.ascontiguousarray(features[:, train]), max_bin, min_cell_rows)
    everywhere = Cuts(cuts.offsets, cuts.values, np.ones_like(cuts.has_missing))  # test rows may lack more
    codes = bin_rows(features, everywhere).codes_by_feature.astype(np.float32)
    codes[np.isnan(features)] = np.nan
    return codes


def score(features: Array, label: Array, train: Array, max_bin: int) -> float:
    import xgboost
    from sklearn.metrics import roc_auc_score

    parameters = {
        "objective": "binary:logistic",
        "eta": 0.1,
        "max_depth": 6,
        "max_bin": max_bin,
        "tree_method": "hist",
        "nthread": 1,
    }
    matrix = xgboost.QuantileDMatrix(features[:, train].T, label[train], max_bin=max_bin)
    booster = xgboost.train(parameters, matrix, 100)
    scores = booster.predict(xgboost.DMatrix(features[:, ~train].T))
    return float(roc_auc_score(label[~train], scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--auc", type=Path, metavar="FOLDER", help="compare AUC on this folder's tables")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), help="tables for --auc")
    parser.add_argument("--repeats", type=int, default=5, help="random splits for --auc")
    parser.add_argument("--max-bin", type=int, default=256)
    parser.add_argument("--min-cell-rows", type=int, default=10)
    parser.add_argument("--large", action="store_true", help="also time 2M x 30 (about 2 GB)")
    parser.add_argument("--quick", action="store_true", help="few rows: does it work?")
    parser.add_argument("--json", action="store_true", help="print times as one JSON object")
    options = parser.parse_args()
    if options.auc is not None:
        compare_auc(options.auc, options.tables, options.max_bin, options.repeats)
        return
    sizes = (2_000,) if options.quick else (20_000, 60_000, *([2_000_000] if options.large else []))
    lines = [time_binning(n_rows, 30, options.max_bin, options.min_cell_rows) for n_rows in sizes]
    if options.json:
        print(json.dumps({"times": lines}))
    else:
        show(lines)


if __name__ == "__main__":
    main()
