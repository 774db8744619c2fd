"""Training on shares: three server processes over mutual TLS through the hub, phase by phase; and over a slow line.

    python -m benchmarks.bench_coopetitive [--quick] [--json] [--rows N] [--assisted | --apart] [--set NAME=VALUE]
    python -m benchmarks.bench_coopetitive --cuts [--rows N] [--features N] [--bins N]

Assisted: the three parties are the servers. Apart: three parties own the rows, three other members compute. A bare uint32
product of the size of a tree's histograms (rows x columns x 64) is timed in the same run, and walls are given as multiples of
it too. CPU, bytes and rounds are those of a server and a tree after the first; sealing, TLS and relaying are in them (the hub's
own processor time is not, but it shares the cores). The slow line delays every sealed message by 20 ms one way, in one process: a tree
must take the rounds of `mpc`'s formula times the delay, beside what it takes without delay.

With --cuts the search of cuts alone, in one process: its rounds of messages, questions to owners, and a server's CPU a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from benchmarks.contestants import NAMES, as_table, dealt, made_rows
from benchmarks.machine import console, described, machine
from benchmarks.plain_product import product_seconds
from faults import DelayingHub
from hansa.data.quantiles import SortedKeys
from hansa.mpc.replicated import Address, PairStreams, Server
from hansa.node.in_process import share_in_process
from hansa.node.phases import PhaseCost
from hansa.node.record import known
from hansa.node.warm_up import warm_up_shares
from hansa.oblivious.quantile_search import CutSearchOnShares, RequestGuard, count_probes
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from hansa.oblivious.split_finding import group_sizes
from hansa.oblivious.training import growth_of
from hansa.plan import SERVER_LINKS, Plan
from hansa.roles.shared.sharing import Counts, TrainingStart, given_start
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm, fresh_key
from hansa.simulation.processes import train_in_processes
from hansa.simulation.run import SimulationSettings, make_plan
from hansa.transport.channel import Hub
from hansa.trees.parameters import parse_parameters
from lockstep import LockstepRecord, run_three

CUTS = 31
SIZES, QUICK_SIZES = (20_000, 100_000), (3_000,)
TREES = 4
CIPHER = Algorithm.AES_256_CTR
DELAY_S = 0.02
DELAYED_ROWS, DELAYED_DEPTH = 600, 3
TRIAL_WALL = {(20_000, True): 0.40, (20_000, False): 0.53, (100_000, True): 1.23, (100_000, False): 1.75}
"""Seconds a tree of the trial in coopetitive.md, where the bare product ran at 14 to 21 Gmac/s."""

TRIAL_PHASES = {
    "gradients": ".03, 3-18",
    "histogram": ".50-.83, 0",
    "leaves": "with margins .03, 5",
    "membership": ".12, 32",
    "routing": ".07, 4",
    "score": ".035, 7",
    "tournament": ".05, 3",
}
"""CPU seconds and MB a server of the trial at TRIAL_ROWS; of its histogram the products alone."""

TRIAL_ROWS = 100_000
TRIAL_FEATURES, TRIAL_DEPTH = 30, 6
TRIAL_CPU = {(20_000, True): 0.20, (20_000, False): 0.30, (100_000, True): 0.74, (100_000, False): 1.04}


def plan_of(
    parties: tuple[str, ...],
    apart: bool,
    depth: int,
    trees: int,
    features: int,
    cuts: bool = True,
    links: str = "direct",
    more: Mapping[str, Any] | None = None,
) -> Plan:
    """Three parties; three servers of theirs, or three others. The plan gives the cuts: what is timed is the trees."""
    names = NAMES[:features]
    # Features are normal: these cuts are their quantiles.
    quantiles = tuple(statistics.NormalDist().inv_cdf((i + 1) / (CUTS + 1)) for i in range(CUTS))
    settings = SimulationSettings(
        parameters=parse_parameters(
            {"rounds": trees, "max_depth": depth, "max_bin": CUTS + 1, "eta": 0.3, "base_score": 0.4} | dict(more or {})
        ),
        label="y",
        mode="coopetitive",
        servers=("server-a", "server-b", "server-c") if apart else parties,
        server_links=links,
        cuts=(quantiles,) * features if cuts else None,
    )
    plan = make_plan(settings, names, parties)
    assert plan.coopetitive is not None
    return replace(plan, coopetitive=replace(plan.coopetitive, missing=()))


def over_tls(
    rows: int,
    apart: bool,
    depth: int,
    trees: int,
    features: int,
    links: str = "direct",
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One run over mutual TLS; a server's figures a tree after the first."""
    parties = dealt(made_rows(rows), 3)
    tables = {}
    for name, own in parties.items():
        table = as_table(own)
        tables[name] = replace(table, names=NAMES[:features], features=np.ascontiguousarray(table.features[:features]))
    plan = plan_of(tuple(parties), apart, depth, trees, features, links=links, more=more)
    warm_up_shares(plan.parameters)
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        together = train_in_processes(Path(folder), plan, tables, threads=1, transcript=None, report=lambda _: None)
    servers = together.servers
    costs = [known(server.phases) for server in servers]
    phases: dict[str, dict[str, list[float]]] = {}
    none = PhaseCost(cpu_s=0.0, wall_s=0.0, bytes=0, rounds=0)
    for name in sorted({name for own in costs for name in own}):
        phases[name] = {
            key: [
                getattr(own.get(name, none), key) / known(server.phase_trees)
                for own, server in zip(costs, servers, strict=True)
            ]
            for key in ("cpu_s", "bytes", "rounds")
        }
    totals = {key: [sum(p[key][i] for p in phases.values()) for i in range(3)] for key in ("cpu_s", "bytes", "rounds")}
    bare = product_seconds(rows, features * CUTS, 2**depth)
    wall = statistics.median(known(servers[0].tree_seconds)[1:])
    trial = (rows, not apart) if (features, depth) == (TRIAL_FEATURES, TRIAL_DEPTH) else (0, not apart)
    return {
        "rows": rows,
        "features": features,
        "depth": depth,
        "servers": "apart" if apart else "assisted",
        "links": links,
        "wall_s": wall,
        "bare_product_s": bare,
        "gmac_s": rows * features * CUTS * 2**depth / bare / 1e9,
        "wall_in_products": wall / bare,
        "trial": {"wall_s": TRIAL_WALL.get(trial), "cpu_s": TRIAL_CPU.get(trial)},
        "totals": totals,
        "phases": phases,
        "sharing_s": together.seconds.binning,
        "peak_bytes": [known(server.peak_bytes) for server in servers],
    }


