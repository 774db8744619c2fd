"""How Hansa's time, memory and traffic grow with rows, with parties, and with the delay of the line.

    python -m benchmarks.bench_growth [--quick] [--json] [rows] [parties] [delays]

Rows: pooled, in one process of its own, beside XGBoost. Parties: the same rows dealt to ever more parties
over mutual TLS, a process each; the model must stay the same file. Delays: three parties in one process,
every round trip longer by so much.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from benchmarks.contestants import N_FEATURES, Job, in_process, over_tls, xgboost
from benchmarks.machine import console, described, machine
from hansa.node.warm_up import warm_up

ROWS = (20_000, 60_000, 200_000, 600_000, 2_000_000)
QUICK_ROWS = (2_000, 20_000)
PARTIES = (2, 4, 8, 16, 32)
QUICK_PARTIES = (2, 4)
DELAYS_S = (0.0, 0.02, 0.1)
QUICK_DELAYS_S = (0.0, 0.02)


def measure_rows(quick: bool) -> dict[str, Any]:
    """Hansa pooled in one process, and XGBoost, on ever more rows."""
    trees = 10 if quick else 100
    lines = []
    for rows in QUICK_ROWS if quick else ROWS:
        job = Job(rows=rows, parties=1, trees=trees)
        lines.append({"rows": rows, "hansa": asdict(in_process(job)), "xgboost": asdict(xgboost(job))})
    return {"trees": trees, "lines": lines}


def measure_parties(quick: bool) -> dict[str, Any]:
    """Ever more parties over mutual TLS with the same rows in all. Asserts that the model stays the same."""
    job = Job(rows=3_000 if quick else 60_000, parties=0, trees=3 if quick else 20)
    runs = {parties: over_tls(replace(job, parties=parties)) for parties in (QUICK_PARTIES if quick else PARTIES)}
    models = {run.model_sha256 for run in runs.values()}
    assert len(models) == 1, f"the model depends on the number of parties: {models}"
    lines = [{"parties": parties, **asdict(run)} for parties, run in runs.items()]
    return {"rows": job.rows, "trees": job.trees, "lines": lines}


def measure_delays(quick: bool) -> dict[str, Any]:
    """Three parties in one process, with ever longer round trips."""
    job = Job(rows=3_000 if quick else 60_000, parties=3, trees=3 if quick else 10)
    lines = []
    for delay in QUICK_DELAYS_S if quick else DELAYS_S:
        run = in_process(replace(job, round_trip_s=delay))
        lines.append({"round_trip_s": delay, "expected_s": run.round_trips * delay, **asdict(run)})
    return {"rows": job.rows, "trees": job.trees, "lines": lines}


MEASURES = {"rows": measure_rows, "parties": measure_parties, "delays": measure_delays}


def show_rows(result: dict[str, Any], where: str) -> None:
    """Print the table of rows."""
    table = Table(
        "rows",
        "training, s",
        "with binning",
        "XGBoost",
        "with binning",
        "ratio",
        "with binning",
        "peak memory",
        "table alone",
        "swapped",
        title=f"Pooled rows x {N_FEATURES}, 256 bins, depth 6, {result['trees']} trees, one process\n{where}",
        caption="memory: of the whole process, Python and compiled kernels included; swapped: pages",
        title_justify="left",
    )
    for line in result["lines"]:
        ours, theirs = line["hansa"], line["xgboost"]
        whole = [each["binning"] + each["training"] for each in (ours, theirs)]
        table.add_row(
            f"{line['rows']:,}",
            f"{ours['training']:.2f}",
            f"{whole[0]:.2f}",
            f"{theirs['training']:.2f}",
            f"{whole[1]:.2f}",
            f"{ours['training'] / theirs['training']:.2f}",
            f"{whole[0] / whole[1]:.2f}",
            f"{ours['peak_bytes'] / 1e6:,.0f} MB",
            f"{line['rows'] * (N_FEATURES + 1) * 4 / 1e6:,.0f} MB",
            str(ours["swapped_pages"]),
        )
    console().print(table)


def show_parties(result: dict[str, Any], where: str) -> None:
    """Print the table of parties."""
    table = Table(
        "parties",
        "start, s",
        "binning, s",
        "training, s",
        "ms a tree",
        "kB up a party and tree",
        "kB down",
        "MB up in all",
        "model",
        title=f"{result['rows']:,} rows x {N_FEATURES} dealt to parties, {result['trees']} trees, "
        f"mutual TLS, a process each\n{where}",
        caption="bytes of the whole run, cuts and model included",
        title_justify="left",
    )
    for line in result["lines"]:
        trees = result["trees"]
        table.add_row(
            str(line["parties"]),
            f"{line['startup']:.1f}",
            f"{line['binning']:.2f}",
            f"{line['training']:.2f}",
            f"{1e3 * line['training'] / trees:.1f}",
            f"{line['bytes_up'] / trees / 1e3:,.0f}",
            f"{line['bytes_down'] / trees / 1e3:.1f}",
            f"{line['bytes_up'] * line['parties'] / 1e6:,.0f}",
            line["model_sha256"][:12],
        )
    console().print(table)


def show_delays(result: dict[str, Any], where: str) -> None:
    """Print the table of delays."""
    table = Table(
        "round trip, ms",
        "training, s",
        "ms a tree",
        "more than without, ms a tree",
        "round trips a tree",
        "times delay, ms",
        title=f"Three parties, {result['rows']:,} rows x {N_FEATURES}, {result['trees']} trees, one process, "
        f"delayed line\n{where}",
        title_justify="left",
    )
    trees = result["trees"]
    without = result["lines"][0]["training"]
    for line in result["lines"]:
        table.add_row(
            f"{1e3 * line['round_trip_s']:.0f}",
            f"{line['training']:.2f}",
            f"{1e3 * line['training'] / trees:.1f}",
            f"{1e3 * (line['training'] - without) / trees:.1f}",
            f"{line['round_trips']:.2f}",
            f"{1e3 * line['expected_s']:.0f}",
        )
    console().print(table)


SHOW = {"rows": show_rows, "parties": show_parties, "delays": show_delays}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASURES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small jobs: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(MEASURES)):
        parser.error(f"{unknown[0]!r} is not measured here; expected any of {', '.join(MEASURES)}")
    found = machine()
    warm_up(Job(rows=0, parties=1, trees=1).parameters)
    results = {}
    for name in options.names or MEASURES:
        results[name] = MEASURES[name](options.quick)
        if not options.json:
            SHOW[name](results[name], described(found))
    if options.json:
        print(json.dumps({"machine": found, **results}))


if __name__ == "__main__":
    main()
