"""Echo round trip of the finished channel, and of the bare TLS connection under it: hubs in this process, a member of each
in one of its own, mutual TLS on loopback.

Usage: python benchmarks/bench_transport.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from rich.table import Table

from benchmarks.machine import console
from hansa.consortium.identity import create_identity, load_identity, save_identity
from hansa.consortium.members import members_of, read_members, write_members
from hansa.transport.credentials import Credentials
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub

SIZES = {"100 B": (100, 3000), "100 kB": (100_000, 1000), "4 MB": (4_000_000, 60)}
WARM_UP = 20


def credentials(folder: Path, name: str) -> Credentials:
    members = read_members(folder / "members.toml")
    own = load_identity(folder / name)
    return Credentials(name, own.certificate, own.tls_key, members.certificates())


def echo(folder: Path, port: int, lasting: bool, sizes: dict[str, tuple[int, int]]) -> None:
    channel_type = ResumableChannel if lasting else TlsChannel
    channel = channel_type.connect(credentials(folder, "party"), "hub", "127.0.0.1", port)
    for _, repeats in sizes.values():
        for _ in range(WARM_UP + repeats):
            channel.send(bytes(channel.receive()))
    channel.close()


def round_trip(hub: TlsHub | ResumableHub, frame: bytes) -> float:
    """Seconds of one round trip of a frame."""
    start = time.perf_counter()
    hub.send("party", frame)
    hub.receive()
    return time.perf_counter() - start


def measure(sizes: dict[str, tuple[int, int]]) -> dict[str, dict[str, float]]:
    """ "kind, size" -> median and minimum round trip in microseconds; the kinds take turns, frame by frame."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identities = [create_identity("hub"), create_identity("party")]
        for identity in identities:
            save_identity(identity, folder / identity.name)
        write_members(folder / "members.toml", members_of(identity.card() for identity in identities))
        hubs: dict[str, TlsHub | ResumableHub] = {
            "lasting": ResumableHub.listen(credentials(folder, "hub"), "127.0.0.1", 0),
            "bare": TlsHub.listen(credentials(folder, "hub"), "127.0.0.1", 0),
        }
        spawn = multiprocessing.get_context("spawn").Process
        parties = [spawn(target=echo, args=(folder, hub.port, kind == "lasting", sizes)) for kind, hub in hubs.items()]
        for party, hub in zip(parties, hubs.values(), strict=True):
            party.start()
            hub.wait_for(["party"], timeout=60)
        results = {}
        for label, (size, repeats) in sizes.items():
            frame = bytes(size)
            turns = [[round_trip(hub, frame) for hub in hubs.values()] for _ in range(WARM_UP + repeats)]
            for kind, seconds in zip(hubs, zip(*turns[WARM_UP:], strict=True), strict=True):
                results[f"{kind}, {label}"] = {
                    "median_us": 1e6 * statistics.median(seconds),
                    "min_us": 1e6 * min(seconds),
                }
        for hub in hubs.values():
            hub.close()
        for party in parties:
            party.join()
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few round trips: does it work?")
    arguments = parser.parse_args()
    results = measure({label: (size, 10) for label, (size, _) in SIZES.items()} if arguments.quick else SIZES)
    if arguments.json:
        print(json.dumps(results))
        return
    table = Table(title="Echo round trip, mutual TLS 1.3 on loopback", caption="microseconds")
    for heading in ("frame", "median", "minimum"):
        table.add_column(heading, justify="right")
    for label, figures in results.items():
        table.add_row(label, f"{figures['median_us']:,.0f}", f"{figures['min_us']:,.0f}")
    console().print(table)


if __name__ == "__main__":
    main()