def rounds_of_tree(start: TrainingStart) -> int:
    """Rounds of a tree after the first, by the formula of ARCHITECTURE.md."""
    growth = growth_of(start.settings, start.candidates, start.counts.total)
    matches = len(group_sizes(len(start.candidates.all) + 1))
    sums = 4 if growth.row_bits > growth.scoring.fraction_bits else 2
    return growth.depth * (sums + 22 + 6 * matches + 4) + 24


def over_slow_line(rows: int = DELAYED_ROWS, depth: int = DELAYED_DEPTH, trees: int = 3) -> dict[str, Any]:
    """The same run without delay and with it, in one process; seconds of the trees after the first."""
    features = 5
    made = dealt(made_rows(rows), 3)
    parties = {name: replace(own, features=np.ascontiguousarray(own.features[:features])) for name, own in made.items()}
    plan = plan_of(tuple(parties), False, depth, trees, features)
    warm_up_shares(plan.parameters)

    def seconds(delay: float) -> float:
        at: list[float] = []

        def wrap(hub: Hub) -> Hub:
            return DelayingHub(hub, delay) if delay else hub

        share_in_process(plan, parties, report=lambda _: at.append(time.perf_counter()), wrap=wrap)
        # gathered, binned, tree 1, ..., the last tree, trained
        return (at[1 + trees] - at[2]) / (trees - 1)

    counts = Counts({name: own.n_rows for name, own in parties.items()}, dict.fromkeys(parties, 0))
    start = given_start(plan, counts)
    assert start is not None
    rounds = rounds_of_tree(start)
    quick, slow = seconds(0.0), seconds(DELAY_S)
    return {
        "rows": rows,
        "depth": depth,
        "one_way_s": DELAY_S,
        "rounds": rounds,
        "tree_s": slow,
        "tree_without_delay_s": quick,
        "predicted_s": quick + rounds * DELAY_S,
        "ratio": slow / (quick + rounds * DELAY_S),
    }


def cut_search(rows: int, features: int, bins: int) -> dict[str, Any]:
    """The search of cuts of normal values, three servers in lockstep; owners are one."""
    values = np.random.default_rng(0).normal(size=(features, rows)).round(3).astype(np.float32)
    keys, guard = SortedKeys.from_features(values), RequestGuard(features, rows, bins, 10)
    pairs = {pair: fresh_key() for pair in ((0, 1), (1, 2), (0, 2))}
    servers = [
        Server(
            i,
            PairStreams(i, {j: PairKey(pairs[min(i, j), max(i, j)], str(i), str(j)) for j in {0, 1, 2} - {i}}, CIPHER),
        )
        for i in range(3)
    ]
    states = [CutSearchOnShares(features, rows, bins, 10) for _ in servers]
    record, questions, counts, cpu_s, owner_s = LockstepRecord(), 0, 0, 0.0, 0.0
    while not states[0].done:
        before, request = time.process_time(), states[0].request()
        guard = guard.check(request)
        message = share_vector(count_probes(keys, request), CIPHER)
        shares = [receive_vector(i, message[i], states[0].n_answers, CIPHER) for i in range(3)]
        owner_s += time.process_time() - before
        before = time.process_time()
        place = Address(0, 0, 0, "cuts")
        states = run_three([states[i].answer(servers[i], {"owner": shares[i]}, place) for i in range(3)], record)
        cpu_s += time.process_time() - before
        questions, counts = questions + 1, counts + request.n_counts
    return {
        "rows": rows,
        "features": features,
        "bins": bins,
        "rounds": record.rounds,
        "questions": questions,
        "counts": counts,
        "sent_bytes": record.sent,
        "cpu_ms_a_round": 1000 * cpu_s / 3 / record.rounds,
        "owner_s": owner_s,
    }


