"""A party's many rows: in its memory, by column, with codes on disk under a cap of memory, on Ray workers; beside XGBoost.

    python -m benchmarks.bench_scale [--rows N ...] [--features F] [--max-bin B] [--trees T] [--ways WAY ...] [--cap-mb M]
                                     [--folder FOLDER] [--quick] [--json]

One party has N rows in eight Parquet files, two others have few. Each member is a real process over mutual TLS, in federated mode. With
"on disk" the party's process is under a cap of its own memory (`RLIMIT_DATA`: what it allocates, not pages of files): more is an error.
The memory is the most that the party's process, and all its workers, held at once (resident; pages that processes share count for each,
and pages of files that could be let go too). "Processors" are the seconds that they computed, whatever else the machine did.
XGBoost trains on the same files, with its external memory (`ExtMemQuantileDMatrix`), in a
process of its own. With several N a line is fitted to the seconds a tree, with a growth exponent, and a projection is printed, which
says what it assumes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.table import Table

from benchmarks.bench_memory import BIG, FEATURES, LOOK_S, MAX_BIN, plan_of, run_members, write_rows
from benchmarks.machine import console, described, machine
from hansa.plan import Plan
from hansa.simulation.processes import write_consortium

ROWS, TREES, FILES = 20_000_000, 3, 8
QUICK_ROWS = 200_000
CAP_MB = 2048
WAYS = ("in memory", "by column", "on disk", "ray 1", "ray 2", "ray 4", "xgboost")
PROJECTED_ROWS, PROJECTED_FEATURES, PROJECTED_CORES = 1_000_000_000, 50, 128

EXTERNAL = """
import json, sys, time
import duckdb, numpy as np, xgboost

folder, trees, max_bin, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


class Parts(xgboost.DataIter):
    def __init__(self):
        super().__init__(cache_prefix=folder + "/cache")
        self.at = 0

    def next(self, give):
        if self.at == int(sys.argv[5]):
            return False
        table = duckdb.sql(f"SELECT * FROM '{folder}/big/part-{self.at}.parquet'").fetchnumpy()
        label = np.asarray(table.pop("y"), np.float32)
        give(data=np.stack([np.asarray(column, np.float32) for column in table.values()], axis=1), label=label)
        self.at += 1
        return True

    def reset(self):
        self.at = 0


