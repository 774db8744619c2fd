"""Members on hosts of their own, with lines that have a rate, a queue, a delay and a loss (`benchmarks.lines`).

    python -m benchmarks.bench_lines [--quick] [--json] [trees] [rounds] [wide]

trees: an aggregator and three parties over 100 Mbit/s with 20 ms of delay one way, for each of TCP's congestion controls that the
system has, with a short and a long queue, without loss and with .1 %; without loss also with `send_mbit`. "predicted" is what the
same run takes without a line's delay and rate, and the bytes of a tree over the aggregator's line, and a line's delay for each way
of each exchange.
rounds: three servers that compute on shares, over direct lines and through a hub: a round beside the lines' delay.
wide: seconds of a tree in each mode over lines of 10, 100 and 1,000 Mbit/s with 5, 20 and 100 ms one way, beside

    computing + rounds x delay + bytes / rate

where computing is what the same run takes without a rate and a delay, rounds are the ways that must be waited for one after the other
(two an exchange with the aggregator, one a round of servers), and bytes those of a tree over the busiest line.

Needs Linux, root, `ip` and /dev/net/tun; says so, and measures nothing, where these are not to be had.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table as Printed

from benchmarks import bench_coopetitive
from benchmarks.contestants import NAMES, Job, as_table, dealt, made_rows, plan_of
from benchmarks.lines import Hosts, Line, why_not
from benchmarks.machine import console, described, machine
from hansa.node.run import command_of
from hansa.plan import SERVER_LINKS, Plan
from hansa.simulation.processes import write_consortium
from hansa.simulation.tables import Table
from hansa.toml import write_toml

PARTS = ("trees", "rounds", "wide")
PORT = 7465
DELAY_S = 0.02
RATE = 100e6
WIDE_RATES, WIDE_DELAYS = (10e6, 100e6, 1000e6), (0.005, 0.02, 0.1)
WIDE_QUEUE_S = 0.5
"""Long enough that none of these runs overflows it: what a loss costs, the part `trees` measures."""

MODES = ("federated", "secure-aggregation", "coopetitive")
QUEUES_S = (0.01, 0.05)
LOSSES = (0.0, 0.001)
NO_LINE = Line(bits_per_s=0, delay_s=0)
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def controls() -> list[str]:
    """TCP's congestion controls that the system has."""
    return AVAILABLE.read_text(encoding="ascii").split()


def run(
    plan: Plan, tables: Mapping[str, Table], line: Line, congestion: str = "", send_mbit: float = 0.0
) -> dict[str, Any]:
    """One run of the commands that people type, each member on a host of its own; `send_mbit` is for the parties' files.

    Returns:
        "records": by member. "segments", "again": TCP's, of all hosts: sent, and
        sent again.
    """
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as name:
        folder = Path(name)
        write_consortium(folder, plan, tables, 1, None)
        hosts = Hosts(plan.members, line, congestion)
        processes: dict[str, subprocess.Popen[str]] = {}
        try:
            for member in plan.members:
                _put_on_host(folder / f"{member}.toml", plan, member, hosts, send_mbit)
                role = command_of(plan, member)
                with (folder / f"{member}.log").open("wb") as log:
                    processes[member] = subprocess.Popen(
                        [*hosts.within(member), sys.executable, "-m", "hansa", role, f"{folder / member}.toml", "--json"],
                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                    )  # fmt: skip
            return _received(plan, processes, hosts, folder)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
            hosts.close()


