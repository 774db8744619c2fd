"""What one party of many does and sends under masks: `python -m benchmarks.bench_many_parties [--parties 16 64 256 1000] [--json]`.

All parties are simulated in one process, `ROWS` rows each, in secure-aggregation mode. Of one party: with how many others it masks (all
below 64 parties, neighbours in a drawn graph from there on), bytes and milliseconds until its keys are confirmed, and of a tree after
that. With --verify its row counts are verified as by default; these vectors go to every party.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import console, described, machine
from hansa.consortium.identity import create_identity
from hansa.consortium.policy import Policy
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.roles.key_setup import Signer
from hansa.roles.run import run_hub
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import SumMasking
from hansa.transport.in_process import InProcessHub
from hansa.trees.parameters import parse_parameters

PARTIES = (16, 64, 256, 1_000)
QUICK = (16, 64)
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


def measure(count: int, verify: bool) -> dict[str, Any]:
    """One run of so many parties."""
    names = tuple(f"party-{number:04}" for number in range(count))
    rng = np.random.default_rng(count)
    plan = Plan(
        name="many",
        mode="secure-aggregation",
        aggregator="hub",
        parties=names,
        receivers=("hub",),
        minimum_parties=count,
        schema=Schema(tuple(f"f{number}" for number in range(FEATURES)), "y"),
        parameters=parse_parameters(
            {"objective": "binary:logistic", "rounds": TREES, "max_depth": 4, "max_bin": 32, "histogram_bits": 64}
        ),
        verify_counts="tree" if verify else "off",
        min_party_rows=0,
    )
    made = {name: create_identity(name, days=1) for name in plan.members}
    pinned = {name: identity.public for name, identity in made.items()}
    signers = {name: Signer(identity.sign, pinned) for name, identity in made.items()}
    parties = {}
    for name in names:
        features = rng.normal(size=(FEATURES, ROWS)).astype(np.float32)
        rows = Rows(features, (features[0] + rng.logistic(size=ROWS) > 0).astype(np.float32), None)
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
    parser.add_argument("--parties", type=int, nargs="+", default=PARTIES, help="how many (default 16 64 256 1000)")
    options = parser.parse_args()
    measure(3, options.verify)  # compiles kernels
    runs = [measure(count, options.verify) for count in (QUICK if options.quick else options.parties)]
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


if __name__ == "__main__":
    main()