began = time.perf_counter()
matrix = xgboost.ExtMemQuantileDMatrix(Parts(), max_bin=max_bin)
binned = time.perf_counter()
parameters = {"objective": "binary:logistic", "max_depth": 6, "eta": .3, "max_bin": max_bin, "tree_method": "hist", "nthread": threads}
xgboost.train(parameters, matrix, num_boost_round=trees)
print(json.dumps({"binning": binned - began, "training": time.perf_counter() - binned}))
"""


def resident(process: psutil.Process) -> int:
    """Bytes that a process and all that it started hold now."""
    held = 0
    for one in (process, *_children(process)):
        try:
            held += one.memory_info().rss
        except psutil.Error:
            continue
    return held


class _Watched:
    """What the big party's processes took so far.

    Attributes:
        cpu: seconds of processors, of the process and of those that it started and that are still there.
    """

    def __init__(self) -> None:
        self.cpu = 0.0

    def look(self, pid: int) -> int:
        """Bytes that they hold now."""
        process = psutil.Process(pid)
        total = 0.0
        for one in (process, *_children(process)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
        self.cpu = max(self.cpu, total)
        return resident(process)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def hold(folder: Path, plan: Plan, way: str, threads: int, cap: int) -> dict[str, Any]:
    """Run all members with the big party's rows held in one way; its peak in bytes, and the run's seconds. cap: bytes, on disk."""

    def keys_of(name: str) -> str:
        if name not in plan.parties:
            return ""
        if name != BIG:
            return f'table = "{name}.parquet"\n'
        given = f'table = "big"\nthreads = {threads}\n'
        if way == "on disk":
            (folder / "codes").mkdir(exist_ok=True)
            return f'{given}engine = {{ kind = "disk", folder = "codes" }}\n'
        if not way.startswith("ray"):
            return f"{given}by_column = {str(way == 'by column').lower()}\n"
        return f'{given}engine = {{ kind = "ray", address = "local", workers = {way.split()[1]}, threads = 1 }}\n'

    capped = {BIG: cap} if way == "on disk" else {}
    watched = _Watched()
    peak, seconds = run_members(folder, plan, keys_of, watched.look, capped)
    record = json.loads((folder / f"{plan.aggregator}-record.json").read_text())["seconds"]
    model = (folder / f"{plan.aggregator}-model.json").read_bytes()
    return {
        "peak": peak,
        "seconds": seconds,
        "cpu": watched.cpu,
        "training": record["training"],
        "model_sha256": hashlib.sha256(model).hexdigest(),
    }


def external(folder: Path, trees: int, max_bin: int, threads: int) -> dict[str, Any]:
    """XGBoost on the big party's files, with external memory."""
    began, peak, used = time.perf_counter(), 0, _Watched()
    command = [sys.executable, "-c", EXTERNAL, str(folder), str(trees), str(max_bin), str(threads), str(FILES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, used.look(process.pid))
            time.sleep(LOOK_S)
        assert process.stdout is not None
        told = json.loads(process.stdout.read())
    seconds = time.perf_counter() - began
    return {"peak": peak, "seconds": seconds, "cpu": used.cpu, "training": told["training"], "model_sha256": ""}


def measure(
    n_rows: int, n_features: int, max_bin: int, trees: int, ways: list[str], cap: int, above: str | None
) -> dict[str, dict[str, Any]]:
    """Each way in turn, on the same files, in the folder `above`. Asserts that all of Hansa's give one model."""
    plan = plan_of(n_features, max_bin, trees, "federated")
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="hansa-bench-", dir=above) as name:
        folder = Path(name)
        write_consortium(folder, plan, {}, 1, None)
        for member in plan.members:
            path = folder / f"{member}.toml"
            lines = [line for line in path.read_text().splitlines() if not line.startswith("threads")]
            (folder / f"{member}.toml.made").write_text("\n".join(lines) + "\n")
        (folder / BIG).mkdir()
        for number in range(FILES):
            write_rows(folder / BIG / f"part-{number}.parquet", n_rows // FILES, n_features, number)
        for seed, party in enumerate(plan.parties):
            if party != BIG:
                write_rows(folder / f"{party}.parquet", 1000, n_features, FILES + seed)
        runs = {
            way: external(folder, trees, max_bin, threads)
            if way == "xgboost"
            else hold(folder, plan, way, threads, cap)
            for way in ways
        }
    models = {run["model_sha256"] for way, run in runs.items() if way != "xgboost"}
    assert len(models) <= 1, f"all ways of holding rows must give one model: {models}"
    return runs


def show(result: dict[str, Any]) -> None:
    """Print a table for each number of rows, and the projection."""
    for rows, runs in result["runs"].items():
        shape = f"{int(rows):,} rows x {result['features']}, {result['max_bin']} bins, depth 6, {result['trees']} trees"
        capped = f"on disk with at most {result['cap_mb']:,} MiB of memory; load {result['load']:.1f}"
        table = Table(
            title=f"A party of {shape}; {capped}\n{described(result['machine'])}",
            title_justify="left",
        )
        table.add_column("rows are held")
        for column in ("seconds a tree", "of XGBoost's", "whole run, s", "processors, s", "peak, MB", "model"):
            table.add_column(column, justify="right")
        beside = runs.get("xgboost", {}).get("training")
        for way, run in runs.items():
            table.add_row(
                "XGBoost, external memory" if way == "xgboost" else way,
                f"{run['training'] / result['trees']:.2f}",
                f"{run['training'] / beside:.2f}" if beside else "",
                f"{run['seconds']:.0f}",
                f"{run['cpu']:.0f}",
                f"{run['peak'] / 1e6:,.0f}",
                run["model_sha256"][:12],
            )
        console().print(table)
    for way, found in result["projection"].items():
        console().print(
            f"{way}: {found['ns_a_cell']:.3g} ns a row and feature and tree on {result['threads']} cores; "
            f"growth from {found['from_rows']:,.0f} to {found['to_rows']:,.0f} rows as rows^{found['exponent']:.2f}; "
            f"{PROJECTED_ROWS:,} rows x {PROJECTED_FEATURES} on {PROJECTED_CORES} cores would take "
            f"{found['projected_s']:.0f} s a tree, if time grows by this line beyond what was measured, cores are as these and share "
            f"no memory, disk or network, and adding up workers' sums costs nothing"
        )


def projection(runs: dict[str, dict[str, Any]], features: int, trees: int, threads: int) -> dict[str, dict[str, float]]:
    """A line through the seconds a tree by rows, of each way that was run with several numbers of rows."""
    counts = np.array([int(rows) for rows in runs], float)
    if len(counts) < 2:
        return {}
    found = {}
    for way in next(iter(runs.values())):
        seconds = np.array([of_rows[way]["training"] / trees for of_rows in runs.values()])
        slope, _ = np.polyfit(counts, seconds, 1)
        exponent, _ = np.polyfit(np.log(counts), np.log(seconds), 1)
        cell = slope / features
        cells = PROJECTED_ROWS * PROJECTED_FEATURES
        found[way] = {
            "ns_a_cell": cell * 1e9,
            "projected_s": cell * cells * threads / PROJECTED_CORES,
            "exponent": exponent,
            "from_rows": counts.min(),
            "to_rows": counts.max(),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[ROWS])
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--max-bin", type=int, default=MAX_BIN)
    parser.add_argument("--trees", type=int, default=TREES)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--cap-mb", type=int, default=CAP_MB, help="of memory with codes on disk, MiB")
    parser.add_argument("--folder", help="where all files go; default: that for temporary files")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    counts = [QUICK_ROWS] if options.quick else options.rows
    given = options.features, options.max_bin, options.trees, options.ways, options.cap_mb << 20, options.folder
    runs = {str(rows): measure(rows, *given) for rows in counts}
    threads = os.cpu_count() or 1
    result = {
        "machine": machine(),
        "features": options.features,
        "max_bin": options.max_bin,
        "trees": options.trees,
        "threads": threads,
        "cap_mb": options.cap_mb,
        "load": os.getloadavg()[0],
        "runs": runs,
        "projection": projection(runs, options.features, options.trees, threads),
    }
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
