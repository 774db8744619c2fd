"""What one party of many does and sends under masks: `python -m benchmarks.bench_many_parties [--parties 16 64 256 1000] [--json]`.

All parties are simulated in one process, `ROWS` rows each, in secure-aggregation mode. Of one party: with how many others it masks (all
below 64 parties, neighbours in a drawn graph from there on), bytes and milliseconds until its keys are confirmed, and of a tree after
that. With --verify its row counts are verified as by default; these vectors go to every party.

With --collectors it is the aggregator's work in federated mode that is measured, without collectors and with about as many as the root
of the number of parties: bytes and frames that come in, and milliseconds that it computes, of the set-up and of a tree; and the same
of the collector with the most of it.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import console, described, machine
from hansa.consortium.identity import create_identity
from hansa.consortium.policy import Policy
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import InProcessBranch
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.roles.key_setup import Signer
from hansa.roles.run import run_hub
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.branches import BranchedHub
from hansa.roles.summed.collector import Collector
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import SumMasking
from hansa.simulation.run import shared_out
from hansa.transport.channel import Frame
from hansa.transport.in_process import Handler, InProcessHub
from hansa.trees.parameters import parse_parameters

PARTIES = (16, 64, 256, 1_000)
QUICK = (16, 64)
COLLECTED = (64, 256, 1_000)
ROWS, FEATURES, TREES = 20, 5, 2


class Watched:
    """One party's handler, with what passes it counted: [milliseconds, bytes up, bytes down] of set-up and of the rest."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self.setup, self.training = [0.0, 0, 0], [0.0, 0, 0]

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        """As `Party.handle`."""
        kind = messages.kind_of("hub", frame)
        first = (messages.Welcome, messages.KeysCommitted, messages.ExchangeKeys, messages.KeysConfirmed)
        tally = self.setup if kind in first else self.training
        tally[2] += len(frame)
        started = time.perf_counter()
        for answer in self._party.handle(frame):
            tally[0] += 1e3 * (time.perf_counter() - started)
            tally[1] += len(answer)
            yield answer
            started = time.perf_counter()
        tally[0] += 1e3 * (time.perf_counter() - started)


class Adding:
    """What an aggregator or a collector does with the frames that come in: [milliseconds, bytes, frames] of the set-up and of the rest.

    Args:
        role: whose `Collector.from_party` or `Aggregator.handle` takes the frames.
    """

    def __init__(self, role: Aggregator | Collector) -> None:
        self._role = role
        self.setup, self.training = [0.0, 0, 0], [0.0, 0, 0]
        self._grows = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._role, name)

    def handle(self, member: str, frame: memoryview) -> Iterator[tuple[str, Frame]]:
        """As `Aggregator.handle`."""
        return self._timed(member, frame, self._role.handle)  # type: ignore[union-attr]

    def from_party(self, member: str, frame: memoryview) -> Iterator[tuple[str, Frame]]:
        """As `Collector.from_party`."""
        return self._timed(member, frame, self._role.from_party)  # type: ignore[union-attr]

    def _timed(self, member: str, frame: memoryview, take: Any) -> Iterator[tuple[str, Frame]]:
        if messages.kind_of(member, frame) is messages.Contribution and not self._grows:
            self._grows = messages.decode(member, frame).tree >= 0  # type: ignore[union-attr]
        tally = self.training if self._grows else self.setup
        tally[1] += len(frame)
        tally[2] += 1
        answers = iter(take(member, frame))
        while True:
            started = time.perf_counter()
            answer = next(answers, None)
            tally[0] += 1e3 * (time.perf_counter() - started)
            if answer is None:
                return
            yield answer


def measure_adding(count: int, collectors: int) -> dict[str, Any]:
    """What the aggregator, and the busiest collector, does in a federated run of so many parties."""
    plan = _plan(count, "federated", collectors=shared_out(collectors, _names(count)))
    parties = {
        name: Party(plan, name, rows, nonce=secrets.token_bytes(32), nodes_per_frame=2**16)
        for name, rows in _rows(count).items()
    }
    handlers: dict[str, Handler] = {name: party.handle for name, party in parties.items()}
    openings: dict[str, Iterable[Frame]] = {name: party.opening() for name, party in parties.items()}
    adding: list[Adding] = []
    for name, own in plan.collectors:
        below = {party: handlers.pop(party) for party in own}
        hub = InProcessHub(below, opening={party: openings.pop(party) for party in own})
        adding.append(Adding(Collector(plan, name)))
        branch = InProcessBranch(adding[-1], plan.aggregator, hub)  # type: ignore[arg-type]
        handlers[name], openings[name] = branch.handle, branch.opening()
    aggregator = Adding(Aggregator(plan))
    run_hub(aggregator, BranchedHub(InProcessHub(handlers, opening=openings), plan))
    return {
        "parties": count,
        "collectors": collectors,
        "aggregator": _shown(aggregator),
        "collector": _shown(max(adding, key=lambda own: own.training[0])) if adding else None,
    }


def _shown(own: Adding) -> dict[str, dict[str, float]]:
    names = ("ms", "bytes", "frames")
    return {
        "setup": dict(zip(names, own.setup, strict=True)),
        "tree": {name: value / TREES for name, value in zip(names, own.training, strict=True)},
    }


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"party-{number:04}" for number in range(count))


