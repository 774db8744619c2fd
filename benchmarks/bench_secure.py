"""What masks cost, and row counts that parties verify: secure-aggregation mode beside federated mode, in one run.

    python -m benchmarks.bench_secure [--quick] [--json] [training] [parties] [delays]

Training: three parties over mutual TLS, a process each; federated mode, masks, and masks with row counts that parties verify ("tree",
and "after" a level) take turns. Where federated mode's median exceeds 1.15 x its minimum something else was running, and the run is
void. Parties: the same rows dealt to 10 and to 32, also over mutual TLS. Delays: three parties in one process, every round trip longer
by so much. In every part all must give one and the same model file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.table import Table

from benchmarks.bench_training import STEADY
from benchmarks.contestants import N_FEATURES, Job, Run, in_process, over_tls
from benchmarks.machine import console, described, machine
from hansa.node.warm_up import warm_up

MODES = {
    "federated": {"mode": "federated"},
    "secure-aggregation": {"mode": "secure-aggregation", "verify_counts": "off"},
} | {when: {"mode": "secure-aggregation", "verify_counts": when} for when in ("tree", "after")}
TRAINING = Job(rows=60_000, parties=3, trees=100)
QUICK = Job(rows=6_000, parties=3, trees=5)
TURNS, QUICK_TURNS = 5, 2
PARTIES, QUICK_PARTIES = (10, 32), (5,)
PARTIES_TREES = 20
PARTIES_TURNS = 2
DELAYS_S, QUICK_DELAYS_S = (0.02, 0.1), (0.005,)
DELAYS_TREES = 10
ALLOWED_TIME = 1.2
ALLOWED_BYTES = 1.01
ALLOWED_VERIFIED = 1.05

Contestant = Callable[[Job], Run]


def compare(job: Job, contestant: Contestant, turns: int) -> dict[str, Any]:
    """Both modes in turn, `turns` times each. Asserts that they give the same model file."""
    runs: dict[str, list[Run]] = {mode: [] for mode in MODES}
    for _ in range(turns):
        for mode, several in runs.items():
            several.append(contestant(replace(job, **MODES[mode])))
    models = {run.model_sha256 for several in runs.values() for run in several}
    assert len(models) == 1, f"the modes' models differ: {models}"
    federated, secure, *verified = runs.values()
    return {
        "parties": job.parties,
        "rows": job.rows,
        "trees": job.trees,
        "round_trip_s": job.round_trip_s,
        "turns": turns,
        "model_sha256": models.pop(),
        "modes": {mode: summary(several) for mode, several in runs.items()},
        "ratio": {
            name: ratio([getattr(run, name) for run in secure], [getattr(run, name) for run in federated])
            for name in ("training", "whole", "bytes_up", "bytes_down")
        },
        "verified": {
            when: {
                name: ratio([getattr(run, name) for run in several], [getattr(run, name) for run in secure])
                for name in ("training", "whole", "bytes_up", "bytes_down")
            }
            for when, several in zip(("tree", "after"), verified, strict=True)
        },
        "void": unsteady([run.training for run in federated]) or unsteady([run.training for run in secure]),
    }


def summary(runs: list[Run]) -> dict[str, float]:
    """Seconds, and bytes of the whole run of the busiest party."""
    training = [run.training for run in runs]
    return {
        "training_min": min(training),
        "training_median": statistics.median(training),
        "whole_median": statistics.median([run.whole for run in runs]),
        "bytes_up": runs[-1].bytes_up,
        "bytes_down": runs[-1].bytes_down,
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Of medians."""
    return statistics.median(ours) / statistics.median(theirs)


def unsteady(seconds: list[float]) -> bool:
    """Whether something else was running."""
    return statistics.median(seconds) > STEADY * min(seconds)


def measure(parts: list[str], quick: bool) -> dict[str, Any]:
    """All parts asked for; name -> comparisons."""
    job, turns = (QUICK, QUICK_TURNS) if quick else (TRAINING, TURNS)
    warm_up(job.parameters)
    result: dict[str, Any] = {"machine": machine(), "parts": {}}
    if "training" in parts:
        result["parts"]["training"] = [compare(job, over_tls, turns)]
    if "parties" in parts:
        jobs = [
            replace(job, parties=parties, trees=min(job.trees, PARTIES_TREES))
            for parties in (QUICK_PARTIES if quick else PARTIES)
        ]
        result["parts"]["parties"] = [compare(each, over_tls, PARTIES_TURNS) for each in jobs]
    if "delays" in parts:
        jobs = [
            replace(job, round_trip_s=delay, trees=min(job.trees, DELAYS_TREES))
            for delay in (QUICK_DELAYS_S if quick else DELAYS_S)
        ]
        result["parts"]["delays"] = [compare(each, in_process, 1) for each in jobs]
    return result


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    table = Table(
        title=f"Secure aggregation beside federated mode: {N_FEATURES} features, 256 bins, depth 6\n"
        f"{described(result['machine'])}",
        caption="run: parties and line. Median seconds of training, their ratio (VOID: not steady), the ratio with binning; kB up of "
        "a party and tree, the set-up's included, and as a multiple of federated mode's. "
        f"Wanted with 3 parties over TLS: at most {ALLOWED_TIME} x the time, {ALLOWED_BYTES} x the bytes. verified: time "
        f"with row counts that parties check, a tree and a level at a time, as multiples of that without (at most {ALLOWED_VERIFIED} "
        "wanted), and kB down with both and without.",
        title_justify="left",
    )
    for column in (
        "run",
        "rows",
        "trees",
        "federated",
        "masked",
        "ratio",
        "binned",
        "kB up",
        "bytes",
        "verified",
        "kB down",
    ):
        table.add_column(column, justify="left" if column == "run" else "right")
    for part, comparisons in result["parts"].items():
        for row in comparisons:
            federated, secure = (row["modes"][mode] for mode in ("federated", "secure-aggregation"))
            line = f"+{1e3 * row['round_trip_s']:g} ms" if part == "delays" else "TLS"
            table.add_row(
                f"{row['parties']}, {line}",
                f"{row['rows']:,}",
                str(row["trees"]),
                f"{federated['training_median']:.3f}",
                f"{secure['training_median']:.3f}",
                f"{row['ratio']['training']:.2f}" + (" VOID" if row["void"] else ""),
                f"{row['ratio']['whole']:.2f}",
                f"{secure['bytes_up'] / row['trees'] / 1e3:,.0f}",
                f"{row['ratio']['bytes_up']:.4f}",
                " / ".join(f"{each['training']:.2f}" for each in row["verified"].values()),
                " / ".join(
                    f"{row['modes'][mode]['bytes_down'] / row['trees'] / 1e3:.1f}"
                    for mode in ("tree", "after", "secure-aggregation")
                ),
            )
    console().print(table)


def main() -> None:
    """Measure and print."""
    every = ("training", "parties", "delays")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(every)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small jobs: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(every)):
        parser.error(f"no part {unknown[0]!r}; expected any of {', '.join(every)}")
    result = measure(options.parts or list(every), options.quick)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
