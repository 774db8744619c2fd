"""The most memory that a party's process holds, by rows, where its rows are read into memory and where they are read by column.

    python -m benchmarks.bench_memory [--rows N] [--features F] [--max-bin B] [--trees T] [--mode MODE]
                                      [--ways WAY ...] [--quick] [--json]

One party has N rows in a Parquet file, two others have few. Each member is a real process (`hansa party`), over mutual TLS. The figure
is the process's own peak (VmHWM), beside that of a run of few rows, which is what every process takes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.table import Table

from benchmarks.machine import console, described, machine
from hansa.data.files import writing_table
from hansa.node.run import command_of
from hansa.plan import Plan
from hansa.simulation.processes import write_consortium
from hansa.simulation.run import SimulationSettings, make_plan
from hansa.trees.parameters import parse_parameters

ROWS, FEATURES, MAX_BIN, TREES = 20_000_000, 30, 256, 3
QUICK_ROWS = 1_000_000
FEW_ROWS = 50_000
BIG, OTHERS = "big", ("few-a", "few-b")
WAYS = {"in memory": False, "by column": True}
LOOK_S = 0.05


def write_rows(path: Path, n_rows: int, n_features: int, seed: int) -> None:
    """A Parquet file of continuous features, so that every bin is used, and a label that depends on three of them."""
    columns = ", ".join(f"(random() * {place + 1})::FLOAT AS f{place:02}" for place in range(n_features))
    with writing_table(path, "parquet") as (connection, write):
        connection.execute(f"SELECT setseed({seed / 1000})")
        made = f"SELECT {columns} FROM range({n_rows})"
        write(f"SELECT *, (f00 + f01 / 2 * f02 + random() > 1.2)::TINYINT AS y FROM ({made})")


def plan_of(n_features: int, max_bin: int, trees: int, mode: str) -> Plan:
    """A plan of three parties."""
    parameters = parse_parameters({"rounds": trees, "max_depth": 6, "max_bin": max_bin})
    names = tuple(f"f{place:02}" for place in range(n_features))
    plan = make_plan(SimulationSettings(parameters=parameters, label="y", mode=mode), names, (BIG, *OTHERS))
    return replace(plan, receivers=(plan.aggregator,))


def run_members(
    folder: Path,
    plan: Plan,
    keys_of: Callable[[str], str],
    held: Callable[[int], int],
    caps: Mapping[str, int] = MappingProxyType({}),
) -> tuple[int, float]:
    """Run all members' processes in a folder with `NAME.toml.made` files; the most that the big party held, in bytes, and seconds.

    Args:
        keys_of: what a member's file says beside. held: process id of the big party -> bytes that it holds.
        caps: bytes that a member's process may allocate at most.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in plan.members:
        text = (folder / f"{name}.toml.made").read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}")
        (folder / f"{name}.toml").write_text(f"{text}wait_s = 7200\n{keys_of(name)}")
    began, peak = time.perf_counter(), 0
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "hansa", command_of(plan, name), str(folder / f"{name}.toml")],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    preexec_fn=partial(_cap, caps[name]) if name in caps else None,
                )
            )
            for name in plan.members
        }
        while processes[BIG].poll() is None:
            peak = max(peak, held(processes[BIG].pid))
            time.sleep(LOOK_S)
            failed = [name for name, process in processes.items() if process.poll() not in (None, 0)]
            if failed:
                for process in processes.values():
                    process.kill()
                raise SystemExit(f"{failed[0]}: {processes[failed[0]].communicate()[1][-2000:]}")
    return peak, time.perf_counter() - began


def _cap(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def peak_of(folder: Path, plan: Plan, by_column: bool) -> dict[str, Any]:
    """Run all members' processes in a folder with the parties' tables; the peak of the party with many rows, in bytes."""

    def keys_of(name: str) -> str:
        if name not in plan.parties:
            return ""
        ledger = f'ledger = "{name}-{by_column}-ledger.jsonl"\n'
        return f'table = "{name}.parquet"\n{ledger}by_column = {str(by_column and name == BIG).lower()}\n'

    peak, seconds = run_members(folder, plan, keys_of, high_water)
    model = (folder / f"{plan.aggregator}-model.json").read_bytes()
    return {"peak": peak, "seconds": seconds, "model_sha256": hashlib.sha256(model).hexdigest()}


def high_water(pid: int) -> int:
    """The most memory that a process has held, in bytes; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), default=0)


def measure(n_rows: int, n_features: int, max_bin: int, trees: int, mode: str, ways: list[str]) -> dict[str, Any]:
    """Peaks of both ways of reading, with few rows and with many. Asserts that both ways give one model."""
    plan = plan_of(n_features, max_bin, trees, mode)
    runs: dict[str, dict[str, Any]] = {way: {} for way in ways}
    for count in (FEW_ROWS, n_rows):
        with tempfile.TemporaryDirectory(prefix="hansa-bench-") as name:
            folder = Path(name)
            write_consortium(folder, plan, {}, 1, None)
            for member in plan.members:
                (folder / f"{member}.toml").rename(folder / f"{member}.toml.made")
            for seed, party in enumerate(plan.parties):
                write_rows(folder / f"{party}.parquet", count if party == BIG else 1000, n_features, seed)
            for way in ways:
                runs[way][str(count)] = peak_of(folder, plan, WAYS[way])
        models = {run[str(count)]["model_sha256"] for run in runs.values()}
        assert len(models) == 1, f"both ways of reading must give one model: {models}"
    cells = (n_rows - FEW_ROWS) * n_features
    return {
        "machine": machine(),
        "rows": n_rows,
        "features": n_features,
        "max_bin": max_bin,
        "trees": trees,
        "mode": mode,
        "ways": {
            way: {
                "peak": run[str(n_rows)]["peak"],
                "few": run[str(FEW_ROWS)]["peak"],
                "bytes_a_cell": (run[str(n_rows)]["peak"] - run[str(FEW_ROWS)]["peak"]) / cells,
                "seconds": run[str(n_rows)]["seconds"],
                "model_sha256": run[str(n_rows)]["model_sha256"],
            }
            for way, run in runs.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    table = Table(
        title=f"A party of {result['rows']:,} rows x {result['features']}, {result['max_bin']} bins, depth 6, {result['trees']} trees, "
        f"{result['mode']}\n{described(result['machine'])}",
        caption=f"MB: 10^6 bytes. Beside: the peak with {FEW_ROWS:,} rows, which the last column leaves out.",
        title_justify="left",
    )
    table.add_column("rows are read")
    for column in ("peak, MB", "beside, MB", "bytes a row and feature", "seconds", "model"):
        table.add_column(column, justify="right")
    for way, run in result["ways"].items():
        table.add_row(
            way,
            f"{run['peak'] / 1e6:,.0f}",
            f"{run['few'] / 1e6:,.0f}",
            f"{run['bytes_a_cell']:.2f}",
            f"{run['seconds']:.0f}",
            run["model_sha256"][:12],
        )
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--max-bin", type=int, default=MAX_BIN)
    parser.add_argument("--trees", type=int, default=TREES)
    parser.add_argument("--mode", default="secure-aggregation", choices=["federated", "secure-aggregation"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = QUICK_ROWS if options.quick else options.rows
    result = measure(rows, options.features, options.max_bin, options.trees, options.mode, options.ways)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