def _plan(count: int, mode: str, **more: Any) -> Plan:
    names = _names(count)
    return Plan(
        name="many",
        mode=mode,
        aggregator="hub",
        parties=names,
        receivers=("hub",),
        minimum_parties=count,
        schema=Schema(tuple(f"f{number}" for number in range(FEATURES)), "y"),
        parameters=parse_parameters(
            {"objective": "binary:logistic", "rounds": TREES, "max_depth": 4, "max_bin": 32, "histogram_bits": 64}
        ),
        min_party_rows=0,
        **more,
    )


def _rows(count: int) -> dict[str, Rows]:
    rng = np.random.default_rng(count)
    made = {}
    for name in _names(count):
        features = rng.normal(size=(FEATURES, ROWS)).astype(np.float32)
        made[name] = Rows(features, (features[0] + rng.logistic(size=ROWS) > 0).astype(np.float32), None)
    return made


def measure(count: int, verify: bool) -> dict[str, Any]:
    """One run of so many parties."""
    plan = _plan(count, "secure-aggregation", verify_counts="tree" if verify else "off")
    made = {name: create_identity(name, days=1) for name in plan.members}
    pinned = {name: identity.public for name, identity in made.items()}
    signers = {name: Signer(identity.sign, pinned) for name, identity in made.items()}
    parties = {}
    for name, rows in _rows(count).items():
        policy = Policy(least_party_rows=0)
        parties[name] = Party(plan, name, rows, nonce=secrets.token_bytes(32), signer=signers[name], policy=policy)
    watched = {name: Watched(party) for name, party in parties.items()}
    opening = {name: party.opening() for name, party in parties.items()}
    hub = InProcessHub({name: each.handle for name, each in watched.items()}, opening=opening)
    aggregator = Aggregator(plan, identities=pinned, signer=signers["hub"])
    run_hub(aggregator, hub)
    masking = {
        len(party._masking._setup.neighbours) for party in parties.values() if isinstance(party._masking, SumMasking)
    }
    (masks,) = masking
    for party in parties.values():
        party.erase()
    each = list(watched.values())
    return {
        "parties": count,
        "verified": verify,
        "masks": masks,
        "setup": _median([one.setup for one in each], 1),
        "tree": _median([one.training for one in each], TREES),
    }


def _median(tallies: list[list[float]], by: int) -> dict[str, float]:
    names = ("ms", "bytes_up", "bytes_down")
    return {name: float(value) / by for name, value in zip(names, np.median(np.array(tallies), axis=0), strict=True)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="16 and 64 parties: does it work?")
    parser.add_argument("--verify", action="store_true", help='with row counts verified ("tree")')
    parser.add_argument(
        "--parties", type=int, nargs="+", help="how many (default 16 64 256 1000, with --collectors from 64)"
    )
    parser.add_argument("--collectors", action="store_true", help="the aggregator's work, with and without collectors")
    options = parser.parse_args()
    if options.collectors:
        _show_adding(QUICK if options.quick else options.parties or COLLECTED, options.json)
        return
    measure(3, options.verify)  # compiles kernels
    runs = [measure(count, options.verify) for count in (QUICK if options.quick else options.parties or PARTIES)]
    found = {"machine": machine(), "rows": ROWS, "features": FEATURES, "runs": runs}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    table = Table(
        "parties", "masks", "set-up ms", "bytes up", "bytes down", "a tree: ms", "bytes up", "bytes down",
        title=f"one party, the median; {ROWS} rows x {FEATURES} each\n{described(found['machine'])}",
    )  # fmt: skip
    for run in runs:
        cells = [run[part][name] for part in ("setup", "tree") for name in ("ms", "bytes_up", "bytes_down")]
        shown = [f"{cell:,.1f}" if at % 3 == 0 else f"{cell:,.0f}" for at, cell in enumerate(cells)]
        table.add_row(str(run["parties"]), str(run["masks"]), *shown)
    console().print(table)


def _show_adding(counts: Iterable[int], as_json: bool) -> None:
    """Measure and print what is added up where."""
    measure_adding(3, 0)  # compiles kernels
    measure_adding(4, 2)
    runs = [measure_adding(count, collectors) for count in counts for collectors in (0, round(math.sqrt(count)))]
    found = {"machine": machine(), "rows": ROWS, "features": FEATURES, "runs": runs}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table(
        "parties", "collectors", "who", "set-up: bytes in", "frames", "ms", "a tree: bytes in", "frames", "ms",
        title=f"what comes in; {ROWS} rows x {FEATURES} a party, federated\n{described(found['machine'])}",
    )  # fmt: skip
    for run in runs:
        for who in ("aggregator", "collector"):
            if (own := run[who]) is not None:
                cells = [
                    f"{own[part][name]:{form}}"
                    for part in ("setup", "tree")
                    for name, form in (("bytes", ",.0f"), ("frames", ",.0f"), ("ms", ",.1f"))
                ]
                table.add_row(str(run["parties"]), str(run["collectors"]), who, *cells)
    console().print(table)


if __name__ == "__main__":
    main()