def _put_on_host(path: Path, plan: Plan, member: str, hosts: Hosts, send_mbit: float) -> None:
    """Put the hosts' addresses where `write_consortium` put this machine's, and say how fast a party sends where that is asked."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    at = "0.0.0.0" if member == plan.hub else hosts.address(plan.hub)
    values["hub"] = f"{at}:{PORT}"
    if "servers" in values:
        others = (server for server in plan.servers if server != plan.hub)
        values["servers"] = {server: f"{hosts.address(server)}:{PORT + 1}" for server in others}
    if send_mbit and member in plan.parties:
        values["send_mbit"] = send_mbit
    path.write_text(write_toml(values), encoding="utf-8")


def _received(plan: Plan, processes: Mapping[str, subprocess.Popen[str]], hosts: Hosts, folder: Path) -> dict[str, Any]:
    """What the processes say until they end."""
    records: dict[str, Any] = {}

    def listen(member: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            event = json.loads(text)
            if event["event"] == "record":
                records[member] = event["record"]

    listeners = [threading.Thread(target=listen, args=each, daemon=True) for each in processes.items()]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join()
    if len(records) < len(processes):
        logs = {member: (folder / f"{member}.log").read_text(encoding="utf-8")[-500:] for member in processes}
        raise SystemExit(f"bench_lines: a run failed: {logs}")
    counters = [hosts.counters(member) for member in plan.members]
    return {
        "records": records,
        "segments": sum(each["OutSegs"] for each in counters),
        "again": sum(each["RetransSegs"] for each in counters),
    }


def measured_trees(rows: int, trees: int, bins: int) -> list[dict[str, Any]]:
    """Seconds of a tree for each queue, loss and congestion control."""
    parties = dealt(made_rows(rows), 3)
    tables = {name: as_table(own) for name, own in parties.items()}
    plan = plan_of(Job(rows, 3, trees, max_bin=bins), parties)
    record = run(plan, tables, NO_LINE)["records"][plan.hub]
    bare = record["seconds"]["training"] / record["trees_grown"]
    found = []
    for queue_s, loss, congestion, paced in itertools.product(QUEUES_S, LOSSES, controls(), (False, True)):
        if paced and loss:
            continue
        send_mbit = RATE / 1e6 / len(parties) if paced else 0.0
        done = run(plan, tables, Line(RATE, DELAY_S, queue_s, loss), congestion, send_mbit)
        record = done["records"][plan.hub]
        traffic = record["traffic"].values()
        busier = max(sum(each[way] for each in traffic) for way in ("bytes_up", "bytes_down"))
        trips = record["exchanges"] / record["trees_grown"]
        found.append(
            {
                "queue_ms": 1000 * queue_s,
                "loss": loss,
                "congestion": congestion,
                "send_mbit": send_mbit,
                "tree_s": record["seconds"]["training"] / record["trees_grown"],
                "predicted_s": bare + 8 * busier / record["trees_grown"] / RATE + 2 * trips * DELAY_S,
                "bare_s": bare,
                "bytes": busier / record["trees_grown"],
                "exchanges": trips,
                "segments": done["segments"],
                "again": done["again"],
            }
        )
    return found


def measured_rounds(rows: int, trees: int) -> list[dict[str, Any]]:
    """What a round of three servers takes beside the lines' delay; a sealed message passes two lines where a hub relays it."""
    parties = dealt(made_rows(rows), 3)
    tables = {name: as_table(own) for name, own in parties.items()}
    found = []
    for links, congestion in itertools.product(SERVER_LINKS, controls()):
        plan = bench_coopetitive.plan_of(tuple(parties), True, 3, trees, len(NAMES), cuts=True, links=links)
        seconds = {}
        for delay_s in (0.0, DELAY_S):
            record = run(plan, tables, Line(RATE, delay_s, QUEUES_S[-1]), congestion)["records"][plan.servers[0]]
            seconds[delay_s] = statistics.median(record["tree_seconds"][1:])
        phases = record["phases"].values()
        rounds = sum(phase["rounds"] for phase in phases) / record["phase_trees"]
        delay_ms = 1000 * DELAY_S * (1 if links == "direct" else 2)
        found.append(
            {
                "links": links,
                "congestion": congestion,
                "rounds": rounds,
                "bytes": sum(phase["bytes"] for phase in phases) / record["phase_trees"] / rounds,
                "round_ms": 1000 * seconds[DELAY_S] / rounds,
                "delay_ms": delay_ms,
                "above_ms": 1000 * seconds[DELAY_S] / rounds - delay_ms,
                "without_delay_ms": 1000 * seconds[0.0] / rounds,
                "cpu_ms": 1000 * sum(phase["cpu_s"] for phase in phases) / record["phase_trees"] / rounds,
            }
        )
    return found