def show(out: Console, run: dict[str, Any]) -> None:
    """One run's phases."""
    table = Printed(
        title=f"{run['rows']:,} rows x {run['features']} features x {CUTS} cuts, depth {run['depth']}, servers {run['servers']}",
        title_justify="left",
    )
    compared = (run["rows"], run["features"], run["depth"]) == (TRIAL_ROWS, TRIAL_FEATURES, TRIAL_DEPTH)
    for column in ("phase, a tree", "CPU s, S0 S1 S2", "MB sent, S0 S1 S2", "rounds", *["trial: CPU s, MB"] * compared):
        table.add_column(column, justify="left" if column.startswith("phase") else "right")
    for name, phase in (*run["phases"].items(), ("all", run["totals"])):
        cpu = " ".join(f"{value:6.3f}" for value in phase["cpu_s"])
        sent = " ".join(f"{value / 1e6:6.2f}" for value in phase["bytes"])
        trials = [TRIAL_PHASES.get(name, "")] * compared
        table.add_row(name, cpu, sent, f"{phase['rounds'][0]:.0f}", *trials)
    out.print(table)
    trial = run["trial"]["wall_s"]
    out.print(
        f"wall {run['wall_s']:.2f} s a tree"
        + (f" (trial {trial} s)" if trial else "")
        + f", {run['wall_in_products']:.2f} bare products of {run['bare_product_s']:.2f} s ({run['gmac_s']:.1f} Gmac/s); "
        f"CPU {max(run['totals']['cpu_s']):.2f} s a server"
        + (f" (trial {run['trial']['cpu_s']} s)" if trial else "")
        + f"; sharing {run['sharing_s']:.1f} s; peak {max(run['peak_bytes']) / 1e6:.0f} MB"
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--features", type=int, default=len(NAMES))
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--trees", type=int, default=TREES)
    parser.add_argument("--cuts", action="store_true", help="only the search of cuts")
    parser.add_argument("--bins", type=int, help="of the search of cuts")
    parser.add_argument(
        "--links", choices=SERVER_LINKS, default="direct", help="which way the servers' sealed messages take"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of training, as max_delta_step=1"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--assisted", action="store_true", help="only with the parties as servers")
    which.add_argument("--apart", action="store_true", help="only with servers apart")
    options = parser.parse_args()
    if options.cuts:
        sizes_of_search = ((6, 32), (30, 32), (30, 256))
        cases = ((options.features, options.bins),) if options.bins else sizes_of_search
        searches = [cut_search(options.rows or 20_000, features, bins) for features, bins in cases]
        for found in searches:
            print(
                json.dumps(found)
                if options.json
                else f"{found['features']} features, {found['bins']} bins, {found['rows']:,} rows: {found['rounds']} rounds, "
                f"{found['questions']} questions for {found['counts']:,} counts, {found['cpu_ms_a_round']:.1f} ms CPU a round and "
                f"server, {max(found['sent_bytes']) / 1e6:.1f} MB from the server that sends most; owner {found['owner_s']:.2f} s"
            )
        return
    sizes = (options.rows,) if options.rows else QUICK_SIZES if options.quick else SIZES
    ways = [apart for apart in (False, True) if not (apart and options.assisted) and not (not apart and options.apart)]
    out = console(stderr=options.json)
    given = (setting.partition("=") for setting in options.set)
    more = {name: value if name == "objective" else float(value) for name, _, value in given}
    runs = []
    for rows in sizes:
        for apart in ways:
            runs.append(over_tls(rows, apart, options.depth, options.trees, options.features, options.links, more))
            show(out, runs[-1])
    line = over_slow_line(trees=2) if options.quick else over_slow_line()
    out.print(
        f"slow line, {line['one_way_s'] * 1000:.0f} ms one way, {line['rows']} rows, depth {line['depth']}: "
        f"{line['tree_s']:.2f} s a tree; predicted {line['predicted_s']:.2f} s from {line['rounds']} rounds and "
        f"{line['tree_without_delay_s']:.2f} s without delay"
    )
    if options.json:
        print(json.dumps({"machine": machine(), "runs": runs, "slow_line": line}))
    else:
        out.print(described())


if __name__ == "__main__":
    main()