def measured_wide(
    rows: int, trees: int, bins: int, rates: Sequence[float], delays: Sequence[float], modes: Sequence[str]
) -> list[dict[str, Any]]:
    """Seconds of a tree in each mode over each line, and what the constants of the run without one predict."""
    parties = dealt(made_rows(rows), 3)
    tables = {name: as_table(own) for name, own in parties.items()}
    found = []
    for mode in modes:
        shared = mode == "coopetitive"
        plan = (
            bench_coopetitive.plan_of(tuple(parties), True, 3, trees, len(NAMES), links="direct")
            if shared
            else plan_of(Job(rows, 3, trees, max_bin=bins, mode=mode), parties)
        )
        constants = _of_servers if shared else _of_aggregator
        bare = constants(plan, run(plan, tables, NO_LINE)["records"])
        if not shared:  # what passes before the first tree is no tree's
            one = replace(plan, parameters=replace(plan.parameters, rounds=1))
            before = constants(one, run(one, tables, NO_LINE)["records"])["bytes"]
            bare["bytes"] = (trees * bare["bytes"] - before) / (trees - 1)
        for rate, delay_s in itertools.product(rates, delays):
            done = run(plan, tables, Line(rate, delay_s, WIDE_QUEUE_S))
            over = constants(plan, done["records"])
            predicted = bare["seconds"] + bare["rounds"] * delay_s + 8 * bare["bytes"] / rate
            found.append(
                {
                    "mode": mode,
                    "mbit_s": rate / 1e6,
                    "one_way_ms": 1000 * delay_s,
                    "rounds": bare["rounds"],
                    "bytes": bare["bytes"],
                    "computing_s": bare["seconds"],
                    "predicted_s": predicted,
                    "tree_s": over["seconds"],
                    "of_predicted": over["seconds"] / predicted,
                    "again": done["again"],
                }
            )
    return found


def _of_aggregator(plan: Plan, records: Mapping[str, Any]) -> dict[str, float]:
    """A tree's seconds, ways that are waited for, and bytes over the aggregator's line, of a run's records."""
    record = records[plan.hub]
    trees = record["trees_grown"]
    traffic = record["traffic"].values()
    busier = max(sum(each[way] for each in traffic) for way in ("bytes_up", "bytes_down"))
    return {
        "seconds": record["seconds"]["training"] / trees,
        "rounds": 2 * record["exchanges"] / trees,
        "bytes": busier / trees,
    }


def _of_servers(plan: Plan, records: Mapping[str, Any]) -> dict[str, float]:
    """The same of servers: a tree after the first, and the bytes of whoever sends most."""
    own = [records[server] for server in plan.servers]
    phases = [record["phases"].values() for record in own]
    trees = own[0]["phase_trees"]
    return {
        "seconds": statistics.median(own[0]["tree_seconds"][1:]),
        "rounds": sum(phase["rounds"] for phase in phases[0]) / trees,
        "bytes": max(sum(phase["bytes"] for phase in each) for each in phases) / trees,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few rows and trees: does it work?")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[rate / 1e6 for rate in WIDE_RATES], help="of wide, Mbit/s"
    )
    parser.add_argument(
        "--delays", type=float, nargs="+", default=[1000 * delay for delay in WIDE_DELAYS], help="of wide, ms"
    )
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, help="of wide")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"no part {unknown[0]!r}; expected any of {', '.join(PARTS)}")
    parts = arguments.parts or PARTS
    if reason := why_not():
        print(json.dumps({"skipped": reason}) if arguments.json else f"Nothing was measured: {reason}.")
        return
    results: dict[str, Any] = {"machine": machine()}
    if "trees" in parts:
        results["trees"] = measured_trees(*((3_000, 3, 16) if arguments.quick else (60_000, 10, 256)))
    if "rounds" in parts:
        results["rounds"] = measured_rounds(*((300, 2) if arguments.quick else (600, 4)))
    if "wide" in parts:
        rates, delays = [1e6 * rate for rate in arguments.rates], [delay / 1000 for delay in arguments.delays]
        of_lines = (rates[:1], delays[:1]) if arguments.quick else (rates, delays)
        results["wide"] = measured_wide(
            *((600, 3, 16) if arguments.quick else (6_000, 4, 64)), *of_lines, arguments.modes
        )
    if arguments.json:
        print(json.dumps(results))
        return
    out = console()
    out.print(described(results["machine"]))
    for title, rows in ((part, results[part]) for part in PARTS if part in results):
        table = Printed(title=title)
        for heading in rows[0]:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*(value if isinstance(value, str) else f"{value:,.4g}" for value in row.values()))
        out.print(table)


if __name__ == "__main__":
    main()
